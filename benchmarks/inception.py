"""The Inception network of the FID here and in PyTorch: features of CIFAR-sized images, on a CPU or a GPU.

    python -m benchmarks.inception [--batch=16] [--rounds=7]

Needs PyTorch (`pip install torch`), with the same random weights in both. Checks that both compute the same features. float32
without TF32; PyTorch eager in both its memory layouts and compiled, with batch normalisation folded as here.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.measure import OURS, compare, main, torch_or_exit
from gm_jax.metrics import inception
from gm_jax.metrics.resize import interpolation_matrix
from gm_jax.system.devices import jit

torch = torch_or_exit()
F = torch.nn.functional
ON_GPU = jax.default_backend() == "gpu"


def rows(options):
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
    images = np.random.default_rng(0).integers(0, 256, (options.batch, 32, 32, 3), np.uint8)
    for tap in (768, 2048):
        variants = {name: partial(run, images) for name, run in extractors(tap).items()}
        expected = variants[OURS]()
        for run in variants.values():  # compiles
            np.testing.assert_allclose(run(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        per = options.batch / 1000
        yield compare(f"Inception features, tap {tap}", "1000 images", variants, rounds=options.rounds, per=per)


def extractors(tap):
    """Functions from uint8 images to features, all with the same weights."""
    params = inception.fold(random_tensors(tap), tap)
    network, compiled = params["network"], torch.compile(torch_features)
    return {
        OURS: here(params, tap),
        "PyTorch, contiguous": in_pytorch(network, tap, torch.contiguous_format, torch_features),
        "PyTorch, channels_last": in_pytorch(network, tap, torch.channels_last, torch_features),
        "PyTorch, channels_last, compiled": in_pytorch(network, tap, torch.channels_last, compiled),
    }


def random_tensors(tap):
    rng = np.random.default_rng(0)

    def tensor(name, shape):
        if name.endswith("conv.weight"):
            return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        return rng.uniform(0.9, 1.1, shape) if name.endswith(("bn.weight", "running_var")) else rng.uniform(-0.1, 0.1, shape)

    return {name: tensor(name, shape) for name, shape in inception.tensor_shapes(tap).items()}


def here(params, tap):
    params = jax.device_put(params)

    def features(params, images):
        with jax.default_matmul_precision("highest"):
            return inception.outputs(params, inception.preprocess(images), tap).features

    compiled = jit(features)
    return lambda images: np.asarray(compiled(params, images))


def in_pytorch(network, tap, layout, function):
    """The network as in torch-fidelity, from the same folded weights."""
    device = torch.device("cuda" if ON_GPU else "cpu")
    p = jax.tree.map(lambda x: torch.tensor(x.T if x.ndim < 4 else x.transpose(3, 2, 0, 1), device=device), network)
    p = jax.tree.map(lambda x: x[..., None, None] if x.ndim == 2 else x, p)
    p = jax.tree.map(lambda x: x.contiguous(memory_format=layout) if x.ndim == 4 else x, p)
    matrix = torch.tensor(interpolation_matrix(32, inception.SIZE), device=device)

    @torch.inference_mode()
    def features(images):
        x = torch.tensor(images, device=device).permute(0, 3, 1, 2).float()
        x = (matrix @ x @ matrix.T - 128) / 128
        return function(p, x.contiguous(memory_format=layout), tap).cpu().numpy()

    return features


def torch_features(p, x, tap):
    x = convs(p, x, "Conv2d_1a_3x3", stride=2)
    x = convs(p, x, "Conv2d_2a_3x3", stride=1)
    x = F.max_pool2d(convs(p, x, "Conv2d_2b_3x3"), 3, 2)
    x = F.max_pool2d(convs(p, x, "Conv2d_3b_1x1", "Conv2d_4a_3x3", stride=1), 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block_a(p[name], x)
    x = block_b(p["Mixed_6a"], x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = block_c(p[name], x)
    if tap == 2048:
        x = block_d(p["Mixed_7a"], x)
        x = block_e(p["Mixed_7b"], x, mean_pool)
        x = block_e(p["Mixed_7c"], x, lambda x: F.max_pool2d(x, 3, 1, 1))
    return x.mean((2, 3))


def convs(p, x, *names, stride=None):
    """Convolutions and ReLUs in turn, padded to keep the size: but for the last where a stride is given, which is its."""
    for name in names:
        kernel, bias = p[name]["kernel"], p[name]["bias"]
        if stride and name == names[-1]:
            x = F.conv2d(x, kernel, bias, stride)
        else:
            x = F.conv2d(x, kernel, bias, padding=[size // 2 for size in kernel.shape[2:]])
        x = F.relu(x, inplace=True)
    return x


def mean_pool(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def block_a(p, x):
    five = convs(p, x, "branch5x5_1", "branch5x5_2")
    three = convs(p, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return torch.cat([convs(p, x, "branch1x1"), five, three, convs(p, mean_pool(x), "branch_pool")], 1)


def block_b(p, x):
    double = convs(p, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2)
    return torch.cat([convs(p, x, "branch3x3", stride=2), double, F.max_pool2d(x, 3, 2)], 1)


def block_c(p, x):
    seven = convs(p, x, "branch7x7_1", "branch7x7_2", "branch7x7_3")
    double = convs(p, x, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
    return torch.cat([convs(p, x, "branch1x1"), seven, double, convs(p, mean_pool(x), "branch_pool")], 1)


def block_d(p, x):
    three = convs(p, x, "branch3x3_1", "branch3x3_2", stride=2)
    seven = convs(p, x, *(f"branch7x7x3_{i}" for i in range(1, 5)), stride=2)
    return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


def block_e(p, x, pool):
    three = convs(p, x, "branch3x3_1")
    double = convs(p, x, "branch3x3dbl_1", "branch3x3dbl_2")
    split = [convs(p, three, f"branch3x3_2{side}") for side in "ab"]
    split += [convs(p, double, f"branch3x3dbl_3{side}") for side in "ab"]
    return torch.cat([convs(p, x, "branch1x1"), *split, convs(p, pool(x), "branch_pool")], 1)


if __name__ == "__main__":
    main(rows, __doc__, batch=inception.ACCELERATOR_BATCH if ON_GPU else inception.CPU_BATCH)

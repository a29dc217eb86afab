"""The Inception network of the FID: Inception-v3 as Google released it on 2015-12-05, weights and quirks included.

  architecture     Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 6, figures 5-7
  FID              Heusel et al. 2017, "GANs trained by a two time-scale update rule", section 4
  Inception Score  Salimans et al. 2016, "Improved techniques for training GANs", section 4

It differs from the paper, and from every other Inception-v3, in two respects: average pooling leaves the padding out of its
mean, and the last block pools by maximum. Layers have the names of pytorch-fid's state dict. Batch normalisation, fixed at
evaluation, is folded into the convolutions when weights are read.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.core import ByteImages, PyTree
from gm_jax.errors import InputError
from gm_jax.metrics.extractor import Extractor, Features
from gm_jax.metrics.inception_weights import read_tensors, sha256
from gm_jax.metrics.resize import resize_bilinear
from gm_jax.nets.winograd import conv_general_dilated
from gm_jax.system.cache import cache_dir
from gm_jax.system.download import download

SIZE = 299  # pixels
TAPS = (64, 192, 768, 2048)  # features: after the first and second pooling, before Mixed_7a, at the end
CLASSES = 1008
BATCH_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
EPSILON = 1e-3  # of batch normalisation
CPU_BATCH, ACCELERATOR_BATCH = 8, 256

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
ENVIRONMENT = "GM_JAX_INCEPTION"
# sums of absolute values in the first layer, folded: they tell the network of 2015-12-05 from later ones with the same names
FIRST_KERNEL, FIRST_BIAS = 350.0166, 42.74125

Grid = Float[Array, "batch height width channel"]


def extractor(weights: str | Path, tap: int | None = None) -> Extractor:
    """The network up to `tap` (None: as far as the weights reach), as an extractor from uint8 images, RGB or grey, of any size.

    Features are means over the grid. Logits are those without the bias, on which the Inception Score is computed, where the tap
    is 2048 and the weights hold the classifier. The name is "inception" and the tap; weights other than those of 2015-12-05 add
    the start of their digest to it.

    Raises:
      InputError: an unknown tap; no readable file of weights; weights that do not reach the tap.
    """
    if tap is not None and tap not in TAPS:
        raise InputError(f"Inception has no tap {tap}; choose one of {', '.join(map(str, TAPS))}")
    tensors, digest = read_tensors(weights), sha256(weights)
    wanted = tap or max((t for t in TAPS if not _missing(tensors, t)), default=TAPS[0])
    _check(tensors, wanted, weights)
    params = fold(tensors, wanted)
    name = f"inception{wanted}" if _is_original(params) else f"inception{wanted}_{digest[:8]}"
    batch_size = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    return Extractor(name, digest, _features(wanted), params, batch_size=batch_size)


@functools.cache  # the same function for the same tap, so that it is compiled once
def _features(tap: int) -> Callable[[PyTree, ByteImages], Features]:
    def features(params, images):
        with jax.default_matmul_precision("highest"):
            return outputs(params, preprocess(images), tap)

    return features


def find_weights(path: str = "") -> Path | None:
    """The file of weights at `path`, else the one that GM_JAX_INCEPTION names in the environment, else that downloaded before.

    None if there is none of these. Raises InputError where a file is named that does not exist.
    """
    if named := path or os.environ.get(ENVIRONMENT, ""):
        if not os.path.isfile(os.path.expanduser(named)):
            source = "" if path else f" (named by {ENVIRONMENT})"
            raise InputError(
                f"there are no Inception weights at {named}{source}; give the path of {FILE} ({URL}) or of an .npz"
            )
        return Path(os.path.expanduser(named))
    try:
        cached = _cached()
    except InputError:  # where nothing can be kept, nothing was
        return None
    return cached if os.path.isfile(cached) else None


def download_weights() -> Path:
    """Downloads the whole network (96 MB), as converted by pytorch-fid, unless that was done before, and checks its sha256.

    Raises InputError without network, where something else is served, or where there is no cache.
    """
    path = _cached()
    if not os.path.isfile(path):
        try:
            download([URL], path, SHA256, "sha256")
        except OSError as error:
            raise InputError(
                f"the Inception weights cannot be downloaded ({error}); put {FILE} into {path.parent}, "
                f"or set {ENVIRONMENT} to where it is"
            ) from error
    return path


def _cached() -> Path:
    return cache_dir("inception") / FILE


def fold(tensors: Mapping[str, np.ndarray], tap: int) -> PyTree:
    """PyTorch's tensors as parameters: `Inception(tap)`'s under "network"; at tap 2048, where they are given, "classifier".

    Kernel k and normalisation (x - mean) * weight / sqrt(var + 1e-3) + bias become one kernel and one bias, in float64.
    """
    network = {}
    for layer, shape in _layers(tap).items():
        weight, bias, mean, variance = (tensors[f"{layer}.{name}"].astype(np.float64) for name in BATCH_NORM)
        scale = weight / np.sqrt(variance + EPSILON)
        kernel = tensors[f"{layer}.conv.weight"].transpose(2, 3, 1, 0) * scale  # OIHW -> HWIO
        *block, name = layer.split(".")
        place = network.setdefault(block[0], {}) if block else network
        place[name] = {"kernel": np.float32(kernel.reshape(shape)), "bias": np.float32(bias - mean * scale)}
    if tap < TAPS[-1] or not tensors.keys() >= {"fc.weight", "fc.bias"}:
        return {"network": network}
    classifier = {"kernel": np.float32(tensors["fc.weight"].T), "bias": np.float32(tensors["fc.bias"])}
    return {"network": network, "classifier": classifier}


@functools.cache
def _layers(tap: int) -> dict[str, tuple[int, ...]]:
    """Layer of the network up to `tap`, named as in PyTorch -> shape of its kernel."""
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    params = jax.eval_shape(Inception(tap).init, jax.random.key(0), images)["params"]
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    return {name.removesuffix(".kernel"): leaf.shape for name, leaf in leaves.items() if name.endswith(".kernel")}


def tensor_shapes(tap: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors that `Inception(tap)` is made of, in PyTorch's names and layout, without the classifier."""
    shapes = {}
    for layer, (*window, inputs, outputs) in _layers(tap).items():
        shapes[f"{layer}.conv.weight"] = (outputs, inputs, *(window or (1, 1)))
        shapes |= {f"{layer}.{name}": (outputs,) for name in BATCH_NORM}
    return shapes


def _missing(tensors: Mapping[str, np.ndarray], tap: int) -> list[str]:
    return [name for name in tensor_shapes(tap) if name not in tensors]


def _check(tensors: Mapping[str, np.ndarray], tap: int, source: str | Path) -> None:
    whole = f"the whole network is {FILE} ({URL})"
    if missing := _missing(tensors, tap):
        reached = [str(t) for t in TAPS if not _missing(tensors, t)]
        has = f"reach only taps {', '.join(reached)} of Inception, not {tap}" if reached else "are not those of Inception"
        raise InputError(
            f"the weights in {source} {has}: {missing[0]} and {len(missing) - 1} more tensors are missing; {whole}"
        )
    shapes = tensor_shapes(tap) | ({"fc.weight": (CLASSES, TAPS[-1]), "fc.bias": (CLASSES,)} if tap == TAPS[-1] else {})
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            found = list(tensors[name].shape)
            raise InputError(f"{name} in {source} is {found}, in the Inception of the FID {list(shape)}; {whole}")


def _is_original(params: PyTree) -> bool:
    first = params["network"]["Conv2d_1a_3x3"]
    found = [float(np.abs(first[name]).sum(dtype=np.float64)) for name in ("kernel", "bias")]
    return bool(np.allclose(found, [FIRST_KERNEL, FIRST_BIAS], rtol=1e-3))


def preprocess(images: ByteImages) -> Float[Array, "batch 299 299 3"]:
    """What the network takes: 299x299 by the resize of TensorFlow 1, RGB (grey is repeated), (level - 128) / 128.

    Raises InputError where images have other than 1 or 3 channels.
    """
    if images.shape[-1] not in (1, 3):
        raise InputError(f"Inception takes images of 1 or 3 channels, not {images.shape[-1]}; convert them to RGB")
    x = resize_bilinear((images.astype(jnp.float32) - 128) / 128, SIZE, SIZE)
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def outputs(params: PyTree, x: Float[Array, "batch 299 299 3"], tap: int) -> Features:
    """Features at the tap, and logits without the bias where `params` (of `fold`) has the classifier."""
    features = Inception(tap).apply({"params": params["network"]}, x)
    return Features(features, class_logits(params["classifier"], features, bias=False) if "classifier" in params else None)


def class_logits(classifier: PyTree, features: Float[Array, "batch 2048"], bias: bool) -> Float[Array, "batch 1008"]:
    """Logits of the 1008 classes from the features of tap 2048. The Inception Score takes those without the bias."""
    logits = features @ classifier["kernel"]
    return logits + classifier["bias"] if bias else logits


class Conv(nn.Module):
    """Convolution (with the normalisation folded into it) and ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        kernel, bias = _weights(self, (*self.kernel, x.shape[-1], self.features))
        strides = (self.stride, self.stride)
        x = conv_general_dilated(x, kernel, strides, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return nn.relu(x + bias)


class Pointwise(nn.Module):
    """The weights of a 1x1 convolution."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Float[Array, "inputs features"], Float[Array, " features"]]:
        return _weights(self, (inputs, self.features))


def pointwise(x: Grid, **features: int) -> list[Grid]:
    """1x1 convolutions of one input, without ReLU, by name: one matrix product, which is faster than several."""
    layers = [Pointwise(size, name=name)(x.shape[-1]) for name, size in features.items()]
    kernel, bias = (jnp.concatenate(parts, -1) for parts in zip(*layers, strict=True))
    return jnp.split(x @ kernel + bias, np.cumsum(list(features.values()))[:-1], -1)


class BlockA(nn.Module):
    """Figure 5, on the grid of 35x35."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        one, five, three, pool = pointwise(x, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, branch_pool=self.pool_features)
        five = Conv(64, (5, 5), name="branch5x5_2")(nn.relu(five))
        three = Conv(96, (3, 3), name="branch3x3dbl_2")(nn.relu(three))
        three = Conv(96, (3, 3), name="branch3x3dbl_3")(three)
        # means over the grid and 1x1 convolutions commute: this order pools fewer channels
        return _cat(nn.relu(one), five, three, nn.relu(mean_pool(pool)))


class BlockB(nn.Module):
    """Figure 10: halves the grid to 17x17."""

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        three = Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        (double,) = pointwise(x, branch3x3dbl_1=64)
        double = Conv(96, (3, 3), name="branch3x3dbl_2")(nn.relu(double))
        double = Conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        return _cat(three, double, max_pool(x))


class BlockC(nn.Module):
    """Figure 6 with n = 7: 7x7 convolutions as rows and columns."""

    features: int

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        f = self.features
        one, seven, double, pool = pointwise(x, branch1x1=192, branch7x7_1=f, branch7x7dbl_1=f, branch_pool=192)
        seven = Conv(f, (1, 7), name="branch7x7_2")(nn.relu(seven))
        seven = Conv(192, (7, 1), name="branch7x7_3")(seven)
        double = Conv(f, (7, 1), name="branch7x7dbl_2")(nn.relu(double))
        double = Conv(f, (1, 7), name="branch7x7dbl_3")(double)
        double = Conv(f, (7, 1), name="branch7x7dbl_4")(double)
        double = Conv(192, (1, 7), name="branch7x7dbl_5")(double)
        return _cat(nn.relu(one), seven, double, nn.relu(mean_pool(pool)))


class BlockD(nn.Module):
    """Halves the grid to 8x8."""

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        three, seven = pointwise(x, branch3x3_1=192, branch7x7x3_1=192)
        three = Conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(nn.relu(three))
        seven = Conv(192, (1, 7), name="branch7x7x3_2")(nn.relu(seven))
        seven = Conv(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = Conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(seven)
        return _cat(three, seven, max_pool(x))


class BlockE(nn.Module):
    """Figure 7: 3x3 convolutions as a row beside a column."""

    pool: Callable[[Grid], Grid]

    @nn.compact
    def __call__(self, x: Grid) -> Grid:
        one, three, double = pointwise(x, branch1x1=320, branch3x3_1=384, branch3x3dbl_1=448)
        three = nn.relu(three)
        row, column = Conv(384, (1, 3), name="branch3x3_2a")(three), Conv(384, (3, 1), name="branch3x3_2b")(three)
        double = Conv(384, (3, 3), name="branch3x3dbl_2")(nn.relu(double))
        row2, column2 = Conv(384, (1, 3), name="branch3x3dbl_3a")(double), Conv(384, (3, 1), name="branch3x3dbl_3b")(double)
        (pool,) = pointwise(self.pool(x), branch_pool=192)
        return _cat(nn.relu(one), row, column, row2, column2, nn.relu(pool))


class Inception(nn.Module):
    """Features [batch, tap] of images [batch, 299, 299, 3] with values (level - 128) / 128."""

    tap: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch 299 299 3"]) -> Float[Array, "batch tap"]:
        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = max_pool(x)
        if self.tap >= 192:
            x = nn.relu(*pointwise(x, Conv2d_3b_1x1=80))
            x = Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
            x = max_pool(x)
        if self.tap >= 768:
            x = BlockA(32, name="Mixed_5b")(x)
            x = BlockA(64, name="Mixed_5c")(x)
            x = BlockA(64, name="Mixed_5d")(x)
            x = BlockB(name="Mixed_6a")(x)
            x = BlockC(128, name="Mixed_6b")(x)
            x = BlockC(160, name="Mixed_6c")(x)
            x = BlockC(160, name="Mixed_6d")(x)
            x = BlockC(192, name="Mixed_6e")(x)
        if self.tap >= 2048:
            x = BlockD(name="Mixed_7a")(x)
            x = BlockE(mean_pool, name="Mixed_7b")(x)
            x = BlockE(lambda x: max_pool(_pad(x), stride=1), name="Mixed_7c")(x)
        return x.mean((1, 2))


def max_pool(x: Grid, stride: int = 2) -> Grid:
    """Maxima of 3x3 pixels, without padding; as maxima of shifted slices, for speed on CPUs."""
    return _slide(jnp.maximum, _slide(jnp.maximum, x, 1, stride), 2, stride)


def mean_pool(x: Grid) -> Grid:
    """Mean of each pixel and its neighbours, of which there are 8, at an edge 5, at a corner 3."""

    def total(x):
        return _slide(jnp.add, _slide(jnp.add, _pad(x), 1), 2)

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


def _slide(combine, x, axis, stride=1):
    """Combines the entries i, i + 1, i + 2 along an axis, for i = 0, stride, 2 stride ..."""
    stop = x.shape[axis] - 2
    first, second, third = (jax.lax.slice_in_dim(x, i, i + stop, stride, axis) for i in range(3))
    return combine(combine(first, second), third)


def _pad(x):
    """A border of zeros: none is ever the maximum alone, since what is pooled has passed a ReLU."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _cat(*branches):
    return jnp.concatenate(branches, -1)


def _weights(module, shape):
    return module.param("kernel", nn.initializers.zeros, shape), module.param("bias", nn.initializers.zeros, shape[-1:])

"""Metrics that look at images: SSIM against scikit-image; the resize and all of Inception against torch-fidelity."""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gm_jax.metrics import inception
from gm_jax.metrics.resize import resize_bilinear
from gm_jax.metrics.ssim import ssim
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import images, normal

SIZES = ((32, 32), (28, 40))


def _pair(size: tuple[int, int], n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images, and the same with noise of 25 levels."""
    x = images("x", (n, *size, 3))
    return x, np.clip(x + 25 * normal("noise", x.shape), 0, 255).round().astype(np.uint8)


def _ssim() -> Comparison:
    def theirs() -> Values:
        from skimage.metrics import structural_similarity

        wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": -1}
        one = lambda x, y: structural_similarity(x, y, **wang)  # noqa: E731
        return {str(size): np.array([one(x, y) for x, y in zip(*_pair(size), strict=True)]) for size in SIZES}

    ours = lambda: {str(size): np.asarray(ssim(*_pair(size))) for size in SIZES}  # noqa: E731
    inputs = "3 pairs each of 32x32 and 28x40 RGB, uint8; ours in float32"
    return Comparison("SSIM", "scikit-image", "structural_similarity", inputs, 1e-6, ours, theirs)


def _resize() -> Comparison:
    def theirs() -> Values:
        import torch
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

        first = lambda size: torch.from_numpy(_pair(size)[0]).permute(0, 3, 1, 2).float()  # noqa: E731
        resized = {size: resize(first(size), (299, 299), align_corners=False) for size in SIZES}
        return {str(size): x.permute(0, 2, 3, 1).numpy() for size, x in resized.items()}

    ours = lambda: {str(size): np.asarray(resize_bilinear(_pair(size)[0], 299, 299)) for size in SIZES}  # noqa: E731
    function = "interpolate_bilinear_2d_like_tensorflow1x"
    inputs = "32x32 and 28x40 to 299x299, in levels of 0..255; float32, positions in theirs, too"
    return Comparison("bilinear resize of TensorFlow 1", "torch-fidelity", function, inputs, 1e-3, ours, theirs)


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One of Inception's, random: activations keep their scale through the layers, and no statistic is trivial."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    scales = {"conv.weight": np.sqrt(2 / np.prod(shape[1:])), "fc.weight": np.sqrt(1 / 2048)}
    x *= next((scale for ending, scale in scales.items() if name.endswith(ending)), 0.1)
    x = 1 + x if name.endswith("bn.weight") else np.exp(2 * x) if name.endswith("running_var") else x
    return x.astype(np.float32)


def _inception() -> Comparison:
    classifier = {"fc.weight": (inception.CLASSES, 2048), "fc.bias": (inception.CLASSES,)}
    tensors = {name: _tensor(name, shape) for name, shape in (inception.tensor_shapes(2048) | classifier).items()}
    x = _pair(SIZES[0], n=2)[0]

    def ours() -> Values:
        params = inception.fold(tensors, 2048)
        found = jax.jit(lambda params, x: inception.outputs(params, inception.preprocess(x), 2048))(params, x)
        return {"2048": np.asarray(found.features), "logits_unbiased": np.asarray(found.logits)}

    def theirs() -> Values:
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pth"
            torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)
            names = ["2048", "logits_unbiased"]
            net = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=str(path))
        with torch.no_grad():
            found = net(torch.from_numpy(x).permute(0, 3, 1, 2))
        return {name: value.numpy() for name, value in zip(names, found, strict=True)}

    what, function = "Inception of the FID, random weights", "FeatureExtractorInceptionV3"
    inputs = "2 images of 32x32 RGB, resized by each; 2048 features and 1008 logits; float32"
    return Comparison(what, "torch-fidelity", function, inputs, 1e-5, ours, theirs, relative=True)


COMPARISONS: dict[str, Callable[[], Comparison]] = {"ssim": _ssim, "resize": _resize, "inception": _inception}

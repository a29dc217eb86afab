"""The Inception network: parity with torch-fidelity's, stage by stage, and what it says where weights do not suffice.

Parity is measured where GM_JAX_TEST_DATA names a folder with inception/: of all layers under random weights, of those that the
folder has under the genuine ones. The tolerance is relative to the largest feature.
"""

import hashlib
import io
import os
import pathlib
import urllib.request
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import inception
from gm_jax.metrics.extractor import extract
from gm_jax.system.devices import jit

TOLERANCE = 5e-6  # float32, through 94 layers; measured: 1.7e-6
CLASSIFIER = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}


def data(name):
    path = pathlib.Path(os.environ.get("GM_JAX_TEST_DATA", "")) / "inception" / name
    if "GM_JAX_TEST_DATA" not in os.environ or not path.exists():
        pytest.skip(f"GM_JAX_TEST_DATA names no folder with inception/{name}")
    return path


def random_tensor(name, shape):
    """The recipe of random_weights_golden.npz: every tensor from the checksum of its name."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("conv.weight"):
        x *= np.sqrt(2 / np.prod(shape[1:]))
    elif name == "fc.weight":
        x *= np.sqrt(1 / 2048)
    elif name.endswith("bn.weight"):
        x = 1 + 0.1 * x
    elif name.endswith("running_var"):
        x = np.exp(0.2 * x)
    else:
        x *= 0.1
    return x.astype(np.float32)


def random_tensors(tap):
    shapes = inception.tensor_shapes(tap) | (CLASSIFIER if tap == 2048 else {})
    return {name: random_tensor(name, shape) for name, shape in shapes.items()}


def ones(shapes):
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}


def assert_close(found, golden):
    np.testing.assert_allclose(found, golden, rtol=0, atol=TOLERANCE * np.abs(golden).max())


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    """A file with random weights up to tap 64."""
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    np.savez(path, **random_tensors(64))
    return path


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# --- parity


def test_every_stage_of_the_whole_network_under_random_weights():
    golden = np.load(data("random_weights_golden.npz"))
    sizes = ("cifar", "odd", "big")  # 32x32, 45x70, 320x301
    params = inception.fold(random_tensors(2048), 2048)

    @jit
    def run(params, *images):
        x = jnp.concatenate([inception.preprocess(part) for part in images])
        features = {tap: inception.Inception(tap).apply({"params": params["network"]}, x) for tap in inception.TAPS}
        last, logits = inception.outputs(params, x, 2048)
        return features, logits, inception.class_logits(params["classifier"], last, bias=True)

    features, logits_unbiased, logits = run(params, *(golden[f"{size}_images"] for size in sizes))
    found = {**features, "logits_unbiased": logits_unbiased, "logits": logits}
    for name, values in found.items():
        assert_close(values, np.concatenate([golden[f"{size}_{name}"] for size in sizes]))


def test_genuine_weights():
    golden = np.load(data("real_weights_golden.npz"))
    extractor = inception.extractor(data("fid_inception_to_mixed7a.npz"))
    assert extractor.name == "inception768"
    found = extract(extractor, golden["images"], batch_size=16)
    assert found.logits is None
    assert_close(found.features, golden["768"])
    for tap in (64, 192):
        extractor = inception.extractor(data("fid_inception_to_mixed7a.npz"), tap)
        assert extractor.name == f"inception{tap}"
        assert_close(extract(extractor, golden["images"], batch_size=16).features, golden[str(tap)])


def test_the_network_has_the_known_size():
    sizes = {name: np.prod(shape) for name, shape in inception.tensor_shapes(2048).items()}
    trained = sum(size for name, size in sizes.items() if "running" not in name)
    assert trained == 23_834_568 - 1000 * 2049, "torchvision's inception_v3 without auxiliary classifier and its 1000 classes"
    assert len(sizes) == 94 * 5


def test_folding_is_the_normalisation_after_the_convolution():
    tensors = random_tensors(64)
    params = inception.fold(tensors, 64)["network"]["Conv2d_2a_3x3"]
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 32))
    found = inception.Conv(32, (3, 3), 1, "VALID").apply({"params": params}, x)
    kernel, weight, bias, mean, variance = (tensors[f"Conv2d_2a_3x3.{name}"] for name in ("conv.weight", *inception.BATCH_NORM))
    y = jax.lax.conv_general_dilated(x.transpose(0, 3, 1, 2), kernel, (1, 1), "VALID").transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, nn.relu((y - mean) / np.sqrt(variance + 1e-3) * weight + bias), atol=1e-5)


# --- pooling


def test_mean_pool_counts_no_padding():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    found = jax.jit(inception.mean_pool)(x)
    np.testing.assert_allclose(found, nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False), atol=1e-6)
    np.testing.assert_allclose(found[:, 0, 0], x[:, :2, :2].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 7), (8, 5)])
def test_max_pool(size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    for stride in (1, 2):
        found = jax.jit(inception.max_pool, static_argnums=1)(x, stride)
        np.testing.assert_array_equal(found, nn.max_pool(x, (3, 3), (stride, stride)))


# --- as an extractor


def test_an_extractor_of_small_weights(small_weights):
    extractor = inception.extractor(small_weights)
    assert extractor.name == f"inception64_{extractor.digest[:8]}", "only the weights of 2015-12-05 go by the plain name"
    grey = random_images(3, 8, 9, 1)
    found = extract(extractor, grey, batch_size=2)
    assert found.features.shape == (3, 64) and found.logits is None
    rgb = extract(extractor, grey.repeat(3, -1), batch_size=2)
    np.testing.assert_allclose(found.features, rgb.features, rtol=1e-6)
    alone = extract(extractor, grey[2:], batch_size=1)
    np.testing.assert_allclose(found.features[2:], alone.features, rtol=1e-5, err_msg="an image's features depend on the batch")


def test_logits_come_with_the_classifier():
    tensors, x = ones(inception.tensor_shapes(2048)), jnp.zeros((2, 299, 299, 3))
    for classifier, expected in ((CLASSIFIER, (2, 1008)), ({}, None)):
        params = inception.fold(tensors | ones(classifier), 2048)
        features, logits = jax.eval_shape(lambda params: inception.outputs(params, x, 2048), params)
        assert features.shape == (2, 2048) and getattr(logits, "shape", None) == expected


def error_line(function, *args):
    with pytest.raises(InputError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_more_than_the_weights_reach_is_refused(small_weights, tmp_path):
    for tap in (192, 768, 2048):
        message = error_line(inception.extractor, small_weights, tap)
        assert "Conv2d_3b_1x1.conv.weight and" in message, "what is missing"
        assert "only taps 64 " in message and inception.URL in message, "what can be had"
    assert "no tap 100" in error_line(inception.extractor, small_weights, 100)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert "not those of Inception" in error_line(inception.extractor, tmp_path / "other.npz")


def test_networks_of_other_shapes_are_refused(tmp_path):
    tensors = random_tensors(64)
    np.savez(tmp_path / "other.npz", **tensors | {"Conv2d_2a_3x3.conv.weight": np.zeros((32, 16, 3, 3))})
    assert "Conv2d_2a_3x3.conv.weight" in error_line(inception.extractor, tmp_path / "other.npz")
    thousand_classes = inception.tensor_shapes(2048) | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    np.savez_compressed(tmp_path / "torchvision.npz", **ones(thousand_classes))
    assert "[1000, 2048]" in error_line(inception.extractor, tmp_path / "torchvision.npz")


def test_images_of_other_channels_are_refused(small_weights):
    assert "1 or 3 channels, not 4" in error_line(extract, inception.extractor(small_weights), random_images(1, 8, 8, 4))


# --- where weights are


def test_weights_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path))
    monkeypatch.delenv("GM_JAX_INCEPTION", raising=False)
    assert inception.find_weights() is None
    (tmp_path / "inception").mkdir()
    for name in (f"inception/{inception.FILE}", "environment.pth", "given.pth"):
        (tmp_path / name).touch()
    assert inception.find_weights() == tmp_path / "inception" / inception.FILE
    monkeypatch.setenv("GM_JAX_INCEPTION", str(tmp_path / "environment.pth"))
    assert inception.find_weights() == tmp_path / "environment.pth"
    assert inception.find_weights(str(tmp_path / "given.pth")) == tmp_path / "given.pth"
    assert "absent" in error_line(inception.find_weights, str(tmp_path / "absent"))
    monkeypatch.setenv("GM_JAX_INCEPTION", str(tmp_path / "absent"))
    assert "GM_JAX_INCEPTION" in error_line(inception.find_weights)


def test_without_a_home_there_are_no_weights_and_no_place_for_them(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("GM_JAX_INCEPTION", raising=False)
    assert inception.find_weights() is None
    assert "set GM_JAX_CACHE" in error_line(inception.download_weights)


def test_the_download_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "cache"))
    asked = []

    def serve(url, timeout):
        asked.append(url)
        return io.BytesIO(b"weights")

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    message = error_line(inception.download_weights)
    assert "served 7 bytes of sha256" in message and "GM_JAX_INCEPTION" in message
    assert inception.find_weights() is None and list((tmp_path / "cache/inception").iterdir()) == []
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"weights").hexdigest())
    path = inception.download_weights()
    assert path == inception.find_weights() and path.read_bytes() == b"weights"
    assert inception.download_weights() == path and asked == [inception.URL] * 2, "what is there is not downloaded again"

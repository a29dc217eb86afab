"""safetensors against its specification, what is no checkpoint, and the arrays of trees."""

import json

import flax.serialization
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.pretrained import formats

# one float32 tensor of [2] and one int64 of [1, 1], byte for byte
HEADER = b'{"b":{"dtype":"I64","shape":[1,1],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
WRITTEN = len(HEADER).to_bytes(8, "little") + HEADER + np.float32([1.5, -2]).tobytes() + np.int64([[7]]).tobytes()


def test_safetensors_by_hand_are_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(WRITTEN)
    found = formats.read(tmp_path / "a.safetensors").tree
    np.testing.assert_array_equal(found["a"], np.float32([1.5, -2]))
    np.testing.assert_array_equal(found["b"], [[7]])
    assert found["b"].dtype == np.int64


def test_safetensors_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {str(dtype): rng.integers(0, 2, (2, 3)).astype(dtype) for dtype in formats.NAMES}
    tensors |= {
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 2), np.uint8),
        "turned": np.arange(6).reshape(2, 3).T,
    }
    formats.write_safetensors(tmp_path / "all.safetensors", tensors)
    found = formats.read_safetensors(tmp_path / "all.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    size = int.from_bytes((tmp_path / "all.safetensors").read_bytes()[:8], "little")
    assert size % 8 == 0


@pytest.mark.parametrize(
    "written",
    [
        WRITTEN[:-1],
        WRITTEN[:40],
        (1 << 40).to_bytes(8, "little") + b"{",
        WRITTEN.replace(b'"F32"', b'"F31"'),
        WRITTEN.replace(b'"shape":[2]', b'"shape":[3]'),
    ],
)
def test_damaged_safetensors_are_refused(written, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(written)
    with pytest.raises(InputError, match="is damaged, or no safetensors file"):
        formats.read(tmp_path / "a.safetensors")


def test_flax_files_are_read(tmp_path):
    tree = {"step": 3, "params": {"Dense_0": {"kernel": np.float32([[1, 2]])}}}
    (tmp_path / "checkpoint").write_bytes(flax.serialization.to_bytes(tree))
    found = formats.read(tmp_path / "checkpoint").tree
    assert found["step"] == 3
    np.testing.assert_array_equal(formats.tensors_of(found["params"])["Dense_0.kernel"], [[1, 2]])


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "text").write_text("just some words")
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/config.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    (tmp_path / "broken/model.safetensors").write_bytes(WRITTEN)
    for name, words in {
        "text": "none of the formats",
        "empty": "has no config.json",
        "alone": "but no weights",
        "broken": "config.json is damaged",
        "absent": "no checkpoint at",
    }.items():
        with pytest.raises(InputError, match=words):
            formats.read(tmp_path / name)


def test_a_folder_gives_its_config_and_its_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "model.safetensors").write_bytes(WRITTEN)
    content = formats.read(tmp_path)
    assert (content.config, content.file.name, sorted(content.tree)) == ({"a": 1}, "model.safetensors", ["a", "b"])

"""Files of tensors, written here opcode by opcode in both of PyTorch's formats, and by PyTorch itself where it is installed."""

import hashlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics.inception_weights import LEGACY_MAGIC, LEGACY_PROTOCOL, read_tensors, sha256

TENSORS = {
    "conv.weight": np.random.default_rng(0).standard_normal((4, 3, 5, 2)).astype(np.float32),
    "bn.bias": np.random.default_rng(1).standard_normal(7),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "num_batches_tracked": np.array(12345678901),
}
ARRAYS = tuple(TENSORS.values())
STORAGES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}
EMPTY_DICT = b"ccollections\nOrderedDict\n)R"


def value(x):
    """A pickled value without the head and the stop: to be put into a longer pickle."""
    return pickle.dumps(x, 2)[2:-1]


def pickled_tensor(key, dtype, size, shape, strides, offset=0, legacy=False):
    storage = value("storage") + f"ctorch\n{STORAGES[dtype]}\n".encode() + value(key) + value("cpu") + value(size)
    arguments = b"(" + storage + (b"N" if legacy else b"") + b"tQ" + value(offset) + value(shape) + value(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89" + EMPTY_DICT + b"tR"


def pickled(entries):
    """Name -> pickled tensor, as an OrderedDict with the attribute `_metadata`, which a state dict has."""
    body = b"".join(value(name) + tensor for name, tensor in entries.items())
    return b"\x80\x02" + EMPTY_DICT + b"(" + body + b"u}" + value("_metadata") + EMPTY_DICT + b"sb."


def pickled_state(legacy):
    entries = {}
    for i, (name, array) in enumerate(TENSORS.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        entries[name] = pickled_tensor(str(i), array.dtype.str, array.size, array.shape, strides, legacy=legacy)
    return pickled(entries)


def write_zip(path, state=None, arrays=ARRAYS):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled_state(legacy=False) if state is None else state)
        for i, array in enumerate(arrays):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path, state=None, arrays=ARRAYS):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = [pickle.dumps(x, 2) for x in (LEGACY_MAGIC, LEGACY_PROTOCOL, system)]
    keys = pickle.dumps([str(i) for i in range(len(arrays))], 2)
    data = [struct.pack("<q", array.size) + array.tobytes() for array in arrays]
    path.write_bytes(b"".join([*head, pickled_state(legacy=True) if state is None else state, keys, *data]))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def error_line(path):
    with pytest.raises(InputError) as error:
        read_tensors(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@WRITERS
def test_both_formats(tmp_path, write):
    assert_same(read_tensors(write(tmp_path / "weights.pth")), TENSORS)


@WRITERS
def test_tensors_that_share_a_storage(tmp_path, write):
    legacy, base = write is write_legacy, np.arange(24, dtype=np.float32)
    views = {
        "transposed": pickled_tensor("0", "<f4", 24, (4, 6), (1, 4), legacy=legacy),
        "part": pickled_tensor("0", "<f4", 24, (2, 3), (3, 1), 18, legacy=legacy),
    }
    found = read_tensors(write(tmp_path / "weights.pth", pickled(views), [base]))
    assert_same(found, {"transposed": base.reshape(6, 4).T, "part": base[18:].reshape(2, 3)})


@pytest.mark.parametrize("legacy", [False, True])
def test_what_pytorch_writes(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 2))
    state = layers.state_dict()
    state["parameter"], state["transposed"] = layers[0].weight, torch.arange(6.0).reshape(2, 3).T
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    assert_same(read_tensors(tmp_path / "weights.pth"), {name: x.detach().numpy() for name, x in state.items()})


def test_npz(tmp_path):
    np.savez(tmp_path / "weights.npz", **TENSORS)
    assert_same(read_tensors(str(tmp_path / "weights.npz")), TENSORS)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    assert "allow_pickle" in error_line(tmp_path / "objects.npz")


@WRITERS
def test_a_pickle_runs_nothing(tmp_path, write):
    touched = tmp_path / "touched"
    command = b"cposix\nsystem\n(" + value(f"touch {touched}") + b"tR"
    assert "posix.system" in error_line(write(tmp_path / "weights.pth", pickled({"a": command})))
    builtin = b"c__builtin__\neval\n(" + value(f"open({str(touched)!r}, 'w')") + b"tR"
    assert "__builtin__.eval" in error_line(write(tmp_path / "weights.pth", pickled({"a": builtin})))
    assert not touched.exists()


@WRITERS
@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((7,), (1,), 0), ((3,), (1,), 4), ((2, 2), (5, 1), 0), ((2,), (-1,), 3), ((2,), (1,), -1)]
)
def test_a_tensor_stays_within_its_storage(tmp_path, write, shape, strides, offset):
    tensor = pickled_tensor("0", "<f4", 6, shape, strides, offset, legacy=write is write_legacy)
    assert "beyond its storage" in error_line(
        write(tmp_path / "weights.pth", pickled({"a": tensor}), [np.zeros(6, np.float32)])
    )


def test_a_storage_is_no_longer_than_the_file(tmp_path):
    tensor = pickled_tensor("0", "<f4", 1 << 50, (1,), (1,), legacy=True)
    assert "longer than the file" in error_line(write_legacy(tmp_path / "weights.pth", pickled({"a": tensor}), []))


@WRITERS
def test_a_file_cut_short_anywhere_is_one_line(tmp_path, write):
    content = write(tmp_path / "weights.pth").read_bytes()
    for size in {*range(0, len(content), 97), len(content) - 1}:
        (tmp_path / "weights.pth").write_bytes(content[:size])
        error_line(tmp_path / "weights.pth")


def test_files_of_other_content(tmp_path):
    assert "no file of weights" in error_line(tmp_path / "absent.pth")
    (tmp_path / "page.pth").write_text("<html>sorry</html>")
    error_line(tmp_path / "page.pth")
    assert "more than named tensors" in error_line(write_zip(tmp_path / "more.pth", pickled({"epoch": value(3)}), []))


def test_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()

"""PyTorch's files and EDM's pickles are read without PyTorch; what would run code is refused and does not run.

tree.pth, tree_old.pth and persistent.pkl were written by PyTorch 2.13: `torch.save` of one tree in either format, and a pickle
of a module that reduces itself to `torch_utils.persistence._reconstruct_persistent_obj` and its state, as EDM's do. The tree:
base = 0..5 as [2, 3]; {"model": OrderedDict(a=base, turned=base.t(), part=base[1:], half and brain = [1.5, -2] in float16 and
bfloat16, scalar=7, empty=[0, 3]), "parameter": Parameter(base.double()), "step": 12, "optimizer": the state of an Adam,
"shadow": [base + 1], and a NumPy scalar and array, torch.Size([2]) and torch.device("cpu")}.
"""

import builtins
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.pretrained import formats, unpickle
from tests.pretrained.fake import Call, modules, zip_file

FILES = Path(__file__).parent / "files"
BASE = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("name", ["tree.pth", "tree_old.pth"])
def test_both_formats_of_pytorch_are_read(name):
    tree = unpickle.read(FILES / name)
    model = tree["model"]
    wanted = {"a": BASE, "turned": BASE.T, "part": BASE[1:], "half": [1.5, -2], "brain": [1.5, -2], "scalar": 7}
    for key, value in wanted.items():
        np.testing.assert_array_equal(model[key].astype(np.float32), value)
    assert [model[key].dtype for key in ("half", "brain", "scalar")] == ["float16", "bfloat16", "int64"]
    assert model["empty"].shape == (0, 3)
    np.testing.assert_array_equal(tree["shadow"][0], BASE + 1)
    np.testing.assert_array_equal(tree["parameter"], BASE.astype(np.float64))
    np.testing.assert_array_equal(tree["array"], [0, 1, 2])
    assert (tree["step"], tree["numpy"], tree["optimizer"]["param_groups"][0]["lr"]) == (12, 0.25, 0.001)
    assert (tree["device"].name, tree["device"].args) == ("torch.device", ("cpu",))


def test_a_module_that_carries_its_source_is_read_and_the_source_is_not_run():
    ema = unpickle.read(FILES / "persistent.pkl")["ema"]
    assert formats.class_name(ema) == "Net"
    assert ema.args[0]["module_src"] == "raise SystemExit"
    found = formats.state_dict(ema)
    wanted = {"weight": BASE, "scale": [0.5, 0.25], "inner.8x8_conv.weight": [[3, 4]], "inner.8x8_conv.bias": [-1]}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)


def nested(content) -> object:
    """Hidden in the bytes of a tensor, as EDM's pickles have them."""
    with modules(torch__storage="_load_from_bytes") as made:
        return pickle.dumps(Call(made._load_from_bytes, pickle.dumps(content)))


EVIL = {
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Call(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "builtins.exec": lambda marker: Call(builtins.exec, f"open({str(marker)!r}, 'w')"),
    "builtins.getattr": lambda marker: Call(getattr, marker, "touch"),
    "subprocess.Popen": lambda marker: Call(subprocess.Popen, ["touch", str(marker)]),
}
WRITERS = {
    "plain": lambda path, content: path.write_bytes(pickle.dumps(content)),
    "zip": zip_file,
    "nested": lambda path, content: path.write_bytes(nested(content)),
}


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("name", EVIL)
def test_a_file_that_would_run_code_is_refused_in_one_line(name, written, tmp_path):
    path, marker = tmp_path / "evil.pkl", tmp_path / "marker"
    WRITERS[written](path, {"ema": EVIL[name](marker)})
    words = rf"would run code: it asks for \w+\.{name.rpartition('.')[2]}; nothing"  # by the module's true or old name
    with pytest.raises(InputError, match=words) as raised:
        formats.read(path)
    assert "\n" not in str(raised.value)
    assert not marker.exists()


def test_the_files_of_that_test_would_run_code_elsewhere(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(EVIL["os.system"](marker)))
    assert marker.exists()


def test_functions_of_pytorch_are_kept_and_not_called(tmp_path):
    with modules(torch__hub="load") as made:
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Call(made.load, "somebody/something")}))
    kept = unpickle.read(tmp_path / "a.pkl")["a"]
    assert (kept.name, kept.args) == ("torch.hub.load", ("somebody/something",))


@pytest.mark.parametrize("name", ["tree.pth", "tree_old.pth", "persistent.pkl"])
def test_a_cut_file_is_damaged(name, tmp_path):
    whole = (FILES / name).read_bytes()
    for length in (40, len(whole) // 2, len(whole) - 30):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(InputError, match="is damaged"):
            unpickle.read(tmp_path / name)


def test_a_tensor_cannot_reach_beyond_its_storage():
    storage = np.zeros(4, np.float32)
    for offset, shape, strides in [(0, (5,), (1,)), (2, (2,), (2,)), (0, (2,), (-1,))]:
        with pytest.raises(ValueError, match="beyond its storage"):
            unpickle._tensor(storage, offset, shape, strides)
    np.testing.assert_array_equal(unpickle._tensor(storage, 1, (3,), (1,)), storage[1:])

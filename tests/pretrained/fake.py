"""Files as other codes write them, made without these codes."""

import contextlib
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gm_jax.pretrained.filling import path_of
from gm_jax.pretrained.song_unets import edm_table

PARTS = {"query": 0, "key": 1, "value": 2}


@contextlib.contextmanager
def modules(**functions: str) -> Iterator[types.SimpleNamespace]:
    """Functions that pickle finds under these names, "package_module=function" for package.module.function."""
    made, before = types.SimpleNamespace(), dict(sys.modules)
    for module, name in functions.items():
        full = module.replace("__", ".")
        for part in ("torch", "torch_utils", full):
            sys.modules[part] = types.ModuleType(part)
        function = type(name, (), {"__module__": full, "__qualname__": name})
        setattr(sys.modules[full], name, function)
        setattr(made, name, function)
    try:
        yield made
    finally:
        sys.modules.clear()
        sys.modules.update(before)


class Call:
    """What a pickle is to call: a function or class, by its name, and with what."""

    def __init__(self, function: Any, *args: Any):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def zip_file(path: Path, content: Any) -> None:
    """A file as by `torch.save` whose pickle is of this content; without storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, 2))


def edm_tensors(network: Any, settings: Mapping[str, Any], side: int) -> dict[str, np.ndarray]:
    """The tensors of EDM's SongUNet that has the parameters of ours: the inverse of what the importer does."""
    table, found, interleaved = edm_table(settings, side), {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(network):
        layer, _, kind = path_of(path).rpartition("/")
        name, value = table[layer].name, np.asarray(leaf)
        if kind == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            if name.endswith(("qkv", "proj", "skip")):
                value = value[:, :, None, None]
        suffix = "freqs" if kind == "frequencies" else "bias" if kind == "bias" else "weight"
        if name.endswith("qkv"):
            interleaved.setdefault(f"{name}.{suffix}", {})[PARTS[layer.rpartition("/")[2]]] = value
        else:
            found[f"{name}.{suffix}"] = value
    for name, parts in interleaved.items():
        whole = np.stack([parts[i] for i in range(3)], axis=1)
        found[name] = whole.reshape(-1, *whole.shape[2:])
    return found


def edm_pickle(path: Path, tensors: Mapping[str, np.ndarray], **state: Any) -> None:
    """A pickle as of EDM, {"ema": EDMPrecond(SongUNet)}; its tensors are NumPy's."""
    with modules(torch_utils__persistence="_reconstruct_persistent_obj") as made:

        def persistent(name: str, state: dict[str, Any]) -> Call:
            meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": name, "state": state}
            return Call(made._reconstruct_persistent_obj, meta)

        buffers = {"resample_filter": np.ones((1, 1, 2, 2), np.float32) / 4}
        model = persistent("SongUNet", {"_parameters": dict(tensors), "_buffers": buffers, "_modules": {}})
        outer = {"_parameters": {}, "_buffers": {}, "_modules": {"model": model}, "sigma_data": 0.5, **state}
        file = BytesIO()
        pickle.dump({"ema": persistent("EDMPrecond", outer), "loss_fn": None}, file)
    path.write_bytes(file.getvalue())

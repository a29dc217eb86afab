"""The formats of published checkpoints: what a file or a folder holds, as plain containers of arrays.

safetensors (https://github.com/huggingface/safetensors): eight bytes say how long the header is; the header is JSON, name ->
dtype, shape and the first and last byte of its numbers; the numbers follow, little-endian.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax.numpy as jnp
import numpy as np

from gm_jax.errors import InputError
from gm_jax.pretrained import unpickle
from gm_jax.pretrained.unpickle import Inert
from gm_jax.system.files import write_atomically

DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, as in the reference implementation

Tensors = dict[str, np.ndarray]


class Content(NamedTuple):
    """What was read."""

    tree: Any  # containers of arrays: of a folder, its tensors by name
    config: dict[str, Any]  # a folder's config.json; empty for a file
    file: Path  # the one with the weights


def read(path: str | Path) -> Content:
    """A folder with config.json and weights, or a file: safetensors, PyTorch's, a pickle, Flax's msgpack.

    Raises InputError where there is none, it is damaged, or it would run code.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; give the path of a file or folder, or a name (--help lists them)")
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return Content(read_safetensors(path), {}, path)
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive; a pickle of protocol 2 or higher
        return Content(unpickle.read(path), {}, path)
    return Content(_read_msgpack(path), {}, path)


def _read_folder(folder: Path) -> Content:
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} has no config.json beside its weights; give the folder that has both, or a file")
    found = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    if not found:
        raise InputError(f"{folder} has a config.json but no weights (.safetensors or .bin); give the folder that has both")
    try:
        settings = json.loads(config.read_text())
    except ValueError as error:
        raise InputError(f"{config} is damaged ({error}); fetch it again") from error
    weights = found[0]
    tree = read_safetensors(weights) if weights.suffix == ".safetensors" else unpickle.read(weights)
    return Content(tree, settings, weights)


def _read_msgpack(path: Path) -> Any:
    try:
        return flax.serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # what msgpack raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} is in none of the formats known here: safetensors, PyTorch's, a pickle, Flax's msgpack ({reason})"
        ) from error


def read_safetensors(path: Path) -> Tensors:
    """Name -> array. Raises InputError where the file is damaged."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        if size > min(len(data) - 8, LONGEST_HEADER):
            raise ValueError("its header is longer than the file")
        header, numbers = json.loads(data[8 : 8 + size]), memoryview(data)[8 + size :]
        return {name: _tensor(entry, numbers) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged, or no safetensors file ({error}); fetch it again") from error


def _tensor(entry: Mapping[str, Any], numbers: memoryview) -> np.ndarray:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(numbers):
        raise ValueError("a tensor reaches beyond the file")
    return np.frombuffer(numbers[first:last], DTYPES[entry["dtype"]]).reshape(entry["shape"])


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name; the file appears whole."""
    header, parts, at = {}, [], 0
    for name, tensor in sorted(tensors.items()):
        tensor = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
        ends = [at, at + tensor.nbytes]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        parts.append(tensor.tobytes())
        at = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    write_atomically(path, b"".join([len(text).to_bytes(8, "little"), text, *parts]))


# --- trees --------------------------------------------------------------------------------------------------------------------


def tensors_of(tree: Any, separator: str = ".") -> Tensors:
    """The arrays of nested dicts, by their path; other leaves are left out."""
    found = {}
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(value, np.ndarray):
            found[str(name)] = value
        else:
            inner = tensors_of(value, separator)
            found |= {f"{name}{separator}{path}": array for path, array in inner.items()}
    return found


def attributes(value: Any) -> dict[str, Any]:
    """Of an object that a pickle holds, also where EDM's `torch_utils.persistence` has packed it with its source."""
    if isinstance(value, Inert) and value.name == PERSISTENT:
        value = value.args[0].get("state") if value.args and isinstance(value.args[0], dict) else None
    state = value.state if isinstance(value, Inert) else value
    return state if isinstance(state, dict) else {}


def class_name(value: Any) -> str:
    """The class of such an object, by its own name alone."""
    if isinstance(value, Inert) and value.name == PERSISTENT and value.args and isinstance(value.args[0], dict):
        return str(value.args[0].get("class_name", ""))
    return value.name.rpartition(".")[2] if isinstance(value, Inert) else ""


PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"


def state_dict(module: Any) -> Tensors:
    """Parameters and buffers of a pickled PyTorch module and of all modules in it, named as PyTorch names them."""
    own = attributes(module)
    found = {}
    for kind in ("_parameters", "_buffers"):
        found |= {name: value for name, value in (own.get(kind) or {}).items() if isinstance(value, np.ndarray)}
    for name, inner in (own.get("_modules") or {}).items():
        found |= {f"{name}.{path}": array for path, array in state_dict(inner).items()}
    return found

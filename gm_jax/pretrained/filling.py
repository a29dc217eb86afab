"""From the tensors of another code to our parameters: which is where, how it lies there, and what does not fit."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gm_jax.core import PyTree
from gm_jax.errors import InputError

SHOWN = 5  # tensors of each kind of misfit; the others are counted


class Leaf(NamedTuple):
    """What one of our parameters is called in a layer of theirs, and how ours comes of it."""

    name: str
    view: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor


class Layer(NamedTuple):
    """A layer of theirs, and its tensors by what ours are called: kernel, bias, scale ..."""

    name: str
    leaves: Mapping[str, Leaf]


def last_channels(tensor: np.ndarray) -> np.ndarray:
    """Output channels last and input channels before them, where PyTorch has them first; a 1x1 kernel without its ones."""
    turned = np.moveaxis(tensor, (0, 1), (-1, -2))
    return turned.reshape(turned.shape[-2:]) if set(turned.shape[:-2]) == {1} else turned


def without_ones(tensor: np.ndarray) -> np.ndarray:
    """The kernel of a 1x1 convolution as that of a dense layer; any other as it is."""
    return tensor[0, 0] if tensor.ndim == 4 and tensor.shape[:2] == (1, 1) else tensor


def of_part(part: Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Leaf]:
    """The leaves of a layer of ours that is a part of one of PyTorch's: some of its output channels."""
    return {"kernel": Leaf("weight", lambda tensor: last_channels(part(tensor))), "bias": Leaf("bias", part)}


TORCH = {"kernel": Leaf("weight", last_channels), "scale": Leaf("weight"), "bias": Leaf("bias")}
FLAX = {"kernel": Leaf("kernel", without_ones), "scale": Leaf("scale"), "bias": Leaf("bias")}


def of_table(table: Mapping[str, Layer]) -> Callable[[str], Leaf]:
    """From the path "a/b/kernel" of ours to the tensor of theirs, by the layer "a/b"."""

    def place(path: str) -> Leaf:
        layer, _, leaf = path.rpartition("/")
        name, view = table[layer].leaves[leaf]
        return Leaf(f"{table[layer].name}.{name}", view)

    return place


def path_of(path: tuple) -> str:
    """The path of a leaf of a tree, as "a/b/c"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def fill(shapes: PyTree, place: Callable[[str], Leaf], tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Arrays of these shapes; each is what `place` gives for its path, of the tensor of that name.

    Raises InputError, which names missing, superfluous and misshapen tensors together.
    """
    missing, misshapen, used = [], [], set()

    def leaf(path, shape) -> Any:
        name, view = place(path_of(path))
        used.add(name)
        if name not in tensors:
            missing.append(name)
            return None
        try:
            found = view(tensors[name])
        except (ValueError, IndexError):
            found = np.empty(0)  # which has no shape of ours
        if found.shape != shape.shape:
            had, wanted = ("x".join(map(str, sizes)) for sizes in (tensors[name].shape, shape.shape))
            misshapen.append(f"{name} of {had} for our {path_of(path)} of {wanted}")
            return None
        return np.array(found, shape.dtype)

    filled = jax.tree_util.tree_map_with_path(leaf, shapes)
    faults = {"missing": missing, "superfluous": sorted(tensors.keys() - used), "of another shape": misshapen}
    if any(faults.values()):
        told = "; ".join(_told(kind, names) for kind, names in faults.items() if names)
        raise InputError(f"the tensors do not fit the network: {told}")
    return filled


def _told(kind: str, names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"


def check(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """InputError for the first setting of the network that is another than what ours can be."""
    for name, value in wanted.items():
        if found[name] != value:
            raise InputError(f"{what} has {name}={found[name]!r}; only {value!r} can be imported")

"""What a number depends on beside its settings: hardware, versions, the content of arrays."""

import contextlib
import hashlib
import os
from importlib.metadata import PackageNotFoundError, version

import jax
import numpy as np

from gm_jax.core import PyTree


def hardware() -> str:
    """The devices that JAX uses, such as "1 x NVIDIA H200" or "1 x cpu (2 cores)"."""
    kind = jax.devices()[0].device_kind
    cores = f" ({os.cpu_count()} cores)" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} x {kind}{cores}"


def versions() -> dict[str, str]:
    """Of this package and of those that numbers depend on."""
    found = {}
    for package in ("gm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        with contextlib.suppress(PackageNotFoundError):  # run from a checkout that is not installed
            found[package] = version(package)
    return found


def digest(tree: PyTree) -> str:
    """sha256 over the paths, shapes and values of a tree of arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()

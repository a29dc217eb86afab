"""The work directory of a run: whose it is, and what was asked for."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gm_jax.core import PyTree
from gm_jax.errors import InputError
from gm_jax.images import write_atomically

# Fields that a rerun may change: they do not alter the steps already made. (In effect train.steps may only be raised: a run
# that has made more steps than asked for is left as it is.)
FREE = (
    "train.steps",
    "train.log_every",
    "train.heldout_every",
    "train.sample_every",
    "train.samples",
    "train.checkpoint_every",
    "train.keep_every",
    "train.proxy_every",
    "train.proxy_n",
    "train.steps_per_dispatch",
    "train.init_from",  # used once, at the start; what it gave is kept in config.json
    "data.dir",
    "data.device_bytes",
    "parallel",
    "profile",
    "eval.",
)


class Record(NamedTuple):
    """What config.json holds."""

    config: dict[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int | None
    train_images: int
    parameters: int
    init_from: dict[str, Any]  # target -> source, step, digest and config of what was grafted in
    hardware: str
    versions: dict[str, str]


def read(workdir: Path) -> Record:
    """Raises InputError where `workdir` holds no run or its config.json is damaged."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir} holds no run (no config.json); correct --workdir, or train one first")
    try:
        content = json.loads(path.read_text())
        return Record(**{**content, "image_shape": tuple(content["image_shape"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or train into another directory") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of a nested dict; tuples as lists, as JSON has them."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def check(workdir: Path, record: Record) -> bool:
    """Whether `workdir` already holds this run. Raises InputError where it holds another one, or foreign files."""
    if not (workdir / "config.json").exists():
        if workdir.exists() and not workdir.is_dir():
            raise InputError(f"{workdir} is a file; choose another --workdir")
        if workdir.exists() and any(workdir.iterdir()):
            raise InputError(
                f"{workdir} holds files but no config.json, so it is not a work directory; choose another --workdir"
            )
        return False
    old = read(workdir)
    before, now = dict(flatten(old.config)), dict(flatten(record.config))
    differing = [k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and not k.startswith(FREE)]
    differing.sort(key=lambda k: (not k.endswith(".name"), k))  # another model or data set says most
    if differing:
        key = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        was, wanted = before.get(key, "absent"), now.get(key, "absent")
        raise InputError(
            f"{workdir} holds another run: {key} is {was!r} there and {wanted!r} here{more}; "
            "choose another --workdir, or give the same config"
        )
    before, now = ((r.train_images, r.image_shape, r.num_classes) for r in (old, record))
    if before != now:
        raise InputError(
            "{} was trained on {} images of shape {} with {} classes, the data now has {}, {} and {}; "
            "give the same data, or choose another --workdir".format(workdir, *before, *now)
        )
    return True


def write(workdir: Path, record: Record) -> None:
    """Writes config.json."""
    write_atomically(workdir / "config.json", (json.dumps(record._asdict(), indent=2) + "\n").encode())


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

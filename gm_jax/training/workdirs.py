"""The work directory of a run: whose it is, and what was asked for."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gm_jax.errors import InputError
from gm_jax.system.files import write_atomically

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


LOCK = ".lock"  # held by the process that trains
BESIDE = (LOCK, ".out", ".err", ".log")  # files that may lie in a directory which is to become a work directory: a scheduler's
Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]

FORMAT = 2  # of config.json and of the checkpoints beside it


class Record(NamedTuple):
    """What config.json holds, beside the number of its format."""

    config: dict[str, Any]
    image_shape: tuple[int, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None  # what label i is called
    train_images: int
    data_digest: str  # sha256 of the data's content (data.digest)
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
        check_format(path, content)
        fields = {name: value for name, value in content.items() if name != "format"}
        names = fields["class_names"]
        fields |= {"image_shape": tuple(fields["image_shape"]), "class_names": None if names is None else tuple(names)}
        return Record(**fields)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or train into another directory") from error


def check_format(path: Path, content: Mapping[str, Any]) -> None:
    """Raises InputError for a config.json that another version of this package wrote in another format."""
    if "versions" in content and content.get("format", 1) != FORMAT:  # without them it is damaged, whatever the format
        version = content["versions"].get("gm_jax", "of another version")
        raise InputError(
            f"{path.parent} was made with gm_jax {version}, in format {content.get('format', 1)} (this one's is {FORMAT}); "
            "evaluate it with that version, or train into another directory"
        )


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of a nested dict; tuples as lists, as JSON has them."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def check(
    workdir: Path, record: Record, complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: config
) -> bool:
    """Whether `workdir` already holds this run. Raises InputError where it holds another one, or foreign files.

    `complete(config)` gives fields that have come up since the run was begun their defaults.
    """
    if not (workdir / "config.json").exists():
        if workdir.exists() and not workdir.is_dir():
            raise InputError(f"{workdir} is a file; choose another --workdir")
        foreign = [path.name for path in workdir.iterdir() if not path.name.endswith(BESIDE)] if workdir.exists() else []
        if foreign:
            raise InputError(
                f"{workdir} holds files ({min(foreign)}) but no config.json, so it is not a work directory; choose another "
                "--workdir"
            )
        return False
    old = read(workdir)
    before, now = (dict(flatten(_without_path(config))) for config in (complete(old.config), record.config))
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
    check_data(workdir, old, record.image_shape, record.class_names, record.train_images, record.data_digest)
    return True


def check_data(
    workdir: Path,
    record: Record,
    image_shape: tuple[int, ...],
    class_names: tuple[str, ...] | None,
    train_images: int,
    data_digest: str,
) -> None:
    """Raises InputError where data are not those that the run of `record` was begun on, whatever they are called now."""
    before, now = (record.train_images, record.image_shape), (train_images, image_shape)
    if before != now:
        raise InputError(
            "{} was trained on {} examples of shape {}, the data now has {} of {}; "
            "give the same data, or choose another --workdir".format(workdir, *before, *now)
        )
    if record.class_names != class_names:
        names = [", ".join(known or ("none",)) for known in (record.class_names, class_names)]
        raise InputError(
            f"{workdir} was trained with the classes {names[0]}, the data now has {names[1]}: labels would change their "
            "meaning; give the same data, or choose another --workdir"
        )
    if record.data_digest != data_digest:
        raise InputError(
            f"{workdir} was trained on other data of the same size: images or labels of some split have changed since; "
            "give the same data, or choose another --workdir"
        )


def _without_path(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without where a folder or file lies: the data are held to their content instead."""
    return {**config, "data": {**config["data"], "name": config["data"]["name"].partition(":")[0]}}


def write(workdir: Path, record: Record) -> None:
    """Writes config.json."""
    write_atomically(workdir / "config.json", (json.dumps({"format": FORMAT, **record._asdict()}, indent=2) + "\n").encode())

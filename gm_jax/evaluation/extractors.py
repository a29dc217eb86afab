"""Which eyes look at images: Inception where it fits, else a classifier that is trained on the data set's own labels."""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gm_jax import defaults
from gm_jax.build import build_model, resolve
from gm_jax.data.dataset import Dataset
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.metrics import inception
from gm_jax.metrics.extractor import Extractor, Features
from gm_jax.models.classifier import logits_of
from gm_jax.system import provenance
from gm_jax.system.cache import cache_dir
from gm_jax.system.locks import locked
from gm_jax.training import loop, workdirs
from gm_jax.training.restore import restore

SMALLEST = 32  # pixels: images smaller than this are not put before Inception unasked
CHOICES = "auto, inception, inception64 (or 192, 768, 2048), classifier, or the work directory of a trained classifier"
HOW_TO_GET_WEIGHTS = (
    "set eval.inception or the environment's GM_JAX_INCEPTION to their file, download them "
    "(python -c 'from gm_jax.metrics import inception; inception.download_weights()'), or set eval.extractor=classifier"
)


def choose(settings: Mapping[str, Any], dataset: Dataset | None) -> Extractor:
    """The extractor that `settings["extractor"]` names; `settings["inception"]` is where Inception's weights are, or empty.

    "auto": Inception for colour images of at least 32x32, and where there is no data set; else as "classifier".
    "inception": the largest tap that the weights reach. "inception768" and the like: that tap.
    "classifier": a small one, trained on the data set's labels. That happens once for each data set and takes up to
    minutes. All else: the work directory of a trained classifier.

    Raises InputError for an unknown name, and where weights or labels are missing.
    """
    name = settings["extractor"]
    if name == "auto":
        name = "inception" if dataset is None or _is_for_inception(dataset.image_shape) else "classifier"
    if match := re.fullmatch(r"inception(\d*)", name):
        return _inception(settings["inception"], int(match[1]) if match[1] else None)
    if name == "classifier":
        return _cached(trained_classifier(dataset))
    if not Path(name).expanduser().is_dir():
        raise InputError(f"unknown eval.extractor {name!r}; give {CHOICES}")
    return classifier_extractor(Path(name).expanduser())


def _is_for_inception(image_shape: tuple[int, int, int]) -> bool:
    height, width, channels = image_shape
    return channels == 3 and min(height, width) >= SMALLEST


def _inception(path: str, tap: int | None) -> Extractor:
    if tap not in (None, *inception.TAPS):
        raise InputError(f"Inception has no tap of {tap} features; it has {', '.join(map(str, inception.TAPS))}")
    weights = inception.find_weights(path)
    if weights is None:
        raise InputError(f"no weights of Inception found; {HOW_TO_GET_WEIGHTS}")
    return _read_inception(weights, tap)


@functools.lru_cache(maxsize=2)
def _read_inception(weights: Path, tap: int | None) -> Extractor:
    """The same extractor again, so that it is read and compiled once."""
    return inception.extractor(weights, tap)


# --- classifiers --------------------------------------------------------------------------------------------------------------


def classifier_extractor(workdir: Path) -> Extractor:
    """What a trained classifier (averaged weights) says of images: penultimate features and logits.

    Its name is that of its data set, such as "digits_classifier"; its digest the sha256 of its parameters. Raises InputError
    where the folder holds no trained classifier; the extractor raises it for images of another shape.
    """
    record = workdirs.read(workdir)
    if record.config["model"]["name"] != "classifier":
        raise InputError(f"{workdir} holds a {record.config['model']['name']}, no classifier; give {CHOICES}")
    variables = restore(workdir).variables
    config = {**record.config, "precision": "float32"}
    model = build_model(config, record.image_shape, record.num_classes)
    name = f"{_slug(record.config['data']['name'])}_classifier"

    def fn(variables, images):
        if images.shape[1:] != record.image_shape:
            raise InputError(f"{name} looks at images of {_size(record.image_shape)}, these are {_size(images.shape[1:])}")
        with jax.default_matmul_precision("highest"):
            features = model.encode(variables, None, to_float(images))
            return Features(features, logits_of(variables, features))

    return Extractor(name, provenance.digest(variables.params), fn, variables)


@functools.lru_cache(maxsize=2)
def _cached(workdir: Path) -> Extractor:
    """`classifier_extractor` for a folder that does not change any more."""
    return classifier_extractor(workdir)


def trained_classifier(dataset: Dataset | None) -> Path:
    """The work directory of the data set's classifier, in the cache; trained first, unless it has been.

    Images, labels and settings tell classifiers apart. Interrupted training goes on in the next call; of several processes on a
    machine one trains and the others wait. Raises InputError for data without labels.
    """
    if dataset is None or dataset.y_train is None:
        what = "images alone" if dataset is None else f"{dataset.name} without labels"
        raise InputError(f"no classifier can be trained on {what}; set eval.extractor to another one: {CHOICES}")
    if dataset.num_classes < 2:
        raise InputError(
            f"{dataset.name} has one class, of which nothing can be learnt; set eval.extractor to another: {CHOICES}"
        )
    config = classifier_config(dataset.name)
    essence = repr([workdirs.FORMAT, *workdirs.flatten({**config, "eval": {}})])
    key = provenance.digest((dataset.x_train, dataset.y_train, essence))[:16]
    folder = cache_dir("classifiers") / f"{_slug(dataset.name)}-{key}"
    unfinished, lock = folder.with_suffix(".unfinished"), folder.with_suffix(".lock")
    if not folder.is_dir():
        with locked(lock, wait=True):
            if not folder.is_dir():  # another process may have trained it meanwhile
                _train(config, unfinished, dataset)
                unfinished.rename(folder)
    return folder


def _train(config: dict[str, Any], workdir: Path, dataset: Dataset) -> None:
    if jax.process_count() > 1:
        raise InputError(
            "several hosts cannot train an extractor; train configs/classifier.py on one, and set eval.extractor to it"
        )
    print(f"training a classifier of {dataset.name} as extractor, once, in {workdir.parent}", file=sys.stderr)
    try:
        loop.train(config, workdir, dataset, quiet=True)
    except loop.Interrupted as error:  # to whoever asked for an extractor, it is an interruption like any other
        raise KeyboardInterrupt from error


def classifier_config(data_name: str) -> dict[str, Any]:
    """The settings of a classifier that is trained unasked: those of configs/classifier.py:digits, which fit all small images.

    They are repeated here since a config file is the user's, who may change it.
    """
    config = defaults.plain() | {"precision": "float32", "model": {"name": "classifier"}}
    config["data"] |= {"name": data_name}
    config["optimizer"] |= {"learning_rate": 3e-3, "weight_decay": 0.3, "warmup_steps": 50, "ema_decay": 0.99}
    config["optimizer"] |= {"schedule": "cosine", "horizon": 1500}
    config["train"] |= {"steps": 1500, "heldout_every": 500, "sample_every": 0, "checkpoint_every": 500}
    return resolve(config)


def _slug(data_name: str) -> str:
    """What stands for a data set in the names of metrics and files: "shapes" for "arrays:/path/shapes.npz"."""
    _, _, path = data_name.rpartition(":")
    return re.sub(r"\W+", "_", Path(path).name.removesuffix(".npz"))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

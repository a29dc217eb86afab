"""Data sets prepared by TensorFlow Datasets, read without TensorFlow. The only file that imports tensorflow_datasets."""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gm_jax.data.dataset import Dataset, as_images, as_labels
from gm_jax.errors import InputError

READ_CHUNK = 1000  # records per read: many at once are faster than one by one


def default_dir() -> Path:
    """Where TFDS itself keeps its data: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find(name: str, root: Path) -> Path | None:
    """The newest prepared version of data set `name` below `root` (`root/name/version`), or None.

    Only directories of array_record files count: the tfrecord files that TFDS writes by default need TensorFlow. The files are
    looked for here, since TFDS itself, asked for what is not there, tries to download it for minutes.
    """
    versions = [path.parent for path in root.glob(f"{name}/*/dataset_info.json") if _file_format(path) == "array_record"]
    return max(versions, key=_version, default=None)


def load(name: str, directory: Path) -> Dataset:
    """Reads a directory that `find` returned: splits `train` and `test` with features `image` and `label`, in stored order.

    Raises:
      InputError: tensorflow_datasets is not installed, or the directory cannot be read.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"{directory} was prepared by TensorFlow Datasets, which is needed to read it ({error}); "
            "pip install tensorflow-datasets array_record importlib_resources"
        ) from error
    try:
        builder = tensorflow_datasets.builder_from_directory(directory)
        decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
        train, test = (_read_split(builder, split, decoders) for split in ("train", "test"))
        class_names = tuple(builder.info.features["label"].names)
    except Exception as error:  # TFDS raises exceptions of many kinds for a damaged directory
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"cannot read {directory} ({reason}); prepare it again or name another data.dir") from error
    return Dataset(name, *train, *test, class_names)


def _read_split(builder, split: str, decoders: dict) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split, decoders=decoders)
    images = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), READ_CHUNK):
        rows = range(start, min(start + READ_CHUNK, len(source)))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
            images[row] = pixels.reshape(images.shape[1:])  # a grey image comes without its channel axis
            labels[row] = example["label"]
    return as_images(images), as_labels(labels)


def _file_format(info: Path) -> str:
    try:
        return json.loads(info.read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError):
        return "unreadable"


def _version(directory: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in directory.name.split("."))

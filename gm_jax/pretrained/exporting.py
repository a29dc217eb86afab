"""From a work directory to a folder of two files that other programs can read: model.safetensors and config.json.

Tensors are named by their path, "params/network/conv_in/kernel". `loading.load` reads such a folder, and it can be imported.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gm_jax.build import resolve
from gm_jax.errors import InputError
from gm_jax.metrics.inception_weights import sha256
from gm_jax.pretrained import formats
from gm_jax.pretrained.filling import path_of
from gm_jax.pretrained.loading import LIBRARY
from gm_jax.system.files import write_atomically
from gm_jax.training import workdirs
from gm_jax.training.restore import restore

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def export(workdir: Path, folder: Path, weights: str = "ema") -> None:
    """Writes both files, the config last. Raises InputError where there is no run, and for a folder that is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is a file or holds files already; choose another --export")
    record, restored = workdirs.read(workdir), restore(workdir, weights)
    tree = restored.variables._asdict()
    leaves = {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    formats.write_safetensors(folder / WEIGHTS, leaves)
    content = {
        "library": LIBRARY,
        "config": _public(resolve(record.config)),
        "image_shape": record.image_shape,
        "num_classes": record.num_classes,
        "class_names": record.class_names,
        "step": restored.step,
        "weights": restored.weights,
        "licence": next((origin["licence"] for origin in record.init_from.values() if "licence" in origin), ""),
        "init_from": record.init_from,
        "sha256": sha256(folder / WEIGHTS),
        "versions": record.versions,
    }
    write_atomically(folder / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """Without where data lies, which is nobody else's affair."""
    return {**config, "data": {**config["data"], "dir": "", "name": config["data"]["name"].partition(":")[0]}}

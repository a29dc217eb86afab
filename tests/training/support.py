"""Small runs for the tests of the loop: settings, points of the plane as data, runs in processes of their own, and their states."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

from configs.common import base
from gm_jax import experiment
from gm_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
WORKER = "tests/training/worker.py"
QUIET = {"log_every": 10**6, "heldout_every": 0, "sample_every": 0, "checkpoint_every": 0, "steps_per_dispatch": 1}


def settings(model: dict, data: str = "digits", parallel: str = "jit", device_bytes: int = 2**31, optimizer=None, **train) -> dict:
    """The settings of a run that does nothing but train, unless `train` says more."""
    config = base().to_dict()
    config |= {"model": model, "parallel": parallel, "precision": "float32"}
    config["data"] |= {"name": data, "device_bytes": device_bytes}
    config["optimizer"] |= {"ema_decay": 0.9, "learning_rate": 1e-3, **(optimizer or {})}
    config["train"] |= {**QUIET, "batch_size": 16, "samples": 4, **train}
    return config


def write_points(path: pathlib.Path) -> str:
    """The name of a data set of 100 points of the plane, as images of 1 x 1 pixel; a batch of 16 does not divide an epoch."""
    points = np.random.default_rng(0).normal(127, 40, (140, 1, 1, 2)).clip(0, 255).astype(np.uint8)
    np.savez(path, x_train=points[:100], x_test=points[100:])
    return f"arrays:{path}"


def leaves(workdir: pathlib.Path, config: dict, image_shape, num_classes=None, step: int | None = None) -> dict[str, np.ndarray]:
    """Every leaf of the newest checkpoint, by its path."""
    model = experiment.build_model(config, image_shape, num_classes)
    optimizers = experiment.build_optimizers(config, model)
    abstract = experiment.abstract_state(config, model, optimizers, image_shape, num_classes)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(abstract, jax.sharding.SingleDeviceSharding(jax.devices()[0]), repair=False)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}

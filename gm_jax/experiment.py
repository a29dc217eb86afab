"""The whole way: a model is trained from a config, and loaded from where it was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gm_jax.data.dataset import Dataset
from gm_jax.evaluation.watch import watchers
from gm_jax.training import loop
from gm_jax.training.restore import load

__all__ = ["load", "train"]


def train(config: Mapping[str, Any], workdir: str | Path, dataset: Dataset | None = None, quiet: bool = False) -> None:
    """`training.loop.train` (which see), watched: with grids of samples and, if asked for, the proxy metric."""
    loop.train(config, Path(workdir), dataset, quiet, watch=watchers)

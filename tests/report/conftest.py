"""Work directories with made-up numbers, in the files that training and evaluation write."""

import json
from pathlib import Path

import numpy as np
import pytest

from gm_jax import images
from gm_jax.training import workdirs

EXTRACTOR = {"name": "digits_classifier", "digest": "ab" * 32}
REFERENCE = {"name": "digits train", "n": 1501, "digest": "cd" * 32}


def entry(value: float, **fields) -> dict:
    """An entry of a metric of samples."""
    judged = {"extractor": EXTRACTOR, "reference": REFERENCE}
    origin = {
        "task": "quality",
        "n": 1000,
        "weights": "ema",
        "seed": 0,
        "step": 200,
        "sampling": {},
        "nfe": 1,
        "device": "1 x cpu",
    }
    return {"value": value} | judged | origin | fields


def floor(value: float, **fields) -> dict:
    """An entry of real images."""
    judged = {"extractor": EXTRACTOR, "reference": REFERENCE}
    return {"value": value, "n": 296, "weights": None, "seed": None, "step": None, "real": "digits test"} | judged | fields


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, model, data, metrics, pictures, log, **fields of config["model"]) -> work directory."""

    def make(name: str, model="vae", data="digits", metrics=None, pictures=(), log=None, **hyperparameters) -> Path:
        workdir = tmp_path / "runs" / name
        config = {
            "model": {"name": model, **hyperparameters},
            "data": {"name": data, "dir": "/private"},
            "train": {"batch_size": 50, "steps": 200},
        }
        record = workdirs.Record(config, (8, 8, 1), 10, None, 1000, "", 4532, {}, "1 x cpu (2 cores)", {"jax": "0.10.2"})
        workdirs.write(workdir, record)
        lines = log or [
            {"step": 100, f"{model}/loss": 9.0, "steps_per_second": 10.0},  # 10 s
            {"step": 100, f"heldout/{model}/loss": 8.0},
            {"step": 200, f"{model}/loss": 7.0, "steps_per_second": 20.0},  # 5 s
        ]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for picture in pictures:
            draw(workdir / picture)
        provenance = {"task": "t", "n": 4, "seed": 0, "step": 200, "weights": "ema", "sampling": {}, "nfe": 1}
        content = {"metrics": metrics or {}, "pictures": dict.fromkeys(pictures, provenance)}
        (workdir / "results.json").write_text(json.dumps(content))
        return workdir

    return make


FRAMES = np.random.default_rng(0).integers(0, 256, (4, 12, 20, 1), np.uint8)


def draw(path: Path) -> None:
    """A small picture; for an animation FRAMES, magnified threefold."""
    if path.suffix == ".gif":
        images.save_gif(path, FRAMES, scale=3)
    else:
        images.save_png(path, FRAMES[0])


@pytest.fixture(name="entry")
def entry_fixture():
    return entry


@pytest.fixture(name="floor")
def floor_fixture():
    return floor

"""A few numbers of the peers on small inputs, kept in tests/golden so that every run of the tests compares with them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity import codes, pictures, sampling, schedules, scores, unet_weights, unets
from tests.parity.comparison import Comparison, Values, peer, summary

FOLDER = Path(__file__).parents[1] / "golden"
CHAIN = schedules.Size(T=40, steps=4, shape=(2, 3))
NETWORK = unet_weights.Sizes(channels=32, multipliers=(1, 2), attention=8, image=16)
POINTS = scores.Size(n=40, dim=6)
VECTORS = codes.Size(batch=2, positions=6, codes=5, dim=3)

# file -> name -> comparison; Inception is left out: its weights take seconds to draw
KEPT: dict[str, dict[str, Callable[[], Comparison]]] = {
    "parity_samplers": {name: partial(make, CHAIN) for name, make in sampling.COMPARISONS.items()},
    "parity_unet": {"gradients": partial(unets.COMPARISONS["gradients"], NETWORK)},
    "parity_metrics": {name: partial(make, POINTS) for name, make in scores.COMPARISONS.items()}
    | {name: pictures.COMPARISONS[name] for name in ("ssim", "resize")},
    "parity_codebook": {name: partial(make, VECTORS) for name, make in codes.COMPARISONS.items()},
}


def numbers(values: Values) -> dict[str, list[float]]:
    """What is kept of them: `comparison.summary`, ten digits of each."""
    return {name: [float(f"{x:.10g}") for x in value.flat] for name, value in summary(values).items()}


def read(file: str) -> dict[str, dict[str, Any]]:
    """Name -> {"peer", "inputs", "values"}; nothing where there is no such file."""
    path = FOLDER / f"{file}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def values(golden: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of one golden."""
    return {name: np.array(value) for name, value in golden["values"].items()}


def write(file: str) -> None:
    """Asks the peers, and writes what they answer."""
    lines = []
    for name, make in KEPT[file].items():
        comparison = make()
        entry = {"peer": " ".join(peer(comparison)), "inputs": comparison.inputs, "values": numbers(comparison.theirs())}
        lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    (FOLDER / f"{file}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")

"""results.json: what was measured, each number with what it takes to reproduce it.

    {"metrics": {"elbo_bits_per_dim": [{"value": 4.1, "stderr": 0.02, "n": 256, "weights": "ema", "step": 1000, ...}, ...]},
     "pictures": {"samples.png": {"n": 64, "seed": 0, ...}}}

A metric has one entry for each protocol it was measured under: other weights, steps, n or sampling options stand beside each
other, and only a repetition of the same measurement replaces its forerunner. A picture has the entry of its last drawing.
The file is strict JSON: a number that is not finite is written as the string "nan", "inf" or "-inf". Where there is no number
to report, the value is null and a "note" says why.
"""

import json
import math
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

import gm_jax
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context, Task
from gm_jax.evaluation.draw import hashable
from gm_jax.system.files import write_atomically

# "rows": how many examples were looked at one by one; "repeats": how many batches were timed; "steps": of training, by then.
# All other fields of an entry tell one measurement from another.
VALUES = ("value", "stderr", "std", "per_class", "by_objective", "rows", "repeats", "steps", "note")
OUTCOME = (*VALUES, "versions", "device")


def mean_and_stderr(values: np.ndarray) -> dict[str, float | None]:
    """{"value", "stderr"} of independent values, in float64; the standard error of a single value is unknown (None)."""
    values = np.asarray(values, np.float64)
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(values.mean()), "stderr": stderr if stderr is None else float(stderr)}


def provenance(context: Context, name: str, task: Task) -> dict[str, Any]:
    """What every entry of a task says about its origin. Sampling options and NFE only where they bear on the result."""
    origin = {"task": name, "n": context.n, "weights": context.weights, "seed": context.seed, "step": context.step}
    if task.sampler:
        origin["sampling"] = sampling(context)
        if context.model.nfe is not None:
            origin["nfe"] = context.model.nfe(**context.options)
    versions = {"gm_jax": gm_jax.__version__, "jax": jax.__version__, "flax": flax.__version__}
    device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    return origin | {"versions": versions, "device": device}


def sampling(context: Context) -> dict[str, Any]:
    """How samples are drawn: the options, and of which classes, where the model tells classes apart."""
    drawn = {} if context.model.num_classes is None else {"labels": list(context.labels) or "balanced"}
    return {name: hashable(value) for name, value in context.options.items()} | drawn


def with_origin(measured: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    """A task's entry under its origin, of which it may override fields, and leave out those that it names in "without"."""
    without = measured.get("without", ())
    kept = {field: value for field, value in origin.items() if field not in without}
    return kept | {field: value for field, value in measured.items() if field != "without"}


def read(path: Path) -> dict[str, Any]:
    """The content of results.json; no entries if there is no file. Raises InputError for one that cannot be read."""
    try:
        content = json.loads(path.read_text())
        return {"metrics": dict(content["metrics"]), "pictures": dict(content["pictures"])}
    except FileNotFoundError:
        return {"metrics": {}, "pictures": {}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path} ({type(error).__name__}: {error}); move it away and run again") from error


def merge(path: Path, metrics: dict[str, dict], pictures: dict[str, dict]) -> None:
    """Adds entries to results.json, keeping those of other measurements. The file is replaced atomically."""
    content = read(path)
    for name, entry in _plain(metrics).items():
        others = [old for old in content["metrics"].get(name, []) if _protocol(old) != _protocol(entry)]
        content["metrics"][name] = [*others, entry]
    content["pictures"] |= _plain(pictures)
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _protocol(entry: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in entry.items() if field not in OUTCOME}


def _plain(value: Any) -> Any:
    """The same in the types of strict JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

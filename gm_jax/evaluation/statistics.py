"""A mean with its standard error, as it stands in results.json."""

import numpy as np


def mean_and_stderr(values: np.ndarray) -> dict[str, float | None]:
    """{"value", "stderr"} of independent values, in float64; the standard error of a single value is unknown (None)."""
    values = np.asarray(values, np.float64)
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(values.mean()), "stderr": stderr if stderr is None else float(stderr)}

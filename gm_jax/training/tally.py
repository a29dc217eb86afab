"""What dispatches report, kept on the device until somebody asks."""

from typing import Any

import jax
import numpy as np

from gm_jax.training import learning

MOST = 256  # dispatches whose numbers stay on the device


class Tally:
    """What the dispatches since the last log entry gave; fetched late, so that the device does not wait for the host."""

    def __init__(self):
        self.metrics: list[dict[str, tuple[Any, Any]]] = []
        self.totals: dict[str, np.ndarray] = {}
        self.unchecked: list[tuple[learning.StepOutput, Any]] = []

    def add(self, output: learning.StepOutput, failed: jax.Array) -> None:
        """Notes what `learning.make_dispatch` returned beside the state."""
        self.metrics.append(output.metrics)
        self.unchecked.append((output, failed))
        if len(self.metrics) >= MOST:
            self._add_up(self.metrics[: MOST // 2])  # they are long done
            self.metrics = self.metrics[MOST // 2 :]

    def failure(self, lag: int) -> tuple[int, learning.StepOutput] | None:
        """The first failed step among all dispatches but the newest `lag`."""
        while len(self.unchecked) > lag:
            output, failed = self.unchecked.pop(0)
            if int(failed) >= 0:
                return int(failed), jax.device_get(output)
        return None

    def means(self) -> dict[str, float]:
        """Means since the last call; a term whose objective never ran is left out."""
        self._add_up(self.metrics)
        totals, self.metrics, self.totals = self.totals, [], {}
        return {name: float(total / count) for name, (total, count) in totals.items() if count}

    def _add_up(self, of_dispatches: list[dict[str, tuple[Any, Any]]]) -> None:
        for metrics in jax.device_get(of_dispatches):
            for name, pair in metrics.items():
                self.totals[name] = self.totals.get(name, 0.0) + np.asarray(pair, np.float64)

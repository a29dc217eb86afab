"""What dispatches report is added up exactly, and never piles up."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.training import tally
from gm_jax.training.learning import StepOutput


def test_means_are_exact_and_memory_is_bounded():
    noted, values = tally.Tally(), np.random.default_rng(0).normal(size=1000)
    for i, value in enumerate(values):
        often = {"a/loss": (jnp.float32(value), jnp.float32(1))}
        rare = {"b/loss": (jnp.float32(i), jnp.float32(1))} if i % 100 == 0 else {"b/loss": (jnp.float32(0), jnp.float32(0))}
        noted.add(StepOutput(often | rare | {"c/loss": (jnp.float32(0), jnp.float32(0))}, {}), jnp.int32(-1))
        assert len(noted.metrics) < tally.MOST
        assert noted.failure(lag=1) is None
    means = noted.means()
    assert means.keys() == {"a/loss", "b/loss"}  # the third never ran
    assert means["a/loss"] == pytest.approx(values.mean(), abs=1e-6) and means["b/loss"] == np.arange(0, 1000, 100).mean()
    assert noted.means() == {}

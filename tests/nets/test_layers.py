import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.layers import group_norm


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (4, 1), (8, 2), (24, 6), (60, 15), (132, 4), (512, 32)])
def test_groups_are_of_four_channels_or_more_and_divide_them(channels, groups):
    assert group_norm(channels, jnp.float32).num_groups == groups
    assert groups == 1 or channels % groups == 0 and channels / groups >= 4


def test_the_most_groups_can_be_bounded():
    assert group_norm(128, jnp.float32, most=8).num_groups == 8


def test_statistics_are_those_of_the_groups_in_float32():
    x = np.float32(np.random.default_rng(0).normal(100, 3, (2, 3, 3, 8)))
    norm = group_norm(8, jnp.float32)
    out = norm.apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x)
    groups = x.astype(np.float64).reshape(2, 9, 2, 4)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=1e-3)
    half = group_norm(8, jnp.bfloat16).apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), expected.reshape(x.shape), atol=2e-2)  # not computed in bfloat16

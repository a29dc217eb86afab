import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.refinenet import InstanceNormPlus, RefineBlock, RefineNet, ResidualBlock, level_weights, resize_aligned

SMALL = {"out_channels": 1, "channels": 4, "channel_multipliers": (1, 2), "num_res_blocks": 1}


def shapes(net, *inputs):
    return jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs)


def random_weights(net, *inputs):
    """Weights with no zero left. Nothing is compiled."""
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda w: jnp.float32(0.3 * draw(size=w.shape)), shapes(net, *inputs)[1])


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


@pytest.fixture(scope="module")
def inputs():
    return jax.random.normal(jax.random.key(2), (3, 8, 8, 1)), jnp.array([0.0, 1.0, 4.0])


@pytest.mark.parametrize(("num_levels", "parameters"), [(10, 30_117_635), (None, 29_694_083)])
def test_cifar10_networks_have_the_parameters_of_the_authors_code(num_levels, parameters):
    out, variables = shapes(RefineNet(3, num_levels=num_levels), jnp.zeros((2, 32, 32, 3)), jnp.zeros(2))
    assert count(variables) == parameters
    assert out.shape == (2, 32, 32, 3) and out.dtype == jnp.float32


def test_mnist_network_has_the_parameters_of_the_authors_code():
    out, variables = shapes(RefineNet(1, channels=64, num_levels=10), jnp.zeros((1, 28, 28, 1)), jnp.zeros(1))
    assert count(variables) == 7_638_657
    assert out.shape == (1, 28, 28, 1)


def test_only_the_first_stage_runs_at_full_resolution_and_later_ones_see_further():
    """The receptive field of the last stage's block: 2 convolutions of dilation 4 on a grid of half the size."""
    x, levels = jnp.zeros((1, 16, 16, 2)), jnp.ones((1, 1))
    halved, _ = shapes(ResidualBlock(2, down=True, dilation=1, authors=False, dtype=jnp.float32), x, levels)
    kept, _ = shapes(ResidualBlock(2, down=True, dilation=4, authors=False, dtype=jnp.float32), x, levels)
    assert halved.shape == (1, 8, 8, 2) and kept.shape == (1, 16, 16, 2)
    sizes = {name: layer.shape for name, layer in outputs_of_stages().items()}
    assert sizes == {"stage0_block0": (1, 8, 8, 4), "stage1_block0": (1, 4, 4, 8), "stage2_block0": (1, 4, 4, 8)}


def outputs_of_stages():
    net = RefineNet(1, channels=4, channel_multipliers=(1, 2, 2), num_res_blocks=1)
    run = lambda: net.init_with_output(  # noqa: E731
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 0.0, capture_intermediates=True, mutable=["params", "intermediates"]
    )
    intermediates = jax.eval_shape(run)[1]["intermediates"]
    return {name: value["__call__"][0] for name, value in intermediates.items() if name.startswith("stage")}


@pytest.mark.parametrize("shape", [(1, 7, 8, 1), (1, 8, 7, 1)])
def test_odd_sizes_are_refused(shape):
    with pytest.raises(InputError, match="channel_multipliers"):
        shapes(RefineNet(**SMALL), jnp.zeros(shape), jnp.zeros(1))


def test_level_weights_are_one_hot_at_levels_and_linear_between():
    weights = level_weights(jnp.array([0.0, 2.0, 1.25, -1.0, 9.0]), 3)
    np.testing.assert_allclose(weights, [[1, 0, 0], [0, 0, 1], [0, 0.75, 0.25], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("authors", [False, True])
def test_instance_norm_plus_equals_the_papers_formula(authors):
    """The authors' code divides the variance of the channels' means by their number less one."""
    x = 2 * jax.random.normal(jax.random.key(0), (2, 4, 3, 5)) + jnp.arange(5.0)
    norm = InstanceNormPlus(authors)
    variables = random_weights(norm, x, jnp.ones((2, 3)))
    gamma, delta, beta = (np.asarray(variables["params"][name], np.float64) for name in ("gamma", "delta", "beta"))
    out = norm.apply(variables, x, level_weights(jnp.array([2.0, 0.0]), 3))
    for image, level, normalised in zip(np.asarray(x, np.float64), (2, 0), out, strict=True):
        mean, std = image.mean((0, 1)), image.std((0, 1))
        m = (mean - mean.mean()) / mean.std(ddof=authors)
        expected = gamma[level] * ((image - mean) / std + delta[level] * m) + beta[level]
        np.testing.assert_allclose(normalised, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "new"), [((3, 4), (6, 8)), ((2, 2), (5, 3)), ((4, 4), (4, 4)), ((1, 3), (2, 3))])
def test_aligned_interpolation_keeps_the_corners_and_what_is_linear(size, new):
    ramp = lambda h, w: np.linspace(0, 1, h)[:, None] + 3 * np.linspace(-1, 1, w)[None]  # noqa: E731
    out = resize_aligned(jnp.float32(ramp(*size))[None, :, :, None], (1, *new, 1))[0, :, :, 0]
    expected = ramp(*new) if size[0] > 1 else np.tile(ramp(*size), (2, 1))  # a single row is repeated
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_instance_norm_plus_starts_near_the_identity_map_and_keeps_relative_means():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 16)) + 3 * jnp.arange(16.0)
    out, variables = InstanceNormPlus().init_with_output(jax.random.key(1), x, jnp.ones((2, 1)))
    params = variables["params"]
    assert jnp.abs(params["gamma"] - 1).max() < 0.1 and jnp.abs(params["delta"] - 1).max() < 0.1
    assert not params["beta"].any()
    assert np.all(np.diff(out.mean((0, 1, 2))) > 0)  # plain instance normalisation would make all means 0


def test_every_image_is_told_its_own_level(inputs):
    net = RefineNet(**SMALL, num_levels=5)
    x, level = inputs
    variables, apply = random_weights(net, x, level), jax.jit(net.apply)
    together = apply(variables, x, level)
    for i in range(3):
        np.testing.assert_allclose(together[i], apply(variables, x, jnp.full(3, level[i]))[i], atol=1e-4)
    assert all(jnp.abs(together[i] - apply(variables, x, level[::-1])[i]).max() > 1e-3 for i in (0, 2))


def test_without_levels_the_level_is_ignored(inputs):
    net = RefineNet(**SMALL)
    x, level = inputs
    variables, apply = random_weights(net, x, level), jax.jit(net.apply)
    np.testing.assert_array_equal(apply(variables, x, level), apply(variables, x, level + 1))


def test_refinement_is_normalised_and_pooled_by_mean_only_where_the_level_is_known():
    """With all convolutions but the pooled ones silent, the output is elu(x) plus the pooled pixel."""
    block, levels = RefineBlock(1, 1, conditional=False, authors=False, dtype=jnp.float32), jnp.ones((1, 1))
    x = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3].set(1.0)
    params = jax.tree.map(lambda w: jnp.zeros(w.shape), shapes(block, [x], levels)[1]["params"])
    assert not any("norm" in name for name in params)
    params["pool0"]["kernel"] = params["pool0"]["kernel"].at[1, 1].set(1.0)
    out = block.apply({"params": params}, [x], levels)[0, :, :, 0]
    np.testing.assert_array_equal(out[1:6, 1:6] - x[0, 1:6, 1:6, 0], 1)
    assert out.sum() == 1 + 25
    _, conditional = shapes(block.clone(conditional=True), [x], levels)
    assert sum("norm" in name for name in conditional["params"]) == 4 + 2 + 2


def test_refinement_merges_a_coarser_map_at_the_finer_resolution():
    fine, coarse, levels = jnp.zeros((2, 8, 8, 4)), jnp.zeros((2, 4, 4, 6)), jnp.ones((2, 3))
    out, _ = shapes(RefineBlock(5, 3, conditional=True, authors=False, dtype=jnp.float32), [fine, coarse], levels)
    assert out.shape == (2, 8, 8, 5)


def test_bfloat16_computes_nearly_the_same(inputs):
    net = RefineNet(**SMALL, num_levels=5)
    x, level = inputs
    variables = random_weights(net, x, level)
    exact, rounded = (jax.jit(n.apply)(variables, x, level) for n in (net, net.clone(dtype=jnp.bfloat16)))
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rounded).max() / jnp.abs(exact).max() < 0.1

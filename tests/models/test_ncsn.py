from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, streams
from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.langevin import annealed_langevin, consistent_epsilon
from gm_jax.diffusion.paths import geometric_path
from gm_jax.errors import InputError
from gm_jax.models import ncsn
from gm_jax.nets.refinenet import RefineNet
from gm_jax.nets.unet import UNet
from tests.weights import count, drawn

SIZES = {"channels": 4, "channel_multipliers": (1,), "num_res_blocks": 1}
TINY = {
    "sigma_max": 2.0,
    "sigma_min": 0.1,
    "levels": 6,
    "epsilon": 2e-3,
    "inner_steps": 2,
    "network": {"name": "refinenet", **SIZES},
}
PATH = geometric_path(0.1, 2.0, 6)


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (4, 4, 4, 1), minval=-1.0)
    return Batch(x, None, jax.random.split(jax.random.key(1), 4))


@pytest.fixture(scope="module")
def model():
    return ncsn.make((4, 4, 1), divide_by_sigma=True, **TINY)


def variables_of(model, batch):
    return drawn(jax.eval_shape(model.init, jax.random.key(2), batch))


@pytest.fixture(scope="module")
def variables(model, batch):
    return variables_of(model, batch)


# --- the loss -----------------------------------------------------------------------------------------------------------------


def test_loss_of_a_perfect_score_is_0_and_of_a_silent_one_half_the_power_of_the_noise(batch):
    eps, t = jax.random.normal(jax.random.key(4), batch.x.shape), jnp.array([1.0, 2.0, 4.0, 6.0])
    losses = partial(ncsn.denoising_score_matching, PATH, x0=batch.x, t=t, eps=eps)
    sigma = PATH.sigma(t)[:, None, None, None]
    np.testing.assert_allclose(losses(lambda x_t, t: -eps / sigma), 0, atol=1e-10)
    np.testing.assert_allclose(losses(lambda x_t, t: 0 * x_t), (eps**2).sum((1, 2, 3)) / 2, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.8, 1.2])
def test_loss_of_a_scaled_gaussian_score_is_the_closed_form_and_least_at_the_truth(scale):
    """Data N(0, s^2) have the score -x_t / v with v = s^2 + sigma^2; c times it costs 1/2 (1 - (2c - c^2) sigma^2 / v)."""
    n, std, t = 100_000, 0.5, jnp.float32(4)
    x0, eps = jax.random.normal(jax.random.key(0), (2, n, 1))
    share = float(PATH.sigma(t)) ** 2 / (std**2 + float(PATH.sigma(t)) ** 2)
    score = lambda x_t, t: -scale * x_t / (std**2 + PATH.sigma(t) ** 2)  # noqa: E731
    losses = ncsn.denoising_score_matching(PATH, score, std * x0, t, eps)
    expected = (1 - (2 * scale - scale**2) * share) / 2
    assert abs(losses.mean() - expected) < 4 * losses.std() / n**0.5


@pytest.mark.parametrize("divide_by_sigma", [True, False])
def test_the_models_loss_is_that_of_its_score(divide_by_sigma, variables, batch):
    """Whether the network tells the score or sigma times it; sigma^2 weighs the squared error of the score."""
    model = ncsn.make((4, 4, 1), divide_by_sigma=divide_by_sigma, **TINY)
    denoiser = model.diffusion.denoiser(variables)

    @jax.jit
    def both(variables):
        value, (state, metrics) = model.objectives[0].loss(*variables, None, batch, step=0, train=False)
        time_keys, noise_keys = streams(batch.keys, "time", "noise")
        t = jax.vmap(lambda key: jax.random.randint(key, (), 1, 7))(time_keys) * 1.0
        score = lambda x_t, t: (denoiser(x_t, t) - x_t) / PATH.sigma(t)[:, None, None, None] ** 2  # noqa: E731
        losses = ncsn.denoising_score_matching(PATH, score, batch.x, t, samplers.normal(noise_keys, (4, 4, 1)))
        return value, metrics["dsm"], losses.mean()

    value, metric, expected = both(variables)
    assert value == metric
    np.testing.assert_allclose(value, expected, rtol=1e-4)


# --- the model ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("divide_by_sigma", [True, False])
def test_denoiser_is_x_plus_sigma_squared_times_the_score(conditional, divide_by_sigma, batch):
    """Levels count from 0 in the network, from 1 in time."""
    model = ncsn.make((4, 4, 1), conditional=conditional, divide_by_sigma=divide_by_sigma, **TINY)
    net = RefineNet(out_channels=1, num_levels=6 if conditional else None, **SIZES)
    variables, t = variables_of(model, batch), jnp.array([1.0, 2.0, 4.0, 6.0])

    @jax.jit
    def both(variables):
        output = net.apply({"params": variables.params["network"]}, batch.x, t - 1)
        sigma = PATH.sigma(t)[:, None, None, None]
        by_hand = batch.x + sigma ** (1 if divide_by_sigma else 2) * output
        return by_hand, model.diffusion.denoiser(variables)(batch.x, t)

    np.testing.assert_allclose(*both(variables), rtol=1e-3, atol=1e-3)


def test_a_unet_is_told_the_level_as_its_time(batch):
    model = ncsn.make((4, 4, 1), **TINY | {"network": {"name": "unet", "attention_resolutions": (2,), **SIZES}})
    variables, t = variables_of(model, batch), jnp.array([1.0, 2.0, 4.0, 6.0])
    net = UNet(out_channels=1, attention_resolutions=(2,), dropout=0.0, **SIZES)

    @jax.jit
    def both(variables):
        score = net.apply({"params": variables.params["network"]}, batch.x, t - 1)
        return batch.x + PATH.sigma(t)[:, None, None, None] ** 2 * score, model.diffusion.denoiser(variables)(batch.x, t)

    np.testing.assert_allclose(*both(variables), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "steps", "spacing"),
    [("langevin", {"denoise": True}, 6, "nodes"), ("ddim", {"eta": 0.5}, 4, "nodes"), ("heun", {}, 9, "karras")],
)
def test_samplers_take_the_score_for_a_denoiser(model, variables, name, options, steps, spacing):
    """Also between the levels, where the path has values and the network interpolates its affine maps."""
    keys, (path, denoiser) = jax.random.split(jax.random.key(9), 2), model.diffusion
    langevin = partial(annealed_langevin, epsilon=2e-3, inner_steps=2, start="uniform")  # the model's own settings

    @jax.jit
    def both(variables):
        start_keys, step_keys = streams(keys, "start", "steps")
        sampler = (plans.SAMPLERS | {"langevin": langevin})[name](path, denoiser(variables), **options)
        x = 2.0 * samplers.normal(start_keys, (4, 4, 1))
        by_hand = samplers.simulate(step_keys, sampler, x, time_grid(path, steps, spacing))
        return by_hand, model.sample(variables, keys, sampler=name, steps=steps, spacing=spacing, **options)

    by_hand, images = both(variables)
    np.testing.assert_allclose(images, by_hand, atol=1e-4)
    assert jnp.isfinite(images).all()


def test_a_trajectory_has_at_most_a_frame_a_level(model, variables):
    frames = jax.eval_shape(partial(model.trajectory, frames=30), variables, jax.random.split(jax.random.key(9), 2))
    assert frames.shape == (6, 2, 4, 4, 1)


def test_nfe(model):
    assert model.nfe() == 6 * 2
    assert model.nfe(inner_steps=5, denoise=True, steps=3) == 3 * 5 + 1
    assert model.nfe(sampler="heun", steps=6) == 11
    assert ncsn.make((32, 32, 3)).nfe() == 1000  # the paper's


def test_epsilon_0_is_the_consistent_one(variables):
    def program(**hparams):
        sample = ncsn.make((4, 4, 1), divide_by_sigma=True, **TINY | hparams).sample
        return str(jax.make_jaxpr(sample)(variables, jax.random.split(jax.random.key(9), 2)))

    epsilon = consistent_epsilon(0.1, 20 ** (1 / 5), 2)
    assert program(epsilon=0.0) == program(epsilon=epsilon) != program(epsilon=1.1 * epsilon)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"eta": 0.5}, "no option 'eta' with sampler 'langevin'.*epsilon, inner_steps, start, denoise"),
        ({"sampler": "ddim", "epsilon": 1e-5}, "no option 'epsilon'"),
        ({"sampler": "dpm"}, "unknown sampler 'dpm'; choose ancestral, ddim, .*, langevin"),
        ({"steps": 7}, "take fewer steps"),
        ({"epsilon": 0.1}, "between 0 and"),
        ({"start": "data"}, "unknown start"),
    ],
)
def test_sampling_options_that_mean_nothing_are_refused(model, options, reason):
    with pytest.raises(InputError, match=f"sampling ncsn: .*{reason}"):
        model.nfe(**options)


@pytest.mark.parametrize(
    ("hparams", "reason"),
    [
        ({"network": {"name": "resnet"}}, "unknown network 'resnet'; choose dit, mlp, refinenet, song_unet, unet, uvit"),
        ({"network": {"name": "refinenet", "dropout": 0.1}}, "network 'refinenet'.*'dropout'"),
        ({"epsilon": 1.0}, "between 0 and"),
        ({"sigma_min": 3.0}, "sigma_min"),
        ({"levels": 1}, "at least 2"),
        ({"inner_steps": 0, "epsilon": 0.0}, "inner_steps"),
        ({"start": "data"}, "start is 'data'; give 'uniform' or 'noise'"),
        ({"image_shape": (7, 7, 1), "network": {"name": "refinenet", "channel_multipliers": (1, 2)}}, "channel_multipliers"),
        ({"network": {"name": "unet", "channel_multipliers": (1, 2, 2, 2)}}, "channel_multipliers"),
    ],
)
def test_hyperparameters_that_mean_nothing_are_refused(hparams, reason):
    with pytest.raises(ValueError, match=reason):
        ncsn.make(**{"image_shape": (4, 4, 1), **TINY, **hparams})


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 30_117_635),
        ({"conditional": False}, 29_694_083),
        ({"network": {"name": "unet", "attention_resolutions": (16,)}}, 35_746_307),
    ],
)
def test_default_networks_are_those_of_the_papers(options, parameters):
    example = Batch(jnp.zeros((1, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 1))
    assert count(jax.eval_shape(ncsn.make((32, 32, 3), **options).init, jax.random.key(0), example).params) == parameters

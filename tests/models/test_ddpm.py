from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, streams
from gm_jax.diffusion import samplers
from gm_jax.diffusion.paths import discrete_path
from gm_jax.diffusion.predictions import to_x0
from gm_jax.errors import InputError
from gm_jax.models import ddpm
from tests.weights import count, drawn

T = 20
SIZES = {"channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": ()}
TINY = {"timesteps": 30, "network": {"name": "unet", **SIZES}}
PATH = discrete_path(ddpm.get_beta_schedule("cosine", T))


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (4, 4, 4, 1), minval=-1.0)
    return Batch(x, None, jax.random.split(jax.random.key(1), 4))


@pytest.fixture(scope="module")
def model():
    return ddpm.make((4, 4, 1), **TINY)


@pytest.fixture(scope="module")
def variables(model, batch):
    return drawn(jax.eval_shape(model.init, jax.random.key(2), batch))


# --- the chain ----------------------------------------------------------------------------------------------------------------


def test_linear_schedule_is_that_of_the_paper():
    betas = ddpm.get_beta_schedule("linear", 1000)
    assert betas.dtype == np.float64 and betas.shape == (1000,)
    np.testing.assert_allclose([betas[0], betas[-1]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 999, rtol=1e-9)


@pytest.mark.parametrize("timesteps", [50, 250, 4000])
def test_linear_schedule_ends_in_the_same_noise_whatever_its_length(timesteps):
    log_snr = [np.log1p(-ddpm.get_beta_schedule("linear", n)).sum() for n in (timesteps, 1000)]
    assert abs(log_snr[0] / log_snr[1] - 1) < 0.2


def test_cosine_schedule_gives_the_papers_alpha_bar():
    n, betas = 1000, ddpm.get_beta_schedule("cosine", 1000)
    f = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - betas)[:990], (f[1:] / f[0])[:990], rtol=1e-9)
    assert betas.max() == 0.999


@pytest.mark.parametrize("name, timesteps", [("quadratic", 100), ("linear", 20), ("linear", 1), ("cosine", 1), ("linear", 0)])
def test_schedules_that_cannot_be_are_refused(name, timesteps):
    with pytest.raises(InputError, match="schedule"):
        ddpm.get_beta_schedule(name, timesteps)


def test_q_sample_has_the_moments_of_eq_4():
    n, t = 100_000, 7
    alpha_bar = np.prod(1 - ddpm.get_beta_schedule("cosine", T)[:t])
    eps = jax.random.normal(jax.random.key(0), (n, 1))
    x_t = ddpm.q_sample(PATH, jnp.full((n, 1), 0.8), jnp.full(n, t), eps)
    assert abs(x_t.mean() - 0.8 * alpha_bar**0.5) < 4 * ((1 - alpha_bar) / n) ** 0.5
    assert abs(x_t.var() / (1 - alpha_bar) - 1) < 4 * (2 / n) ** 0.5


def test_l_simple_is_the_mean_squared_error_of_the_noise(batch):
    """Eq. 14."""
    eps, t = jax.random.normal(jax.random.key(4), batch.x.shape), jnp.array([1.0, 4.0, 12.0, 20.0])
    alpha_bar = np.cumprod(1 - ddpm.get_beta_schedule("cosine", T))[np.asarray(t, int) - 1].reshape(4, 1, 1, 1)
    error = jnp.sin(np.sqrt(alpha_bar) * batch.x + np.sqrt(1 - alpha_bar) * eps) - eps
    losses = ddpm.p_losses(PATH, lambda x_t, t: jnp.sin(x_t), batch.x, t, eps)
    np.testing.assert_allclose(losses, (error**2).mean((1, 2, 3)), rtol=1e-4)


# --- algorithm 2 --------------------------------------------------------------------------------------------------------------


def test_sample_is_p_sample_applied_T_times(batch):
    denoiser = lambda x, t: 0.3 * jnp.tanh(x)  # noqa: E731
    start_keys, keys = streams(batch.keys, "start", "steps")
    x = samplers.initial_noise(PATH, start_keys, (4, 4, 1))
    p_sample = jax.jit(partial(ddpm.p_sample, PATH, denoiser))
    for k, t in enumerate(range(T, 0, -1)):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
        x = p_sample(step_keys, x, jnp.float32(t))
    np.testing.assert_allclose(ddpm.sample(PATH, denoiser, batch.keys, (4, 4, 1)), x, atol=1e-5)
    assert jnp.abs(x).max() <= 0.3  # the last step shows the denoised image


def test_p_sample_adds_no_noise_at_t_1(batch):
    one, two = (
        ddpm.p_sample(PATH, lambda x, t: x / 2, jax.random.split(jax.random.key(i), 4), batch.x, jnp.float32(1)) for i in (0, 1)
    )
    np.testing.assert_allclose(one, batch.x / 2, atol=1e-6)
    np.testing.assert_array_equal(one, two)


# --- the model ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_denoiser_asks_the_network_at_the_papers_step_and_turns_its_answer_into_x0(prediction, variables, batch):
    """The paper counts steps from 0, so the network is told t - 1."""
    model = ddpm.make((4, 4, 1), prediction=prediction, **TINY)
    net, t = ddpm.UNet(out_channels=1, **SIZES), jnp.array([1.0, 5.0, 20.0, 30.0])

    @jax.jit
    def both(variables):
        answer = net.apply({"params": variables.params["network"]}, batch.x, t - 1)
        return to_x0(model.diffusion.path, prediction, answer, batch.x, t), model.diffusion.denoiser(variables)(batch.x, t)

    np.testing.assert_allclose(*both(variables), rtol=1e-3, atol=1e-3)


def test_samples_are_images_where_x0_is_clipped_and_only_there(variables):
    """The last step shows the denoised image."""
    keys = jax.random.split(jax.random.key(9), 4)
    loud = jax.tree.map(lambda w: 2 * w, variables)
    clipped, free = (
        jax.jit(partial(ddpm.make((4, 4, 1), clip_x0=clip, **TINY).sample, steps=3))(loud, keys) for clip in (True, False)
    )
    assert jnp.abs(clipped).max() <= 1 < jnp.abs(free).max()


@pytest.mark.parametrize("image_shape, levels", [((32, 32, 3), 4), ((28, 28, 1), 3), ((8, 8, 1), 4), ((6, 10, 3), 2)])
def test_the_paper_network_adapts_to_the_image_size(image_shape, levels):
    example = Batch(jnp.zeros((1, *image_shape)), None, jax.random.split(jax.random.key(0), 1))
    params = jax.eval_shape(ddpm.make(image_shape).init, jax.random.key(0), example).params["network"]
    assert {name[4] for name in params if name.startswith("down")} == set("0123"[:levels])
    assert image_shape != (32, 32, 3) or count(params) == 35_746_307


def test_variance_of_the_model_is_the_default_of_the_sampler_and_the_papers_that_of_the_model(variables):
    def program(hparams, **options):
        sample = ddpm.make((4, 4, 1), **TINY, **hparams).sample
        return str(jax.make_jaxpr(partial(sample, steps=5, **options))(variables, jax.random.split(jax.random.key(9), 2)))

    small, large = ({"variance": variance} for variance in ("fixed_small", "fixed_large"))
    assert program(small) == program(large, **small) != program(large) == program({})


def test_nfe(model):
    assert model.nfe() == 30
    assert model.nfe(steps=10, sampler="ddim", eta=0.5) == 10
    assert model.nfe(steps=10, sampler="heun") == model.nfe(steps=10, sampler="heun", spacing="karras") == 19
    assert model.nfe(sampler="heun", times=(20.0, 3.0)) == 5


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"eta": 0.5}, "no option 'eta' with sampler 'ancestral'"),
        ({"sampler": "ddim", "variance": "fixed_small"}, "no option 'variance'"),
        ({"variance": "learned"}, "known: fixed_large, fixed_small"),
        ({"steps": 31}, "take fewer steps"),
        ({"steps": 0}, "steps is 0; give a whole number of at least 1"),
        ({"spacing": "cubic"}, "unknown spacing"),
        ({"times": (31.0,)}, "between t_max = 30 and 0"),
        ({"step": 10}, "no option 'step'.*sampler, steps, spacing, times, variance"),
    ],
)
def test_sampling_options_that_mean_nothing_are_refused(model, options, reason):
    with pytest.raises(InputError, match=f"sampling ddpm: .*{reason}"):
        model.nfe(**options)


@pytest.mark.parametrize(
    "hparams, reason",
    [
        ({"prediction": "noise"}, "prediction is 'noise'; give 'eps' or 'x0' or 'v'"),
        ({"variance": "huge"}, "variance is 'huge'"),
        ({"schedule": "sigmoid"}, "schedule is 'sigmoid'"),
        ({"timesteps": 10}, "take 21 or more"),
        ({"class_conditional": True}, "class_conditional=True needs labels"),
        ({"network": {"name": "unet", "channel_multipliers": (1, 2, 2, 2, 2)}}, "channel_multipliers"),
        ({"network": {"name": "mlp"}}, "take unet"),
    ],
)
def test_hyperparameters_that_mean_nothing_are_refused(hparams, reason):
    with pytest.raises(InputError, match=reason):
        ddpm.make((8, 8, 1), **hparams)


def test_bound_of_uniform_noise_is_above_its_entropy(model, variables):
    likelihood, _ = model.likelihoods
    assert likelihood.kind == "bound"
    images = jax.random.randint(jax.random.key(0), (64, 4, 4, 1), 0, 256).astype(jnp.uint8)
    nats = jax.jit(partial(likelihood.fn, terms=5))(variables, jax.random.split(jax.random.key(1), 64), images)
    assert nats.shape == (64,)
    assert nats.mean() > 16 * np.log(256) - 3 * nats.std() / 8


def test_points_have_a_perceptron_and_no_bound():
    model = ddpm.make((2,), timesteps=30, network={"name": "mlp", "channels": 8, "depth": 1})
    batch = Batch(jnp.zeros((3, 2)), None, jax.random.split(jax.random.key(0), 3))
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), batch))
    assert [likelihood.name for likelihood in model.likelihoods] == ["ode"]
    points = jax.jit(partial(model.sample, steps=3))(variables, batch.keys)
    assert points.shape == (3, 2) and jnp.isfinite(points).all()

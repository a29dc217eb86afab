from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch
from gm_jax.diffusion import samplers
from gm_jax.diffusion.paths import discrete_path, target, to_x0
from gm_jax.errors import InputError
from gm_jax.models import ddpm

T = 20
TINY = {"timesteps": 30, "channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": ()}
PATH = discrete_path(ddpm.get_beta_schedule("cosine", T))


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (4, 4, 4, 1), minval=-1.0)
    return Batch(x, None, jax.random.split(jax.random.key(1), 4))


@pytest.fixture(scope="module")
def model():
    return ddpm.make((4, 4, 1), dropout=0.0, **TINY)


@pytest.fixture(scope="module")
def variables(model, batch):
    """Weights with nothing left at zero, so that the network answers something. Nothing is compiled."""
    draw = np.random.default_rng(0).normal
    shapes = jax.eval_shape(model.init, jax.random.key(2), batch)
    return jax.tree.map(lambda w: jnp.float32(0.2 * draw(size=w.shape)), shapes)


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


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_loss_of_a_perfect_network_is_0_and_of_a_silent_one_the_power_of_the_target(batch, prediction):
    eps = jax.random.normal(jax.random.key(4), batch.x.shape)
    t = jnp.array([1.0, 4.0, 12.0, 20.0])
    truth = target(PATH, prediction, batch.x, eps, t)
    losses = partial(ddpm.p_losses, PATH, x0=batch.x, t=t, eps=eps, prediction=prediction)
    np.testing.assert_array_equal(losses(lambda x_t, t: truth), 0)
    np.testing.assert_allclose(losses(lambda x_t, t: 0 * x_t), (truth**2).mean((1, 2, 3)), rtol=1e-5)


def test_sample_is_p_sample_applied_T_times(batch):
    denoiser = lambda x, t: 0.3 * jnp.tanh(x)  # noqa: E731
    x_keys, keys = samplers.split_each(batch.keys)
    x = samplers.initial_noise(PATH, x_keys, (4, 4, 1))
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


def test_loss_draws_its_times_and_noise_from_the_keys_of_the_batch(batch):
    model = ddpm.make((4, 4, 1), prediction="v", **TINY)
    silent = jax.tree.map(lambda w: jnp.zeros(w.shape), jax.eval_shape(model.init, jax.random.key(0), batch))
    loss = jax.jit(partial(model.objectives[0].loss, step=0, train=True))
    value, (state, metrics) = loss(silent.params, silent.state, jax.random.key(5), batch)
    again, _ = loss(silent.params, silent.state, jax.random.key(6), batch)
    assert value == again == metrics["v_mse"] and state == {}

    t_keys, eps_keys = samplers.split_each(batch.keys)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 1, 31))(t_keys)
    truth = target(model.diffusion.path, "v", batch.x, samplers.normal(eps_keys, (4, 4, 1)), t)
    np.testing.assert_allclose(value, (truth**2).mean(), rtol=1e-5)


def test_denoiser_asks_the_network_at_the_papers_step_and_turns_eps_into_x0(model, variables, batch):
    """The paper counts steps from 0, so the network is told t - 1."""
    net = ddpm.UNet(out_channels=1, **{name: value for name, value in TINY.items() if name != "timesteps"})
    t = jnp.array([1.0, 5.0, 20.0, 30.0])

    @jax.jit
    def both(variables):
        eps = net.apply({"params": variables.params["unet"]}, batch.x, t - 1)
        return to_x0(model.diffusion.path, "eps", eps, batch.x, t), model.diffusion.denoiser(variables)(batch.x, t)

    np.testing.assert_allclose(*both(variables), rtol=1e-3, atol=1e-3)


def test_samples_are_a_function_of_their_key_and_compile_once(model, variables):
    traces = []

    @jax.jit
    def sample(variables, keys):
        traces.append(1)
        return model.sample(variables, keys, steps=6)

    keys = jax.random.split(jax.random.key(9), 4)
    images, again, others = (sample(variables, k) for k in (keys, keys, keys[::-1]))
    assert images.shape == (4, 4, 4, 1) and len(traces) == 1
    np.testing.assert_array_equal(images, again)
    np.testing.assert_allclose(images, others[::-1], atol=1e-4)
    assert jnp.abs(images[0] - images[1]).max() > 0.1
    assert jnp.abs(images).max() <= 1  # the last step shows x0, which is clipped


def test_trajectory_ends_in_the_sample(model, variables):
    keys, options = jax.random.split(jax.random.key(9), 2), {"sampler": "ddim", "steps": 6, "eta": 0.4, "spacing": "quadratic"}
    both = jax.jit(lambda v: (model.trajectory(v, keys, frames=3, **options), model.sample(v, keys, **options)))
    frames, images = both(variables)
    assert frames.shape == (3, 2, 4, 4, 1)
    np.testing.assert_allclose(frames[-1], images, atol=1e-5)


def test_image_sizes_that_the_network_cannot_halve_are_refused_at_once():
    with pytest.raises(InputError, match="channel_multipliers"):
        ddpm.make((28, 28, 1), channel_multipliers=(1, 2, 2, 2))


@pytest.mark.parametrize("image_shape, levels", [((32, 32, 3), 4), ((28, 28, 1), 3), ((8, 8, 1), 4), ((6, 10, 3), 2)])
def test_the_paper_network_adapts_to_the_image_size(image_shape, levels):
    example = Batch(jnp.zeros((1, *image_shape)), None, jax.random.split(jax.random.key(0), 1))
    params = jax.eval_shape(ddpm.make(image_shape).init, jax.random.key(0), example).params["unet"]
    assert {name[4] for name in params if name.startswith("down")} == set("0123"[:levels])
    if image_shape == (32, 32, 3):
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 35_746_307


def test_variance_of_the_model_is_the_default_of_the_sampler(variables):
    def program(of_model, **options):
        sample = ddpm.make((4, 4, 1), variance=of_model, **TINY).sample
        return str(jax.make_jaxpr(partial(sample, steps=5, **options))(variables, jax.random.split(jax.random.key(9), 2)))

    assert program("fixed_small") == program("fixed_large", variance="fixed_small") != program("fixed_large")


def test_nfe(model):
    assert model.nfe() == 30
    assert model.nfe(steps=10, sampler="ddim", eta=0.5) == 10
    assert model.nfe(steps=10, sampler="heun", spacing="karras") == 19


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"eta": 0.5}, "no option 'eta' with sampler 'ancestral'"),
        ({"sampler": "ddim", "variance": "fixed_small"}, "no option 'variance'"),
        ({"sampler": "dpm"}, "unknown sampler 'dpm'; choose ancestral, ddim, euler, heun"),
        ({"steps": 31}, "take fewer steps"),
        ({"steps": 0}, "at least one step"),
        ({"spacing": "cubic"}, "unknown spacing"),
        ({"sampler": "ddim", "eta": 2.0}, "between 0 and 1"),
        ({"step": 10}, "no option 'step'.*sampler, steps, spacing, variance"),
    ],
)
def test_sampling_options_that_mean_nothing_are_refused(model, variables, options, reason):
    with pytest.raises(InputError, match=reason):
        model.nfe(**options)
    with pytest.raises(InputError, match=reason):
        model.sample(variables, jax.random.split(jax.random.key(0), 1), **options)


@pytest.mark.parametrize("hparams", [{"prediction": "noise"}, {"variance": "learned"}, {"schedule": "sigmoid"}])
def test_hyperparameters_that_mean_nothing_are_refused(hparams):
    with pytest.raises(InputError, match="choose"):
        ddpm.make((8, 8, 1), **hparams)


def test_labels_are_refused(model, variables, batch):
    with pytest.raises(InputError, match="unconditional"):
        model.sample(variables, batch.keys, labels=jnp.zeros(4, int))


def test_bound_of_uniform_noise_is_above_its_entropy(model, variables):
    (likelihood,) = model.likelihoods
    assert likelihood.kind == "bound"
    images = jax.random.randint(jax.random.key(0), (64, 4, 4, 1), 0, 256).astype(jnp.uint8)
    nats = jax.jit(partial(likelihood.fn, terms=5))(variables, jax.random.split(jax.random.key(1), 64), images)
    assert nats.shape == (64,)
    assert nats.mean() > 16 * np.log(256) - 3 * nats.std() / 8


def test_gradient_descent_on_one_batch_lowers_the_loss(model, batch):
    init = jax.jit(model.init)(jax.random.key(0), batch)
    grad = jax.jit(
        jax.value_and_grad(lambda p: model.objectives[0].loss(p, {}, jax.random.key(0), batch, step=0, train=True)[0])
    )
    params = init.params
    first, _ = grad(params)
    for _ in range(25):
        _, g = grad(params)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, g)
    assert grad(params)[0] < 0.9 * first

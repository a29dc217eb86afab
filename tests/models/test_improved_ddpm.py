"""DDPM with learned variances: its losses, the steps that they are taken at, and what the variance does in sampling."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Network, Variables
from gm_jax.diffusion import resampling, samplers
from gm_jax.diffusion.paths import posterior
from gm_jax.errors import InputError
from gm_jax.models import ddpm
from tests.parity.comparison import difference
from tests.parity.goldens import read, values
from tests.parity.recipes import images
from tests.weights import count

T, SHAPE, N = 100, (8, 8, 3), 6
IMAGES = images("improved", (N, *SHAPE))
BATCH = Batch(jnp.asarray(IMAGES / 127.5 - 1, jnp.float32), None, jax.random.split(jax.random.key(0), N))
WEIGHTS = {
    "A": jnp.asarray(0.7 * np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)),
    "b": jnp.linspace(-0.5, 0.5, 6),
}


def answer(params, x, t):
    """A pixel by itself."""
    t = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
    return 1.2 * jnp.tanh(x @ params["A"] + params["b"] * t / T) + 0.2 * jnp.concatenate([x, x], axis=-1)


@pytest.fixture
def make(monkeypatch):
    net = Network(lambda *args: WEIGHTS, lambda params, x, t, condition, *, train=False, key=None: answer(params, x, t + 0.0))
    monkeypatch.setattr(ddpm, "backbone", lambda *args, **told: net)
    return partial(ddpm.make, SHAPE, timesteps=T, schedule="cosine", variance="learned")


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_losses_and_gradients_are_those_of_the_authors(make, objective):
    """`GaussianDiffusion.training_losses` of openai/improved-diffusion, LEARNED_RANGE with RESCALED_MSE or RESCALED_KL, at our
    steps and noise and with this network."""
    model = make(objective=objective)
    state = model.init(jax.random.key(0), BATCH).state
    loss = partial(model.objectives[0].loss, step=0, train=True)
    (value, _), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))({"network": WEIGHTS}, state, None, BATCH)
    ours = {"loss": np.array([value])} | {name: np.ravel(leaf) for name, leaf in gradients["network"].items()}
    assert difference(ours, values(read("parity_improved_ddpm")[objective]), relative=True) < 1e-5


def test_the_paper_s_network_has_the_parameters_of_the_authors():
    sizes = {"num_res_blocks": 3, "attention_resolutions": (16, 8), "num_heads": 4, "scale_shift": True}
    model = ddpm.make((32, 32, 3), network={"name": "unet", **sizes}, variance="learned", objective="hybrid")
    assert (
        count(jax.eval_shape(model.init, jax.random.key(0), BATCH._replace(x=jnp.zeros((1, 32, 32, 3)))).params) == 52_546_438
    )


def test_of_hybrid_the_bound_moves_the_variance_alone(make):
    """The half of the answer that tells eps has the gradient of L_simple."""
    hybrid, simple = make(objective="hybrid"), ddpm.make(SHAPE, timesteps=T, schedule="cosine")

    def gradient(model, half):
        net = lambda params: {"network": {"A": jnp.where(half, params, WEIGHTS["A"]), "b": WEIGHTS["b"]}}  # noqa: E731
        loss = lambda params: model.objectives[0].loss(net(params), {}, None, BATCH, step=0, train=True)[0]  # noqa: E731
        return jax.grad(loss)(WEIGHTS["A"])

    mean = jnp.arange(6) < 3
    found = gradient(hybrid, mean)
    with pytest.MonkeyPatch.context() as patch:
        net = Network(lambda *args: WEIGHTS, lambda params, x, t, *rest, **training: answer(params, x, t)[..., :3])
        patch.setattr(ddpm, "backbone", lambda *args, **told: net)
        simple = ddpm.make(SHAPE, timesteps=T, schedule="cosine")
    np.testing.assert_allclose(found, gradient(simple, mean), rtol=1e-4, atol=1e-7)
    assert jnp.abs(gradient(hybrid, ~mean)).max() > 1e-6


def test_losses_of_the_whole_batch_are_remembered_in_training_only(make):
    model = make(objective="vlb")
    state = model.init(jax.random.key(0), BATCH).state
    loss = partial(model.objectives[0].loss, {"network": WEIGHTS}, state, None, BATCH, step=0)
    seen, unseen = (loss(train=train)[1][0] for train in (True, False))
    assert seen["counts"].sum() == N and not unseen["counts"].any()
    assert (seen["losses"].sum(1) > 0).sum() == (seen["counts"] > 0).sum()


def test_shares_0_and_1_are_the_fixed_variances_in_sampling_and_in_the_bound(make):
    model = make(objective="hybrid")
    path, x = model.diffusion.path, jax.random.normal(jax.random.key(1), (4, 5))
    denoiser, keys = lambda x_t, t: jnp.tanh(x_t), jax.random.split(jax.random.key(2), 4)
    t, s = jnp.float32(60), jnp.float32(59)
    for share, name in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        learned = samplers.learned_ancestral(path, denoiser, lambda x, t, share=share: jnp.full_like(x, share))
        ours, theirs = learned.step(keys, x, (), t, s)[0], samplers.ancestral(path, denoiser, name).step(keys, x, (), t, s)[0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    q = posterior(path, t, s)
    middle = samplers.between(q.variance, q.transition, jnp.full((1, 1), 0.5))
    assert float(middle[0, 0]) == pytest.approx(float(jnp.sqrt(q.variance * q.transition)), rel=1e-4)


def test_samples_and_bound_are_finite_and_follow_the_learned_variance(make):
    model = make(objective="hybrid")
    wide = {"A": WEIGHTS["A"], "b": WEIGHTS["b"].at[3:].add(3.0)}
    keys, bits = BATCH.keys, []
    for params in (WEIGHTS, wide):
        variables = Variables({"network": params})
        images = jax.jit(partial(model.sample, steps=20))(variables, keys)
        assert np.isfinite(images).all()
        nats = jax.jit(partial(model.likelihoods[0].fn, terms=5))(variables, keys, IMAGES)
        bits.append(float(nats.mean()) / (math.prod(SHAPE) * math.log(2)))
    assert bits[0] != pytest.approx(bits[1], rel=1e-3) and np.isfinite(bits).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"variance": "learned"},
        {"objective": "hybrid"},
        {"variance": "learned", "objective": "vlb", "weight": "p2"},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings):
    with pytest.raises(InputError, match="do not fit together"):
        ddpm.make(SHAPE, **settings)
    with pytest.raises(InputError, match="do not fit together"):
        ddpm.make((2,), network={"name": "mlp"}, variance="learned", objective="hybrid")


# --- steps --------------------------------------------------------------------------------------------------------------------


def test_steps_are_drawn_by_the_root_mean_square_of_their_losses_once_all_are_known():
    rng, steps = np.random.default_rng(0), 5
    history, record = resampling.empty(steps), jax.jit(resampling.record)
    kept = [[] for _ in range(steps)]
    for _ in range(12):
        np.testing.assert_allclose(resampling.probabilities(history), 1 / steps)
        t, losses = np.repeat(np.arange(1, steps + 1), 1), rng.gamma(2.0, 1.0, steps) * np.arange(1, steps + 1)
        history = record(history, jnp.asarray(t), jnp.asarray(losses, jnp.float32))
        for index, loss in zip(t - 1, losses, strict=True):
            kept[index] = [*kept[index], loss][-resampling.KEPT :]
        if len(kept[0]) == resampling.KEPT:
            break
    size = np.sqrt(np.mean(np.square(kept), axis=1))
    expected = 0.999 * size / size.sum() + 0.001 / steps
    np.testing.assert_allclose(resampling.probabilities(history), expected, rtol=1e-5)
    t, weights = jax.jit(resampling.draw)(history, jax.random.split(jax.random.key(0), 20_000))
    shares = np.bincount(t, minlength=steps + 1)[1:] / len(t)
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / len(t) ** 0.5)
    np.testing.assert_allclose(weights, 1 / (steps * expected[np.asarray(t) - 1]), rtol=1e-5)

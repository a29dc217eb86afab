"""StyleGAN2: truncation, style mixing, the mean of w, lazy R1, and augmentation that follows the critic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from gm_jax.models import stylegan2

# each program runs once or twice: what the compiler saves there is not worth its time
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE, N = (8, 8, 3), 8
SMALL = {"latent_dim": 4, "channels": 4, "augmentation": "none"}
BATCH = Batch(
    jax.random.uniform(jax.random.key(0), (N, *SHAPE), minval=-1), jnp.arange(N) % 3, jax.random.split(jax.random.key(1), N)
)


@pytest.fixture(scope="module")
def plain():
    model = stylegan2.make(SHAPE, **SMALL)
    return model, quick_jit(model.init)(jax.random.key(2), BATCH)


def test_truncation_draws_w_towards_its_mean(plain):
    model, variables = plain
    mean = jnp.arange(4.0)
    params, state = variables
    variables = Variables(params, {**state, "generator": {"w_mean": mean}})
    _, w = model.latents
    ws, decode = quick_jit(w.draw)(variables, BATCH.keys), quick_jit(w.decode)
    sample = {bound: quick_jit(partial(model.sample, truncation=bound))(variables, BATCH.keys) for bound in (None, 0.5)}
    np.testing.assert_allclose(sample[None], decode(variables, BATCH.keys, ws), atol=1e-5)
    np.testing.assert_allclose(sample[0.5], decode(variables, BATCH.keys, mean + 0.5 * (ws - mean)), atol=1e-5)
    with pytest.raises(InputError, match="truncation"):
        model.sample(variables, BATCH.keys, truncation=-1.0)


def test_the_mean_of_w_follows_the_batch_once_for_the_generators_update(plain):
    model, (params, state) = plain
    loss = {objective.name: quick_jit(partial(objective.loss, step=0, train=True)) for objective in model.objectives}
    _, (after_critic, _) = loss["critic"](params, state, None, BATCH)
    assert not after_critic["generator"]["w_mean"].any()
    _, (after_generator, _) = loss["generator"](params, state, None, BATCH)
    moved = after_generator["generator"]["w_mean"]
    assert 0 < float(jnp.abs(moved).max()) < 0.1  # a two-hundredth of the batch's mean


def test_mixed_styles_change_at_one_layer():
    ws, others = jnp.zeros((400, 8, 1)), jnp.ones((400, 8, 1))
    mixed = np.asarray(stylegan2.mixed(ws, others, jax.random.split(jax.random.key(3), 400), 0.9))[..., 0]
    assert (np.diff(mixed, axis=1) >= 0).all() and not mixed[:, 0].any()
    assert mixed.any(axis=1).mean() == pytest.approx(0.9, abs=0.05)
    assert set((1 - mixed).sum(1)) == set(range(1, 9))


def test_the_penalty_is_due_at_every_16th_update_and_weighs_16_times(plain):
    model, (params, state) = plain
    penalty = model.objectives[1]
    assert (penalty.name, penalty.every, penalty.optimizer) == ("penalty", 16, "critic")
    value, (_, metrics) = quick_jit(partial(penalty.loss, step=0, train=True))(params, state, None, BATCH)
    assert float(value) == pytest.approx(16 * 0.01 * float(metrics["penalty"]), rel=1e-4)
    assert [objective.name for objective in stylegan2.make(SHAPE, **SMALL, gamma=0.0).objectives] == ["critic", "generator"]


def test_augmentation_follows_the_signs_of_the_critic():
    model = stylegan2.make(SHAPE, **{**SMALL, "augmentation": "bgc"}, ada_images=10 * N, ada_interval=2)
    params, state = quick_jit(model.init)(jax.random.key(2), BATCH)
    critic = model.objectives[0]
    loss = quick_jit(partial(critic.loss, step=0, train=True))
    for bias, expected in ((9.0, [0.0, 0.2, 0.2, 0.4]), (-9.0, [0.4, 0.2, 0.2, 0.0])):  # sure of itself; not at all
        params["critic"]["score"]["bias"] = jnp.full(1, bias)
        seen = []
        for step in range(4):
            _, (state, metrics) = loss(params, state, None, BATCH)
            state = critic.after(params, state, step=jnp.int32(step))
            seen.append(float(state["augmentation"]["p"]))
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        assert float(metrics["augmentation"]) == pytest.approx(seen[1])  # what the step was made with


def test_adain_and_style_mixing_have_finite_gradients():
    model = stylegan2.make(SHAPE, 3, **SMALL, style="adain", style_mixing=0.9, class_conditional=True)
    params, state = quick_jit(model.init)(jax.random.key(2), BATCH)
    loss = partial(model.objectives[-1].loss, step=0, train=True)
    gradients, _ = quick_jit(jax.grad(loss, has_aux=True))(params, state, None, BATCH)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["generator"]["mapping"]))


def test_other_sizes_are_one_line():
    for shape in ((12, 12, 1), (2,)):
        with pytest.raises(InputError, match="resize"):
            stylegan2.make(shape, **SMALL)


def test_spread_mean_of_w_and_signs_are_those_of_all_devices():
    """Two halves that see each other through an axis have the losses and the state of the whole."""
    whole, split = (stylegan2.make(SHAPE, **SMALL, axis_name=axis) for axis in (None, "devices"))
    params, state = quick_jit(whole.init)(jax.random.key(2), BATCH)
    halves = jax.tree.map(lambda a: a.reshape(2, N // 2, *a.shape[1:]), BATCH)
    for i in (0, 2):
        loss, other = (partial(model.objectives[i].loss, params, state, None, step=0, train=True) for model in (whole, split))
        value, (new_state, _) = quick_jit(loss)(BATCH)
        values, (new_states, _) = quick_jit(jax.vmap(other, axis_name="devices"))(halves)
        assert float(values.mean()) == pytest.approx(float(value), rel=1e-4)
        mean = new_state["generator"]["w_mean"]
        np.testing.assert_allclose(new_states["generator"]["w_mean"], jnp.stack([mean, mean]), atol=1e-6)

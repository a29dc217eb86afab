"""One train step serves every model: groups, rhythms, windows, draws, failures."""

from collections import Counter
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.cli.presets import base
from gm_jax.core import Batch, Model, Objective, Variables
from gm_jax.data.feed import batch_rows
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.training import learning
from gm_jax.training.batches import make_batch, seed_keys
from gm_jax.training.failures import describe_failure
from gm_jax.training.heldout import make_heldout
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.parallel import jit_parallel
from gm_jax.training.run import next_dispatch
from gm_jax.training.start import first_batch
from tests.toys import toy_batchnorm, toy_gan, toy_two_stage

SHAPE = (1, 1, 2)  # points of the plane
MEAN, STD = np.array([0.4, -0.3]), 0.15
POINTS = to_uint8(np.random.default_rng(0).normal(MEAN, STD, (256, 1, 1, 2)).astype(np.float32))
SGD = {"name": "sgd", "b1": 0.0, "learning_rate": 0.1}


def trainer(model, k=1, steps=100, batch_size=16, accum=1, **optimizer):
    """What the loop holds: dispatches of at most k steps, compiled and donating as the loop's are, and the first state."""
    config = base().to_dict()
    config["optimizer"].update(optimizer)
    config["train"].update(steps=steps, batch_size=batch_size)
    optimizers, keys, traces = build_optimizers(config, model), seed_keys(0), Counter()
    dispatch = learning.make_dispatch(learning.make_train_step(model, optimizers, keys, accum=accum))

    def traced(train_state, images, labels, n, active):
        traces[active] += 1
        return dispatch(train_state, images, labels, n, active)

    def init(images):
        return learning.init_state(model, optimizers, keys.init, first_batch(keys, images, None, False))

    start = to_host(jax.jit(init)(POINTS))
    fields = {"config": config, "model": model, "keys": keys, "start": start, "steps_per_dispatch": k, "traces": traces}
    fields |= {"window": (), "watchers": ()}
    return SimpleNamespace(dispatch=jit_parallel().compile(traced, start), **fields)


def to_host(tree):
    return jax.tree.map(np.array, tree)  # a copy: the buffers are donated to the next dispatch


def advance(trainer):
    """(state, output, failed) after every dispatch up to the last step, as the loop makes them."""
    parallel, settings, k = jit_parallel(), trainer.config["train"], trainer.steps_per_dispatch
    state, step = parallel.put_state(trainer.start), 0
    while step < settings["steps"]:
        n, active = next_dispatch(trainer, step)
        rows = batch_rows(0, len(POINTS), settings["batch_size"], step, k)
        state, *result = trainer.dispatch(state, *parallel.put_batch((POINTS[rows], None)), n, active)
        step += n
        yield to_host((state, *result))


def last(trainer):
    *_, (state, _, _) = advance(trainer)
    return state


def updates_made(opt_state) -> set[int]:
    """What the counters of an optimizer's transformations say."""
    return {int(leaf) for leaf in jax.tree.leaves(opt_state) if leaf.dtype == np.int32}


def same(a, b) -> bool:
    """Bit for bit."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b)))


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


# --- two players --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gans():
    """11 steps of the toy GAN, planned by the host (1) and gated on the device (4: dispatches of 4, 4 and 3 steps)."""
    trainers = {k: trainer(toy_gan.make(SHAPE), k, steps=11) for k in (1, 4)}
    return {k: (t, list(advance(t))) for k, t in trainers.items()}


def test_critic_learns_at_every_step_and_generator_at_every_fifth(gans):
    t, history = gans[1]
    before = t.start
    for step, (state, output, _) in enumerate(history):
        assert not same(state.params["critic"], before.params["critic"])
        assert same(state.params["generator"], before.params["generator"]) == (step not in (4, 9))
        assert ("generator/loss" in output.metrics) == (step in (4, 9))
        before = state
    assert updates_made(before.opt_state["critic"]) == {11}
    assert updates_made(before.opt_state["generator"]) == {2}
    assert before.state == {"critic_losses": 11, "generator_losses": 2}


def test_a_skipped_objective_changes_nothing_and_weighs_nothing(gans):
    t, history = gans[4]
    start, (state, output, _) = t.start, history[0]  # steps 0 to 3: the generator's first turn is step 4
    assert same(state.params["generator"], start.params["generator"])
    assert same(state.opt_state["generator"], start.opt_state["generator"])
    assert state.state == {"critic_losses": 4, "generator_losses": 0}
    pairs = {name: tuple(map(float, pair)) for name, pair in output.metrics.items()}
    assert set(pairs) >= {"critic/loss", "critic/real", "generator/loss", "generator/fake", "generator/grad_norm"}
    assert all(pair == (0.0, 0.0) for name, pair in pairs.items() if name.startswith("generator"))
    assert all(count == 4.0 and total != 0.0 for name, (total, count) in pairs.items() if name.startswith("critic"))
    assert float(history[1][1].metrics["generator/loss"][1]) == 1.0


def test_planned_and_gated_steps_agree(gans):
    """Also after the last dispatch, which has 4 batches and is told to take 3 steps."""
    one, four = gans[1][1], gans[4][1]
    for (state, _, failed), made in zip(four, (4, 8, 11), strict=True):
        assert int(failed) == -1 and int(state.step) == made
        assert_close(state, one[made - 1][0])
    for name in ("critic/loss", "generator/loss", "critic/grad_norm"):
        sums = [np.sum([out.metrics.get(name, (0, 0)) for _, out, _ in history], 0) for history in (one, four)]
        np.testing.assert_allclose(*sums, rtol=1e-4)


def test_each_objective_descends_its_own_gradient_and_sees_what_the_former_left():
    t = trainer(toy_gan.make(SHAPE, generator_every=1), steps=1, **SGD)
    critic, generator = t.model.objectives
    images = jnp.asarray(POINTS[batch_rows(0, len(POINTS), 16, 0, 1)[0]])

    @partial(jax.jit, static_argnums=1)
    def descend(params, objective):
        batch = make_batch(t.keys, 0, jnp.arange(16), images, None, False)
        grads = jax.grad(lambda p: objective.loss(p, t.start.state, None, batch, step=0, train=True)[0])(params)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return {**params, objective.group: moved[objective.group]}

    got = last(t).params
    assert_close(got, descend(descend(t.start.params, critic), generator), atol=1e-7)
    with pytest.raises(AssertionError):  # both from the same point
        assert_close(got["generator"], descend(t.start.params, generator)["generator"], atol=1e-7)


def test_toy_gan_learns_where_the_data_lies():
    t = trainer(toy_gan.make(SHAPE, generator_every=2), k=50, steps=600, batch_size=64, learning_rate=5e-3, b1=0.5)

    @jax.jit
    def draw(state):
        keys = jax.random.split(jax.random.key(9), 512)
        return t.model.sample(Variables(state.params, state.state), keys).mean((0, 1, 2))

    means = []
    for state, output, _ in advance(t):
        assert all(np.isfinite(total) for total, _ in output.metrics.values())
        means.append(draw(state))
    target = to_float(POINTS).mean((0, 1, 2))
    before = np.linalg.norm(draw(t.start) - target)
    assert np.linalg.norm(np.mean(means[-4:], 0) - target) < 0.1 < 0.3 < before  # it circles around the equilibrium


# --- two stages ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages():
    """30 steps of the first stage, 310 of the second. A batch is the whole data set: the prior's optimum is known exactly."""
    model = toy_two_stage.make(SHAPE, latent=1, switch=30)
    settings = {"learning_rate": 0.05, "ema_decay": 0.9, "autoencoder": {"schedule": "cosine"}}
    t = trainer(model, k=20, steps=340, batch_size=len(POINTS), **settings)
    return t, list(advance(t))


def test_two_stages_are_two_windows(stages):
    t, history = stages
    steps = [int(state.step) for state, _, _ in history]
    assert steps[:3] == [20, 30, 50] and steps[-1] == 340  # no dispatch straddles the switch

    middle, end = history[1][0], history[-1][0]
    assert same((middle.params["prior"], middle.opt_state["prior"]), (t.start.params["prior"], t.start.opt_state["prior"]))
    assert not same(middle.params["autoencoder"], t.start.params["autoencoder"])
    assert same(
        (end.params["autoencoder"], end.opt_state["autoencoder"]),
        (middle.params["autoencoder"], middle.opt_state["autoencoder"]),
    )
    assert updates_made(end.opt_state["autoencoder"]) == {30} and updates_made(end.opt_state["prior"]) == {310}
    assert end.state == {"stage_one_steps": 30, "codes_seen": 310 * len(POINTS)}
    assert all(("prior/nll" in out.metrics) == (step > 30) for step, (_, out, _) in zip(steps, history, strict=True))

    autoencoder = end.params["autoencoder"]
    codes = (to_float(POINTS).reshape(-1, 2) - autoencoder["bias"]) @ autoencoder["encoder"]
    np.testing.assert_allclose(end.params["prior"]["mean"], codes.mean(0), atol=1e-3)
    np.testing.assert_allclose(np.exp(end.params["prior"]["logstd"]), codes.std(0), rtol=1e-2)


def test_compiles_once_per_active_set(gans, stages):
    """Although the dispatches differ in how many steps they take: 4, 4, 3 and 20, 10, 20, ..., 20, 10."""
    assert gans[4][0].traces == {("critic", "generator"): 1}
    assert gans[1][0].traces == {("critic",): 1, ("critic", "generator"): 1}
    assert stages[0].traces == {("autoencoder",): 1, ("prior",): 1}


def test_dispatches_end_at_both_edges_of_a_window():
    objectives = (Objective("early", None, stop=7), Objective("late", None, start=12))
    model = Model(init=None, objectives=objectives, sample=None)
    run = SimpleNamespace(model=model, config=base().to_dict(), steps_per_dispatch=10, window=(), watchers=())
    assert [next_dispatch(run, step) for step in (0, 7, 12)] == [(7, ("early",)), (5, ()), (10, ("late",))]
    run.window = (3, 15)  # of a profile
    assert [next_dispatch(run, step)[0] for step in (0, 3, 12, 15)] == [3, 4, 3, 10]


# --- draws --------------------------------------------------------------------------------------------------------------------


def example_key(root, step, index):
    return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(root, step), index))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_would_share_their_draws_with_others_are_refused(seed):
    with pytest.raises(InputError, match=f"seed is {seed}; it must lie in 0..4294967295"):
        seed_keys(seed)


def recorder():
    """Keeps in its state what its loss was given."""

    def seen(batch, key, step):
        keys = {"keys": jax.random.key_data(batch.keys), "dropout": jax.random.key_data(key)}
        return keys | {"x": batch.x, "step": jnp.int32(step)}

    def loss(params, state, key, batch, *, step, train):
        return params["w"] ** 2, ({**state, str(train): seen(batch, key, step)}, {})

    def init(key, batch):
        batch = batch._replace(x=batch.x[:16], keys=batch.keys[:16])  # as many as a training batch has
        return Variables({"w": jnp.ones(())}, {"True": seen(batch, key, 0), "other": jnp.zeros(())})

    return Model(init, (Objective("record", loss),), sample=None)


def test_losses_get_the_batch_of_their_step_and_one_key_per_example():
    t = trainer(recorder(), k=1, steps=20)
    dropout = set()
    for step, (state, _, _) in enumerate(advance(t)):
        seen = state.state["True"]
        assert int(seen["step"]) == step
        assert_close(seen["x"], to_float(POINTS)[batch_rows(0, 256, 16, step, 1)[0]])
        if step in (0, 19):
            np.testing.assert_array_equal(seen["keys"], [example_key(t.keys.noise, step, i) for i in range(16)])
        dropout.add(tuple(seen["dropout"].tolist()))
    assert len(dropout) == 20


def test_microbatches_give_the_gradient_and_the_noise_of_the_whole_batch():
    def loss(params, state, key, batch, *, step, train):
        x = batch.x.reshape(len(batch.x), -1)
        noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(batch.keys)
        error = x + noise - x * params["w"]  # its gradient pairs each x with its own noise
        return jnp.mean(error**2), (state + jnp.sum(x * noise, 0), {"first": jnp.mean(error[:, 0])})

    model = Model(lambda key, batch: Variables({"w": jnp.zeros(2)}, jnp.zeros(2)), (Objective("fit", loss),), sample=None)
    (whole, metrics, _), (parts, metrics_of_parts, _) = (
        next(advance(trainer(model, steps=1, accum=accum, **SGD))) for accum in (1, 4)
    )
    assert_close(parts, whole)
    assert_close(metrics_of_parts.metrics, metrics.metrics)
    assert set(metrics.metrics) == {"fit/loss", "fit/first", "fit/grad_norm"}


def test_flips_are_a_function_of_seed_step_and_index():
    images = np.random.default_rng(1).integers(0, 256, (2000, 2, 3, 1), dtype=np.uint8)
    labels, keys = jnp.arange(2000), seed_keys(3)

    @partial(jax.jit, static_argnames=("first", "flip"))
    def batch(step, keys=keys, first=0, flip=True):
        index = jnp.arange(first, 2000)
        return make_batch(keys, step, index, jnp.asarray(images[first:]), labels[first:], flip)

    def flipped(step, keys=keys, **options) -> np.ndarray:
        x, got, *_ = batch(step, keys, **options)
        first = options.get("first", 0)
        np.testing.assert_array_equal(got, labels[first:])
        levels = to_uint8(np.asarray(x))
        mirrored = np.all(levels == images[first:, :, ::-1], (1, 2, 3))
        assert np.all(mirrored ^ np.all(levels == images[first:], (1, 2, 3)))
        return mirrored

    first = flipped(5)
    assert abs(first.mean() - 0.5) < 0.056  # five standard deviations
    np.testing.assert_array_equal(first, flipped(5))
    np.testing.assert_array_equal(first, flipped(5, keys._replace(noise=keys.init)))
    for other in (flipped(6), flipped(5, seed_keys(4))):
        assert abs((other == first).mean() - 0.5) < 0.056
    np.testing.assert_array_equal(first[700:], flipped(5, first=700))
    assert not flipped(5, flip=False).any()


def test_even_numbers_lie_evenly_over_the_batch_of_all_devices_and_differ_from_step_to_step():
    points, keys = jnp.zeros((4, 2)), seed_keys(3)
    whole = [make_batch(keys, step, jnp.arange(8), jnp.zeros((8, 2)), None, False).even for step in range(400)]
    part = make_batch(keys, 5, jnp.arange(4, 8), points, None, False, total=8).even
    np.testing.assert_array_equal(part, whole[5][4:])
    np.testing.assert_allclose(np.diff(np.sort(whole[5])), 1 / 8, atol=1e-6)
    first = np.sort([even[0] for even in whole])
    assert np.abs(first - (np.arange(400) + 0.5) / 400).max() < 1.7 / 400**0.5  # Kolmogorov and Smirnov, 1 in 200


# --- failures -----------------------------------------------------------------------------------------------------------------


def breaking(at: int, loss_too: bool) -> Model:
    """Two objectives that have nothing in common; from step `at` on the second has a NaN loss, or only a NaN gradient."""

    def steady(params, state, key, batch, *, step, train):
        return jnp.sum(params["steady"] ** 2), (state, {})

    def fragile(params, state, key, batch, *, step, train):
        bias, kernel = params["fragile"]["bias"], params["fragile"]["kernel"]
        root = jnp.sqrt(jnp.where(step < at, 1.0, 0.0) * kernel)  # the root of zero is zero, its slope infinite
        term = jnp.where((step < at) | (not loss_too), 0.0, jnp.nan)
        return bias**2 + root + term, (state, {"term": term})

    def init(key, batch):
        return Variables({"steady": jnp.ones(2), "fragile": {"bias": jnp.ones(()), "kernel": jnp.full((), 9.0)}})

    objectives = (Objective("first", steady, "steady"), Objective("second", fragile, "fragile"))
    return Model(init, objectives, sample=None)


@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize("loss_too", [True, False])
def test_a_nonfinite_step_is_reported_and_is_the_last(k, loss_too):
    t = trainer(breaking(7, loss_too), k=k, steps=16, **SGD)
    state, output, failed = next(result for result in advance(t) if result[2] >= 0)
    assert int(failed) == 7 and int(state.step) == 8
    np.testing.assert_allclose(state.params["steady"], 0.8**8 * np.ones(2), rtol=1e-5)  # 8 updates, as without the failure
    reason = describe_failure(output, t.start.params, t.model.objectives)
    terms = "second/loss, second/term, second/grad_norm" if loss_too else "second/grad_norm"
    assert reason == f"non-finite: {terms}; gradient of params['fragile']['kernel']"


@pytest.mark.parametrize("k", [1, 16])
def test_where_updates_are_skipped_a_nonfinite_one_weighs_nothing_and_stops_nothing(k):
    t = trainer(breaking(7, True), k=k, steps=16, skip_norm=1e6, **SGD)
    history = list(advance(t))
    state, *_ = history[-1]
    assert all(failed == -1 for *_, failed in history) and state.step == 16
    np.testing.assert_allclose(state.params["steady"], 0.8**16 * np.ones(2), rtol=1e-5)
    np.testing.assert_allclose(state.params["fragile"]["bias"], 0.8**7, rtol=1e-5)  # its last update is that of step 6
    assert [int(state.opt_state[name].skipped) for name in ("first", "second")] == [0, 9]
    totals = {}
    for _, output, _ in history:
        for name, pair in output.metrics.items():
            totals[name] = totals.get(name, 0) + np.array(pair)
    assert tuple(totals["second/skipped"]) == (9, 16) and tuple(totals["first/skipped"]) == (0, 16)
    assert totals["second/loss"][1] == totals["second/grad_norm"][1] == 7 and np.isfinite(totals["second/loss"][0])


def test_a_failure_outside_of_the_asked_steps_is_no_failure():
    t = trainer(breaking(7, True), k=16, steps=7, **SGD)
    ((state, _, failed),) = advance(t)
    assert int(failed) == -1 and int(state.step) == 7


# --- held-out losses ----------------------------------------------------------------------------------------------------------


def test_heldout_loss_is_the_mean_over_whole_batches_without_training():
    t = trainer(toy_batchnorm.make(SHAPE), steps=3)
    state = last(t)
    heldout = make_heldout(t.model, t.keys, POINTS[:45], None, batch_size=20)
    got = heldout(state, ("denoise",))
    assert got == heldout(state, ("denoise",))

    @jax.jit
    def loss(images, first):
        root = jax.random.fold_in(t.keys.heldout, 0)
        batch = Batch(to_float(images), None, jax.vmap(lambda i: jax.random.fold_in(root, i))(first + jnp.arange(20)))
        return t.model.objectives[0].loss(state.params, state.state, None, batch, step=3, train=False)[0]

    losses = [loss(POINTS[:20], 0), loss(POINTS[20:40], 20)]
    assert abs(losses[0] - losses[1]) > 1e-4
    assert got == pytest.approx({"heldout/denoise/loss": np.mean(losses), "heldout/denoise/mse": np.mean(losses)}, rel=1e-5)
    assert make_heldout(t.model, t.keys, POINTS[:0], None, batch_size=20)(state, ("denoise",)) == {}


def test_heldout_losses_are_of_the_named_objectives():
    t = trainer(toy_gan.make(SHAPE))
    heldout = make_heldout(t.model, t.keys, POINTS[:32], None, batch_size=16)
    assert set(heldout(t.start, ("critic",))) == {"heldout/critic/loss", "heldout/critic/real", "heldout/critic/fake"}
    assert set(heldout(t.start, ("generator",))) == {"heldout/generator/loss", "heldout/generator/fake"}

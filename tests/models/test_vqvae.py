import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import experiment
from gm_jax.core import Batch, Variables
from gm_jax.diffusion.discretized import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.models import vqvae
from gm_jax.nets import pixelcnn
from gm_jax.nets.codebook import CODEBOOKS, smoothed_codebook, vector_quantize
from gm_jax.nets.pixelcnn import GatedPixelCNN
from tests.training.support import assert_close, finish, leaves, settings, start_jobs, train

SHAPE, GRID, CODES, DIM = (8, 8, 1), (4, 4), 8, 3
SMALL = {
    "autoencoder_steps": 2,
    "num_codes": CODES,
    "code_dim": DIM,
    "channels": 8,
    "halvings": 1,
    "num_blocks": 1,
    "prior_channels": 8,
    "prior_layers": 1,
}
make = partial(vqvae.make, SHAPE, **SMALL)
RATES = {"vqvae": 0.01, "prior": 0.003}


@pytest.fixture(scope="module")
def batch():
    x = np.random.default_rng(0).normal(0, 0.2, (6, *SHAPE)).astype(np.float32)
    x[:3, :4] += 0.5
    return Batch(jnp.asarray(x), jnp.arange(6) % 3, jax.random.split(jax.random.key(1), 6))


def random_variables(model, batch):
    """Weights and codebook with no zero left. Nothing is compiled."""
    normal = np.random.default_rng(1).normal

    def leaf(path, leaf):
        if path[-1].key == "usage":
            return jnp.full(CODES, 12.0)
        if path[-1].key.endswith("variance"):
            return jnp.float32(0.1)
        scale = 12 if path[-1].key == "sums" else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return jnp.float32(scale * normal(size=leaf.shape))

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0), batch))


@pytest.fixture(scope="module")
def variables(batch):
    return random_variables(make(), batch)


@pytest.fixture(scope="module", params=CODEBOOKS)
def stepped(request, batch):
    """A step of stage one that restarts many codes: settings, variables, and what `with_gradient` makes of them."""
    settings = {"codebook": request.param, "commitment": 0.5, "restart_below": 0.9, "codebook_decay": 0.5}
    variables = random_variables(make(**settings), batch)
    return settings, variables, with_gradient(make(**settings), variables, batch)


def with_gradient(model, variables, batch, objective=0):
    loss = partial(model.objectives[objective].loss, step=0, train=True)
    (value, (state, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(*variables, None, batch)
    return value, metrics, state, grads


def codebook_of(variables):
    book = variables.state["codebook"]
    if "sums" in book:
        return smoothed_codebook(book["usage"], book["sums"])
    return variables.params["autoencoder"]["codebook"] + book["offset"]


# the codebook


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_the_codebook_begins_at_encoder_outputs(codebook, batch):
    params, state = jax.jit(make(codebook=codebook).init)(jax.random.key(2), batch)
    z = jax.jit(vqvae.Encoder(DIM, 8, 1, 1).apply)({"params": params["autoencoder"]["encoder"]}, batch.x).reshape(-1, DIM)
    vectors = codebook_of(Variables(params, state))
    distances = np.linalg.norm(np.asarray(vectors)[:, None] - np.asarray(z), axis=-1)
    assert distances.min(1).max() < 1e-5
    assert len(np.unique(distances.argmin(1))) == CODES
    np.testing.assert_allclose(state["data_variance"], np.var(batch.x), rtol=1e-5)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_dead_codes_are_revived_by_encoder_outputs(codebook, batch):
    model = make(codebook=codebook, codebook_decay=0.5, restart_below=0.2)
    params, state = random_variables(model, batch)
    far = jnp.full((CODES, DIM), 50.0).at[0].set(0)  # all vectors are nearest to code 0
    usage = state["codebook"]["usage"]
    if codebook == "ema":
        state = {**state, "codebook": {"usage": usage, "sums": usage[:, None] * far}}
    else:
        params = {**params, "autoencoder": {**params["autoencoder"], "codebook": far}}
    loss = jax.jit(partial(model.objectives[0].loss, step=0, train=True))
    restarted, perplexities = [], []
    for _ in range(4):
        _, (state, metrics) = loss(params, state, None, batch)
        restarted.append(int(metrics["restarted"]))
        perplexities.append(float(metrics["perplexity"]))
    # usage starts at the mean u and halves at each step: u/2, u/4, then u/8 < u/5
    assert restarted[:3] == [0, 0, CODES - 1]
    assert perplexities[:3] == pytest.approx([1, 1, 1]) and perplexities[3] > 3


def test_terms_of_the_loss(stepped, batch):
    settings, variables, (value, metrics, _, grads) = stepped
    autoencoder, vectors = variables.params["autoencoder"], codebook_of(variables)
    z = jax.jit(vqvae.Encoder(DIM, 8, 1, 1).apply)({"params": autoencoder["encoder"]}, batch.x)
    quantized, indices = jax.jit(vector_quantize)(z, vectors)
    x_mean = jax.jit(vqvae.Decoder(1, 8, 1, 1).apply)({"params": autoencoder["decoder"]}, quantized)
    mse, distance = np.mean((batch.x - x_mean) ** 2), np.mean((z - quantized) ** 2)
    np.testing.assert_allclose(metrics["mse"], mse, rtol=1e-4)
    np.testing.assert_allclose(metrics["reconstruction"], mse / 0.1, rtol=1e-4)
    np.testing.assert_allclose(metrics["commitment"], distance, rtol=1e-4)
    expected = metrics["reconstruction"] + 0.5 * distance
    if settings["codebook"] == "loss":
        np.testing.assert_allclose(metrics["codebook"], distance, rtol=1e-4)
        expected += distance
        moved = np.zeros(vectors.shape)  # the gradient of the mean of (z - e)^2: nothing else moves the codebook
        np.add.at(moved, np.asarray(indices), 2 * np.asarray(quantized - z) / z.size)
        np.testing.assert_allclose(grads["autoencoder"]["codebook"], moved, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_shards_of_a_batch_give_the_gradient_and_the_state_of_the_whole(stepped, batch):
    settings, variables, (value, metrics, state, grads) = stepped
    loss = partial(make(**settings, axis_name="device").objectives[0].loss, step=0, train=True)
    sharded = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), batch)
    (values, (states, shard_metrics)), shard_grads = jax.jit(
        jax.vmap(lambda shard: jax.value_and_grad(loss, has_aux=True)(*variables, None, shard), axis_name="device")
    )(sharded)
    assert metrics["restarted"] > 0
    np.testing.assert_allclose(values.mean(), value, rtol=1e-5)
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), states, state)
        np.testing.assert_allclose(shard_metrics["perplexity"][i], metrics["perplexity"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.mean(0), b, rtol=1e-3, atol=1e-5), shard_grads, grads)


def test_evaluation_leaves_the_state_alone(variables, batch):
    model = make()
    _, (state, _) = jax.jit(partial(model.objectives[0].loss, step=0, train=False))(*variables, None, batch)
    jax.tree.map(np.testing.assert_array_equal, state, variables.state)


# two stages


def test_the_prior_does_not_move_the_autoencoder(variables, batch):
    model = make(autoencoder_steps=7)
    first, second = model.objectives
    assert (first.group, first.start, first.stop) == ("autoencoder", 0, 7)
    assert (second.group, second.start, second.stop) == ("prior", 7, None)
    value, metrics, state, grads = with_gradient(model, variables, batch, objective=1)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads["autoencoder"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["prior"]))
    jax.tree.map(np.testing.assert_array_equal, state, variables.state)
    np.testing.assert_allclose(metrics["bits_per_code"], value / (16 * math.log(2)), rtol=1e-6)


def test_one_run_trains_both_stages_and_any_devices_take_the_same_steps(tmp_path):
    def config(parallel, steps=5):
        optimizer = {"learning_rate": 1e-3, "ema_decay": 0.9, "vqvae": {"ema_decay": 0.0}}
        model = {"name": "vqvae", **SMALL, "autoencoder_steps": 3, "restart_below": 0.5, "codebook_decay": 0.5}
        return settings(model, parallel=parallel, optimizer=optimizer, steps=steps, log_every=1)

    process = start_jobs(tmp_path / "jobs.json", [(config(p), tmp_path / p, None) for p in ("jit", "pmap")], devices=8)
    halfway = train(config("jit", steps=3), tmp_path / "single")
    single = train(config("jit"), tmp_path / "single")  # resumes at the beginning of stage two
    finish(process)
    for parallel in ("jit", "pmap"):
        assert_close(leaves(tmp_path / parallel), single, rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "single/metrics.jsonl").read_text().splitlines()]
    assert [("vqvae/loss" in line, "prior/loss" in line) for line in lines] == [(True, False)] * 3 + [(False, True)] * 2
    assert sum(line.get("vqvae/restarted", 0) for line in lines) > 0
    for path, value in halfway.items():
        if path.startswith((".params['autoencoder']", ".state")):
            np.testing.assert_array_equal(single[path], value, path)
    averages = [path for path in single if ".ema" in path]
    assert averages and all("'prior'" in path for path in averages)
    assert experiment.restore(tmp_path / "single").weights == "ema"


def test_both_stages_learn(variables, batch):
    params, state = variables
    for objective, steps in zip(make(codebook_decay=0.9).objectives, (60, 40), strict=True):

        @jax.jit
        def step(params, state, momentum, objective=objective):
            loss = partial(objective.loss, step=0, train=True)
            (value, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params, state, None, batch)
            momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads[objective.group])
            group = jax.tree.map(lambda p, m: p - RATES[objective.name] * m, params[objective.group], momentum)
            return {**params, objective.group: group}, state, momentum, value

        momentum, losses = jax.tree.map(np.zeros_like, params[objective.group]), []
        for _ in range(steps):
            params, state, momentum, value = step(params, state, momentum)
            losses.append(float(value))
        assert np.all(np.isfinite(losses)) and losses[-1] < 0.6 * losses[0], objective.name
    assert 0 < state["likelihood_variance"] < 0.1


# the model


def test_parameter_counts():
    for codebook, count in (("ema", 662_723), ("loss", 695_491)):
        example = Batch(jnp.zeros((2, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 2))
        shapes = jax.eval_shape(vqvae.make((32, 32, 3), codebook=codebook).init, jax.random.key(0), example)
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params["autoencoder"])) == count


def test_encode_and_decode(variables, batch):
    model = make()
    codes = jax.jit(model.encode)(variables, batch.keys, batch.x)
    assert codes.shape == (6, *GRID) and jnp.issubdtype(codes.dtype, jnp.integer)
    posterior = jax.jit(lambda *args: model.posterior(*args).indices)(variables, batch.x)
    np.testing.assert_array_equal(posterior, codes)
    assert jax.eval_shape(model.posterior, variables, batch.x)[0].shape == codes.shape
    decoder = jax.tree.map(lambda w: 2 * w, variables.params["autoencoder"]["decoder"])
    loud = variables._replace(params={"autoencoder": {"decoder": decoder}})
    x = jax.jit(model.decode)(loud, batch.keys, codes)
    decoded = jax.jit(vqvae.Decoder(1, 8, 1, 1).apply)({"params": decoder}, codebook_of(variables)[codes])
    assert x.shape == batch.x.shape and np.abs(decoded).max() > 1
    np.testing.assert_allclose(x, np.clip(decoded, -1, 1), atol=1e-5)


def test_samples_are_decoded_codes_of_the_prior(variables):
    model, keys = make(), jax.random.split(jax.random.key(4), 6)
    net, decode = GatedPixelCNN(CODES, 8, 1), jax.jit(model.decode)
    sample = jax.jit(model.sample, static_argnames="temperature")
    for temperature in (1.0, 1e-4):
        draw = jax.jit(partial(pixelcnn.sample, net, grid=GRID, temperature=temperature))
        codes = draw(variables.params["prior"], keys)
        assert len(np.unique(codes.reshape(6, -1), axis=0)) == (6 if temperature == 1 else 1)  # cold: always the likeliest
        x = sample(variables, keys, temperature=temperature)
        np.testing.assert_allclose(x, decode(variables, keys, codes), atol=1e-6)
    assert model.nfe() == model.nfe(temperature=0.5) == 16
    for call in (partial(model.sample, variables, keys), model.nfe):
        with pytest.raises(InputError, match="temperature=0"):
            call(temperature=0)


def test_likelihoods_add_up(variables, batch):
    model, images = make(), to_uint8(np.asarray(batch.x))
    elbo, codes = model.likelihoods
    assert [(term.name, term.kind) for term in model.likelihoods] == [("elbo", "bound"), ("codes", "code")]
    autoencoder = variables.params["autoencoder"]
    indices = jax.jit(model.encode)(variables, batch.keys, to_float(images))
    x_mean = jax.jit(vqvae.Decoder(1, 8, 1, 1).apply)({"params": autoencoder["decoder"]}, codebook_of(variables)[indices])
    log_likelihood = jax.jit(discretized_gaussian_log_prob)(images, x_mean, 0.1).sum((1, 2, 3))
    code_nats = jax.jit(codes.fn)(variables, batch.keys, images)
    np.testing.assert_allclose(jax.jit(elbo.fn)(variables, batch.keys, images), code_nats - log_likelihood, rtol=1e-5)
    logits = np.asarray(jax.jit(GatedPixelCNN(CODES, 8, 1).apply)({"params": variables.params["prior"]}, indices))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probs, np.asarray(indices)[..., None], -1)
    np.testing.assert_allclose(code_nats, -np.log(chosen).sum((1, 2, 3)), rtol=1e-5)


@pytest.fixture(scope="module")
def conditional(batch):
    """A model that is given labels."""
    model = make(num_classes=3, class_conditional=True)
    return model, random_variables(model, batch)


def test_without_labels_a_conditional_likelihood_is_the_mean_over_classes(conditional, batch):
    model, variables = conditional
    nats, images = jax.jit(model.likelihoods[1].fn), to_uint8(np.asarray(batch.x))
    by_class = [nats(variables, batch.keys, images, jnp.full(6, label)) for label in range(3)]
    assert np.ptp(by_class, axis=0).min() > 1e-3
    expected = -np.log(np.mean(np.exp(-np.float64(by_class)), axis=0))
    np.testing.assert_allclose(nats(variables, batch.keys, images), expected, rtol=1e-5)


def test_labels_steer_the_samples_of_a_conditional_model(conditional, batch):
    model, variables = conditional
    keys, sample = jax.random.split(jax.random.key(4), 32), jax.jit(model.sample)
    by_class = [sample(variables, keys, jnp.full(32, label)) for label in range(3)]
    drawn = sample(variables, keys)
    matches = np.array([np.abs(x - drawn).max((1, 2, 3)) < 1e-5 for x in by_class])
    assert np.all(matches.any(0)) and np.all(matches.sum(1) > 3)  # a class each, all classes
    loss = jax.jit(partial(model.objectives[1].loss, step=0, train=True))
    values = [loss(*variables, None, batch._replace(labels=(batch.labels + shift) % 3))[0] for shift in range(2)]
    assert abs(values[0] - values[1]) > 1e-3


def test_labels_are_refused_by_an_unconditional_model(variables, batch):
    model, labels = make(num_classes=3), jnp.zeros(6, int)
    for call in (
        lambda: model.sample(variables, batch.keys, labels),
        lambda: model.encode(variables, batch.keys, batch.x, labels),
        lambda: model.decode(variables, batch.keys, jnp.zeros((6, *GRID), int), labels),
        lambda: model.posterior(variables, batch.x, labels),
        lambda: model.likelihoods[0].fn(variables, batch.keys, to_uint8(batch.x), labels),
    ):
        with pytest.raises(InputError, match="unconditional"):
            call()


@pytest.mark.parametrize(
    "setting",
    [
        {"codebook": "kmeans"},
        {"codebook_decay": 1.0},
        {"autoencoder_steps": 0},
        {"commitment": -0.1},
        {"restart_below": -1.0},
        {"halvings": 4},
        {"class_conditional": True},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)

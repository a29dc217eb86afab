from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from gm_jax.models import vqvae
from gm_jax.nets.codebook import CODEBOOKS, vector_quantize
from tests.models.vqvae_case import (
    CODES,
    DECODER,
    DIM,
    ENCODER,
    GRID,
    batch_of_two_kinds,
    codebook_of,
    make,
    random_variables,
    with_gradient,
)
from tests.weights import count


@pytest.fixture(scope="module")
def batch():
    return batch_of_two_kinds()


@pytest.fixture(scope="module")
def variables(batch):
    return random_variables(make(), batch)


@pytest.fixture(scope="module", params=CODEBOOKS)
def stepped(request, batch):
    """Settings with which an update restarts many codes, variables, and what `with_gradient` makes of them."""
    settings = {"codebook": request.param, "commitment": 0.5, "restart_below": 0.9, "codebook_decay": 0.5}
    variables = random_variables(make(**settings), batch)
    return settings, variables, with_gradient(make(**settings), variables, batch)


# --- the codebook -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_the_codebook_begins_at_encoder_outputs(codebook, batch):
    params, state = jax.jit(make(codebook=codebook).init)(jax.random.key(2), batch)
    z = jax.jit(ENCODER.apply)({"params": params["autoencoder"]["networks"]["encoder"]}, batch.x).reshape(-1, DIM)
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
    usage = state["codebooks"]["codes"]["usage"]
    if codebook == "ema":
        state = {**state, "codebooks": {"codes": {"usage": usage, "sums": usage[:, None] * far}}}
    else:
        params = {**params, "autoencoder": {**params["autoencoder"], "codebooks": {"codes": {"codebook": far}}}}

    @jax.jit
    def update(state):
        _, (state, metrics) = model.objectives[0].loss(params, state, None, batch, step=0, train=True)
        return model.objectives[0].after(params, state, step=0), metrics["perplexity"]

    restarted, perplexities = [], []
    for _ in range(4):
        state, perplexity = update(state)
        restarted.append(int(state["restarted"]["codes"]))
        perplexities.append(float(perplexity))
    # usage starts at the mean u and halves at each step: u/2, u/4, then u/8 < u/5
    assert restarted[:3] == [0, 0, CODES - 1]
    assert perplexities[:3] == pytest.approx([1, 1, 1]) and perplexities[3] > 3


# --- an update ----------------------------------------------------------------------------------------------------------------


def test_terms_of_the_loss(stepped, batch):
    settings, variables, (value, metrics, _, grads) = stepped
    autoencoder, vectors = variables.params["autoencoder"], codebook_of(variables)
    z = jax.jit(ENCODER.apply)({"params": autoencoder["networks"]["encoder"]}, batch.x)
    quantized, indices = jax.jit(vector_quantize)(z, vectors)
    x_mean = jax.jit(DECODER.apply)({"params": autoencoder["networks"]["decoder"]}, quantized)
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
        np.testing.assert_allclose(grads["autoencoder"]["codebooks"]["codes"]["codebook"], moved, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_an_update_moves_the_means_once_and_microbatches_add_up(stepped, batch):
    settings, variables, (_, metrics, whole, _) = stepped
    objective = make(**settings).objectives[0]
    loss, after = jax.jit(partial(objective.loss, step=0, train=True)), jax.jit(partial(objective.after, step=0))
    params, state = variables
    for part in (slice(0, 3), slice(3, 6)):
        _, (state, _) = loss(params, state, None, jax.tree.map(lambda a, part=part: a[part], batch))
        jax.tree.map(np.testing.assert_array_equal, state["codebooks"], variables.state["codebooks"])
    one, two = after(params, whole), after(params, state)
    assert one["restarted"]["codes"] > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), two, one)
    np.testing.assert_allclose(one["likelihood_variance"], 0.99 * 0.1 + 0.01 * metrics["mse"], rtol=1e-5)
    nothing = variables.state["seen"]
    jax.tree.map(np.testing.assert_array_equal, one["seen"], nothing)


def test_shards_of_a_batch_give_the_gradient_and_the_state_of_the_whole(stepped, batch):
    settings, variables, (value, metrics, state, grads) = stepped
    loss = partial(make(**settings, axis_name="device").objectives[0].loss, step=0, train=True)
    sharded = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), batch)
    (values, (states, shard_metrics)), shard_grads = jax.jit(
        jax.vmap(lambda shard: jax.value_and_grad(loss, has_aux=True)(*variables, None, shard), axis_name="device")
    )(sharded)
    np.testing.assert_allclose(values.mean(), value, rtol=1e-5)
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), states, state)
        np.testing.assert_allclose(shard_metrics["perplexity"][i], metrics["perplexity"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.mean(0), b, rtol=1e-3, atol=1e-5), shard_grads, grads)


def test_evaluation_leaves_the_state_alone(variables, batch):
    model = make()
    _, (state, _) = jax.jit(partial(model.objectives[0].loss, step=0, train=False))(*variables, None, batch)
    jax.tree.map(np.testing.assert_array_equal, state, variables.state)


# --- the model ----------------------------------------------------------------------------------------------------------------


def test_parameter_counts():
    for codebook, expected in (("ema", 662_723), ("loss", 695_491)):
        example = Batch(jnp.zeros((2, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 2))
        shapes = jax.eval_shape(vqvae.make((32, 32, 3), codebook=codebook).init, jax.random.key(0), example)
        assert count(shapes.params["autoencoder"]) == expected


def test_encode_and_decode(variables, batch):
    model = make()
    codes = jax.jit(model.encode)(variables, batch.keys, batch.x)
    assert codes.shape == (6, *GRID) and jnp.issubdtype(codes.dtype, jnp.integer)
    posterior = jax.jit(lambda *args: model.posterior(*args).indices)(variables, batch.x)
    np.testing.assert_array_equal(posterior, codes)
    assert jax.eval_shape(model.posterior, variables, batch.x)[0].shape == codes.shape
    decoder = jax.tree.map(lambda w: 2 * w, variables.params["autoencoder"]["networks"]["decoder"])
    loud = variables._replace(params={"autoencoder": {**variables.params["autoencoder"], "networks": {"decoder": decoder}}})
    x = jax.jit(model.decode)(loud, batch.keys, codes)
    decoded = jax.jit(DECODER.apply)({"params": decoder}, codebook_of(variables)[codes])
    assert x.shape == batch.x.shape and np.abs(decoded).max() > 1
    np.testing.assert_allclose(x, np.clip(decoded, -1, 1), atol=1e-5)


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
        {"num_codes": 2.5},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)

"""Priors over codes: who sees whom, probabilities of all grids, and the samplers that remember against the naive one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.code_priors import CoarseCodes, code_prior, sample_naive, told_coarser
from gm_jax.nets.code_transformer import CodeTransformer
from tests.weights import count, drawn

PIXELCNN = {"name": "pixelcnn", "channels": 8, "num_layers": 2}
TRANSFORMER = {"name": "transformer", "channels": 8, "num_layers": 2, "num_heads": 2, "dropout": 0.5}
SETTINGS = {"pixelcnn": PIXELCNN, "transformer": TRANSFORMER}
CODES = 5
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def case(name, grid, num_codes=CODES, num_classes=None, coarse=False, n=6, **settings):
    """A prior, weights with no zero left, codes, labels and the codes of the coarser grid."""
    prior = code_prior({**SETTINGS[name], **settings}, grid, num_codes, num_classes)
    prior = told_coarser(prior, CoarseCodes(num_codes, 4, 1)) if coarse else prior
    labels = None if num_classes is None else jnp.arange(n) % num_classes
    draw = np.random.default_rng(0).integers
    told = jnp.asarray(draw(0, num_codes, (n, grid[0] // 2, grid[1] // 2))) if coarse else None
    params = drawn(jax.eval_shape(prior.init, jax.random.key(0)))
    return prior, params, jnp.asarray(draw(0, num_codes, (n, *grid))), labels, told


def test_a_token_of_the_transformer_sees_those_before_it_and_itself_alone():
    """Token i stands before code i: so no code sees itself or a later one."""
    net = CodeTransformer(CODES, (3, 4), 8, 2, 2)
    x = jnp.float32(np.random.default_rng(0).normal(size=(1, 12, 8)))
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 3, 4), int))["params"])
    weights = np.random.default_rng(2).normal(size=CODES)
    scores = lambda x: net.apply({"params": params}, x, method="from_embedded")[0] @ weights  # noqa: E731
    sees = np.abs(quick_jit(jax.jacrev(scores))(x)).max((1, 3)) > 0
    np.testing.assert_array_equal(sees, np.tri(12, dtype=bool))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_later_code_alters_no_logits_before_it_and_an_earlier_one_all_behind_it(name):
    prior, params, codes, _, _ = case(name, (3, 4), n=1, num_layers=4)
    changed = codes.repeat(13, 0)
    for i in range(12):  # grid i differs in code i, the last one in none
        changed = changed.at[i, i // 4, i % 4].set((codes[0, i // 4, i % 4] + 1) % CODES)
    logits = np.asarray(quick_jit(prior.logits)(params, changed)).reshape(13, 12, CODES)
    sees = np.abs(logits[:12] - logits[12]).max(-1) > 0
    np.testing.assert_array_equal(sees, np.tri(12, k=-1, dtype=bool).T)


@pytest.mark.parametrize("name, told", [("transformer", False), ("transformer", True), ("pixelcnn", True)])
def test_the_probabilities_of_all_grids_sum_to_one_and_are_those_of_the_samples(name, told):
    grid, n = ((2, 2), 16) if told else ((2, 1), 9)
    num_codes = 2 if told else 3
    prior, params, *_, above = case(name, grid, num_codes, coarse=told, n=1)
    codes = jnp.stack(jnp.unravel_index(jnp.arange(n), (num_codes,) * (grid[0] * grid[1])), 1).reshape(n, *grid)
    above = None if above is None else above.repeat(n, 0)
    log_probs = jax.nn.log_softmax(quick_jit(prior.logits)(params, codes, None, above))
    probs = np.exp(np.take_along_axis(np.float64(log_probs), np.asarray(codes)[..., None], -1).sum((1, 2, 3)))
    np.testing.assert_allclose(probs.sum(), 1, atol=1e-5)
    assert probs.max() / probs.min() > 1.5  # not the uniform distribution, which a broken network would give
    many = 20_000
    above = None if above is None else above[:1].repeat(many, 0)
    found = quick_jit(prior.sample)(params, jax.random.split(jax.random.key(0), many), None, above)
    powers = num_codes ** np.arange(grid[0] * grid[1])[::-1]
    frequency = np.bincount(np.asarray(found).reshape(many, -1) @ powers, minlength=n) / many
    np.testing.assert_array_less(np.abs(frequency - probs), 4 * np.sqrt(probs * (1 - probs) / many) + 1e-9)


@pytest.mark.parametrize(
    "name, num_classes, coarse, temperature, settings",
    [
        ("pixelcnn", 4, False, 0.7, {"reach": 2}),
        ("pixelcnn", None, True, 1.0, {}),
        ("transformer", 4, True, 0.7, {}),
    ],
)
def test_the_cached_sampler_draws_the_samples_of_the_naive_one(name, num_classes, coarse, temperature, settings):
    prior, params, _, labels, told = case(name, (4, 6), 7, num_classes, coarse, n=16, **settings)
    keys = jax.random.split(jax.random.key(3), 16)
    cached, naive = (
        quick_jit(partial(f, temperature=temperature))(params, keys, labels, told)
        for f in (prior.sample, partial(sample_naive, prior))
    )
    np.testing.assert_array_equal(cached, naive)
    assert cached.shape == (16, 4, 6) and cached.dtype == jnp.int32 and len(np.unique(cached)) == 7
    assert len(np.unique(cached.reshape(16, -1), axis=0)) == 16  # every key its own


@pytest.mark.parametrize("name", SETTINGS)
def test_labels_and_coarser_codes_are_told_to_every_place(name):
    prior, params, codes, labels, told = case(name, (4, 4), num_classes=3, coarse=True, num_layers=4)
    logits = quick_jit(prior.logits)
    plain = logits(params, codes, labels, told)
    for other in (logits(params, codes, (labels + 1) % 3, told), logits(params, codes, labels, (told + 1) % CODES)):
        assert np.all(np.abs(other - plain).max(-1) > 1e-4)


def test_dropout_is_of_training_alone():
    prior, params, codes, *_ = case("transformer", (2, 3))
    logits = quick_jit(prior.logits, static_argnames="train")
    one, two, plain = (logits(params, codes, train=train, key=jax.random.key(i)) for i, train in ((0, 1), (1, 1), (2, 0)))
    assert np.abs(one - two).max() > 1e-3 and np.abs(one - plain).max() > 1e-3
    np.testing.assert_array_equal(plain, logits(params, codes))


def test_the_transformer_is_gpt2_in_size_and_begins_nearly_uniform():
    small = {"name": "transformer", "channels": 768, "num_layers": 12, "num_heads": 12}
    prior = code_prior(small, (32, 32), 50_256)  # and the start: a vocabulary of 50 257, 1024 places
    assert count(jax.eval_shape(prior.init, jax.random.key(0))) == 124_439_808
    prior = code_prior(TRANSFORMER, (2, 2), CODES)
    logits = quick_jit(lambda: prior.logits(prior.init(jax.random.key(0)), jnp.zeros((1, 2, 2), int)))()
    np.testing.assert_allclose(jax.nn.softmax(logits), 1 / CODES, atol=0.05)


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_are_float32_also_in_bfloat16(name):
    prior = code_prior(SETTINGS[name], (2, 2), CODES, dtype=jnp.bfloat16)
    params = jax.eval_shape(prior.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(prior.logits, params, jnp.zeros((2, 2, 2), int)).dtype == jnp.float32
    assert jax.eval_shape(prior.sample, params, jax.random.split(jax.random.key(0), 2)).dtype == jnp.int32


def test_what_does_not_fit_is_one_clear_line():
    for settings, message in [
        ({**TRANSFORMER, "num_heads": 3}, "channels=8 of the prior must be a multiple of num_heads=3"),
        ({**PIXELCNN, "num_heads": 1}, "code prior 'pixelcnn'"),
        ({"name": "pixelsnail"}, "unknown code prior 'pixelsnail'; choose pixelcnn, transformer"),
        ({**PIXELCNN, "channels": 0}, "channels is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            code_prior(settings, (4, 4), CODES)

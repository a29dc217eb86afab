import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import core
from gm_jax.core import batch_gather, batch_mean, scan, streams

KEY = jax.random.key(7)


def bits(key):
    return jax.random.key_data(key).tolist()


# --- randomness by name -------------------------------------------------------------------------------------------------------


def test_streams_differ_by_name_and_from_the_key_they_come_from():
    names = ("time", "noise", "labels", "augmentation", "start", "steps", "latent", "prior", "scores", "codes")
    found = [KEY, *streams(KEY, *names)]
    assert all(bits(a) != bits(b) for a, b in itertools.combinations(found, 2))


def test_streams_do_not_depend_on_what_else_is_asked_for():
    one, two = streams(KEY, "time", "noise")
    assert bits(streams(KEY, "noise")[0]) == bits(two) and bits(streams(KEY, "noise", "time")[1]) == bits(one)


def test_streams_meet_neither_splits_nor_folds_of_small_numbers():
    """Which meet one another: split(key)[i] equals fold_in(key, i)."""
    assert bits(jax.random.split(KEY, 3)[2]) == bits(jax.random.fold_in(KEY, 2))
    taken = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(100_000))
    words = set(map(tuple, np.asarray(jax.random.key_data(taken))))
    assert not words & {tuple(bits(key)) for key in streams(KEY, "time", "noise", "labels", "start", "steps", "latent")}


def test_an_array_of_keys_has_the_streams_of_each_of_them():
    keys = jax.random.split(KEY, 6).reshape(2, 3)[0]
    (many,) = streams(keys, "noise")
    assert many.shape == (3,)
    for key, found in zip(keys, many, strict=True):
        assert bits(found) == bits(streams(key, "noise")[0])


def test_names_make_independent_draws():
    x, y = (jax.vmap(jax.random.normal)(k) for k in streams(jax.random.split(KEY, 20_000), "noise", "latent"))
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / len(x) ** 0.5


# --- loops --------------------------------------------------------------------------------------------------------------------


def body(carry, x):
    carry = jnp.tanh(carry + x["a"] * x["b"])
    return carry, {"carry": carry, "x": x["a"]}


def xs(n):
    return {"a": jnp.linspace(0, 1, n), "b": jnp.arange(n)}


@pytest.mark.parametrize("n", [1, 5, core.LONGEST_UNROLLED, core.LONGEST_UNROLLED + 1])
def test_scan_is_lax_scan(n):
    ours, theirs = (jax.jit(f, static_argnums=0)(body, jnp.ones(2), xs(n)) for f in (scan, jax.lax.scan))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    assert ours[1]["carry"].shape == (n, 2)


def unrolled(n) -> int:
    """How many steps stand in one turn of the loop."""
    program = jax.make_jaxpr(lambda carry: scan(body, carry, xs(n)))(jnp.ones(2))
    (loop,) = (equation for equation in program.eqns if equation.primitive.name == "scan")
    assert loop.params["length"] == n
    return loop.params["unroll"]


def test_short_loops_are_unrolled_on_a_cpu_and_long_ones_nowhere(monkeypatch):
    most = core.LONGEST_UNROLLED
    for backend, lengths in (("cpu", {3: 3, most: most, most + 1: 1}), ("gpu", {3: 1, most: 1})):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert {n: unrolled(n) for n in lengths} == lengths


def test_no_loop_is_left_of_an_unrolled_one():
    compiled = {n: jax.jit(lambda c, n=n: scan(body, c, xs(n))).lower(jnp.ones(2)).as_text() for n in (3, 40)}
    assert ("stablehlo.while" in compiled[40]) and ("stablehlo.while" in compiled[3]) == (jax.default_backend() != "cpu")


def test_gradients_pass_through_either_loop():
    for n in (4, 40):
        ours, theirs = (jax.grad(lambda c, f=f, n=n: f(body, c, xs(n))[0].sum())(jnp.ones(2)) for f in (scan, jax.lax.scan))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


# --- reductions over the global batch -----------------------------------------------------------------------------------------


def test_reductions_over_shards_are_those_of_the_whole_batch():
    x = jnp.arange(12.0).reshape(6, 2) ** 2
    shards = x.reshape(3, 2, 2)
    means = jax.vmap(lambda shard: batch_mean(shard, "device"), axis_name="device")(shards)
    rows = jax.vmap(lambda shard: batch_gather(shard, "device"), axis_name="device")(shards)
    for i in range(3):
        np.testing.assert_allclose(means[i], batch_mean(x))
        np.testing.assert_array_equal(rows[i], x)
    assert batch_gather(x) is x

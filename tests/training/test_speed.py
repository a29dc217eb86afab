"""What a step computes and holds, and what share of the machine it reaches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Model, Objective, Variables
from gm_jax.errors import InputError
from gm_jax.training import failures, learning, loop, memory, speed
from gm_jax.training.records import read_speed
from tests.training.support import GAN, settings, write_points

FEATURES = 4 * 4 * 1
OUT = 8
PRODUCT = 2 * FEATURES * OUT  # FLOPs of an example


def objective(name, **fields):
    def loss(params, state, key, batch, *, step, train):
        return jnp.sum((batch.x.reshape(len(batch.x), -1) @ params) ** 2), (state, {})

    return Objective(name, loss, **fields)


@pytest.fixture
def utilisation(monkeypatch):
    objectives = (objective("often"), objective("seldom", every=4, start=10, stop=30))
    model = Model(init=None, objectives=objectives, sample=None)
    variables = Variables(jax.ShapeDtypeStruct((FEATURES, OUT), jnp.float32), {})
    monkeypatch.setattr(speed, "matrix_rate", lambda dtype: 1000.0)
    return speed.Utilisation(model, variables, speed.batch_shapes(3, (4, 4, 1), None), jnp.dtype("float32"))


def test_a_step_costs_what_its_active_objectives_cost(utilisation):
    update = 3 * 2 * PRODUCT  # of three examples: forward, and the gradient of the matrix
    assert utilisation.step_flops(0) == update == utilisation.step_flops(30)
    assert utilisation.step_flops(10) == update * 1.25
    assert utilisation.of(0, 0.5) == pytest.approx(update * 0.5 / 1000)


def test_unknown_arithmetic_gives_no_utilisation(utilisation):
    utilisation._updates = {"often": float("inf"), "seldom": 0.0}
    assert utilisation.of(0, 1.0) is None


def test_the_matrix_rate_is_measured():
    """A product cannot be faster than the rate says, but for noise of the machine."""
    rate = speed.matrix_rate(jnp.dtype("float32"))
    assert 1e8 < rate < 1e16 and speed.matrix_rate(jnp.dtype("float32")) == rate


def test_runs_log_their_utilisation(tmp_path, capsys):
    loop.train(settings(GAN, write_points(tmp_path), steps=6, log_every=2), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(0 < line["mfu"] < 1 for line in lines)
    found = read_speed(tmp_path / "run")
    assert found.step == 6 and min(line["mfu"] for line in lines) <= found.mfu <= max(line["mfu"] for line in lines)
    out = capsys.readouterr().out
    assert "MFU " in out and out.index("memory per device: parameters ") < out.index("the first dispatch took")


def test_memory_is_that_of_the_arrays_and_the_program():
    params = {"w": jnp.ones((256, 64))}
    state = learning.TrainState(jnp.int32(0), params, {}, {"o": {"mean": jnp.zeros((256, 64)), "square": jnp.zeros((256, 64))}})

    def step(state, x):
        h = jnp.sin(x @ state.params["w"])  # [512, 64] must be kept for the gradient
        return state, jnp.sum(jnp.cos(h) * h)

    compiled = jax.jit(step, donate_argnums=0).lower(state, jnp.ones((512, 256))).compile()
    found = memory.measure(state, 1000, compiled)
    assert (found.parameters, found.optimizer, found.state, found.data) == (65536, 131072, 0, 1000)
    assert 4 * 512 * 256 <= found.step < 4 * 512 * (256 + 4 * 64)  # the batch, and some activations
    assert found.limit is None or found.limit > 1e8
    assert found.total == 65536 + 131072 + 1000 + found.step


def test_what_will_not_fit_is_said_with_a_hint():
    fitting = memory.Memory(2 * 10**9, 4 * 10**9, 0, 150_000_000, 1_500_000_000, limit=80 * 10**9)
    line = "memory per device: parameters 2 GB, optimizer 4 GB, data 150 MB, step 1.5 GB; 7.65 GB of 80 GB"
    assert memory.describe(fitting) == line
    assert "raise train.accum" in memory.describe(fitting._replace(limit=7 * 10**9))
    assert memory.describe(fitting._replace(limit=None)) == line.removesuffix(" of 80 GB")


def test_a_device_without_memory_is_one_clear_line():
    with pytest.raises(InputError, match="a device ran out of memory: raise train.accum"), failures.explained():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), failures.explained():
        raise jax.errors.JaxRuntimeError("INTERNAL: gloo is not to blame in a single process")


def test_arrays_of_another_shape_are_refused_not_compiled_again(tmp_path):
    from gm_jax.training.parallel import jit_parallel

    def dispatch(state, images, labels, n, active):
        return state + images.sum(), n, jnp.int32(-1)

    parallel = jit_parallel()
    program = parallel.compile(dispatch, np.zeros(3, np.float32))
    state = parallel.put_state(np.zeros(3, np.float32))
    state, n, _ = program(state, *parallel.put_batch((np.ones((1, 2), np.float32), None)), 5, ("a",))
    assert float(state[0]) == 2 and int(n) == 5
    with pytest.raises(TypeError):
        program(state, *parallel.put_batch((np.ones((1, 4), np.float32), None)), 5, ("a",))

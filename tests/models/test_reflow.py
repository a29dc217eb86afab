"""Reflow: pairs of a teacher's ODE, a student of straight lines between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.core import Batch, Variables, streams
from gm_jax.diffusion import samplers
from gm_jax.diffusion.paths import edm_path, flow_path
from gm_jax.errors import InputError
from gm_jax.models import reflow
from tests.diffusion.gaussian import MEAN, STD, denoiser
from tests.weights import drawn

NET = {"name": "mlp", "channels": 8, "depth": 1}
TEACHER = {"name": "flow_matching", "network": NET}
BATCH = Batch(jax.random.normal(jax.random.key(1), (6, 2)), None, jax.random.split(jax.random.key(0), 6))


def made(**settings):
    settings = {"name": "reflow", "teacher": TEACHER, "network": NET, "teacher_steps": 3, **settings}
    model = build_model(resolve({"model": settings, "precision": "float32"}), (2,), None)
    params, state = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    return model, Variables(drawn(params), jax.tree.map(lambda a: 1.1 * a, drawn(state)))


def loss_of(model, variables):
    return model.objectives[0].loss(*variables, None, BATCH, step=0, train=False)[0]


@pytest.mark.parametrize(("path", "atol"), [(flow_path(), 1e-3), (edm_path(), 5e-3)])
def test_pairs_are_those_of_the_flow(path, atol):
    """Which keeps standardised values, of Gaussian data."""
    eps = jnp.array([[-1.2], [0.3], [2.0]])
    found = reflow.pairing(path, "heun", 100)(denoiser(path), jax.random.split(jax.random.key(0), 3), eps)
    np.testing.assert_allclose(found, MEAN + STD * eps, atol=atol)


def test_the_teacher_is_never_trained_and_the_student_learns_of_it_alone():
    model, variables = made()
    gradients = jax.grad(lambda state: loss_of(model, variables._replace(state=state)))(variables.state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))
    data = model.objectives[0].loss(*variables, None, BATCH._replace(x=BATCH.x + 1), step=0, train=False)[0]
    assert data == loss_of(model, variables)
    other = jax.tree.map(lambda a: 0.5 * a, variables.state)
    assert abs(loss_of(model, variables._replace(state=other)) - data) > 1e-3


def test_distilled_it_learns_what_one_step_makes_of_the_teachers_noise():
    model, variables = made(distill=True)
    eps = samplers.normal(*streams(BATCH.keys, "noise"), (2,))
    teacher = build_model(resolve({"model": TEACHER, "precision": "float32"}), (2,), None)
    path, denoiser_of = teacher.diffusion
    x0 = reflow.pairing(path, "heun", 3)(denoiser_of(Variables(variables.state["teacher"])), BATCH.keys, eps)
    one_step = model.diffusion.denoiser(variables)(eps, jnp.float32(1.0))
    np.testing.assert_allclose(loss_of(model, variables), ((one_step - x0) ** 2).mean(), rtol=1e-4)


def test_bad_settings_are_one_line():
    with pytest.raises(InputError, match="teacher_sampler='ancestral' is none that follows an ODE; choose ddim"):
        made(teacher_sampler="ancestral")
    with pytest.raises(InputError, match="teacher.name=vae: reflow needs an unconditional model of noise"):
        made(teacher={"name": "vae", "network": {"name": "mlp"}})

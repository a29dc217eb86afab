"""Models that are guided by a part of their own: a classifier, or a worse model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from tests.weights import drawn

KEYS = jax.random.split(jax.random.key(0), 6)
LABELS = jnp.array([0, 1, 2, 0, 1, 2])
X = jax.random.normal(jax.random.key(1), (6, 2))
NET = {"name": "mlp", "channels": 8, "depth": 1}
EDM = {"name": "edm", "network": NET, "sigma_max": 10.0}
GUIDED = {"name": "guided", "diffusion": EDM, "classifier": NET}
AUTOGUIDED = {"name": "autoguided", "main": EDM, "weak": EDM}


def made(settings, num_classes=3):
    model = build_model(resolve({"model": settings, "precision": "float32"}), (2,), num_classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), Batch(X, LABELS, KEYS))
    return model, Variables(drawn(shapes.params), shapes.state)


@pytest.mark.parametrize("settings", [GUIDED, AUTOGUIDED], ids=["guided", "autoguided"])
def test_objectives_are_those_of_the_parts_and_move_no_other(settings):
    model, variables = made(settings)
    names = {"guided": ["edm", "classifier"], "autoguided": ["main", "weak"]}[settings["name"]]
    assert [objective.name for objective in model.objectives] == names
    for objective in model.objectives:
        loss = lambda params, o=objective: o.loss(params, variables.state, None, Batch(X, LABELS, KEYS), step=0, train=True)[0]  # noqa: E731
        gradients = jax.grad(loss)(variables.params)
        moved = [name for name, part in gradients.items() if any(leaf.any() for leaf in jax.tree.leaves(part))]
        assert moved == [objective.group.split("/")[0]]


@pytest.mark.parametrize(
    ("settings", "none", "labels"), [(GUIDED, 0.0, LABELS), (AUTOGUIDED, 1.0, None)], ids=["guided", "autoguided"]
)
def test_scales_give_different_samples_at_twice_the_cost_and_none_is_the_plain_model(settings, none, labels):
    model, variables = made(settings)
    sample = jax.jit(partial(model.sample, variables, KEYS, labels, steps=4), static_argnames="guidance_scale")
    plain, weaker, stronger = (sample(guidance_scale=scale) for scale in (none, none + 0.5, none + 3.0))
    build = partial(build_model, resolve({"model": EDM, "precision": "float32"}), (2,), None)
    main = "diffusion" if settings is GUIDED else "main"
    alone = build().sample(Variables(variables.params[main]), KEYS, steps=4)
    np.testing.assert_allclose(plain, alone, rtol=1e-4, atol=1e-5)
    assert jnp.abs(weaker - plain).max() > 1e-3 and jnp.abs(stronger - weaker).max() > 1e-3
    assert model.nfe(steps=4, guidance_scale=none) == 7 and model.nfe(steps=4, guidance_scale=none + 2) == 14
    assert model.nfe(steps=4, guidance_scale=none + 2, guidance_interval=(0.0, 0.01)) == 9  # twice, at sigma_min


def test_a_classifier_pushes_towards_its_label_and_no_label_is_not_guided():
    model, variables = made(GUIDED)
    x_t, t = 2 * X, jnp.float32(1.0)
    denoiser = lambda labels: model.diffusion.denoiser(variables, labels)(x_t, t)  # noqa: E731
    np.testing.assert_allclose(denoiser(jnp.full(6, -1)), denoiser(None), rtol=1e-6)
    each = jnp.stack([denoiser(jnp.full(6, label)) - denoiser(None) for label in range(3)])
    assert jnp.abs(each).max() > 1e-3  # their mean, weighted by the classes' probabilities, is 0


@pytest.mark.parametrize(
    ("settings", "num_classes", "reason"),
    [
        (GUIDED, None, "needs labels"),
        (GUIDED | {"diffusion": {"name": "classifier"}}, 3, "classifier is for images|unconditional model of noise"),
        (GUIDED | {"diffusion": EDM | {"class_conditional": True}}, 3, "unconditional model of noise"),
        (AUTOGUIDED | {"weak": EDM | {"class_conditional": True}}, 3, "both conditional or both not"),
        (AUTOGUIDED | {"weak": EDM | {"sigma_max": 5.0}}, 3, "on one path"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, num_classes, reason):
    with pytest.raises(InputError, match=reason):
        made(settings, num_classes)

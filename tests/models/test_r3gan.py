"""R3GAN: its two losses at pairs of known slopes, and what of it follows the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch
from gm_jax.errors import InputError
from gm_jax.models import r3gan

SHAPE, SMALL = (8, 8, 1), {"channels": 8, "groups": 2, "num_res_blocks": 1, "latent_dim": 4}
X = jax.random.uniform(jax.random.key(0), (6, *SHAPE), minval=-1)
BATCH = Batch(X, jnp.arange(6) % 3, jax.random.split(jax.random.key(1), 6))


def losses(model, step=0, batch=BATCH):
    variables = model.init(jax.random.key(2), batch)
    found = [objective.loss(*variables, None, batch, step=step, train=True) for objective in model.objectives]
    return [(float(value), {name: float(metric) for name, metric in metrics.items()}) for value, (_, metrics) in found]


def test_gamma_weighs_both_penalties_and_falls_along_half_a_cosine():
    without, _ = losses(r3gan.make(SHAPE, **SMALL, gamma=0.0))
    settings = {"gamma": 0.5, "end_gamma": 0.1, "ramp_steps": 100}
    for step, gamma in ((0, 0.5), (50, 0.3), (100, 0.1), (1000, 0.1)):
        with_penalty, _ = losses(r3gan.make(SHAPE, **SMALL, **settings), step)
        assert with_penalty[0] - without[0] == pytest.approx(gamma * with_penalty[1]["penalty"], rel=1e-3)


def test_augmentation_grows_in_the_same_steps():
    """At first what the critic sees is not altered; later it is."""
    plain, altered = (r3gan.make(SHAPE, **SMALL, gamma=0.0, augmentation=share, ramp_steps=10) for share in (0.0, 1.0))
    real = lambda model, step: losses(model, step)[0][1]["real"]  # noqa: E731
    assert real(altered, 0) == pytest.approx(real(plain, 0), rel=1e-4)
    assert real(altered, 10) != pytest.approx(real(plain, 10), rel=1e-3)


def test_the_losses_are_of_pairs():
    """Of a critic that gives all images the same score, both are log 2; and what one gains the other loses."""
    model = r3gan.make(SHAPE, **SMALL, gamma=0.0)
    params, state = model.init(jax.random.key(2), BATCH)
    flat = {**params, "critic": {**params["critic"], "score": jax.tree.map(jnp.zeros_like, params["critic"]["score"])}}
    for objective in model.objectives:
        assert float(objective.loss(flat, state, None, BATCH, step=0, train=True)[0]) == pytest.approx(np.log(2))
    critic, generator = losses(model)
    assert critic[0] > 0 and generator[0] > 0 and critic[0] != generator[0]


def test_pairs_are_of_one_class():
    model = r3gan.make(SHAPE, 3, **SMALL, class_conditional=True)
    one, other = (losses(model, batch=BATCH._replace(labels=labels)) for labels in (BATCH.labels, (BATCH.labels + 1) % 3))
    assert one[0][1]["fake"] != other[0][1]["fake"] and one[0][1]["real"] != other[0][1]["real"]


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [((12, 12, 1), {}, "resize"), ((2,), {}, "resize"), (SHAPE, {"groups": 3}, "groups=3"), (SHAPE, {"gamma": -1.0}, "gamma")],
)
def test_what_does_not_fit_is_one_line(shape, settings, words):
    with pytest.raises(InputError, match=words):
        model = r3gan.make(shape, **{**SMALL, **settings})
        model.init(jax.random.key(0), Batch(jnp.zeros((2, *shape)), None, BATCH.keys[:2]))

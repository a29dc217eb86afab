"""Labels reach every task of a conditional model, and its entries say so."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import DiagonalGaussian, Likelihood
from gm_jax.errors import InputError
from gm_jax.evaluation import pictures, tasks
from gm_jax.evaluation.cost import cost
from gm_jax.evaluation.latent import latent
from gm_jax.evaluation.likelihood import likelihood
from gm_jax.evaluation.reconstruction import reconstructions
from tests.evaluation.tiles import tiles_of

CLASSES = 5


def level(label):
    """The grey value of all pixels of a class."""
    return round((1 + label / 10) * 127.5)


@pytest.fixture
def labelled(context):
    """The toy, told the class in everything it does: samples and reconstructions are grey by class."""
    toy, y = context.model, np.arange(11, dtype=np.int32) % CLASSES

    def grey(labels, like):
        return jnp.broadcast_to(labels.reshape(-1, 1, 1, 1) / 10.0, like.shape)

    def trajectory(variables, keys, labels=None, *, frames, guidance_scale=1.0):
        x = toy.sample(variables, keys, labels) * guidance_scale
        return x * (jnp.arange(1, 5) / 4)[:, None, None, None, None]

    def posterior(variables, x, labels=None):
        mean = jnp.broadcast_to(labels[:, None] / 10.0, (len(x), 2))
        return DiagonalGaussian(mean, jnp.zeros_like(mean))

    def nats(variables, keys, images, labels=None):
        return jnp.full(len(images), 100.0) if labels is None else 1.0 * labels

    model = toy._replace(
        num_classes=CLASSES,
        sample=lambda *args, guidance_scale=1.0: toy.sample(*args) * guidance_scale,
        trajectory=trajectory,
        nfe=lambda guidance_scale=1.0: 12 if guidance_scale == 1.0 else 24,
        encode=lambda variables, keys, x, labels=None: posterior(variables, x, labels).mean,
        decode=lambda variables, keys, z, labels=None: grey(labels, jnp.zeros((len(z), 4, 4, 1))),
        posterior=posterior,
        likelihoods=(Likelihood("nll", "exact", nats), Likelihood("energy", "energy", nats)),
    )
    data = context.dataset._replace(y_train=np.arange(30, dtype=np.int32) % CLASSES, y_test=y, num_classes=CLASSES)
    return context._replace(model=model, dataset=data)


def test_the_grid_has_a_column_for_each_class(labelled):
    pictures.samples(labelled._replace(n=10))
    shown = tiles_of(labelled.out / "samples.png", 2, CLASSES)
    np.testing.assert_array_equal(shown[:, :, 0, 0], [[level(label) for label in range(CLASSES)]] * 2)
    pictures.samples(labelled._replace(n=4, labels=(3,)))  # of one class there is no column
    assert (tiles_of(labelled.out / "samples.png", 2, 2) == level(3)).all()


def test_denoising_ends_in_the_classes(labelled):
    pictures.denoising(labelled._replace(n=5))
    strip = tiles_of(labelled.out / "denoising.png", 5, 4)
    np.testing.assert_array_equal(strip[:, -1, 0, 0], [level(label) for label in range(CLASSES)])


def test_reconstruction_and_interpolation_are_told_the_class_of_the_image(labelled):
    reconstructions(labelled._replace(n=8))
    below = tiles_of(labelled.out / "reconstructions.png", 2, 8)[1]
    np.testing.assert_array_equal(below[:, 0, 0], [level(label) for label in labelled.real("test", 8)[1]])
    first, second, labels = pictures.pairs(labelled._replace(n=4))
    x, y = labelled.dataset.x_test, labelled.dataset.y_test
    for ends in (first, second):
        assert [int(y[(x == image).all((1, 2, 3))][0]) for image in ends] == labels.tolist()
    assert len(set(labels.tolist())) == 4
    pictures.interpolation(labelled._replace(n=4))
    shown = tiles_of(labelled.out / "interpolation.png", 4, 10)
    np.testing.assert_array_equal(shown[:, 5, 0, 0], [level(label) for label in labels])


def test_the_marginal_and_the_likelihood_given_the_label_never_share_a_name(labelled):
    marginal = likelihood(labelled._replace(n=10))
    assert marginal["nll_nats"]["value"] == 100 and set(marginal) == {"nll_nats", "nll_bits_per_dim", "energy_nats"}
    given = likelihood(labelled._replace(n=10, likelihood_options={"given_labels": True}))
    assert given["nll_given_label_nats"]["value"] == pytest.approx(2.0) and not set(given) & set(marginal)


def test_given_labels_are_for_conditional_models(context):
    with pytest.raises(InputError, match="given_labels: toy is unconditional"):
        likelihood(context._replace(likelihood_options={"given_labels": True}))


def test_the_latent_is_that_of_the_images_own_class(labelled):
    units = latent(labelled._replace(n=30))["active_units"]
    assert units["value"] == 2  # the mean tells the class: without labels it would not vary


def test_cost_and_provenance_are_of_what_was_drawn(labelled):
    guided = labelled._replace(options={"guidance_scale": 2.0}, labels=(1, 2), n=4)
    assert cost(guided)["cost_nfe"]["value"] == 24
    origin = tasks.evaluate(["samples"], guided)["pictures"]["samples.png"]
    assert origin["sampling"] == {"guidance_scale": 2.0, "labels": [1, 2]} and origin["nfe"] == 24
    assert {round(value) for value in np.unique(tiles_of(labelled.out / "samples.png", 2, 2))} == {level(2), level(4)}  # twice


def test_classes_that_the_model_has_not_are_refused_before_any_work(labelled, context):
    with pytest.raises(InputError, match="knows the classes 0 to 4"):
        tasks.evaluate(["samples"], labelled._replace(labels=(5,)))
    with pytest.raises(InputError, match="unconditional"):
        tasks.evaluate(["samples"], context._replace(labels=(1,)))

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gm_jax import images
from gm_jax.errors import InputError
from gm_jax.evaluation import pictures
from gm_jax.evaluation.completion import completion
from gm_jax.evaluation.draw import draw_samples
from gm_jax.evaluation.likelihood import likelihood
from gm_jax.evaluation.results import mean_and_stderr
from tests.evaluation.tiles import tiles_of


def test_samples_picture_shows_the_samples_by_index(context):
    assert pictures.samples(context._replace(n=5)) == {"pictures": ["samples.png"]}
    shown = tiles_of(context.out / "samples.png", 2, 3).reshape(6, 4, 4)
    np.testing.assert_array_equal(shown[:5], draw_samples(context.model, context.variables, 5, batch_size=4)[..., 0])
    assert (shown[5] == 255).all()


def test_interpolation_is_linear_in_the_latent_between_the_images(context):
    pictures.interpolation(context._replace(n=2))
    shown = tiles_of(context.out / "interpolation.png", 2, 10).astype(int)
    x, _ = context.real("test", 4)
    np.testing.assert_array_equal(shown[:, 0], x[[0, 2], ..., 0])
    np.testing.assert_array_equal(shown[:, 9], x[[1, 3], ..., 0])
    ends = images.to_float(x[:4]).astype(np.float64)[:, :2, :, 0]  # the half that is encoded
    for i, weight in enumerate(np.linspace(0, 1, 8)):
        expected = ((1 - weight) * ends[0::2] + weight * ends[1::2] + 1) * 127.5
        assert np.abs(shown[:, 1 + i, :2] - expected).max() <= 0.501


def test_denoising_ends_in_the_samples_and_moves(context):
    entries = pictures.denoising(context._replace(n=3))
    assert entries == {"pictures": ["denoising.png", "denoising.gif"]}
    strip = tiles_of(context.out / "denoising.png", 3, 10)
    np.testing.assert_array_equal(strip[:, -1], draw_samples(context.model, context.variables, 3)[..., 0])
    distance = np.abs(strip.astype(float) - 127.5).mean((0, 2, 3))  # the toy's path leaves grey steadily
    assert (np.diff(distance) > 0).all()
    with Image.open(context.out / "denoising.gif") as gif:
        assert gif.n_frames == 12  # the toy's 12 steps leave no more to show
        gif.seek(11)
        assert gif.info["duration"] == 1500


def test_completions_keep_the_upper_half_and_are_drawn_each_by_a_key_of_its_own(context):
    assert completion(context._replace(n=3)) == {"pictures": ["completion.png"]}
    shown, (x, _) = tiles_of(context.out / "completion.png", 3, 10), context.real("test", 3)
    np.testing.assert_array_equal(shown[:, 0], x[..., 0])
    for column in range(1, 10):
        np.testing.assert_array_equal(shown[:, column, :2], x[:, :2, :, 0])
    assert (shown[:, 1, 2:] == 255).all()
    lower = shown[:, 2:, 2:].reshape(24, -1)
    assert len(np.unique(lower, axis=0)) == 24


def test_discrete_latents_are_told_apart(context):
    codes = context.model._replace(posterior=None, encode=lambda variables, keys, x, labels: jnp.zeros((len(x), 4), jnp.int32))
    assert pictures.latent_is_continuous(context)
    assert not pictures.latent_is_continuous(context._replace(model=codes))


def test_likelihood_means_are_those_of_numpy(context):
    entries = likelihood(context._replace(n=10))
    nats = context.real("test", 10)[0].astype(np.float64).sum((1, 2, 3)) / 100
    for name, factor, kind in (("elbo", 1, "bound"), ("twice", 2, "exact")):
        for unit, scale in (("nats", 1), ("bits_per_dim", 1 / (16 * np.log(2)))):
            entry = entries[f"{name}_{unit}"]
            assert entry["value"] == pytest.approx(factor * scale * nats.mean(), rel=1e-5)
            assert entry["stderr"] == pytest.approx(factor * scale * nats.std(ddof=1) / np.sqrt(10), rel=1e-4)
            assert (entry["kind"], entry["n"], entry["split"]) == (kind, 10, "test")


def test_standard_error_of_one_value_is_unknown():
    assert mean_and_stderr(np.array([3.0])) == {"value": 3.0, "stderr": None}


def test_slow_likelihoods_are_computed_where_there_is_no_other_or_when_they_are_named(context):
    elbo, twice = context.model.likelihoods
    slow = context._replace(n=2, model=context.model._replace(likelihoods=(elbo, twice._replace(slow=True))))
    assert not any(name.startswith("twice") for name in likelihood(slow))
    assert {name[:5] for name in likelihood(slow._replace(likelihood_options={"names": "twice"}))} == {"twice"}
    assert {name[:5] for name in likelihood(slow._replace(likelihood_options={"names": ("elbo", "twice")}))} == {
        "elbo_",
        "twice",
    }
    alone = slow._replace(model=slow.model._replace(likelihoods=slow.model.likelihoods[1:]))
    assert {name[:5] for name in likelihood(alone)} == {"twice"}


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"scale": 0}, "scale is 0"),
        ({"scale": "no"}, "scale is 'no'"),
        ({"k": 1}, "no likelihood option 'k'"),
        ({"names": "x"}, "no likelihood 'x'; it has elbo, twice"),
    ],
)
def test_options_of_likelihoods_that_make_no_sense_are_refused(context, options, reason):
    with pytest.raises(InputError, match=reason):
        likelihood(context._replace(n=2, likelihood_options=options))

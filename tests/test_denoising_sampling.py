"""How models of noise sample: labels, guidance, options and the grids that they choose; with networks that are formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.conditioning import draw_labels
from gm_jax.core import Likelihood, streams
from gm_jax.diffusion.guidance import classifier_free
from gm_jax.diffusion.paths import like
from gm_jax.errors import InputError
from gm_jax.models import ddpm, ncsn
from tests.formulas import CENTRES, CLASSES, KEYS, LABELS, SHAPE, X, centre_of_condition, model_of, network, variables_of


def conditional(label_dropout=0.1, **options):
    model = model_of(centre_of_condition, num_classes=CLASSES, label_dropout=label_dropout, **options)
    return model, jax.jit(partial(model.sample, variables_of(model)), static_argnames="guidance_scale")


def test_a_sample_is_of_its_label_or_of_the_marginal_where_dropout_has_taught_that():
    _, sample = conditional()
    np.testing.assert_allclose(sample(KEYS, LABELS)[:, 0, 0, 0], CENTRES[LABELS], atol=1e-5)
    np.testing.assert_allclose(sample(KEYS), 0, atol=1e-5)


def test_guidance_exaggerates_the_label_and_costs_twice():
    model, sample = conditional()
    np.testing.assert_allclose(sample(KEYS, LABELS, guidance_scale=2.0)[:, 0, 0, 0], 2 * CENTRES[LABELS], atol=1e-5)
    assert (model.nfe(), model.nfe(guidance_scale=1.0), model.nfe(guidance_scale=2.0)) == (3, 3, 6)
    assert model.nfe(guidance_scale=3.0, sampler="heun", steps=4) == 14


def test_guidance_in_an_interval_of_noise_acts_there_alone_and_costs_there_alone():
    """Of the three steps, at sigma = 80, 8 and 0.8, the middle one is guided. The last one decides what comes out."""
    model, _ = conditional()
    sample = partial(model.sample, variables_of(model), KEYS, LABELS, times=(8.0, 0.8), guidance_scale=2.0)
    for interval, cost, factor in (((1.0, 10.0), 4, 1), ((0.1, 1.0), 4, 2), ((0.0, 1e9), 6, 2), ((9.0, 10.0), 3, 1)):
        x = jax.jit(partial(sample, guidance_interval=interval))()
        np.testing.assert_allclose(x[:, 0, 0, 0], factor * CENTRES[LABELS], atol=1e-5)
        assert model.nfe(times=(8.0, 0.8), guidance_scale=2.0, guidance_interval=interval) == cost
    assert model.nfe(sampler="heun", times=(8.0, 0.8), guidance_scale=2.0, guidance_interval=(1.0, 10.0)) == 5 + 2


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_interval": (0.1, 1.0)},
        {"guidance_interval": (0.1,), "guidance_scale": 2.0},
        {"guidance_interval": (2.0, 1.0), "guidance_scale": 2.0},
        {"guidance_interval": (-1.0, 1.0), "guidance_scale": 2.0},
    ],
)
def test_an_interval_that_is_none_is_refused(options):
    with pytest.raises(InputError, match="guidance_interval"):
        conditional()[0].nfe(**options)


@pytest.mark.parametrize(("dropout", "scale"), [(0.0, 1.0), (0.1, 1.5)])
def test_labels_that_are_needed_and_not_given_are_drawn(dropout, scale):
    _, sample = conditional(dropout)
    drawn = draw_labels(*streams(KEYS, "labels"), CLASSES)
    np.testing.assert_allclose(sample(KEYS, guidance_scale=scale)[:, 0, 0, 0], scale * CENTRES[drawn], atol=1e-5)
    assert stats.chisquare(np.bincount(drawn)).pvalue > 1e-3


@pytest.mark.parametrize("options", [{"label_dropout": 0.0, "num_classes": 3}, {"label_dropout": 0.1}])
def test_guidance_needs_labels_and_their_absence_in_training(options):
    model = model_of(centre_of_condition, **options)
    for call in (model.nfe, partial(model.sample, variables_of(model), KEYS)):
        with pytest.raises(InputError, match="guidance_scale=2.0 needs a conditional model .* label_dropout"):
            call(guidance_scale=2.0)


@pytest.mark.parametrize(("shape", "largest"), [((2, 2, 1), 1.0), ((2,), 1.6)])
def test_x0_is_clipped_in_images_after_guidance_and_never_in_points(shape, largest):
    _, sample = conditional(clip_x0=True, shape=shape)
    assert jnp.abs(sample(KEYS, LABELS, guidance_scale=2.0)).max() == pytest.approx(largest, abs=1e-5)


def test_options_of_none_are_the_models_own_and_unknown_ones_are_refused_by_its_name():
    model, _ = conditional()
    assert model.nfe(steps=None, spacing=None, sampler=None) == 3
    for call in (model.nfe, partial(model.sample, variables_of(model), KEYS), partial(model.trajectory, {}, KEYS, frames=2)):
        with pytest.raises(InputError, match="sampling toy: no option 'step' with sampler 'ddim'"):
            call(step=3)


def test_likelihoods_are_given_the_denoiser_that_samples_are_drawn_with():
    x_t = jnp.zeros((2, 2, 2, 1))

    def likelihoods(estimate):
        fn = lambda variables, keys, images, labels=None: estimate(variables, keys, labels)(x_t, 1.0)[:, 0, 0, 0]  # noqa: E731
        return (Likelihood("x", "bound", fn),)

    model = model_of(lambda *args: 4 * centre_of_condition(*args), num_classes=CLASSES, clip_x0=True, likelihoods=likelihoods)
    likelihood, _ = model.likelihoods
    np.testing.assert_allclose(likelihood.fn(variables_of(model), KEYS[:2], None, jnp.array([0, 1])), [-1, 0.4], rtol=1e-6)
    drawn = draw_labels(*streams(KEYS[:2], "labels"), CLASSES)
    found = likelihood.fn(variables_of(model), KEYS[:2], None)
    np.testing.assert_allclose(found, jnp.clip(4 * CENTRES[drawn], -1, 1), rtol=1e-6)


def test_the_models_denoiser_can_be_guided_by_hand():
    """Outside `jit` as inside: there the label -1 means "no label", as `classifier_free` has it."""
    model, _ = conditional()
    denoiser_of = partial(model.diffusion.denoiser, variables_of(model))
    guided = lambda x: classifier_free(denoiser_of, LABELS[:3], 2.0)(x, 1.0)  # noqa: E731
    np.testing.assert_allclose(jax.jit(guided)(X[:3])[:, 0, 0, 0], 2 * CENTRES[LABELS[:3]], rtol=1e-5)
    np.testing.assert_allclose(guided(X[:3]), jax.jit(guided)(X[:3]), rtol=1e-5)


# --- default grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spacing", "first"), [("nodes", 80), ("ddim_uniform", 41)])
def test_sampling_starts_from_the_noise_of_the_first_time_of_its_grid(spacing, first):
    """Which a network that takes what it sees for the image lets through to the end."""
    model = model_of(lambda x, *rest: x)
    x = model.sample(variables_of(model), KEYS, steps=2, spacing=spacing)
    assert abs(x.std() / first - 1) < 4 / (2 * x.size) ** 0.5


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("make", [ddpm.make, partial(ncsn.make, sigma_max=50.0, sigma_min=0.02, levels=200)])
def test_ode_solvers_leave_no_noise_on_data_of_a_single_point(make, sampler, monkeypatch):
    """On their default grid, and on the nodes."""
    point, path = 0.3, make(SHAPE).diffusion.path

    def answer(x, t, *rest):  # told the index t - 1: eps, or the score, of that point
        t = t + 1
        eps = (x - like(path.alpha(t), x) * point) / like(path.sigma(t), x)
        return eps if make is ddpm.make else -eps / like(path.sigma(t), x)

    for module in (ddpm, ncsn):
        monkeypatch.setattr(module, "backbone", lambda *args, **kwargs: network(answer))
    model = make(SHAPE)
    for spacing in (None, "nodes"):
        end = model.sample(variables_of(model), KEYS[:8], sampler=sampler, steps=50, spacing=spacing)
        np.testing.assert_allclose(end, point, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 10.0}, "steps is 10.0; give a whole number"),
        ({"steps": "ten"}, "steps is 'ten'"),
        ({"sampler": "ddim", "eta": "no"}, "eta is 'no'; give a number"),
        ({"guidance_scale": "strong"}, "guidance_scale is 'strong'"),
    ],
)
def test_options_of_another_type_are_one_clear_line(options, reason):
    with pytest.raises(InputError, match=reason):
        conditional()[0].nfe(**options)


def test_words_are_no_switches():
    """Else "no" would count as true."""
    model = ncsn.make((4, 4, 1), levels=3, network={"name": "unet", "channels": 8, "channel_multipliers": (1,)})
    with pytest.raises(InputError, match="denoise is 'no'; give true or false"):
        model.nfe(denoise="no")
    assert model.nfe(denoise=True) == model.nfe() + 1

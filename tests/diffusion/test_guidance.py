import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import conditioning
from gm_jax.diffusion import guidance
from gm_jax.diffusion.guidance import classifier_free
from tests.diffusion import gaussian
from tests.diffusion.gaussian import PATHS

LABELS = jnp.array([0, 3, 1])
X, T = np.float32(np.random.default_rng(0).normal(size=(3, 2, 2, 1))), jnp.array([0.2, 0.5, 0.9])


def denoiser_of(labels):
    """One whose answer depends on the label, on the image and on its time."""
    shift = 0.0 if labels is None else jnp.reshape(labels, (-1, 1, 1, 1))
    return lambda x_t, t: jnp.tanh(x_t + shift) * jnp.reshape(t, (-1, 1, 1, 1))


def test_a_scale_of_1_and_no_labels_are_the_denoiser_itself():
    asked = []
    known = lambda x_t, t: x_t  # noqa: E731
    of = lambda labels: asked.append(labels) or known  # noqa: E731
    assert classifier_free(of, LABELS, 1.0) is known
    assert classifier_free(of, None, 3.0) is known
    assert asked[0] is LABELS and asked[1] is None


def test_the_scale_moves_from_no_label_through_the_label_and_beyond():
    with_label, without = denoiser_of(LABELS)(X, T), denoiser_of(jnp.full(3, -1))(X, T)
    for scale in (0.0, 0.5, 2.0):
        guided = classifier_free(denoiser_of, LABELS, scale)(X, T)
        np.testing.assert_allclose(guided, (1 - scale) * without + scale * with_label, rtol=1e-5, atol=1e-6)


def test_both_answers_come_from_one_call_on_twice_the_images():
    calls = []

    def of(labels):
        def denoiser(x_t, t):
            calls.append((labels, x_t, t))
            return x_t

        return denoiser

    classifier_free(of, LABELS, 2.0)(X, T)
    ((labels, x_t, t),) = calls
    np.testing.assert_array_equal(labels, [0, 3, 1, -1, -1, -1])
    np.testing.assert_array_equal(x_t, np.concatenate([X, X]))
    np.testing.assert_array_equal(t, np.concatenate([T, T]))


def test_one_time_for_all_images_will_do():
    guided = jax.jit(classifier_free(denoiser_of, LABELS, 2.0))
    np.testing.assert_allclose(guided(X, jnp.float32(0.4)), guided(X, jnp.full(3, 0.4)), rtol=1e-6)


def test_autoguidance_goes_from_the_worse_denoiser_through_the_better_one_and_beyond():
    good, bad = denoiser_of(LABELS), denoiser_of(None)
    for scale in (0.0, 0.5, 3.0):
        found = guidance.autoguidance(good, bad, scale)(X, T)
        np.testing.assert_allclose(found, bad(X, T) + scale * (good(X, T) - bad(X, T)), rtol=1e-5, atol=1e-6)
    assert guidance.autoguidance(good, bad, 1.0) is good


@pytest.mark.parametrize("name", ["edm", "linear", "flow"])
def test_a_classifier_turns_the_denoiser_of_a_mixture_into_that_of_the_class(name):
    """Two classes, N(-1, STD^2) and N(1, STD^2) with equal weights: at scale 1 Bayes' rule is exact."""
    path, x = PATHS[name], jnp.linspace(-2, 2, 7)[:, None]
    t = jnp.asarray(0.4 * path.t_max if name != "edm" else 0.7)
    of_class = [gaussian.denoiser(path, mean) for mean in (-1.0, 1.0)]

    def log_prob(x_t, t, label=1):
        std = gaussian.marginal(path, t)[1]
        logits = [-(((x_t - path.alpha(t) * mean) / std) ** 2).sum(1) / 2 for mean in (-1.0, 1.0)]
        return jax.nn.log_softmax(jnp.stack(logits), axis=0)[label]

    weights = [jnp.exp(log_prob(x, t, label))[:, None] for label in (0, 1)]
    mixture = lambda x_t, t: sum(w * d(x_t, t) for w, d in zip(weights, of_class, strict=True))  # noqa: E731
    guided = guidance.classifier(path, mixture, log_prob, 1.0)
    np.testing.assert_allclose(guided(x, t), of_class[1](x, t), rtol=1e-4, atol=1e-5)
    assert guidance.classifier(path, mixture, log_prob, 0.0) is mixture


def test_outside_its_interval_of_noise_a_denoiser_is_the_plain_one():
    path = PATHS["edm"]
    inside = guidance.noise_interval(path, 0.3, 0.6)
    guided, plain = classifier_free(denoiser_of, LABELS, 2.0, inside)(X, T), denoiser_of(LABELS)(X, T)
    np.testing.assert_array_equal(guided[jnp.array([0, 2])], plain[jnp.array([0, 2])])
    assert jnp.abs(guided[1] - plain[1]).max() > 1e-3
    np.testing.assert_array_equal(inside(jnp.array([0.3, 0.31, 0.6, 0.61])), [False, True, True, False])
    for limits in ((0.5, 0.5), (-0.1, 1.0)):
        with pytest.raises(ValueError, match="low < high"):
            guidance.noise_interval(path, *limits)


def test_no_label_is_the_same_number_as_in_training():
    assert guidance.NO_LABEL == conditioning.NO_LABEL == -1
    assert not conditioning.one_hot(jnp.array([guidance.NO_LABEL]), 1, 4).any()

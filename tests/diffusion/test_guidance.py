import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import conditioning
from gm_jax.diffusion import guidance
from gm_jax.diffusion.guidance import classifier_free

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


def test_no_label_is_the_same_number_as_in_training():
    assert guidance.NO_LABEL == conditioning.NO_LABEL == -1
    assert not conditioning.one_hot(jnp.array([guidance.NO_LABEL]), 1, 4).any()

"""Adversarial losses and penalties against what their papers prove of them, on two Gaussians, lines and parabolas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.adversarial import LOSSES, SMOOTHED, adversarial_loss, gradient_penalty, r1, squared_slope
from gm_jax.errors import InputError
from tests.x64 import x64

# data N(0, 1), generated N(1.5, 1), on a grid on which sums are integrals
GRID, STEP = np.linspace(-12, 14, 26001, retstep=True)
DATA, GENERATED = (np.exp(-((GRID - mean) ** 2) / 2) / np.sqrt(2 * np.pi) for mean in (0, 1.5))
LOG_RATIO = -1.5 * GRID + 1.5**2 / 2  # log data / generated


def value(name, scores, real_target=1.0):
    """The critic's loss in expectation. Each loss of a critic but the relativistic one is a sum of one of each kind."""
    loss, zero = adversarial_loss(name, real_target).critic, np.zeros(1)
    of_both = loss(scores, scores)
    of_fake = loss(zero, scores) - loss(zero, zero)
    return (DATA * (of_both - of_fake) + GENERATED * of_fake).sum() * STEP


def best_scores(name):
    share = 1 / (1 + np.exp(-LOG_RATIO))  # of data
    return {"least_squares": share, "hinge": np.sign(LOG_RATIO)}.get(name, LOG_RATIO)


def divergence(name):
    mixture = (DATA + GENERATED) / 2
    jensen_shannon = sum((p * np.log(p / mixture)).sum() / 2 for p in (DATA, GENERATED)) * STEP
    total_variation = np.abs(DATA - GENERATED).sum() / 2 * STEP
    harmonic = (DATA * GENERATED / (DATA + GENERATED)).sum() / 2 * STEP
    return {"least_squares": harmonic, "hinge": 2 - 2 * total_variation}.get(name, np.log(4) - 2 * jensen_shannon)


OPTIMA = ("minimax", "non_saturating", "least_squares", "hinge")


@pytest.mark.parametrize("name", OPTIMA)
def test_the_best_critic_has_the_divergence_of_theory(name):
    with x64():
        np.testing.assert_allclose(value(name, best_scores(name)), divergence(name), rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMA)
def test_no_other_critic_is_better(name):
    best = best_scores(name)
    with x64():
        for change in (np.sin(GRID), np.cos(3 * GRID), np.exp(-(GRID**2)), np.ones_like(GRID)):
            for size in (-0.5, -0.05, 0.05, 0.5):
                assert value(name, best + size * change) > value(name, best)


def test_a_critic_that_cannot_tell_has_log_4():
    loss, zeros = LOSSES["minimax"].critic, jnp.zeros(3)
    np.testing.assert_allclose(loss(zeros, zeros), np.log(4), rtol=1e-6)


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_labels_scale_the_best_answer(name):
    """The best probability is t data / (data + generated), that of least squares too (Goodfellow 2016, section 4.2)."""
    target = 0.9
    probability = target * DATA / (DATA + GENERATED)
    scores = probability if name == "least_squares" else np.log(probability) - np.log1p(-probability)
    with x64():
        best = value(name, scores, target)
        for change in (np.sin(GRID), np.ones_like(GRID)):
            assert min(value(name, scores + size * change, target) for size in (-0.1, 0.1)) > best
        assert value(name, best_scores(name), target) > best


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("minimax", lambda fake: -jax.nn.sigmoid(fake)),
        ("non_saturating", lambda fake: jax.nn.sigmoid(fake) - 1),
        ("least_squares", lambda fake: fake - 1),
        ("hinge", lambda fake: -jnp.ones_like(fake)),
        ("wasserstein", lambda fake: -jnp.ones_like(fake)),
        ("relativistic", lambda fake: jax.nn.sigmoid(fake - 2) - 1),
    ],
)
def test_what_the_generator_feels_of_a_score(name, slope):
    fake, real = jnp.array([-30.0, -1.0, 0.0, 4.0]), jnp.full(4, 2.0)
    found = jax.grad(lambda fake: LOSSES[name].generator(real, fake).sum())(fake)
    np.testing.assert_allclose(found, slope(fake), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("player", ["critic", "generator"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences_and_of_each_example(name, player):
    rng = np.random.default_rng(0)
    with x64():
        real, fake = jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=5))
        loss = getattr(LOSSES[name], player)
        assert loss(real, fake).shape == (5,)
        np.testing.assert_allclose(loss(real[2:3], fake[2:3]), loss(real, fake)[2:3])
        for i, scores in enumerate((real, fake)):
            arguments = lambda s, i=i: (s, fake) if i == 0 else (real, s)  # noqa: E731
            found = jax.grad(lambda s, f=arguments: loss(*f(s)).sum())(scores)
            wanted = (loss(*arguments(scores + 1e-6)) - loss(*arguments(scores - 1e-6))) / 2e-6
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_only_differences_of_scores_matter_to_the_relativistic_loss():
    real, fake = jnp.array([0.3, -1.0]), jnp.array([2.0, 0.5])
    for player in LOSSES["relativistic"]:
        np.testing.assert_allclose(player(real + 7, fake + 7), player(real, fake), rtol=1e-5)
    for one, other in ((real, fake), (fake, real)):
        np.testing.assert_allclose(LOSSES["relativistic"].critic(one, other), LOSSES["relativistic"].generator(other, one))


def test_wrong_names_and_targets_are_one_line():
    with pytest.raises(InputError, match="unknown adversarial loss .hinge_.; choose minimax"):
        adversarial_loss("hinge_")
    with pytest.raises(InputError, match="no meaning for the loss hinge"):
        adversarial_loss("hinge", 0.9)
    with pytest.raises(InputError, match="no probability"):
        adversarial_loss("minimax", 1.1)


# --- penalties ----------------------------------------------------------------------------------------------------------------

KEYS = jax.random.split(jax.random.key(0), 6)
REAL, FAKE = jax.random.normal(jax.random.key(1), (2, 6, 4, 3))
LINE = jax.random.normal(jax.random.key(2), (4, 3))


def line(x):
    return (LINE * x).sum((1, 2))


def parabola(x):
    return 0.5 * (x**2).sum((1, 2))


def norm(x):
    return jnp.sqrt((x**2).sum((1, 2)))


def test_penalties_of_a_linear_critic():
    squared = float((LINE**2).sum())
    np.testing.assert_allclose(gradient_penalty(line, REAL, FAKE, KEYS), np.full(6, (squared**0.5 - 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(r1(line, REAL), np.full(6, squared / 2), rtol=1e-5)


def test_the_slope_is_taken_at_each_example():
    np.testing.assert_allclose(squared_slope(parabola, REAL), norm(REAL) ** 2, rtol=1e-5)
    np.testing.assert_allclose(gradient_penalty(parabola, REAL, REAL, KEYS), (norm(REAL) - 1) ** 2, rtol=1e-4, atol=1e-6)


def test_the_penalty_looks_uniformly_between_real_and_generated():
    n = 4000
    real, fake = jnp.full((n, 1, 1), 3.0), jnp.full((n, 1, 1), 1.0)
    slopes = 1 + jnp.sqrt(gradient_penalty(parabola, real, fake, jax.random.split(jax.random.key(3), n)))
    np.testing.assert_allclose(np.quantile(slopes, [0, 0.25, 0.5, 0.75, 1]), [1, 1.5, 2, 2.5, 3], atol=0.05)


def test_its_optimum_in_one_dimension_is_beyond_the_wasserstein_distance():
    """Shift 2, weight 10: of the critic a x the loss is -2 a + 10 (a - 1)^2, least at a = 1.1, where scores differ by 2.2."""
    fake = jnp.linspace(-1, 1, 6)[:, None]
    real = fake + 2
    critic = lambda a: lambda x: a * x[:, 0]  # noqa: E731

    def loss(a):
        scores = LOSSES["wasserstein"].critic(critic(a)(real), critic(a)(fake))
        return (scores + 10 * gradient_penalty(critic(a), real, fake, KEYS)).mean()

    slope = jax.lax.fori_loop(0, 200, lambda _, a: a - 0.02 * jax.grad(loss)(a), jnp.array(0.3))
    np.testing.assert_allclose(slope, 1.1, rtol=1e-5)
    np.testing.assert_allclose((critic(slope)(real) - critic(slope)(fake)).mean(), 2.2, rtol=1e-5)


@pytest.mark.parametrize(
    "penalty",
    [lambda critic, real, fake: gradient_penalty(critic, real, fake, KEYS), lambda critic, real, _: r1(critic, real)],
    ids=["gradient_penalty", "r1"],
)
def test_gradients_through_a_penalty_are_finite_differences(penalty):
    with x64():
        real, fake, weights = (jnp.asarray(a, jnp.float64) for a in (REAL, FAKE, LINE))

        def loss(weights):
            return penalty(lambda x: jnp.tanh((weights * x).sum((1, 2))), real, fake).sum()

        found = jax.grad(loss)(weights)
        for i, j in ((0, 0), (1, 2), (3, 1)):
            moved = jnp.zeros_like(weights).at[i, j].set(1e-5)
            np.testing.assert_allclose(found[i, j], (loss(weights + moved) - loss(weights - moved)) / 2e-5, rtol=1e-5)


def test_a_flat_critic_has_a_finite_gradient():
    loss = lambda a: gradient_penalty(lambda x: a * x.sum((1, 2)), REAL, FAKE, KEYS).sum()  # noqa: E731
    value, slope = jax.value_and_grad(loss)(0.0)
    assert value == 6
    assert np.isfinite(slope)

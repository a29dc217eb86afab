"""What the players of generative adversarial networks minimise: losses and penalties, as functions of scores.

A critic gives each image a score [batch], a real number that grows with how real the image looks; where papers have a
probability D(x), the score is its logit. Every function here gives one number an example, of which a training loss is the mean.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softplus
from jaxtyping import Array, Float

from gm_jax.core import Key
from gm_jax.errors import InputError, choose

Scores = Float[Array, " batch"]
Critic = Callable[[Float[Array, "batch *dims"]], Scores]


class AdversarialLoss(NamedTuple):
    """What each player minimises, example by example: (scores of real data, scores of generated data) -> [batch].

    Only `relativistic` has a generator that looks at the real ones. `lead` says how far the critic is ahead of the generator in
    a batch, on the loss's own scale: 0 where it cannot tell generated from real data, 1 where it is never in doubt.
    """

    critic: Callable[[Scores, Scores], Scores]
    generator: Callable[[Scores, Scores], Scores]
    lead: Callable[[Scores, Scores], Float[Array, ""]]


def adversarial_loss(name: str, real_target: float = 1.0) -> AdversarialLoss:
    """One of `LOSSES`. `real_target` below 1 smooths the labels of real data alone (Salimans et al. 2016, section 3.4).

    Raises InputError for an unknown name, and for a target that the loss has not or that lies outside (0, 1].
    """
    loss = choose(LOSSES, name, "adversarial loss")
    if real_target == 1:
        return loss
    if name not in SMOOTHED:
        known = ", ".join(SMOOTHED)
        raise InputError(f"real_target={real_target} has no meaning for the loss {name}; leave it at 1 or take {known}")
    if not 0 < real_target < 1:
        raise InputError(f"real_target={real_target} is no probability above 0; take 0.9")
    return loss._replace(critic=partial(SMOOTHED[name], real_target=real_target))


# --- losses -------------------------------------------------------------------------------------------------------------------


def cross_entropy(real: Scores, fake: Scores, real_target: float = 1.0) -> Scores:
    """-t log D(x) - (1 - t) log(1 - D(x)) - log(1 - D(G(z))), with D = sigmoid(score) and t the target of real data.

    Its minimum over all critics is log 4 - 2 JS(data, generated) in nats, at t = 1 (Goodfellow et al. 2014, theorem 1).
    """
    return real_target * softplus(-real) + (1 - real_target) * softplus(real) + softplus(fake)


def saturating(real: Scores, fake: Scores) -> Scores:
    """log(1 - D(G(z))): the generator's side of the game of Goodfellow et al. 2014, eq. 1. Flat where the critic is sure."""
    return -softplus(fake)


def non_saturating(real: Scores, fake: Scores) -> Scores:
    """-log D(G(z)) (Goodfellow et al. 2014, section 3)."""
    return softplus(-fake)


def least_squares(real: Scores, fake: Scores, real_target: float = 1.0) -> Scores:
    """1/2 (D(x) - 1)^2 + 1/2 D(G(z))^2, with D the score itself (Mao et al. 2017, eq. 9)."""
    return 0.5 * (real - real_target) ** 2 + 0.5 * fake**2


def least_squares_generator(real: Scores, fake: Scores) -> Scores:
    """1/2 (D(G(z)) - 1)^2 (Mao et al. 2017, eq. 9)."""
    return 0.5 * (fake - 1) ** 2


def hinge(real: Scores, fake: Scores) -> Scores:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018, eq. 16).

    Its minimum over all critics is 2 - 2 TV(data, generated).
    """
    return relu(1 - real) + relu(1 + fake)


def wasserstein(real: Scores, fake: Scores) -> Scores:
    """D(G(z)) - D(x), minus the distance between both as a Lipschitz critic sees it (Arjovsky et al. 2017, eq. 3)."""
    return fake - real


def minus_score(real: Scores, fake: Scores) -> Scores:
    """-D(G(z)), of the hinge and the Wasserstein loss."""
    return -fake


def relativistic(real: Scores, fake: Scores) -> Scores:
    """-log sigmoid(D(x) - D(G(z))), of pairs (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2)."""
    return softplus(fake - real)


def relativistic_generator(real: Scores, fake: Scores) -> Scores:
    """The same with both in each other's place."""
    return softplus(real - fake)


def lead_of_probabilities(real: Scores, fake: Scores) -> Float[Array, ""]:
    """Mean of D(x) less mean of D(G(z))."""
    return sigmoid(real).mean() - sigmoid(fake).mean()


def lead_of_targets(real: Scores, fake: Scores) -> Float[Array, ""]:
    """The same for scores whose targets are 1 and 0."""
    return real.mean() - fake.mean()


def lead_of_margins(real: Scores, fake: Scores) -> Float[Array, ""]:
    """1 where every score is beyond its margin, +1 for real and -1 for generated data."""
    return (jnp.clip(real, -1, 1).mean() - jnp.clip(fake, -1, 1).mean()) / 2


def lead_of_scores(real: Scores, fake: Scores) -> Float[Array, ""]:
    """For scores without a scale: the correlation of a score with being real, 1 where each kind has one score of its own."""
    spread = jnp.sqrt(jnp.concatenate([real, fake]).var() + 1e-12)
    return (real.mean() - fake.mean()) / (2 * spread)


def lead_of_pairs(real: Scores, fake: Scores) -> Float[Array, ""]:
    """2 sigmoid(D(x) - D(G(z))) - 1, the mean over pairs."""
    return 2 * sigmoid(real - fake).mean() - 1


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(cross_entropy, saturating, lead_of_probabilities),
    "non_saturating": AdversarialLoss(cross_entropy, non_saturating, lead_of_probabilities),
    "least_squares": AdversarialLoss(least_squares, least_squares_generator, lead_of_targets),
    "hinge": AdversarialLoss(hinge, minus_score, lead_of_margins),
    "wasserstein": AdversarialLoss(wasserstein, minus_score, lead_of_scores),
    "relativistic": AdversarialLoss(relativistic, relativistic_generator, lead_of_pairs),
}
SMOOTHED = {"minimax": cross_entropy, "non_saturating": cross_entropy, "least_squares": least_squares}


# --- penalties ----------------------------------------------------------------------------------------------------------------


def squared_slope(critic: Critic, x: Float[Array, "batch *dims"]) -> Scores:
    """The squared norm of the critic's gradient with respect to each x. The critic must look at each example by itself."""
    gradient = jax.grad(lambda x: critic(x).sum())(x)
    return (gradient**2).sum(range(1, x.ndim))


def gradient_penalty(critic: Critic, real: Float[Array, "batch *dims"], fake: Float[Array, "batch *dims"], keys: Key) -> Scores:
    """(norm of the gradient - 1)^2 at a uniform point between each real and generated image (Gulrajani et al. 2017, eq. 3).

    `keys` [batch]: one an example. The paper's weight is 10. It pulls the slope to 1, so that the critic's optimum is not quite
    the Wasserstein distance: where the data are shifted by s, it has the slope 1 + s / (2 weight).
    """
    between = jax.vmap(jax.random.uniform)(keys).reshape(-1, *(1,) * (real.ndim - 1)).astype(real.dtype)
    squared = squared_slope(critic, fake + between * (real - fake))
    # the norm has no gradient at a slope of 0
    flat = squared == 0
    return (jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, squared))) - 1) ** 2


def r1(critic: Critic, x: Float[Array, "batch *dims"]) -> Scores:
    """Half the squared norm of the gradient at real data (Mescheder et al. 2018, eq. 9), or R2, at generated data.

    The papers' gamma is its weight.
    """
    return 0.5 * squared_slope(critic, x)


class Penalty(NamedTuple):
    """What is added to the critic's loss: (on_real, on_fake, real, fake, keys) -> [batch].

    There is a critic for each kind of data, since their labels may differ. `of_fake`: does it look at generated data?
    """

    fn: Callable[..., Scores]
    of_fake: bool


PENALTIES: dict[str, Penalty] = {
    "gradient_penalty": Penalty(lambda on_real, on_fake, real, fake, keys: gradient_penalty(on_real, real, fake, keys), True),
    "r1": Penalty(lambda on_real, on_fake, real, fake, keys: r1(on_real, real), False),
    "r1_r2": Penalty(lambda on_real, on_fake, real, fake, keys: r1(on_real, real) + r1(on_fake, fake), True),
}


# --- what goes wrong ----------------------------------------------------------------------------------------------------------

WON = 0.98  # lead of a critic that is hardly ever in doubt
VANISHED = 1e-4  # norm of a generator's gradient
COLLAPSED = 0.05  # spread of generated data beside that of real data


def spread(x: Float[Array, "batch *dims"]) -> Float[Array, ""]:
    """How far examples are from their mean: the root of the variance over the batch, averaged over pixels."""
    return jnp.sqrt(x.var(axis=0).mean())


def symptoms(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the means of a stretch of training say of a game that is going wrong: a name for it, and a line.

    Read are critic/lead, critic/spread (of generated data, as a share of that of real data) and generator/grad_norm.
    """
    found = {}
    if metrics.get("critic/lead", 0.0) > WON:
        found["critic won"] = (
            f"the critic has won: it is ahead by {metrics['critic/lead']:.3f} of at most 1, and the generator learns little; "
            "lower its learning rate or n_critic, penalise its gradient, or augment the data"
        )
    if metrics.get("generator/grad_norm", 1.0) < VANISHED:
        found["gradient vanished"] = (
            f"the generator's gradient has vanished: its norm is {metrics['generator/grad_norm']:.1e}; take another loss than "
            "minimax, a larger weight_clip, or a penalty on the critic's gradient"
        )
    if metrics.get("critic/spread", 1.0) < COLLAPSED:
        found["collapse"] = (
            f"the samples have become one: their spread is {metrics['critic/spread']:.3f} of that of the data; start again "
            "with other learning rates, or penalise the critic's gradient"
        )
    return found

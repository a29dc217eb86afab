"""What the players of generative adversarial networks minimise: losses and penalties, as functions of scores.

A critic gives each image a score [batch], a real number that grows with how real the image looks; where papers have a
probability D(x), the score is its logit. Every function here gives one number an example, of which a training loss is the mean.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float

from gm_jax.core import Key
from gm_jax.errors import InputError, choose

Scores = Float[Array, " batch"]
Critic = Callable[[Float[Array, "batch *dims"]], Scores]


class AdversarialLoss(NamedTuple):
    """What each player minimises, example by example: (scores of real data, scores of generated data) -> [batch].

    Only `relativistic` has a generator that looks at the real ones.
    """

    critic: Callable[[Scores, Scores], Scores]
    generator: Callable[[Scores, Scores], Scores]


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


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(cross_entropy, saturating),
    "non_saturating": AdversarialLoss(cross_entropy, non_saturating),
    "least_squares": AdversarialLoss(least_squares, least_squares_generator),
    "hinge": AdversarialLoss(hinge, minus_score),
    "wasserstein": AdversarialLoss(wasserstein, minus_score),
    "relativistic": AdversarialLoss(relativistic, relativistic_generator),
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

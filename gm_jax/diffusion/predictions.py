"""What a network is asked about x_t = alpha x0 + sigma eps, and how its answer gives E[x0 | x_t].

Whatever it is asked, x0 is affine in the answer, with coefficients of t alone: so any network is a denoiser.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array

from gm_jax.diffusion.paths import Coefficients, Images, Path, Time, coefficients, like


class Prediction(NamedTuple):
    """A question, with the right answer (known in training), what is concluded from an answer, and how x_t is shown."""

    target: Callable[[Array, Array, Coefficients], Array]  # (x0, eps, coefficients) -> the right answer
    x0: Callable[[Array, Array, Coefficients], Array]  # (answer, x_t, coefficients) -> x0
    scale: Callable[[Coefficients], Array] | None = None  # of x_t before the network sees it; None: as it is


PREDICTIONS = {
    "x0": Prediction(lambda x0, eps, c: x0, lambda p, x, c: p),
    "eps": Prediction(lambda x0, eps, c: eps, lambda p, x, c: (x - c.sigma * p) / c.alpha),
    # sigma times the score: Song & Ermon 2020, section 3.2, whose network is divided by sigma
    "scaled_score": Prediction(lambda x0, eps, c: -eps, lambda p, x, c: (x + c.sigma * p) / c.alpha),
    # Salimans & Ho 2022, appendix D
    "v": Prediction(
        lambda x0, eps, c: c.alpha * eps - c.sigma * x0,
        lambda p, x, c: (c.alpha * x - c.sigma * p) / (c.alpha**2 + c.sigma**2),
    ),
    # grad log q(x_t | x0); Song et al. 2021
    "score": Prediction(lambda x0, eps, c: -eps / c.sigma, lambda p, x, c: (x + c.sigma**2 * p) / c.alpha),
    # dx_t/dt at fixed (x0, eps); Lipman et al. 2022
    "velocity": Prediction(
        lambda x0, eps, c: c.d_alpha * x0 + c.d_sigma * eps,
        lambda p, x, c: (c.d_sigma * x - c.sigma * p) / (c.alpha * c.d_sigma - c.sigma * c.d_alpha),
    ),
}


def preconditioned(sigma_data: float) -> Prediction:
    """Input and target of unit variance, for data of standard deviation `sigma_data` (Karras et al. 2022, eq. 7, table 1).

    x0 = c_skip x_t + c_out F(c_in x_t) with c_in^2 = 1 / (alpha^2 sigma_data^2 + sigma^2), c_skip = alpha sigma_data^2 c_in^2
    and c_out = sigma sigma_data c_in, on any path. With alpha^2 + sigma^2 = 1 and sigma_data = 1 the answer F is -v.
    """

    def c_in(c):
        return jax.lax.rsqrt(c.sigma**2 + (sigma_data * c.alpha) ** 2)

    def x0(answer, x_t, c):
        return c.alpha * (sigma_data * c_in(c)) ** 2 * x_t + c.sigma * sigma_data * c_in(c) * answer

    def target(x0, eps, c):
        return (c.sigma * x0 / sigma_data - c.alpha * sigma_data * eps) * c_in(c)

    return Prediction(target, x0, c_in)


def target(path: Path, prediction: str | Prediction, x0: Images, eps: Images, t: Time) -> Images:
    """What a network should answer to x_t = alpha x0 + sigma eps. Raises ValueError for a name that is not of PREDICTIONS."""
    return named(prediction).target(x0, eps, coefficients(path, t, x0))


def to_x0(path: Path, prediction: str | Prediction, answer: Images, x_t: Images, t: Time) -> Images:
    """E[x0 | x_t] from a network's answer, for t > 0. Raises ValueError as `target`."""
    return named(prediction).x0(answer, x_t, coefficients(path, t, x_t))


def to_eps(path: Path, x0: Images, x_t: Images, t: Time) -> Images:
    """E[eps | x_t] from x0 = E[x0 | x_t], for t > 0."""
    return (x_t - like(path.alpha(t), x_t) * x0) / like(path.sigma(t), x_t)


def velocity(path: Path, x0: Images, x_t: Images, t: Time) -> Images:
    """dx_t/dt = alpha' x0 + sigma' eps: the probability-flow ODE (Song et al. 2021, eq. 13), for t > 0."""
    return target(path, "velocity", x0, to_eps(path, x0, x_t, t), t)


def drift_and_diffusion(path: Path, t: Time, x: Images) -> tuple[Array, Array]:
    """f and g^2 of the SDE dx = f x dt + g dw that has this path's marginals: f = (log alpha)', g^2 = (sigma^2)' - 2 f sigma^2.

    Shaped so as to multiply x. (Song et al. 2021, eq. 29; Kingma et al. 2021, eq. 19-20.)
    """
    c = coefficients(path, t, x)
    f = c.d_alpha / c.alpha
    return f, 2 * c.sigma * (c.d_sigma - f * c.sigma)


def named(prediction: str | Prediction) -> Prediction:
    """The prediction of that name; one that is given as it is passes through. Raises ValueError for an unknown name."""
    if isinstance(prediction, Prediction):
        return prediction
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; choose {', '.join(PREDICTIONS)}")
    return PREDICTIONS[prediction]

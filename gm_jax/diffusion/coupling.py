"""Which noise goes with which image: what makes the lines of flow matching cross less, and how straight a flow then is."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from gm_jax.core import batch_gather, batch_rows
from gm_jax.diffusion.paths import Denoiser, Images, Path
from gm_jax.diffusion.predictions import velocity
from gm_jax.diffusion.samplers import Times


def optimal_transport(x0: Images, eps: Images, axis_name: str | None = None) -> Images:
    """The noise of the batch, handed out anew so that the sum of |x0 - eps|^2 is the least (Tong et al. 2024, section 3.2).

    An exact assignment, each noise to one image, over the global batch (or microbatch). `axis_name`: see `core.batch_gather`.
    Labels then say something of the noise, which they do not in sampling: a conditional model learns p(x|y) with a bias, that
    shrinks as batches grow.
    """
    everything, noise = (batch_gather(a.reshape(len(a), -1), axis_name) for a in (x0, eps))
    # |x0 - eps|^2 / 2, but for what no assignment changes
    of_x0, of_eps = optax.assignment.hungarian_algorithm(-jnp.matmul(everything, noise.T, precision="highest"))
    own = batch_rows(jnp.zeros_like(of_eps).at[of_x0].set(of_eps), axis_name)
    return noise[own].reshape(eps.shape)


def straightness(path: Path, denoiser: Denoiser, x: Images, times: Times) -> Float[Array, " batch"]:
    """How far the flow from noise to data is from straight lines at even speed: 0 for these (Liu et al. 2022, section 2.2).

    The integral over time of |Z_1 - Z_0 - dZ/dt|^2, averaged over pixels: the variance of the velocity along the way. Z is
    Euler's solution from x at times[0] along `times`; time is in units of its whole length.
    """

    def step(carry, ends):
        x, sum_of_squares = carry
        t, s = ends
        moved = (s - t) * velocity(path, denoiser(x, t), x, t)
        share = (t - s) / (times[0] - times[-1])
        return (x + moved, sum_of_squares + (moved / share) ** 2 * share), None

    (end, squares), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), (times[:-1], times[1:]))
    return (squares - (end - x) ** 2).mean(axis=tuple(range(1, x.ndim)))

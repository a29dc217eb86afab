"""Steps of a chain drawn as often as their losses are large (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 18).

With p_t proportional to sqrt(E[L_t^2]), E[L_t / p_t] has the least variance. The last losses of each step stand for the mean;
until all steps have enough of them, all are drawn equally often.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gm_jax.core import Key, batch_gather

KEPT = 10  # losses a step
UNIFORM = 0.001  # share of draws that are uniform


class History(NamedTuple):
    """The last losses of the steps 1..T, and how many there have been, up to KEPT."""

    losses: Float[Array, "T kept"]
    counts: Int[Array, " T"]


def empty(T: int) -> History:
    return History(jnp.zeros((T, KEPT)), jnp.zeros(T, jnp.int32))


def probabilities(history: History) -> Float[Array, " T"]:
    """How often each step is drawn."""
    T = len(history.counts)
    size = jnp.sqrt((history.losses**2).mean(1))
    wanted = (1 - UNIFORM) * size / size.sum() + UNIFORM / T
    return jnp.where((history.counts == KEPT).all(), wanted, 1 / T)


def draw(history: History, keys: Key) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """A step 1..T for each key, and the weight 1 / (T p_t) that makes the mean of the losses that of uniform draws."""
    p = probabilities(history)
    index = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(p)))(keys)
    return index + 1, 1 / (len(p) * p[index])


def record(history: History, t: Int[Array, " batch"], losses: Float[Array, " batch"], axis_name: str | None = None) -> History:
    """The history with the losses of the global batch, in its order."""

    def add(history, one):
        index, loss = one
        count = history.counts[index]
        row = jnp.where(count == KEPT, jnp.roll(history.losses[index], -1), history.losses[index])
        row = row.at[jnp.minimum(count, KEPT - 1)].set(loss)
        counts = history.counts.at[index].set(jnp.minimum(count + 1, KEPT))
        return History(history.losses.at[index].set(row), counts), None

    return jax.lax.scan(add, history, (batch_gather(t - 1, axis_name), batch_gather(losses, axis_name)))[0]

"""MADE: a perceptron whose i-th answers depend on the inputs before the i-th alone, by masks on its weights.

  Germain et al. 2015, "MADE: Masked autoencoder for distribution estimation"          eq. 8, 9
  Papamakarios et al. 2017, "Masked autoregressive flow for density estimation"        section 3.2

Input i has the degree i = 1 .. dim, a hidden unit one from 1 to dim - 1: it sees what has at most its own. The answers for i
see hidden units of lower degrees.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gm_jax.bijectors import Autoregressive, bounded, finite
from gm_jax.core import Key, PyTree


def degrees(dim: int, width: int) -> Int[np.ndarray, " width"]:
    """Those of hidden units, as evenly often as can be, in order."""
    return 1 + np.arange(width) * max(dim - 1, 1) // width


def masks(dim: int, widths: Sequence[int]) -> list[Float[np.ndarray, "..."]]:
    """Of each hidden layer's weights [in, out], and last of the answers' [width, dim]."""
    of = [np.arange(1, dim + 1), *(degrees(dim, width) for width in widths)]
    hidden = [before[:, None] <= after for before, after in zip(of, of[1:], strict=False)]
    return [mask.astype(np.float32) for mask in (*hidden, of[-1][:, None] < of[0])]


def made(dim: int, widths: Sequence[int], condition_size: int = 0) -> Autoregressive:
    """Hidden layers of these widths with ReLU; the answers, a mean and a log scale for each input, are zero at first.

    A condition [batch, condition_size] is added linearly to the first hidden layer and to the answers.
    """
    layers, (*hidden_masks, last_mask) = len(widths), masks(dim, widths)

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        dtype, params = x.dtype, {}
        he = jax.nn.initializers.he_normal()
        for i, (mask, layer_key) in enumerate(zip(hidden_masks, jax.random.split(key, layers), strict=True)):
            params[f"hidden{i}"] = {"kernel": he(layer_key, mask.shape, dtype), "bias": jnp.zeros(mask.shape[1], dtype)}
        shape = (widths[-1], 2, dim)
        params["out"] = {"kernel": jnp.zeros(shape, dtype), "bias": jnp.zeros(shape[1:], dtype)}
        if condition_size:
            lecun = jax.nn.initializers.lecun_normal()
            params["told_hidden"] = {"kernel": lecun(jax.random.fold_in(key, layers), (condition_size, widths[0]), dtype)}
            params["told_out"] = {"kernel": jnp.zeros((condition_size, 2, dim), dtype)}
        return params

    def biases(params: PyTree, n: int, condition: Array | None) -> list[Array]:
        """What is added in each layer, the condition's share included: [n, width], and last [n, 2, dim]."""
        found = [params[f"hidden{i}"]["bias"] for i in range(layers)] + [params["out"]["bias"]]
        found = [jnp.broadcast_to(bias, (n, *bias.shape)) for bias in found]
        if condition_size:
            found[0] = found[0] + condition @ params["told_hidden"]["kernel"]
            found[-1] = found[-1] + jnp.einsum("nc,cad->nad", condition, params["told_out"]["kernel"])
        return found

    def apply(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        *hidden, last = biases(params, len(x), condition)
        h = x
        for i, bias in enumerate(hidden):
            h = jax.nn.relu(h @ (params[f"hidden{i}"]["kernel"] * hidden_masks[i]) + bias)
        answer = jnp.einsum("nw,wad->nad", h, params["out"]["kernel"] * last_mask[:, None]) + last
        return answer[:, 0], answer[:, 1]

    def solve(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        """x_1, then the hidden units of degree 1, then x_2 ...: each unit is computed once, all in all one pass."""
        n = len(z)
        *hidden, last = biases(params, n, condition)
        units = [_units_of(dim, width) for width in widths]
        steps = {"z": z.T, "bias": last.transpose(2, 0, 1)}
        steps["out"] = (params["out"]["kernel"] * last_mask[:, None]).transpose(2, 0, 1)
        for i in range(layers):
            kernel = params[f"hidden{i}"]["kernel"] * hidden_masks[i]
            taken = jnp.minimum(units[i], widths[i] - 1)
            steps[f"hidden{i}"] = (kernel.T[taken], hidden[i].T[taken], jnp.asarray(units[i]))

        def step(memory, now):
            x, *h = memory
            mean, log_scale = jnp.moveaxis(h[-1] @ now["out"] + now["bias"], 1, 0)
            x_i = finite(mean + now["z"] * jnp.exp(bounded(log_scale)))
            x = jax.lax.dynamic_update_slice_in_dim(x, x_i[:, None], now["index"], axis=1)
            before, found = x, []
            for i in range(layers):
                kernel, bias, places = now[f"hidden{i}"]
                new = jax.nn.relu(before @ kernel.T + bias.T)
                before = h[i].at[:, places].set(new, mode="drop")
                found.append(before)
            return (x, *found), None

        start = (jnp.zeros_like(z), *(jnp.zeros((n, width), z.dtype) for width in widths))
        return jax.lax.scan(step, start, {**steps, "index": jnp.arange(dim)})[0][0]

    return Autoregressive(init, apply, solve)


def _units_of(dim: int, width: int) -> Int[np.ndarray, "dim most"]:
    """The hidden units of each degree 1 .. dim; `width`, which there is no unit of, fills up the rows."""
    found = degrees(dim, width)
    rows = [np.flatnonzero(found == degree) for degree in range(1, dim + 1)]
    most = max(map(len, rows))
    return np.stack([np.pad(row, (0, most - len(row)), constant_values=width) for row in rows])

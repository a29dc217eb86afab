"""Spectral normalisation (Miyato et al. 2018) as a function of parameters: any network takes the normalised ones.

Every kernel, a matrix [inputs, outputs] once its leading axes are one, is divided by its largest singular value. That is
estimated with one vector [outputs] a kernel, which power iteration turns towards the right singular vector (algorithm 1): once
for every update of the parameters, so that neither microbatches nor the number of forward passes bear on it.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import PyTree

Vectors = dict[str, Float[Array, " outputs"]]  # by the path of the kernel, "block0/conv/kernel"

FIRST_STEPS = 5  # of power iteration, at initialisation
SETTLED = 50  # for parameters that no vector has followed, such as averages
TINY = 1e-12


def norm_along(kernel: Float[Array, "*inputs outputs"], vector: Float[Array, " outputs"]) -> Float[Array, ""]:
    """The length of kernel @ vector: the largest singular value, if the (unit) vector is its right singular vector.

    Its gradient is that of algorithm 1, in which both singular vectors are constants.
    """
    return jnp.linalg.norm(_matrix(kernel) @ jax.lax.stop_gradient(vector))


def normalize(params: PyTree, vectors: Vectors) -> PyTree:
    """The parameters with every kernel that has a vector divided by its spectral norm; all others as they are."""

    def one(path, leaf):
        vector = vectors.get(_name(path))
        return leaf if vector is None else leaf / jnp.maximum(norm_along(leaf, vector), TINY)

    return jax.tree_util.tree_map_with_path(one, params)


def iterate(params: PyTree, vectors: Vectors, steps: int = 1) -> Vectors:
    """The vectors after `steps` of power iteration."""

    def one(matrix, vector):
        return jax.lax.fori_loop(0, steps, lambda _, v: _unit(_unit(matrix @ v) @ matrix), vector)

    kernels = dict(_leaves(params))
    return {name: one(_matrix(kernels[name]), vector) for name, vector in vectors.items()}


def init_vectors(params: PyTree, names: Collection[str] = ("kernel", "embedding")) -> Vectors:
    """A vector for every parameter of these names that is a matrix or more, near its right singular vector."""
    kernels = {path: leaf for path, leaf in _leaves(params) if leaf.ndim >= 2 and path.rpartition("/")[2] in names}
    start = {path: _unit(jax.random.normal(jax.random.key(leaf.size), leaf.shape[-1:])) for path, leaf in kernels.items()}
    return iterate(params, start, FIRST_STEPS)


def _leaves(params: PyTree) -> list[tuple[str, Array]]:
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def _name(path) -> str:
    return "/".join(step.key for step in path)


def _matrix(kernel):
    return kernel.reshape(-1, kernel.shape[-1])


def _unit(vector):
    return vector / jnp.maximum(jnp.linalg.norm(vector), TINY)

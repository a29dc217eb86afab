"""The contract that every model signs and the one training loop relies on.

Nothing here has logic: these are named tuples of arrays or of pure functions. A `Model` holds functions, so close over it;
never pass it through `jit`. Arrays travel separately, as `Variables`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Float, Int, UInt8

PyTree = Any
Key = Array  # one typed PRNG key, or an array of them
Metrics = dict[str, Array]  # the paper's term -> its mean over the batch (a scalar)

# images in [-1, 1] and as stored
Images = Float[Array, "batch height width channel"]
ByteImages = UInt8[Array, "batch height width channel"]
Labels = Int[Array, " batch"]


class Variables(NamedTuple):
    """Everything a model is made of."""

    params: PyTree  # trained by gradient; top-level keys name the groups ("generator", "critic", "prior")
    state: PyTree = {}  # all else: BatchNorm statistics, codebook EMA, target network, teacher, replay buffer


class Batch(NamedTuple):
    """One batch of training data.

    `keys[i]` is `fold_in(fold_in(seed_key, step), i)` with i the index in the *global* batch: a loss that draws its noise
    from these keys draws the same noise whatever the device count, the microbatch size or the parallel mode. All objectives of
    a step see the same keys: one that must not share another's noise folds in a number of its own.
    """

    x: Images  # in [-1, 1]
    labels: Labels | None
    keys: Key  # [batch]


class Objective(NamedTuple):
    """One loss, the group of parameters that it updates, and when it does so.

    `loss(params, state, key, batch, *, step, train) -> scalar, (new_state, metrics)`. `params` holds all groups; only `group`
    is updated. `key` is for dropout only: draw all other noise from `batch.keys`. The objective is active for
    `start <= step < stop`, and updates at the end of every run of `every` steps of that window.
    """

    name: str
    loss: Callable[..., tuple[Array, tuple[PyTree, Metrics]]]
    group: str | None = None  # None: all parameters
    every: int = 1
    start: int = 0
    stop: int | None = None


class DiagonalGaussian(NamedTuple):
    """A posterior q(z|x) = N(mean, diag(exp(logvar)))."""

    mean: Float[Array, "batch latent"]
    logvar: Float[Array, "batch latent"]


class Codes(NamedTuple):
    """A discrete posterior: the index of the nearest codebook entry at every position."""

    indices: Int[Array, "batch *grid"]
    num_codes: int


class Likelihood(NamedTuple):
    """How probable a model finds an image.

    `fn(variables, keys, images, labels=None, **options) -> [batch]`: the negative log-likelihood of discrete uint8 images in
    nats per image. `kind` says how to read it: "exact"; "bound" (never below the exact value in expectation); "estimate" (of
    unknown sign); "code" (of the latent code of the image alone: part of a bound, no likelihood of the image). Divide by
    `pixels * channels * log 2` for bits/dim.
    """

    name: str
    kind: str
    fn: Callable[..., Float[Array, " batch"]]


class Diffusion(NamedTuple):
    """What a noise-based model offers to any sampler. `denoiser(variables, labels=None)` gives (x_t, t) -> E[x0|x_t]."""

    path: Any  # gm_jax.diffusion.paths.Path
    denoiser: Callable[..., Callable[[Array, Array], Array]]


class Model(NamedTuple):
    """A generative model as pure functions. Those that a model does not have are None."""

    init: Callable[[Key, Batch], Variables]  # sees a real batch, so that initialisation may depend on data
    objectives: tuple[Objective, ...]
    sample: Callable[..., Images]  # (variables, keys[n], labels=None, **options) -> [n, H, W, C] in [-1, 1]
    trajectory: Callable[..., Array] | None = None  # the same, with frames=k -> [k or fewer, n, H, W, C]
    nfe: Callable[..., int] | None = None  # (**options) -> network evaluations per sample
    encode: Callable[..., Array] | None = None  # (variables, keys, x, labels=None) -> latent
    decode: Callable[..., Images] | None = None  # (variables, keys, z, labels=None) -> x
    posterior: Callable[..., DiagonalGaussian | Codes] | None = None  # (variables, x, labels=None)
    likelihoods: tuple[Likelihood, ...] = ()
    diffusion: Diffusion | None = None
    recalibrate: Callable[..., PyTree] | None = None  # (variables, keys, x) -> state: BatchNorm statistics for EMA weights


def batch_mean(x: Array, axis_name: str | None = None) -> Array:
    """Mean over the leading axis of the global batch. Without `axis_name` (one device, or `jit` over a mesh) a plain mean."""
    mean = x.mean(0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def batch_gather(x: Array, axis_name: str | None = None) -> Array:
    """The rows of the global batch, in order, on every device. Without `axis_name` `x` itself."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)

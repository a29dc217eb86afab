"""The contract that every model signs and the one training loop relies on.

These are named tuples of arrays or of pure functions, and the few helpers that keep a model's randomness, reductions and
loops alike everywhere. A `Model` holds functions, so close over it; never pass it through `jit`. Arrays travel separately, as
`Variables`.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Float, Int, UInt8

PyTree = Any
Key = Array  # one typed PRNG key, or an array of them
Metrics = dict[str, Array]  # the paper's term -> its mean over the batch (a scalar)

# images in [-1, 1] and as stored. Data may also be float points [batch, dim], which nobody scales: what is said of images
# holds for them, with [dim] for their shape.
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
    a step see the same keys: whoever draws takes `streams` of names of its own.

    `even` are numbers in [0, 1), uniform each, that lie evenly over the *global* batch, frac(u + i / n) with one u a step:
    what is drawn by them varies less than what each example draws for itself (Kingma et al. 2021, appendix I.1). A batch that
    is made by hand may have none.
    """

    x: Images  # in [-1, 1]; points as they are
    labels: Labels | None
    keys: Key  # [batch]
    even: Float[Array, " batch"] | None = None


class Objective(NamedTuple):
    """One loss, the group of parameters that it updates, and when it does so.

    `loss(params, state, key, batch, *, step, train) -> scalar, (new_state, metrics)`. `params` holds all groups; only `group`
    is updated. `key` is for dropout only: draw all other noise from `batch.keys`. The objective is active for
    `start <= step < stop`, and updates at the end of every run of `every` steps of that window.

    `after(params, state, *, step) -> state` is called once for every update, with the new parameters: outside the gradient, and
    once however many microbatches there are. Running means and target networks belong there, since a loss threads its state
    through every microbatch.
    """

    name: str
    loss: Callable[..., tuple[Array, tuple[PyTree, Metrics]]]
    group: str | None = None  # a path into the parameters, such as "generator" or "autoencoder/critic"; None: all
    every: int = 1
    start: int = 0
    stop: int | None = None
    optimizer: str | None = None  # the objective of the same group whose optimizer (moments, schedule, EMA) it shares
    after: Callable[..., PyTree] | None = None


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
    nats per image (of points: of their density, in nats). `kind` says how to read it: "exact"; "bound" (never below the exact
    value in expectation); "estimate" (of unknown sign); "code" (of the latent code of the image alone: part of a bound, no
    likelihood of the image); "energy" (up to a constant that nobody knows). The first three divided by
    `pixels * channels * log 2` are bits/dim. `labels=None` of a conditional model means the marginal, p(x); with labels it is
    p(x|y), which is another number.
    """

    name: str
    kind: str
    fn: Callable[..., Float[Array, " batch"]]
    slow: bool = False  # is it left out where a model has others, unless asked for by name?


class Diffusion(NamedTuple):
    """What a noise-based model offers to any sampler. `denoiser(variables, labels=None)` gives (x_t, t) -> E[x0|x_t]."""

    path: Any  # gm_jax.diffusion.paths.Path
    denoiser: Callable[..., Callable[[Array, Array], Array]]


class Network(NamedTuple):
    """A network that is told the time of x_t and, where its model has labels or the like, a condition [batch, size]."""

    init: Callable[[Key, Array, Array, Array | None], PyTree]  # (key, x, t, condition) -> params
    apply: Callable[..., Array]  # (params, x, t, condition, *, train=False, key=None) -> answer, shaped as x
    clock: str = "auto"  # what it is told of the time, by name; "auto": the model's choice


class Player(NamedTuple):
    """A generator or a critic: what it makes of z or of x [batch, ...] where labels [batch] or None are given.

    Its state holds what no gradient trains, such as BatchNorm's statistics. `keys` [batch] are for noise inside the network.
    """

    init: Callable[..., Variables]  # (key, inputs, labels)
    apply: Callable[..., tuple[Array, PyTree]]  # (variables, inputs, labels, *, train, keys=None) -> output, new state
    after: Callable[[PyTree, PyTree], PyTree] | None = None  # (params, state) -> state: once for every update of its own
    recalibrate: Callable[..., PyTree] | None = None  # (variables, inputs, labels) -> state that fits the parameters


class Latent(NamedTuple):
    """A space in which images are chosen, z = draw(variables, keys, labels), x = decode(variables, keys, z, labels).

    Labels may be None. `layers`: z is [n, layer, size], one vector for each layer of the network, coarse ones first.
    """

    name: str  # "z", "w"
    draw: Callable[..., Array]
    decode: Callable[..., Images]
    between: Callable[[Array, Array, Array], Array]  # (a, b, weight from 0 to 1) -> what lies between
    layers: bool = False


class Model(NamedTuple):
    """A generative model as pure functions. Those that a model does not have are None.

    `num_classes` says what `labels` tell apart, in all functions that take them: whole numbers 0..num_classes - 1, [n]. A model
    of None refuses labels. A conditional one that is sampled without labels draws them itself. `complete` draws what is missing
    of images x in [-1, 1] from its probability given the pixels that are `known` [H, W], the same of all images; it raises
    InputError where a model cannot do so exactly. `recalibrate` makes what was gathered in training (BatchNorm's statistics,
    spectral norms) fit other parameters than those it was gathered with.
    `latents` are of models without an encoder. `symptoms` reads the mean metrics of a stretch of training, by
    "objective/term", and says what is going wrong: a name for it, and a line.
    """

    init: Callable[[Key, Batch], Variables]  # sees a real batch, so that initialisation may depend on data
    objectives: tuple[Objective, ...]
    sample: Callable[..., Images]  # (variables, keys[n], labels=None, **options) -> [n, H, W, C] in [-1, 1]
    trajectory: Callable[..., Array] | None = None  # the same, with frames=k -> [k or fewer, n, H, W, C]
    nfe: Callable[..., int] | None = None  # (**options) -> network evaluations per sample
    encode: Callable[..., Array] | None = None  # (variables, keys, x, labels=None) -> latent
    decode: Callable[..., Images] | None = None  # (variables, keys, z, labels=None) -> x
    posterior: Callable[..., DiagonalGaussian | Codes] | None = None  # (variables, x, labels=None)
    prior_kl: Callable[[DiagonalGaussian], Array] | None = None  # KL(q || p(z)), nats, [batch, latent]; None: p(z) = N(0, I)
    complete: Callable[..., Images] | None = None  # (variables, keys, x, known, labels=None) -> x
    num_classes: int | None = None
    likelihoods: tuple[Likelihood, ...] = ()
    diffusion: Diffusion | None = None
    recalibrate: Callable[..., PyTree] | None = None  # (variables, batch) -> state that fits EMA weights
    latents: tuple[Latent, ...] = ()
    symptoms: Callable[[Mapping[str, float]], dict[str, str]] | None = None


def batch_mean(x: Array, axis_name: str | None = None) -> Array:
    """Mean over the leading axis of the global batch. Without `axis_name` (one device, or `jit` over a mesh) a plain mean."""
    mean = x.mean(0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def batch_gather(x: Array, axis_name: str | None = None) -> Array:
    """The rows of the global batch, in order, on every device. Without `axis_name` `x` itself."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def batch_rows(x: Array, axis_name: str | None = None) -> Array:
    """This device's rows of what stands for the global batch: the inverse of `batch_gather`."""
    if axis_name is None:
        return x
    size = len(x) // jax.lax.psum(1, axis_name)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * size, size)


def streams(keys: Key, *names: str) -> tuple[Key, ...]:
    """Independent keys for each name, from one key or an array of them: what is drawn under one never meets another's.

    A hash of the name is folded in. Numbers would collide: `split(key)[i]` equals `fold_in(key, i)`.
    """
    fold = jax.random.fold_in if not keys.ndim else jax.vmap(jax.random.fold_in, (0, None))
    return tuple(fold(keys, zlib.crc32(name.encode())) for name in names)


LONGEST_UNROLLED = 32  # steps


def scan(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` over the leading axis of `xs`, for bodies that hold gradients of convolutions.

    Inside a loop these are tens of times slower on a CPU (benchmarks/conv_gradient_in_loop.py), so that there a loop of up to
    32 steps is unrolled.
    """
    length = len(jax.tree.leaves(xs)[0])
    unroll = length if jax.default_backend() == "cpu" and length <= LONGEST_UNROLLED else 1
    return jax.lax.scan(body, carry, xs, unroll=unroll)

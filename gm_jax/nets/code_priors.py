"""Priors over a grid of discrete codes, by name: networks that give each code its probability given those before it.

Codes come in reading order, p(c) = prod_i p(c_i | c_1 .. c_{i-1}). Of codes in two grids the finer one is told the coarser
one, p(coarse) p(fine | coarse). The keyword arguments of a function here are the fields of a section `prior` of a config.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.core import Key, PyTree
from gm_jax.errors import InputError, choose
from gm_jax.nets import code_transformer, pixelcnn
from gm_jax.nets.layers import Dense, depth_to_space
from gm_jax.nets.pixelcnn import draw
from gm_jax.nets.vqvae_nets import ResidualStack
from gm_jax.settings import Count, Decay, checked


class CodePrior(NamedTuple):
    """A prior as pure functions. `told` is the coarser grid of codes [batch, h, w] where the prior is given one, else None."""

    grid: tuple[int, int]
    init: Callable[..., PyTree]  # (key, told=None) -> params
    logits: Callable[..., Array]  # (params, codes, labels=None, told=None, *, train=False, key=None) -> [batch, *grid, code]
    sample: Callable[..., Array]  # (params, keys, labels=None, told=None, temperature=1.0) -> codes [n, *grid]


@checked
def gated_pixelcnn(
    grid: tuple[int, int],
    num_codes: int,
    num_classes: int | None,
    dtype: jnp.dtype,
    *,
    channels: Count = 128,
    num_layers: Count = 12,
    reach: Count = 1,
) -> CodePrior:
    """Gated PixelCNN (`nets.pixelcnn`). reach: 1 for 3x3 kernels, 2 for 5x5 ones."""
    net = pixelcnn.GatedPixelCNN(num_codes, channels, num_layers, reach, num_classes, dtype)

    def init(key, told=None):
        return net.init(key, *_one_example(grid, num_classes), told)["params"]

    def logits(params, codes, labels=None, told=None, *, train=False, key=None):
        return net.apply({"params": params}, codes, labels, told)

    def sample(params, keys, labels=None, told=None, temperature=1.0):
        return pixelcnn.sample(net, params, keys, grid, labels, temperature, told)

    return CodePrior(grid, init, logits, sample)


@checked
def transformer(
    grid: tuple[int, int],
    num_codes: int,
    num_classes: int | None,
    dtype: jnp.dtype,
    *,
    channels: Count = 384,
    num_layers: Count = 6,
    num_heads: Count = 6,
    dropout: Decay = 0.1,
) -> CodePrior:
    """Decoder-only Transformer in the form of GPT-2 (`nets.code_transformer`), of 10.7 million parameters by default.

    channels, num_layers, num_heads: of the smallest GPT-2 768, 12 and 12.
    """
    if channels % num_heads:
        raise InputError(f"channels={channels} of the prior must be a multiple of num_heads={num_heads}")
    net = code_transformer.CodeTransformer(num_codes, grid, channels, num_layers, num_heads, num_classes, dropout, dtype)

    def init(key, told=None):
        return net.init(key, *_one_example(grid, num_classes), told)["params"]

    def logits(params, codes, labels=None, told=None, *, train=False, key=None):
        dropped = train and dropout > 0 and key is not None
        return net.apply({"params": params}, codes, labels, told, dropped, rngs={"dropout": key} if dropped else {})

    def sample(params, keys, labels=None, told=None, temperature=1.0):
        return code_transformer.sample(net, params, keys, labels, told, temperature)

    return CodePrior(grid, init, logits, sample)


def _one_example(grid, num_classes):
    return jnp.zeros((1, *grid), jnp.int32), None if num_classes is None else jnp.zeros(1, jnp.int32)


PRIORS = {"pixelcnn": gated_pixelcnn, "transformer": transformer}


def find(name: str) -> Callable[..., CodePrior]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(PRIORS, name, "code prior")


def code_prior(
    settings: Mapping[str, Any], grid: tuple[int, int], num_codes: int, num_classes: int | None = None, dtype: Any = jnp.float32
) -> CodePrior:
    """What a section {"name": "transformer", "channels": 64, ...} describes.

    Raises InputError for an unknown name, and for settings that it has not.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    try:
        return function(tuple(grid), num_codes, num_classes, dtype, **given)
    except TypeError as error:
        raise InputError(f"code prior {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


# --- told of a coarser grid ---------------------------------------------------------------------------------------------------


class CoarseCodes(nn.Module):
    """What a grid of codes tells the grid of twice its height and width: a 2x2 patch for each code, after residual blocks."""

    num_codes: int
    channels: int
    num_blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: Int[Array, "batch h w"]) -> Float[Array, "batch 2*h 2*w channel"]:
        x = nn.Embed(self.num_codes, self.channels, self.dtype, embedding_init=nn.initializers.normal(1.0))(codes)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        x = ResidualStack(self.num_blocks, self.dtype)(x)
        return depth_to_space(Dense(4 * self.channels, dtype=self.dtype)(x))


def told_coarser(prior: CodePrior, net: CoarseCodes) -> CodePrior:
    """A prior that is told features, as one that is told the codes which they are computed from."""
    height, width = prior.grid

    def features(params, codes):
        return net.apply({"params": params["coarse"]}, codes)

    def init(key, told=None):
        own, coarse = jax.random.split(key)
        features, variables = net.init_with_output(coarse, jnp.zeros((1, height // 2, width // 2), jnp.int32))
        return {"coarse": variables["params"], "fine": prior.init(own, features)}

    def logits(params, codes, labels=None, told=None, **how):
        return prior.logits(params["fine"], codes, labels, features(params, told), **how)

    def sample(params, keys, labels=None, told=None, temperature=1.0):
        return prior.sample(params["fine"], keys, labels, features(params, told), temperature)

    return CodePrior(prior.grid, init, logits, sample)


def sample_naive(
    prior: CodePrior,
    params: PyTree,
    keys: Key,
    labels: Int[Array, " batch"] | None = None,
    told: Array | None = None,
    temperature: float = 1.0,
) -> Int[Array, "batch height width"]:
    """What `prior.sample` draws, by one pass over the whole grid for every code: the definition that it is tested against."""
    height, width = prior.grid

    def position(i, codes):
        logits = prior.logits(params, codes, labels, told)[:, i // width, i % width]
        return codes.at[:, i // width, i % width].set(draw(keys, i, logits, temperature))

    return jax.lax.fori_loop(0, height * width, position, jnp.zeros((len(keys), height, width), jnp.int32))

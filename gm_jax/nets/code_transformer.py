"""A decoder-only Transformer of a grid of discrete codes, in the form of GPT-2.

  GPT-2  Radford et al. 2019, "Language models are unsupervised multitask learners"

The codes come in reading order, p(c) = prod_i p(c_i | c_1 .. c_{i-1}), behind a token that starts them, one for each label.
Normalisation stands before attention and perceptron, places are learned vectors, and the codes' vectors serve as weights of
the logits, too. Dropout is of what enters and of what each half of a block adds, and not of attention's weights.

`sample` keeps the keys and values of all places before: a code then costs one token's pass, and not all tokens'.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.core import Key, PyTree
from gm_jax.nets.attention import attention, masked_attention
from gm_jax.nets.layers import Dense
from gm_jax.nets.pixelcnn import draw
from gm_jax.nets.transformer import Tokens
from gm_jax.nets.unet import merge_heads, split_heads

SPREAD = 0.02  # of initial weights
Memory = tuple[Float[Array, "batch*heads token c"], Float[Array, "batch*heads token c"]]  # keys, values


class Block(nn.Module):
    """x + attention(norm x), then x + perceptron(norm x), for a whole sequence or for its next token."""

    channels: int
    num_heads: int
    num_layers: int  # of the network: what is added is the smaller initially, the more layers add
    dropout: float
    dtype: jnp.dtype

    def setup(self) -> None:
        dense = partial(Dense, dtype=self.dtype, kernel_init=nn.initializers.normal(SPREAD))
        last = partial(dense, kernel_init=nn.initializers.normal(SPREAD / math.sqrt(2 * self.num_layers)))
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        self.norm_attention, self.norm_perceptron = norm(), norm()
        self.query, self.key, self.value = dense(self.channels), dense(self.channels), dense(self.channels)
        self.attended = last(self.channels)
        self.hidden, self.added = dense(4 * self.channels), last(self.channels)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: Tokens, dropped: bool = False) -> Tokens:
        """All tokens at once; none is told of a later one."""
        return self._add(x, attention(*self._heads(x), causal=True), dropped)

    def next_token(
        self, x: Float[Array, "batch 1 channel"], memory: Memory, place: Int[Array, ""]
    ) -> tuple[Float[Array, "batch 1 channel"], Memory]:
        """The token at `place`, given those before it by memory: (what comes of it, memory with it)."""
        query, *own = self._heads(x)
        keys, values = (jax.lax.dynamic_update_slice_in_dim(all, one, place, 1) for all, one in zip(memory, own, strict=True))
        visible = jnp.arange(keys.shape[1])[None] <= place
        return self._add(x, masked_attention(query, keys, values, visible)), (keys, values)

    def _heads(self, x):
        h = self.norm_attention(x)
        return [split_heads(layer(h), self.num_heads) for layer in (self.query, self.key, self.value)]

    def _add(self, x, heads, dropped=False):
        x = x + self.drop(self.attended(merge_heads(heads, self.num_heads)), deterministic=not dropped)
        h = self.added(nn.gelu(self.hidden(self.norm_perceptron(x)), approximate=True))
        return x + self.drop(h, deterministic=not dropped)


class CodeTransformer(nn.Module):
    """Logits of every code given those before it. With `num_classes`, given a label too; with `context` [..], given that.

    With one start token and c channels it has the parameters of GPT-2 for a vocabulary of `num_codes` + 1.
    """

    num_codes: int
    grid: tuple[int, int]
    channels: int
    num_layers: int
    num_heads: int
    num_classes: int | None = None
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        spread = nn.initializers.normal(SPREAD)
        embed = partial(nn.Embed, features=self.channels, dtype=self.dtype, embedding_init=spread)
        self.codes, self.starts = embed(self.num_codes), embed(1 if self.num_classes is None else self.num_classes)
        self.places = embed(math.prod(self.grid))
        self.context = Dense(self.channels, dtype=self.dtype, kernel_init=spread)  # is there where a context is given
        settings = (self.channels, self.num_heads, self.num_layers, self.dropout, self.dtype)
        self.blocks = [Block(*settings) for _ in range(self.num_layers)]
        self.norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        codes: Int[Array, "batch height width"],
        labels: Int[Array, " batch"] | None = None,
        context: Float[Array, "batch height width f"] | None = None,
        dropped: bool = False,
    ) -> Float[Array, "batch height width code"]:
        """The logits at all places, float32; those at a place depend neither on the code there nor on later ones."""
        before = self.embed(codes.reshape(len(codes), -1)[:, :-1])
        tokens = jnp.concatenate([self.start(len(codes), labels), before], axis=1)
        return self.from_embedded(tokens, context, dropped).reshape(*codes.shape, self.num_codes)

    def start(self, n: int, labels: Int[Array, " batch"] | None = None) -> Float[Array, "batch 1 channel"]:
        """The token before the first code."""
        return self.starts(jnp.zeros(n, jnp.int32) if labels is None else labels)[:, None]

    def embed(self, codes: Int[Array, "*shape"]) -> Float[Array, "*shape channel"]:
        """The vectors that stand for codes."""
        return self.codes(codes)

    def from_embedded(
        self, tokens: Tokens, context: Float[Array, "batch height width f"] | None = None, dropped: bool = False
    ) -> Float[Array, "batch token code"]:
        """The logits of the codes behind each token: the start first, the last code but one last."""
        x = tokens + self.places(jnp.arange(tokens.shape[1]))
        if context is not None:
            x = x + self.context(context.reshape(*tokens.shape[:2], -1))
        x = self.drop(x, deterministic=not dropped)
        for block in self.blocks:
            x = block(x, dropped)
        return self._head(x)

    def next_code(
        self,
        memory: list[Memory],
        token: Float[Array, "batch 1 channel"],
        place: Int[Array, ""],
        context: Float[Array, "batch f"] | None = None,
    ) -> tuple[list[Memory], Float[Array, "batch code"]]:
        """The logits at `place`, given the token that stands before it, and memory of those before that."""
        x, memory = token + self.places(place), list(memory)
        if context is not None:
            x = x + self.context(context)[:, None]
        for i, block in enumerate(self.blocks):
            x, memory[i] = block.next_token(x, memory[i], place)
        return memory, self._head(x)[:, 0]

    def _head(self, x):
        return self.codes.attend(self.norm(x)).astype(jnp.float32)


def sample(
    net: CodeTransformer,
    params: PyTree,
    keys: Key,
    labels: Int[Array, " batch"] | None = None,
    context: Float[Array, "batch height width f"] | None = None,
    temperature: float = 1.0,
) -> Int[Array, "batch height width"]:
    """One grid of codes per key, drawn code by code from softmax(logits / temperature). Computes every token once."""
    n, places = len(keys), math.prod(net.grid)
    apply = partial(net.apply, {"params": params})
    nothing = jnp.zeros((n * net.num_heads, places, net.channels // net.num_heads), net.dtype)

    def position(carry, xs):
        (memory, token), (place, context) = carry, xs
        memory, logits = apply(memory, token, place, context, method="next_code")
        codes = draw(keys, place, logits, temperature)
        return (memory, apply(codes[:, None], method="embed")), codes

    by_place = None if context is None else context.reshape(n, places, -1).swapaxes(0, 1)
    begin = [(nothing, nothing)] * net.num_layers, apply(n, labels, method="start")
    _, codes = jax.lax.scan(position, begin, (jnp.arange(places), by_place))
    return codes.swapaxes(0, 1).reshape(n, *net.grid)

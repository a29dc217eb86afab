"""What models of discrete codes share: an autoencoder around one or more codebooks, and priors over the codes. Two stages.

A `QuantizedAutoencoder` is networks; a level of it is a grid of codes with a codebook of its own. `quantized_model` makes a
model of one and of a prior for each level, the coarsest first.

Stage one. Every position of a level holds a vector z; the nearest codebook vector e takes its place, and passes its gradient on
to z (straight-through). The loss is

  |x - decode(e)|^2 / variance of the data  +  sum over levels of  |sg(z) - e|^2  +  commitment * |z - sg(e)|^2

each term a mean over elements (van den Oord et al. 2017, eq. 3, divided as in DeepMind's Sonnet). The middle term moves the
codebook; with the "ema" codebook running means of the vectors assigned to each code take its place (appendix A.1).

Stage two. The autoencoder stays as it is, and the priors learn p(codes) by maximum likelihood: a level's is told the codes of
the level above it.

As q(codes | x) is a point mass, p(c) P(x | c) with the codes c of x is one term of p(x) = sum_c p(c) P(x | c), and so a bound.
P(x | c) is a discretized Gaussian about the decoder's output; its variance is the mean squared error, as a running mean.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int

from gm_jax.conditioning import check_labels, draw_labels
from gm_jax.core import Batch, Codes, Key, Likelihood, Model, Objective, PyTree, Variables, batch_gather, streams
from gm_jax.densities import discretized_gaussian_log_prob, marginal_over_classes
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets import codebook as codebooks
from gm_jax.nets.code_priors import CodePrior
from gm_jax.nets.codebook import CODEBOOKS, Codebook, choose_vectors, perplexity, restart_dead_codes, vector_quantize

VARIANCE_DECAY = 0.99  # of the running mean that the likelihood uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


class Quantized(NamedTuple):
    """A level of an encoded image: what the encoder gave, what took its place, and which codes these are."""

    z: Float[Array, "batch height width d"]
    vectors: Float[Array, "batch height width d"]  # straight-through: the gradient goes to z
    codes: Int[Array, "batch height width"]


class QuantizedAutoencoder(NamedTuple):
    """Networks around codebooks, as pure functions. `quantize(level, z) -> Quantized` is called once a level, in order."""

    grids: tuple[tuple[int, int], ...]  # of each level, the coarsest first
    init: Callable[..., PyTree]  # (encoder_key, decoder_key, x) -> params
    encode: Callable[..., tuple[Quantized, ...]]  # (params, x, quantize) -> levels
    decode: Callable[..., Array]  # (params, vectors of each level) -> x_mean, unbounded


class Level(NamedTuple):
    """The names that a level has in parameters, state and metrics, and its prior."""

    name: str
    prior_name: str  # of the prior's objective and of its group of parameters
    prior: CodePrior


class Settings(NamedTuple):
    """What the losses need of `quantized_model`."""

    autoencoder: QuantizedAutoencoder
    levels: tuple[Level, ...]
    book: Codebook
    num_codes: int
    code_dim: int
    num_classes: int | None  # that the priors are told
    commitment: float
    codebook_loss: bool
    decay: float
    restart_below: float
    axis_name: str | None


def quantized_model(
    name: str,
    autoencoder: QuantizedAutoencoder,
    levels: Sequence[Level],
    *,
    autoencoder_steps: int,
    num_codes: int,
    code_dim: int,
    num_classes: int | None,
    commitment: float,
    codebook: str,
    codebook_decay: float,
    restart_below: float,
    data_variance: float | None,
    axis_name: str | None,
) -> Model:
    """The model of `autoencoder`, trained by the objective `name`, and of the levels' priors, each by one of its own.

    num_classes: that the priors are told, or None. data_variance: what the reconstruction term is divided by; None: that of the
    batch that `init` sees. The rest is said in `models.vqvae.make`, as are sampling options, latents and likelihoods; codes of
    several levels stand one behind the other, [batch, n].
    """
    book, classes = CODEBOOKS[codebook](), num_classes
    levels = tuple(levels)
    how = (commitment, codebook == "loss", codebook_decay, restart_below, axis_name)
    s = Settings(autoencoder, levels, book, num_codes, code_dim, classes, *how)

    def encode(variables: Variables, keys: Key, x, labels=None):
        del keys  # the nearest code is certain
        check_labels(labels, classes)
        return joined(_codes(s, variables.params, variables.state, x))

    def decode(variables: Variables, keys: Key, codes, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        check_labels(labels, classes)
        return jnp.clip(_decode(s, variables.params, variables.state, split(codes, autoencoder.grids)), -1, 1)

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        check_labels(labels, classes)
        label_keys, *code_keys = streams(keys, "labels", *(level.name for level in levels))
        if classes is not None and labels is None:
            labels = draw_labels(label_keys, classes)
        codes: list[Array] = []
        for level, keys_of in zip(levels, code_keys, strict=True):
            told = codes[-1] if codes else None
            codes.append(level.prior.sample(variables.params[level.prior_name], keys_of, labels, told, temperature))
        return decode(variables, keys, joined(codes))

    def nfe(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return sum(map(math.prod, autoencoder.grids))

    def posterior(variables: Variables, x, labels=None) -> Codes:
        return Codes(encode(variables, None, x, labels), num_codes)

    return Model(
        init=_init(s, data_variance),
        objectives=(
            Objective(name, _autoencoder_loss(s), "autoencoder", stop=autoencoder_steps, after=_after(s)),
            *(
                Objective(level.prior_name, _prior_loss(s, i), level.prior_name, start=autoencoder_steps)
                for i, level in enumerate(levels)
            ),
        ),
        sample=sample,
        nfe=nfe,
        encode=encode,
        decode=decode,
        posterior=posterior,
        num_classes=classes,
        likelihoods=_likelihoods(s, classes),
    )


def joined(codes: Sequence[Int[Array, "batch height width"]]) -> Int[Array, "batch *n"]:
    """The codes of one level as they are; those of several levels one behind the other, [batch, n]."""
    return codes[0] if len(codes) == 1 else jnp.concatenate([level.reshape(len(level), -1) for level in codes], axis=1)


def split(codes: Int[Array, "batch *n"], grids: Sequence[tuple[int, int]]) -> list[Int[Array, "batch height width"]]:
    """The inverse of `joined`, for levels of these heights and widths."""
    parts = _parts(codes.reshape(len(codes), -1), grids)
    return [part.reshape(len(codes), *grid) for part, grid in zip(parts, grids, strict=True)]


def _parts(x, grids):
    sizes = [math.prod(grid) for grid in grids]
    return jnp.split(x, [sum(sizes[:i]) for i in range(1, len(sizes))], axis=1)


def code_nll(logits: Float[Array, "batch *grid code"], codes: Int[Array, "batch *grid"]) -> Float[Array, " batch"]:
    """-log p(codes) in nats per image, from the logits of every position."""
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)
    return -log_probs.reshape(len(codes), -1).sum(1)


# --- parameters and state -----------------------------------------------------------------------------------------------------


def _init(s: Settings, data_variance: float | None):
    def init(key: Key, batch: Batch) -> Variables:
        encoder_key, decoder_key, prior_key = jax.random.split(key, 3)
        prior_keys = [prior_key] if len(s.levels) == 1 else jax.random.split(prior_key, len(s.levels))
        networks, scores = s.autoencoder.init(encoder_key, decoder_key, batch.x[:1]), _scores(s, batch)

        def some(level, z):
            return choose_vectors(scores[level], z, s.num_codes)

        found = s.autoencoder.encode(networks, batch.x, lambda level, z: Quantized(z, *vector_quantize(z, some(level, z))))
        books, book_states = {}, {}
        for i, (level, quantized) in enumerate(zip(s.levels, found, strict=True)):
            usage = jnp.full(s.num_codes, quantized.codes.size / s.num_codes)
            books[level.name], book_states[level.name] = s.book.init(some(i, quantized.z), usage)
        priors = {level.prior_name: level.prior.init(key) for level, key in zip(s.levels, prior_keys, strict=True)}
        variance = jnp.maximum(batch.x.var() if data_variance is None else data_variance, MIN_VARIANCE)
        state = {"codebooks": book_states, "data_variance": variance, "likelihood_variance": variance}
        restarted = {level.name: jnp.zeros(()) for level in s.levels}
        params = {"autoencoder": {"networks": networks, "codebooks": books}, **priors}
        return Variables(params, {**state, "restarted": restarted, "seen": _nothing_seen(s)})

    return init


def _scores(s: Settings, batch: Batch):
    """A random number for every position of every image, by the image's own key: an array for each level."""
    positions = sum(map(math.prod, s.autoencoder.grids))
    return _parts(
        jax.vmap(lambda key: jax.random.uniform(key, (positions,)))(*streams(batch.keys, "scores")), s.autoencoder.grids
    )


def _nothing_seen(s: Settings):
    zero = jnp.zeros(())
    codes = {level.name: codebooks.nothing_seen(s.num_codes, s.code_dim) for level in s.levels}
    return {"codes": codes, "mse": zero, "microbatches": zero}


def _vectors(s: Settings, params, state, level: Level):
    return s.book.vectors(params["autoencoder"]["codebooks"][level.name], state["codebooks"][level.name])


def _encode(s: Settings, params, state, x) -> tuple[Quantized, ...]:
    def quantize(level, z):
        return Quantized(z, *vector_quantize(z, _vectors(s, params, state, s.levels[level])))

    return s.autoencoder.encode(params["autoencoder"]["networks"], x, quantize)


def _codes(s: Settings, params, state, x):
    return [quantized.codes for quantized in _encode(s, params, state, x)]


def _decode(s: Settings, params, state, codes):
    vectors = [_vectors(s, params, state, level)[indices] for level, indices in zip(s.levels, codes, strict=True)]
    return s.autoencoder.decode(params["autoencoder"]["networks"], vectors)


# --- losses -------------------------------------------------------------------------------------------------------------------


def _autoencoder_loss(s: Settings):
    def loss(params, state, key, batch: Batch, *, step, train):
        del key  # for dropout, which there is none of
        found = _encode(s, params, state, batch.x)
        x_mean = s.autoencoder.decode(params["autoencoder"]["networks"], [quantized.vectors for quantized in found])
        nearest = [_vectors(s, params, state, level)[q.codes] for level, q in zip(s.levels, found, strict=True)]
        mse = jnp.mean((batch.x - x_mean) ** 2)
        commitment = sum(jnp.mean((q.z - stop_gradient(e)) ** 2) for q, e in zip(found, nearest, strict=True))
        metrics = {"reconstruction": mse / state["data_variance"], "commitment": commitment, "mse": mse}
        total = metrics["reconstruction"] + s.commitment * commitment
        if s.codebook_loss:
            metrics["codebook"] = sum(jnp.mean((stop_gradient(q.z) - e) ** 2) for q, e in zip(found, nearest, strict=True))
            total += metrics["codebook"]

        scores, seen, codes_seen = _scores(s, batch), state["seen"], {}
        for i, (level, quantized) in enumerate(zip(s.levels, found, strict=True)):
            gathered = (batch_gather(a, s.axis_name) for a in (stop_gradient(quantized.z), quantized.codes, scores[i]))
            z, codes, level_scores = gathered
            prefix = "" if len(s.levels) == 1 else f"{level.name}_"
            metrics[f"{prefix}perplexity"] = perplexity(codes, s.num_codes)
            metrics[f"{prefix}restarted"] = state["restarted"][level.name]  # codes, at the end of the update before
            codes_seen[level.name] = codebooks.see(seen["codes"][level.name], z, codes, level_scores)
        if train:
            error = batch_gather(stop_gradient(mse)[None], s.axis_name).mean()
            state = {
                **state,
                "seen": {"codes": codes_seen, "mse": seen["mse"] + error, "microbatches": seen["microbatches"] + 1},
            }
        return total, (state, metrics)

    return loss


def _after(s: Settings):
    """The running means moved by what an update has seen, once however many microbatches it had, and dead codes restarted."""

    def after(params, state, *, step):
        seen, books, restarted = state["seen"], {}, {}
        for level in s.levels:
            codes, own = seen["codes"][level.name], params["autoencoder"]["codebooks"][level.name]
            moved = s.book.update(state["codebooks"][level.name], codes, s.decay)
            vectors = codebooks.some_vectors(codes)
            books[level.name], dead = restart_dead_codes(s.book, own, moved, vectors, s.restart_below)
            restarted[level.name] = dead.sum().astype(jnp.float32)
        mse = jnp.maximum(seen["mse"] / seen["microbatches"], MIN_VARIANCE)
        variance = codebooks.running_mean(state["likelihood_variance"], mse, VARIANCE_DECAY)
        moved = {"codebooks": books, "likelihood_variance": variance, "restarted": restarted}
        return {**state, **moved, "seen": _nothing_seen(s)}

    return after


def _prior_nll(s: Settings, i: int, params, codes, labels, **how):
    """-log p of the codes of level i given those of the level above it, in nats per image."""
    level, told = s.levels[i], codes[i - 1] if i else None
    return code_nll(level.prior.logits(params[level.prior_name], codes[i], labels, told, **how), codes[i])


def _prior_loss(s: Settings, i: int):
    def loss(params, state, key, batch: Batch, *, step, train):
        codes = _codes(s, stop_gradient(params), state, batch.x)
        labels = None if s.num_classes is None else batch.labels
        nats = _prior_nll(s, i, params, codes, labels, train=train, key=key).mean()
        return nats, (state, {"code_nll": nats, "bits_per_code": nats / (math.prod(s.autoencoder.grids[i]) * jnp.log(2))})

    return loss


def _likelihoods(s: Settings, classes: int | None):
    def prior_nats(variables, codes, labels):
        def nats(labels):
            return sum(_prior_nll(s, i, variables.params, codes, labels) for i in range(len(s.levels)))

        if classes is None or labels is not None:
            return nats(labels)
        return marginal_over_classes(nats, len(codes[0]), classes)

    def code_nats(variables: Variables, keys: Key, images, labels=None):
        check_labels(labels, classes)
        return prior_nats(variables, _codes(s, variables.params, variables.state, to_float(images)), labels)

    def elbo_nats(variables: Variables, keys: Key, images, labels=None):
        check_labels(labels, classes)
        codes = _codes(s, variables.params, variables.state, to_float(images))
        x_mean = _decode(s, variables.params, variables.state, codes)
        log_likelihood = discretized_gaussian_log_prob(images, x_mean, variables.state["likelihood_variance"])
        return prior_nats(variables, codes, labels) - log_likelihood.sum((1, 2, 3))

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("codes", "code", code_nats)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature={temperature} must be above 0")

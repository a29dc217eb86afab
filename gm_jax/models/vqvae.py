"""VQ-VAE with a gated PixelCNN prior over its codes: two stages, one model.

  VQ-VAE          van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning"   eq. 1-3; nets.codebook
  gated PixelCNN  van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders"        nets.pixelcnn

Stage one. The encoder gives a vector z at every position of a grid; the nearest codebook vector e takes its place, and passes
its gradient on to z (straight-through). The loss is that of DeepMind's Sonnet example,

  |x - decode(e)|^2 / variance of the data  +  |sg(z) - e|^2  +  commitment * |z - sg(e)|^2      each term a mean over elements,

so that the weight of the commitment does not depend on the scale of the pixels nor on their number. The middle term moves the
codebook; with the "ema" codebook running means of the vectors assigned to each code take its place (appendix A.1).

Stage two. The autoencoder stays as it is, and the prior learns p(codes) by maximum likelihood.

As q(codes | x) is a point mass, p(c) P(x | c) with the codes c of x is one term of p(x) = sum_c p(c) P(x | c), and so a bound.
P(x | c) is a discretized Gaussian about the decoder's output; its variance is the mean squared error, as a running mean.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from gm_jax.core import Batch, Codes, Key, Likelihood, Model, Objective, Variables, batch_gather
from gm_jax.diffusion.discretized import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets import pixelcnn
from gm_jax.nets.codebook import CODEBOOKS, Codebook, choose_vectors, perplexity, restart_dead_codes, vector_quantize
from gm_jax.nets.vqvae_nets import Decoder, Encoder, code_grid

VARIANCE_DECAY = 0.99  # of the running mean that the likelihood uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


class Settings(NamedTuple):
    """What the losses need of `make`."""

    encoder: Encoder
    decoder: Decoder
    prior: pixelcnn.GatedPixelCNN
    book: Codebook
    grid: tuple[int, int]
    num_codes: int
    commitment: float
    codebook_loss: bool
    decay: float
    restart_below: float
    axis_name: str | None


def make(
    image_shape: Sequence[int],
    num_classes: int | None = None,
    dtype: jnp.dtype = jnp.float32,
    axis_name: str | None = None,
    *,
    autoencoder_steps: int = 50_000,
    num_codes: int = 512,
    code_dim: int = 64,
    channels: int = 128,
    halvings: int = 2,
    num_blocks: int = 2,
    commitment: float = 0.25,
    codebook: str = "ema",
    codebook_decay: float = 0.99,
    restart_below: float = 0.03,
    class_conditional: bool = False,
    prior_channels: int = 128,
    prior_layers: int = 12,
    prior_reach: int = 1,
) -> Model:
    """VQ-VAE and prior; by default Sonnet's networks and settings, which give an 8x8 grid of codes for 32x32 images.

    autoencoder_steps: length of stage one, objective "vqvae"; from then on the objective "prior" is active.
    num_codes, code_dim: size of the codebook. channels, halvings, num_blocks: see `nets.vqvae_nets`.
    codebook: "ema" or "loss". codebook_decay: of the running means, per step. restart_below: see `restart_dead_codes`, 0: off.
    class_conditional: the prior is given the label. Without labels a sample then draws one and a likelihood takes the mean over
    all classes, which count as equally frequent. The autoencoder never sees labels.
    prior_channels, prior_layers, prior_reach: see `nets.pixelcnn.GatedPixelCNN`.

    Sampling option: `temperature` (1.0) of the prior. `nfe` counts the prior's evaluations, one for each code. `encode` gives
    the codes [batch, h, w]; `decode` takes them and clips to [-1, 1]. Likelihood "elbo" is the bound above; "codes" its part
    -log p(c), of kind "code".

    Raises InputError for values out of range, images that cannot be halved so often, and labels where there is no use for them.
    """
    _check(codebook, codebook_decay, autoencoder_steps, class_conditional, num_classes)
    at_least_zero = {"commitment": commitment, "restart_below": restart_below}
    for name, value in at_least_zero.items():
        if value < 0:
            raise InputError(f"{name}={value} must not be negative")
    classes = num_classes if class_conditional else None
    s = Settings(
        encoder=Encoder(code_dim, channels, halvings, num_blocks, dtype),
        decoder=Decoder(image_shape[-1], channels, halvings, num_blocks, dtype),
        prior=pixelcnn.GatedPixelCNN(num_codes, prior_channels, prior_layers, prior_reach, classes, dtype),
        book=CODEBOOKS[codebook](),
        grid=code_grid(image_shape, halvings),
        num_codes=num_codes,
        commitment=commitment,
        codebook_loss=codebook == "loss",
        decay=codebook_decay,
        restart_below=restart_below,
        axis_name=axis_name,
    )
    positions = s.grid[0] * s.grid[1]

    def encode(variables: Variables, keys: Key, x, labels=None):
        del keys  # the nearest code is certain
        _check_labels(labels, classes)
        return _encode(s, variables.params, variables.state, x)

    def decode(variables: Variables, keys: Key, codes, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        _check_labels(labels, classes)
        return jnp.clip(_decode(s, variables.params, variables.state, codes), -1, 1)

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        _check_labels(labels, classes)
        if classes is not None and labels is None:
            label_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, positions)  # the codes use 0 .. positions - 1
            labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(label_keys)
        codes = pixelcnn.sample(s.prior, variables.params["prior"], keys, s.grid, labels, temperature)
        return decode(variables, keys, codes)

    def nfe(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return positions

    def posterior(variables: Variables, x, labels=None) -> Codes:
        return Codes(encode(variables, None, x, labels), num_codes)

    return Model(
        init=_init(s, image_shape),
        objectives=(
            Objective("vqvae", _autoencoder_loss(s), "autoencoder", stop=autoencoder_steps),
            Objective("prior", _prior_loss(s), "prior", start=autoencoder_steps),
        ),
        sample=sample,
        nfe=nfe,
        encode=encode,
        decode=decode,
        posterior=posterior,
        likelihoods=_likelihoods(s, classes),
    )


def _init(s: Settings, image_shape):
    def init(key: Key, batch: Batch) -> Variables:
        encoder_key, decoder_key, prior_key = jax.random.split(key, 3)
        vectors, codes = jnp.zeros((1, *s.grid, s.encoder.features)), jnp.zeros((1, *s.grid), jnp.int32)
        labels = None if s.prior.num_classes is None else jnp.zeros(1, jnp.int32)
        encoder = s.encoder.init(encoder_key, batch.x[:1])["params"]
        z = s.encoder.apply({"params": encoder}, batch.x)
        usage = jnp.full(s.num_codes, z.size / z.shape[-1] / s.num_codes)
        codebook, codebook_state = s.book.init(choose_vectors(_scores(s, batch), z, s.num_codes), usage)
        decoder = s.decoder.init(decoder_key, vectors)["params"]
        params = {
            "autoencoder": {"encoder": encoder, "decoder": decoder, **codebook},
            "prior": s.prior.init(prior_key, codes, labels)["params"],
        }
        variance = jnp.maximum(batch.x.var(), MIN_VARIANCE)
        return Variables(params, {"codebook": codebook_state, "data_variance": variance, "likelihood_variance": variance})

    return init


def _scores(s: Settings, batch: Batch):
    """A random number for every position of every image, by the image's own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, s.grid))(batch.keys)


def _vectors(s: Settings, params, state):
    return s.book.vectors(params["autoencoder"], state["codebook"])


def _encode(s: Settings, params, state, x):
    z = s.encoder.apply({"params": params["autoencoder"]["encoder"]}, x)
    return vector_quantize(z, _vectors(s, params, state))[1]


def _decode(s: Settings, params, state, codes):
    return s.decoder.apply({"params": params["autoencoder"]["decoder"]}, _vectors(s, params, state)[codes])


def _autoencoder_loss(s: Settings):
    def loss(params, state, key, batch: Batch, *, step, train):
        del key  # for dropout, which there is none of
        autoencoder = params["autoencoder"]
        z, codebook = s.encoder.apply({"params": autoencoder["encoder"]}, batch.x), _vectors(s, params, state)
        quantized, indices = vector_quantize(z, codebook)
        x_mean = s.decoder.apply({"params": autoencoder["decoder"]}, quantized)
        mse = jnp.mean((batch.x - x_mean) ** 2)
        metrics = {
            "reconstruction": mse / state["data_variance"],
            "commitment": jnp.mean((z - stop_gradient(codebook[indices])) ** 2),
            "mse": mse,
        }
        total = metrics["reconstruction"] + s.commitment * metrics["commitment"]
        if s.codebook_loss:
            metrics["codebook"] = jnp.mean((stop_gradient(z) - codebook[indices]) ** 2)
            total += metrics["codebook"]

        z, indices = (batch_gather(a, s.axis_name) for a in (stop_gradient(z), indices))
        metrics["perplexity"] = perplexity(indices, s.num_codes)
        if train:
            state, metrics["restarted"] = _next_state(s, params, state, z, indices, mse, batch)
        return total, (state, metrics)

    return loss


def _next_state(s: Settings, params, state, z, indices, mse, batch: Batch):
    """(the state after a step of stage one, how many codes were restarted), of the global batch."""
    autoencoder = stop_gradient(params["autoencoder"])
    mse = batch_gather(stop_gradient(mse)[None], s.axis_name).mean()
    codebook = s.book.update(state["codebook"], z, indices, s.decay)
    vectors = choose_vectors(batch_gather(_scores(s, batch), s.axis_name), z, s.num_codes)
    codebook, dead = restart_dead_codes(s.book, autoencoder, codebook, vectors, s.restart_below)
    variance = VARIANCE_DECAY * state["likelihood_variance"] + (1 - VARIANCE_DECAY) * jnp.maximum(mse, MIN_VARIANCE)
    return {**state, "codebook": codebook, "likelihood_variance": variance}, dead.sum().astype(jnp.float32)


def _prior_loss(s: Settings):
    def loss(params, state, key, batch: Batch, *, step, train):
        del key  # for dropout, which there is none of
        codes = _encode(s, stop_gradient(params), state, batch.x)
        labels = None if s.prior.num_classes is None else batch.labels
        nats = code_nll(s.prior.apply({"params": params["prior"]}, codes, labels), codes).mean()
        return nats, (state, {"code_nll": nats, "bits_per_code": nats / (s.grid[0] * s.grid[1] * jnp.log(2))})

    return loss


def code_nll(logits: Float[Array, "batch *grid code"], codes: Int[Array, "batch *grid"]) -> Float[Array, " batch"]:
    """-log p(codes) in nats per image, from the logits of every position."""
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)
    return -log_probs.reshape(len(codes), -1).sum(1)


def _likelihoods(s: Settings, classes: int | None):
    def prior_nats(variables, codes, labels):
        def nats(labels):
            return code_nll(s.prior.apply({"params": variables.params["prior"]}, codes, labels), codes)

        if classes is None or labels is not None:
            return nats(labels)
        by_class = jax.lax.map(lambda label: nats(jnp.full(len(codes), label)), jnp.arange(classes))
        return jnp.log(classes) - logsumexp(-by_class, axis=0)

    def code_nats(variables: Variables, keys: Key, images, labels=None):
        _check_labels(labels, classes)
        return prior_nats(variables, _encode(s, variables.params, variables.state, to_float(images)), labels)

    def elbo_nats(variables: Variables, keys: Key, images, labels=None):
        _check_labels(labels, classes)
        codes = _encode(s, variables.params, variables.state, to_float(images))
        x_mean = _decode(s, variables.params, variables.state, codes)
        log_likelihood = discretized_gaussian_log_prob(images, x_mean, variables.state["likelihood_variance"])
        return prior_nats(variables, codes, labels) - log_likelihood.sum((1, 2, 3))

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("codes", "code", code_nats)


def _check(codebook, codebook_decay, autoencoder_steps, class_conditional, num_classes):
    if codebook not in CODEBOOKS:
        raise InputError(f"unknown codebook {codebook!r}; choose {' or '.join(CODEBOOKS)}")
    if not 0 <= codebook_decay < 1:
        raise InputError(f"codebook_decay={codebook_decay} must lie in [0, 1)")
    if autoencoder_steps < 1:
        raise InputError(f"autoencoder_steps={autoencoder_steps} must be at least 1")
    if class_conditional and num_classes is None:
        raise InputError("class_conditional=True needs labels, which this data set has not; set it to False")


def _check_labels(labels: Any, classes: int | None) -> None:
    if labels is not None and classes is None:
        raise InputError("this VQ-VAE is unconditional: leave labels at None, or train it with class_conditional=True")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature={temperature} must be above 0")

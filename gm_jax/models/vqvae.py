"""VQ-VAE with a PixelCNN or a Transformer as the prior over its codes: two stages, one model.

  VQ-VAE          van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning"   eq. 1-3; nets.codebook
  gated PixelCNN  van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders"        nets.pixelcnn
  Transformer     Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2)     nets.code_transformer

Stage one. The encoder gives a vector z at every position of a grid; the nearest codebook vector e takes its place, and passes
its gradient on to z (straight-through). The loss is that of DeepMind's Sonnet example,

  |x - decode(e)|^2 / variance of the data  +  |sg(z) - e|^2  +  commitment * |z - sg(e)|^2      each term a mean over elements,

so that the weight of the commitment does not depend on the scale of the pixels nor on their number. The middle term moves the
codebook; with the "ema" codebook running means of the vectors assigned to each code take its place (appendix A.1).

Stage two. The autoencoder stays as it is, and the prior learns p(codes) by maximum likelihood.

As q(codes | x) is a point mass, p(c) P(x | c) with the codes c of x is one term of p(x) = sum_c p(c) P(x | c), and so a bound.
P(x | c) is a discretized Gaussian about the decoder's output; its variance is the mean squared error, as a running mean.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int

from gm_jax.conditioning import check_labels, classes_of, draw_labels
from gm_jax.core import Batch, Codes, Key, Likelihood, Model, Objective, Variables, batch_gather, streams
from gm_jax.densities import discretized_gaussian_log_prob, marginal_over_classes
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets import codebook as codebooks
from gm_jax.nets.code_priors import CodePrior, code_prior
from gm_jax.nets.codebook import CODEBOOKS, Codebook, choose_vectors, perplexity, restart_dead_codes, vector_quantize
from gm_jax.nets.vqvae_nets import Decoder, Encoder, code_grid
from gm_jax.settings import Count, Decay, NonNegative, Section, Whole, checked

VARIANCE_DECAY = 0.99  # of the running mean that the likelihood uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


class Settings(NamedTuple):
    """What the losses need of `make`."""

    encoder: Encoder
    decoder: Decoder
    prior: CodePrior
    num_classes: int | None  # that the prior is told
    book: Codebook
    grid: tuple[int, int]
    num_codes: int
    commitment: float
    codebook_loss: bool
    decay: float
    restart_below: float
    axis_name: str | None


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: jnp.dtype = jnp.float32,
    axis_name: str | None = None,
    data_variance: float | None = None,
    *,
    autoencoder_steps: Count = 50_000,
    num_codes: Count = 512,
    code_dim: Count = 64,
    channels: Count = 128,
    halvings: Count = 2,
    num_blocks: Whole = 2,
    commitment: NonNegative = 0.25,
    codebook: Literal["ema", "loss"] = "ema",
    codebook_decay: Decay = 0.99,
    restart_below: NonNegative = 0.03,
    class_conditional: bool = False,
    prior: Section("code_prior") = {"name": "pixelcnn"},  # noqa: B006 (read only)
) -> Model:
    """VQ-VAE and prior; by default Sonnet's networks and settings, which give an 8x8 grid of codes for 32x32 images.

    data_variance: of the training images in [-1, 1], which the reconstruction term is divided by; None: that of the batch that
    `init` sees. autoencoder_steps: length of stage one, objective "vqvae"; from then on the objective "prior" is active.
    num_codes, code_dim: size of the codebook. channels, halvings, num_blocks: see `nets.vqvae_nets`.
    codebook: "ema" or "loss". codebook_decay: of the running means, per step. restart_below: see `restart_dead_codes`, 0: off.
    class_conditional: the prior is given the label. Without labels a sample then draws one and a likelihood takes the mean over
    all classes, which count as equally frequent. The autoencoder never sees labels.
    prior: see `nets.code_priors`.

    Sampling option: `temperature` (1.0) of the prior. `nfe` counts the prior's evaluations, one for each code. `encode` gives
    the codes [batch, h, w]; `decode` takes them and clips to [-1, 1]. Likelihood "elbo" is the bound above; "codes" its part
    -log p(c), of kind "code".

    Raises InputError for values out of range, images that cannot be halved so often, and labels where there is no use for them.
    """
    classes, grid = classes_of(num_classes, class_conditional), code_grid(image_shape, halvings)
    s = Settings(
        encoder=Encoder(code_dim, channels, halvings, num_blocks, dtype),
        decoder=Decoder(image_shape[-1], channels, halvings, num_blocks, dtype),
        prior=code_prior(prior, grid, num_codes, classes, dtype),
        num_classes=classes,
        book=CODEBOOKS[codebook](),
        grid=grid,
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
        check_labels(labels, classes)
        return _encode(s, variables.params, variables.state, x)

    def decode(variables: Variables, keys: Key, codes, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        check_labels(labels, classes)
        return jnp.clip(_decode(s, variables.params, variables.state, codes), -1, 1)

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        check_labels(labels, classes)
        label_keys, code_keys = streams(keys, "labels", "codes")
        if classes is not None and labels is None:
            labels = draw_labels(label_keys, classes)
        codes = s.prior.sample(variables.params["prior"], code_keys, labels, None, temperature)
        return decode(variables, keys, codes)

    def nfe(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return positions

    def posterior(variables: Variables, x, labels=None) -> Codes:
        return Codes(encode(variables, None, x, labels), num_codes)

    return Model(
        init=_init(s, data_variance),
        objectives=(
            Objective("vqvae", _autoencoder_loss(s), "autoencoder", stop=autoencoder_steps, after=_after(s)),
            Objective("prior", _prior_loss(s), "prior", start=autoencoder_steps),
        ),
        sample=sample,
        nfe=nfe,
        encode=encode,
        decode=decode,
        posterior=posterior,
        num_classes=classes,
        likelihoods=_likelihoods(s, classes),
    )


def _init(s: Settings, data_variance: float | None):
    def init(key: Key, batch: Batch) -> Variables:
        encoder_key, decoder_key, prior_key = jax.random.split(key, 3)
        vectors = jnp.zeros((1, *s.grid, s.encoder.features))
        encoder = s.encoder.init(encoder_key, batch.x[:1])["params"]
        z = s.encoder.apply({"params": encoder}, batch.x)
        usage = jnp.full(s.num_codes, z.size / z.shape[-1] / s.num_codes)
        codebook, codebook_state = s.book.init(choose_vectors(_scores(s, batch), z, s.num_codes), usage)
        decoder = s.decoder.init(decoder_key, vectors)["params"]
        params = {
            "autoencoder": {"encoder": encoder, "decoder": decoder, **codebook},
            "prior": s.prior.init(prior_key),
        }
        variance = jnp.maximum(batch.x.var() if data_variance is None else data_variance, MIN_VARIANCE)
        state = {"codebook": codebook_state, "data_variance": variance, "likelihood_variance": variance}
        return Variables(params, {**state, "restarted": jnp.zeros(()), "seen": _nothing_seen(s)})

    return init


def _scores(s: Settings, batch: Batch):
    """A random number for every position of every image, by the image's own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, s.grid))(*streams(batch.keys, "scores"))


def _nothing_seen(s: Settings):
    codes, zero = codebooks.nothing_seen(s.num_codes, s.encoder.features), jnp.zeros(())
    return {"codes": codes, "mse": zero, "microbatches": zero}


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
        metrics["restarted"] = state["restarted"]  # codes, at the end of the update before
        if train:
            scores, error = (batch_gather(a, s.axis_name) for a in (_scores(s, batch), stop_gradient(mse)[None]))
            seen = state["seen"]
            codes = codebooks.see(seen["codes"], z, indices, scores)
            seen = {"codes": codes, "mse": seen["mse"] + error.mean(), "microbatches": seen["microbatches"] + 1}
            state = {**state, "seen": seen}
        return total, (state, metrics)

    return loss


def _after(s: Settings):
    """The running means moved by what an update has seen, once however many microbatches it had, and dead codes restarted."""

    def after(params, state, *, step):
        seen = state["seen"]
        codebook = s.book.update(state["codebook"], seen["codes"], s.decay)
        vectors = codebooks.some_vectors(seen["codes"])
        codebook, dead = restart_dead_codes(s.book, params["autoencoder"], codebook, vectors, s.restart_below)
        mse = jnp.maximum(seen["mse"] / seen["microbatches"], MIN_VARIANCE)
        variance = codebooks.running_mean(state["likelihood_variance"], mse, VARIANCE_DECAY)
        moved = {"codebook": codebook, "likelihood_variance": variance, "restarted": dead.sum().astype(jnp.float32)}
        return {**state, **moved, "seen": _nothing_seen(s)}

    return after


def _prior_loss(s: Settings):
    def loss(params, state, key, batch: Batch, *, step, train):
        codes = _encode(s, stop_gradient(params), state, batch.x)
        labels = None if s.num_classes is None else batch.labels
        nats = code_nll(s.prior.logits(params["prior"], codes, labels, train=train, key=key), codes).mean()
        return nats, (state, {"code_nll": nats, "bits_per_code": nats / (s.grid[0] * s.grid[1] * jnp.log(2))})

    return loss


def code_nll(logits: Float[Array, "batch *grid code"], codes: Int[Array, "batch *grid"]) -> Float[Array, " batch"]:
    """-log p(codes) in nats per image, from the logits of every position."""
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)
    return -log_probs.reshape(len(codes), -1).sum(1)


def _likelihoods(s: Settings, classes: int | None):
    def prior_nats(variables, codes, labels):
        def nats(labels):
            return code_nll(s.prior.logits(variables.params["prior"], codes, labels), codes)

        if classes is None or labels is not None:
            return nats(labels)
        return marginal_over_classes(nats, len(codes), classes)

    def code_nats(variables: Variables, keys: Key, images, labels=None):
        check_labels(labels, classes)
        return prior_nats(variables, _encode(s, variables.params, variables.state, to_float(images)), labels)

    def elbo_nats(variables: Variables, keys: Key, images, labels=None):
        check_labels(labels, classes)
        codes = _encode(s, variables.params, variables.state, to_float(images))
        x_mean = _decode(s, variables.params, variables.state, codes)
        log_likelihood = discretized_gaussian_log_prob(images, x_mean, variables.state["likelihood_variance"])
        return prior_nats(variables, codes, labels) - log_likelihood.sum((1, 2, 3))

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("codes", "code", code_nats)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature={temperature} must be above 0")

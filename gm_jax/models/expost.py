"""Ex-post density estimation: a mixture of Gaussians on the latents of an autoencoder that has been trained before.

  Ghosh et al. 2020, "From variational to deterministic autoencoders"    section 4
  Dai & Wipf 2019, "Diagnosing and enhancing VAE models" (the same idea with a second VAE)

Where q(z), the mean of q(z|x) over the data, is not the prior, samples of the prior are decoded from where no image ever was.
Stage one trains the autoencoder; stage two leaves it as it is and learns, by maximum likelihood,

  p(z) = sum_k w_k N(z; m_k, C_k),       full covariances, z ~ q(z|x), or z = encoder(x) of a deterministic one.

The authors fit the mixture by EM to all latents at once; here by gradient, batch by batch, like everything else, on latents
that are standardized by their own mean and variance, taken over all that stage two has seen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Float

from gm_jax.compose import within
from gm_jax.conditioning import check_labels
from gm_jax.core import Batch, Key, Likelihood, Model, Objective, PyTree, Variables, batch_gather, streams
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.settings import Count, Section, checked
from gm_jax.variational import standard_normal

MIN_VARIANCE = 1e-8  # of a latent: one that says nothing is always the same


# --- a mixture of Gaussians ---------------------------------------------------------------------------------------------------


def init_mixture(key: Key, components: int, dim: int) -> PyTree:
    """Equal weights, means drawn from N(0, I), unit covariances; a single component has the mean 0."""
    means = jax.random.normal(key, (components, dim)) if components > 1 else jnp.zeros((1, dim))
    return {"logits": jnp.zeros(components), "means": means, "scales": jnp.zeros((components, dim, dim))}


def cholesky_factors(scales: Float[Array, "component dim dim"]) -> Float[Array, "component dim dim"]:
    """Lower triangles whose diagonal is the exponential of that of `scales`."""
    diagonal = jnp.exp(jnp.diagonal(scales, axis1=-2, axis2=-1))
    return jnp.tril(scales, -1) + diagonal[..., None] * jnp.eye(scales.shape[-1])


def mixture_log_prob(mixture: PyTree, z: Float[Array, "batch dim"]) -> Float[Array, " batch"]:
    """log sum_k w_k N(z; m_k, L_k L_k^T) in nats."""

    def component(mean, factor):
        e = solve_triangular(factor, (z - mean).T, lower=True)
        constant = 0.5 * z.shape[1] * jnp.log(2 * jnp.pi) + jnp.log(jnp.diagonal(factor)).sum()
        return -0.5 * (e**2).sum(0) - constant

    log_probs = jax.vmap(component)(mixture["means"], cholesky_factors(mixture["scales"]))
    return logsumexp(log_probs + jax.nn.log_softmax(mixture["logits"])[:, None], axis=0)


def draw_mixture(mixture: PyTree, keys: Key) -> Float[Array, "batch dim"]:
    """One z a key."""
    component_keys, noise_keys = streams(keys, "component", "noise")
    chosen = jax.vmap(lambda key: jax.random.categorical(key, mixture["logits"]))(component_keys)
    e = standard_normal(noise_keys, mixture["means"].shape[1])
    return mixture["means"][chosen] + jnp.einsum("bij,bj->bi", cholesky_factors(mixture["scales"])[chosen], e)


# --- standardized latents -----------------------------------------------------------------------------------------------------


def no_moments(dim: int) -> PyTree:
    """Of nothing seen yet: the sums of 1, z and z^2 in `total`, and those of this update's microbatches in `seen`."""
    sums = {"count": jnp.zeros(()), "z": jnp.zeros(dim), "squares": jnp.zeros(dim)}
    return {"total": sums, "seen": sums}


def see(moments: PyTree, z: Float[Array, "n dim"]) -> PyTree:
    """The sums after one more microbatch."""
    more = {"count": jnp.float32(1), "z": z.mean(0), "squares": (z**2).mean(0)}
    return {**moments, "seen": jax.tree.map(jnp.add, moments["seen"], more)}


def settle(moments: PyTree) -> PyTree:
    """What this update has seen becomes part of the total."""
    total, seen = moments["total"], moments["seen"]
    return {"total": jax.tree.map(jnp.add, total, seen), "seen": jax.tree.map(jnp.zeros_like, seen)}


def mean_and_std(moments: PyTree) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """Of all z seen so far; of none: 0 and 1."""
    total = moments["total"]
    count = jnp.maximum(total["count"], 1)
    mean = total["z"] / count
    std = jnp.sqrt(jnp.maximum(total["squares"] / count - mean**2, MIN_VARIANCE))
    return mean, jnp.where(total["count"] > 0, std, 1.0)


def density_log_prob(mixture: PyTree, moments: PyTree, z: Float[Array, "batch dim"]) -> Float[Array, " batch"]:
    """log p(z) in nats, of a mixture of standardized latents."""
    mean, std = mean_and_std(moments)
    return mixture_log_prob(mixture, (z - mean) / std) - jnp.log(std).sum()


# --- the model ----------------------------------------------------------------------------------------------------------------


@checked
def make(
    image_shape: tuple[int, ...],
    build: Any,
    axis_name: str | None = None,
    *,
    autoencoder: Section("model") = {"name": "vae"},  # noqa: B006 (read only)
    autoencoder_steps: Count = 100_000,
    components: Count = 10,
) -> Model:
    """A mixture of `components` Gaussians on the latents of `autoencoder`, an unconditional model whose latents are vectors.

    autoencoder_steps: the length of stage one, the autoencoder's own objectives; from then on "density" is active.

    Sampling option: `prior` (False): draw z as the autoencoder itself does, for comparison. `encode`, `decode` and `posterior`
    are the autoencoder's. Likelihood "latent", of kind "code": -log p(z).

    Raises InputError for an autoencoder without encoder, decoder or vectors, and for a conditional one.
    """
    first = build(autoencoder, image_shape)
    if first.encode is None or first.decode is None or first.num_classes is not None:
        raise InputError(f"autoencoder.name={autoencoder['name']}: take an unconditional model that encodes and decodes")

    def of(variables: Variables) -> Variables:
        return Variables(variables.params["autoencoder"], variables.state["autoencoder"])

    def init(key: Key, batch: Batch) -> Variables:
        own, others = streams(key, "density", "autoencoder")
        params, state = first.init(others, batch)
        z = jax.eval_shape(first.encode, Variables(params, state), batch.keys, batch.x)
        if not isinstance(z, jax.ShapeDtypeStruct) or z.ndim != 2 or not jnp.issubdtype(z.dtype, jnp.floating):
            raise InputError(f"autoencoder.name={autoencoder['name']}: its latents are no vectors")
        mixture = init_mixture(own, components, z.shape[1])
        return Variables({"autoencoder": params, "density": mixture}, {"autoencoder": state, "moments": no_moments(z.shape[1])})

    def loss(params, state, key, batch: Batch, *, step, train):
        del key, step  # nothing is dropped or scheduled
        frozen = jax.lax.stop_gradient(of(Variables(params, state)))
        z = first.encode(frozen, streams(batch.keys, "density")[0], batch.x)
        if train:
            state = {**state, "moments": see(state["moments"], batch_gather(z, axis_name))}
        nats = -density_log_prob(params["density"], state["moments"], z).mean()
        return nats, (state, {"latent_nll": nats})

    def after(params, state, *, step):
        return {**state, "moments": settle(state["moments"])}

    def sample(variables: Variables, keys: Key, labels=None, *, prior: bool = False):
        check_labels(labels, None)
        if prior:
            return first.sample(of(variables), keys)
        latent_keys, decode_keys = streams(keys, "latent", "decode")
        mean, std = mean_and_std(variables.state["moments"])
        z = mean + std * draw_mixture(variables.params["density"], latent_keys)
        return first.decode(of(variables), decode_keys, z)

    def latent_nats(variables: Variables, keys: Key, data, labels=None):
        check_labels(labels, None)
        z = first.encode(of(variables), keys, to_float(data) if data.dtype == jnp.uint8 else data)
        return -density_log_prob(variables.params["density"], variables.state["moments"], z)

    stage_one = [within(objective, "autoencoder", stop=autoencoder_steps) for objective in first.objectives]
    density = Objective("density", loss, "density", start=autoencoder_steps, after=after)
    return Model(
        init=init,
        objectives=(*stage_one, density),
        sample=sample,
        nfe=lambda prior=False: 1,
        encode=lambda variables, keys, x, labels=None: first.encode(of(variables), keys, x, labels),
        decode=lambda variables, keys, z, labels=None: first.decode(of(variables), keys, z, labels),
        posterior=first.posterior and (lambda variables, x, labels=None: first.posterior(of(variables), x, labels)),
        likelihoods=(Likelihood("latent", "code", latent_nats),),
    )

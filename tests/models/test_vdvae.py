"""VDVAE: probabilities of all images sum to one, units of the prior, and what starts small."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.vdvae import get_config
from gm_jax.build import build_model
from gm_jax.core import Batch, Variables, streams
from gm_jax.densities import logistic_mixture, logistic_mixture_mean
from gm_jax.errors import InputError
from gm_jax.images import to_uint8
from gm_jax.models.vdvae import log_ratio, make, rate
from gm_jax.nets.vdvae_nets import Bottleneck, TopDownBlock, VDVAENetwork
from gm_jax.variational import gaussian_kl, standard_normal
from tests.weights import count, drawn

SIZES = {"channels": 8, "hidden_channels": 4, "latent_channels": 2}
LEVELS = {"resolutions": (4, 2, 1), "encoder_blocks": (2, 1, 1), "decoder_blocks": (1, 2, 1)}
PIXEL = {"resolutions": (1,), "encoder_blocks": (1,), "decoder_blocks": (2,)}
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def case(shape=(4, 4, 1), **settings):
    """A model, weights that nothing is left of at zero, and a batch of four images."""
    model = make(shape, **(SIZES | (settings or LEVELS)), components=2)
    x = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(np.float32)
    batch = Batch(jnp.asarray(x), None, jax.random.split(jax.random.key(1), 4))
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), batch).params)
    return model, Variables(params), batch


def names(path):
    return [key.key for key in path]


def nats(model, variables, keys, images, samples=1):
    """Of all likelihoods, compiled together."""
    terms = quick_jit(lambda *args: {term.name: term.fn(*args, samples=samples) for term in model.likelihoods})
    return {name: np.float64(found) for name, found in terms(variables, keys, images).items()}


# --- probabilities ------------------------------------------------------------------------------------------------------------


def test_weights_of_all_images_of_one_pixel_sum_to_one_and_the_elbo_is_below():
    model, variables, _ = case((1, 1, 1), **PIXEL, latent_channels=1)

    def near(path, a):  # no weight is very large: posteriors are like their priors, but wider
        _, part, layer, *_ = [*names(path), "", ""]
        a = 0.3 * a if part in ("prior", "posterior") and layer == "out" else a
        return a + jnp.array([0, 0.5]) if names(path)[1:] == ["posterior", "out", "bias"] else a

    params = jax.tree_util.tree_map_with_path(near, variables.params)
    params["pixels"]["kernel"] *= 0.3
    images, n = np.tile(np.arange(256, dtype=np.uint8), 400).reshape(-1, 1, 1, 1), 400
    found = nats(model, Variables(params), jax.random.split(jax.random.key(2), len(images)), images)
    found = {name: value.reshape(n, 256) for name, value in found.items()}
    sums = np.exp(-found["iwae"]).sum(1)  # of one sample: each weight is an unbiased estimate of p(x)
    error = sums.std() / np.sqrt(n)
    assert abs(sums.mean() - 1) < 4 * error < 0.1, (sums.mean(), error)
    assert np.exp(-found["elbo"].mean(0)).sum() < 0.7 and np.all(found["rate"] > 0.1)


def test_where_the_posterior_is_the_prior_the_bound_is_exact():
    """Untrained but for the pixels' layer: the prior is N(0, I), which a posterior without last weights is, too."""
    model, variables, batch = case((1, 1, 1), **PIXEL)
    params = quick_jit(model.init)(jax.random.key(0), batch).params
    silent = lambda path, a: 0 * a if {"posterior", "latent"} & {*names(path)} else a  # noqa: E731
    params = jax.tree_util.tree_map_with_path(silent, params) | {"pixels": variables.params["pixels"]}
    images = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    found = nats(model, Variables(params), jax.random.split(jax.random.key(2), 256), images, samples=3)
    np.testing.assert_allclose(found["rate"], 0, atol=1e-6)
    np.testing.assert_allclose(found["elbo"], found["iwae"], rtol=1e-5)
    np.testing.assert_allclose(np.exp(-found["elbo"]).sum(), 1, rtol=1e-5)


def test_the_rate_is_the_mean_of_log_q_over_p():
    net = VDVAENetwork(6, (2, 1), (1, 1), (1, 1), **SIZES)
    x, noise = jnp.zeros((1, 2, 2, 1)), jax.random.normal(jax.random.key(3), (4000, net.latents))
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), noise[:1], x))
    _, posterior = quick_jit(net.apply)(params, noise, jnp.repeat(x, len(noise), 0))
    difference = rate(posterior) + log_ratio(posterior, noise)
    assert rate(posterior).mean() > 0.3
    np.testing.assert_array_less(abs(difference.mean()), 4 * difference.std() / np.sqrt(len(noise)))


def test_the_loss_is_the_elbo_a_pixel_and_channel():
    model, variables, batch = case((1, 1, 3), **PIXEL)
    [objective], n = model.objectives, 2000
    many = Batch(jnp.repeat(batch.x[:1], n, 0), None, jax.random.split(jax.random.key(3), n))
    value, (_, metrics) = quick_jit(partial(objective.loss, step=0, train=True))(*variables, None, many)
    np.testing.assert_allclose(value, metrics["distortion"] + metrics["rate"], rtol=1e-6)
    np.testing.assert_allclose(metrics["bits_per_dim"], value / np.log(2), rtol=1e-6)
    losses = nats(model, variables, jax.random.split(jax.random.key(2), n), to_uint8(many.x))["elbo"] / 3
    np.testing.assert_allclose(value, losses.mean(), atol=6 * losses.std() / np.sqrt(n))


# --- latents ------------------------------------------------------------------------------------------------------------------


def test_kl_and_latents_in_units_of_the_prior_are_those_in_their_own():
    block = TopDownBlock(8, 4, 2, 3, jnp.float32)
    x, features, noise = (np.float32(np.random.default_rng(i).normal(size=(2, 4, 4, c))) for i, c in enumerate((8, 8, 2)))
    variables = drawn(jax.eval_shape(block.init, jax.random.key(0), x, features, noise))

    def bottleneck(name, size, x):
        return np.float64(
            Bottleneck(size, 4, nn.initializers.zeros, jnp.float32).apply({"params": variables["params"][name]}, x)
        )

    p, q = bottleneck("prior", 12, x), bottleneck("posterior", 4, np.concatenate([x, features], -1))
    (p_mean, p_log), (q_mean, q_log) = (np.split(a[..., :4], 2, axis=-1) for a in (p, q))
    kl = p_log - q_log - 0.5 + (np.exp(2 * q_log) + (q_mean - p_mean) ** 2) / (2 * np.exp(2 * p_log))
    answer, posterior = block.apply(variables, x, features, noise)
    np.testing.assert_allclose(gaussian_kl(*posterior), kl, rtol=1e-4, atol=1e-5)
    eps = (q_mean + np.exp(q_log) * noise - p_mean) / np.exp(p_log)
    given, nothing = block.apply(variables, x, None, np.float32(eps))
    np.testing.assert_allclose(answer, given, rtol=1e-4, atol=1e-5)
    assert nothing is None


def test_what_is_encoded_decodes_to_the_mean_of_what_the_image_gave():
    model, variables, batch = case()
    net = VDVAENetwork(6, **LEVELS, **SIZES)

    @quick_jit
    def both(keys, x):
        z = model.encode(variables, keys, x)
        answer, posterior = net.apply({"params": variables.params}, standard_normal(*streams(keys, "latents"), 50), x)
        return model.decode(variables, None, z), logistic_mixture_mean(logistic_mixture(answer, 1)), z

    found, mean, z = both(batch.keys, batch.x)
    assert z.shape == (4, 2 * (16 + 2 * 4 + 1))
    np.testing.assert_allclose(found, np.clip(mean, -1, 1), atol=1e-4)
    with pytest.raises(InputError, match=r"\[n, 50\], not \[4, 49\]"):
        model.decode(variables, None, z[:, 1:])


def test_samples_are_drawn_from_the_pixels_mixture_and_temperature_zero_leaves_the_means_of_the_priors():
    model, variables, _ = case((1, 1, 3), **PIXEL)
    scales = np.array([4, 5, 10, 11, 16, 17])  # logarithms of: narrow, so that nothing reaches beyond [-1, 1]
    pixels = {"kernel": 0.2 * variables.params["pixels"]["kernel"], "bias": jnp.zeros(20).at[scales].set(-4.0)}
    variables, n = Variables(variables.params | {"pixels": pixels}), 2000
    keys = jax.random.split(jax.random.key(2), n)
    cold, warm = (np.asarray(quick_jit(partial(model.sample, temperature=t))(variables, keys)) for t in (0.0, 1.0))
    x = model.decode(variables, None, jnp.zeros((1, 4)))[0]
    np.testing.assert_array_less(np.abs(cold.mean(0) - x), 5 * cold.std(0) / np.sqrt(n))
    assert np.all(cold.std(0) < warm.std(0))
    with pytest.raises(InputError, match="temperature=-1"):
        model.nfe(temperature=-1)


# --- the network --------------------------------------------------------------------------------------------------------------


def test_what_residuals_add_starts_small_and_priors_start_standard():
    model, _, batch = case()
    params = quick_jit(model.init)(jax.random.key(0), batch).params
    bounds = {("encoder4_0", "out"): 4 * 4, ("decoder2_1", "latent"): 2 * 4, ("decoder2_1", "residual", "out"): 4 * 4}
    bounds |= {("decoder2_1", "posterior", "in"): 16, ("decoder1_0", "residual", "in"): 8}  # fan in, times blocks where small
    for path, inverse in bounds.items():
        layer = params
        for key in path:
            layer = layer[key]
        largest = np.abs(layer["kernel"]).max()
        assert 0.6 / np.sqrt(inverse) < largest <= 1 / np.sqrt(inverse) and not layer["bias"].any()
    assert not any(a.any() for a in jax.tree.leaves(params["decoder4_0"]["prior"]["out"]))


def test_the_network_of_cifar10_has_the_parameters_of_the_authors_code():
    config = get_config("cifar10").to_dict()
    model = build_model({"model": config["model"], "precision": "float32"}, (32, 32, 3), 10)
    batch = Batch(jnp.zeros((1, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 1))
    assert count(jax.eval_shape(model.init, jax.random.key(0), batch).params) == 39_145_700
    assert VDVAENetwork(100).latents == 412_432 and len(VDVAENetwork(100).shapes) == 43


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((2,), {}, "grey or RGB images, not for data of the shape"),
        ((4, 4, 2), {}, "grey or RGB images"),
        ((4, 2, 1), {}, "images of 4x2 need square maps of their own size first, not 4"),
        ((8, 8, 1), {}, "images of 8x8 need square maps"),
        ((4, 4, 1), {"resolutions": (4, 3, 1)}, "4 cannot be pooled to 3"),
        ((4, 4, 1), {"resolutions": (4, 4, 1)}, "4 cannot be pooled to 4"),
        ((4, 4, 1), {"encoder_blocks": (1, 1)}, "2 numbers of blocks for 3 resolutions"),
        ((4, 4, 1), {"decoder_blocks": (1, 1, 0)}, "decoder_blocks is"),
    ],
)
def test_what_cannot_be_is_refused(shape, settings, message):
    with pytest.raises(InputError, match=message):
        make(shape, **(LEVELS | settings), **SIZES)

"""What `gm_jax.core` promises, of every model in its `tiny` preset, and of those that can be told labels also with them."""

import functools
import pathlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import MODELS, build_model, find_make, resolve
from gm_jax.cli.config import load_config
from gm_jax.core import Batch, Model, Variables
from gm_jax.errors import InputError
from gm_jax.settings import fields_of
from tests.weights import drawn, equalized

CONFIGS, SHAPE, CLASSES = pathlib.Path(__file__).parents[1] / "configs", (8, 8, 1), 10
N, KEYS = 4, jax.random.split(jax.random.key(1), 4)
X = np.float32(np.random.default_rng(0).uniform(-1, 1, (N, *SHAPE)))
IMAGES = np.uint8(127.5 * (X + 1))
LABELS = np.arange(N) % CLASSES
UPPER_HALF = np.repeat([True, False], 4)[:, None] & np.ones(8, bool)
BATCH = Batch(jnp.asarray(X), jnp.asarray(LABELS), KEYS)

ALWAYS = ["guided"]  # told labels whatever the settings
CONDITIONAL = [f"{name} of labels" for name in MODELS if "class_conditional" in fields_of(find_make(name))]
CASES = [*MODELS, *CONDITIONAL]
NO_SAMPLES = ["classifier", "rae"]  # and says so
ADVERSARIAL = ["gan", "gan of labels", "r3gan", "r3gan of labels", "stylegan2", "stylegan2 of labels"]
FLOWS = [name for name in CASES if name.split(" of ")[0] in ("glow", "maf", "realnvp")]
NO_TRAJECTORY = [*ADVERSARIAL, *FLOWS, "expost", "mmd_vae", "vae", "vae of labels", "vdvae", "vqvae", "vqvae of labels"]
NO_TRAJECTORY += ["vqvae2", "vqvae2 of labels"]
NO_POSTERIOR = ["vdvae"]  # none that is known before the latents are drawn
LATENTS = ADVERSARIAL  # drawn, since nothing encodes images
NO_LATENT = COMPLETING = ["pixelcnn", "pixelcnn of labels"]
# a constant that is added to all scores alters a hinge loss by nothing where all of them are within their margins, and the last
# biases alter no slope
UNMOVED = dict.fromkeys(["gan", "gan of labels"], {"score/bias"})
UNMOVED |= dict.fromkeys(["stylegan2", "stylegan2 of labels"], {"features/bias", "last/bias", "score/bias"})
# by BatchNorm; by the spread of the batch; its loss compares the batch as a whole with the prior
COUPLED = ["gan", "gan of labels", "stylegan2", "stylegan2 of labels", "mmd_vae"]
SAMPLING = [name for name in CASES if name not in NO_SAMPLES]
TRAJECTORIES = [name for name in SAMPLING if name not in NO_TRAJECTORY]
KINDS = {"exact", "bound", "estimate", "code", "energy"}

NOISE_BASED = [
    "autoguided",
    "guided",
    "ddpm",
    "ddpm of labels",
    "edm",
    "edm of labels",
    "flow_matching",
    "flow_matching of labels",
    "ncsn",
    "reflow",
    "score_sde",
    "score_sde of labels",
    "vdm",
    "vdm of labels",
]
FEW = {name: {"steps": 3} for name in NOISE_BASED}  # for samples without delay
DENOISING = [{}, {"steps": 3, "sampler": "heun"}, {"sampler": "ddim", "eta": 0.5, "spacing": "uniform"}, {"times": (0.4, 0.2)}]
DENOISING += [{"sampler": "heun", "s_churn": 1.0, "s_min": 0.1, "s_max": 2.0, "s_noise": 1.1}, {"sampler": "unipc", "order": 3}]
DENOISING += [{"sampler": "unipc", "variant": "bh1"}, {"sampler": "dpmpp_3m", "authors": True}, {"sampler": "dpmpp_2s"}]
STRAIGHT = DENOISING  # of flows, which start from pure noise
DENOISING = [*DENOISING, {"sampler": "predictor_corrector", "snr": 0.2, "corrector_steps": 2}]
GUIDED = [{"guidance_scale": 2.0}, {"guidance_scale": 2.0, "guidance_interval": (0.1, 1.0)}]
LANGEVIN = {"epsilon": 1e-4, "inner_steps": 1, "start": "noise", "denoise": True}
TAKEN = {
    "autoguided": [*DENOISING, *GUIDED],
    "guided": [*DENOISING, *GUIDED],
} | {  # all options of sampling, in sets that go together
    "ddpm": [*DENOISING, {"variance": "fixed_small"}],
    "ddpm of labels": [*DENOISING, {"variance": "fixed_small"}, *GUIDED],
    "edm": DENOISING,
    "expost": [{}, {"prior": True}],
    "edm of labels": DENOISING,
    "flow_matching": STRAIGHT,
    "flow_matching of labels": [*STRAIGHT, *GUIDED],
    **{name: [{}, {"truncation": 0.7}] for name in ADVERSARIAL},
    **{name: [{}, {"temperature": 0.5}] for name in FLOWS},
    "mmd_vae": [{}],
    "reflow": STRAIGHT,
    "ncsn": [*DENOISING, LANGEVIN],
    "pixelcnn": [{}, {"temperature": 0.5}],
    "pixelcnn of labels": [{}, {"temperature": 0.5}],
    "score_sde": DENOISING,
    "score_sde of labels": [*DENOISING, *GUIDED],
    "vae": [{}],
    "vae of labels": [{}],
    "vdm": [*DENOISING, {"variance": "fixed_large"}],
    "vdm of labels": [*DENOISING, {"variance": "fixed_large"}, *GUIDED],
    "vdvae": [{}, {"temperature": 0.5}],
    "vqvae": [{}, {"temperature": 0.5}],
    "vqvae of labels": [{}, {"temperature": 0.5}],
    "vqvae2": [{}, {"temperature": 0.5}],
    "vqvae2 of labels": [{}, {"temperature": 0.5}],
}
STRANGE = LANGEVIN | {
    "nonsense": 1,
    "frames": 2,
    "steps": 3,
    "temperature": 0.5,
    "truncation": 0.7,
    "guidance_scale": 2.0,
    "guidance_interval": (0.1, 1.0),
    "s_churn": 1.0,
    "snr": 0.2,
    "order": 3,
    "variance": "fixed_small",
}

# each program runs once or twice: what the compiler saves there is not worth its time
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Case(NamedTuple):
    model: Model
    variables: Variables
    sample: Any  # with few steps


@functools.cache
def case(name: str) -> Case:
    """The model, weights that nothing is left of at zero, and its sampler, compiled once for a number of keys."""
    module, _, labelled = name.partition(" of ")
    config = load_config(CONFIGS / f"{module}.py", "tiny")
    config["model"] |= {"class_conditional": True} if labelled else {}
    config = resolve(config)
    without_dropout(config["model"])
    model = build_model(config, SHAPE, CLASSES)
    params, state = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    params = equalized(drawn(params)) if module == "stylegan2" else drawn(params)
    variables = Variables(params, jax.tree.map(lambda a: 0.5 + 10 * abs(a), drawn(state)))  # no negative variance
    return Case(model, variables, quick_jit(partial(model.sample, **FEW.get(name, {}))))


def without_dropout(settings: dict) -> None:
    """Which is drawn for the batch as a whole."""
    for name, value in settings.items():
        if name == "dropout":
            settings[name] = 0.0
        elif isinstance(value, dict):
            without_dropout(value)


def calls_with_labels(name):
    """Every function of a model that takes labels, as a function of the labels alone."""
    model, variables, _ = case(name)
    calls = {"sample": lambda labels: model.sample(variables, KEYS, labels)}
    if model.trajectory:
        calls["trajectory"] = lambda labels: model.trajectory(variables, KEYS, labels, frames=2)
    if model.encode:
        calls["encode"] = lambda labels: model.encode(variables, KEYS, X, labels)
    if model.decode:
        labels = None if model.num_classes is None else LABELS
        z = jax.eval_shape(lambda: model.encode(variables, KEYS, X, labels))
        calls["decode"] = lambda labels: model.decode(variables, KEYS, jnp.zeros(z.shape, z.dtype), labels)
    if model.posterior:
        calls["posterior"] = lambda labels: model.posterior(variables, X, labels)[0]
    for latent in model.latents:
        calls[f"draw {latent.name}"] = lambda labels, fn=latent.draw: fn(variables, KEYS, labels)
        calls[f"decode {latent.name}"] = lambda labels, fn=latent: fn.decode(variables, KEYS, drawn_latent(name, fn), labels)
    if model.complete:
        calls["complete"] = lambda labels: model.complete(variables, KEYS, X, UPPER_HALF, labels)
    if model.diffusion:
        calls["denoiser"] = lambda labels: model.diffusion.denoiser(variables, labels)(X, jnp.float32(0.7))
    for likelihood in model.likelihoods:
        calls[likelihood.name] = lambda labels, fn=likelihood.fn: fn(variables, KEYS, IMAGES, labels)
    return calls


def drawn_latent(name, latent):
    model, variables, _ = case(name)
    z = jax.eval_shape(latent.draw, variables, KEYS, None if model.num_classes is None else LABELS)
    return jnp.zeros(z.shape, z.dtype)


def refusal(call) -> type | None:
    try:
        jax.eval_shape(call)
    except (InputError, TypeError) as error:
        return type(error)
    return None


def test_the_tables_are_those_of_the_models():
    assert [name for name in CASES if case(name).model.latents] == [name for name in CASES if name in LATENTS]
    assert [name for name in CASES if case(name).model.trajectory] == TRAJECTORIES
    assert [name for name in CASES if case(name).model.complete] == COMPLETING
    assert [name for name in CASES if case(name).model.num_classes is not None] == [*ALWAYS, *CONDITIONAL]
    assert {case(name).model.num_classes for name in [*ALWAYS, *CONDITIONAL]} == {CLASSES}


# --- labels -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name not in [*ALWAYS, *CONDITIONAL]])
def test_labels_are_refused_by_all_functions_of_a_model_that_declares_none(name):
    for function, call in calls_with_labels(name).items():
        assert refusal(partial(call, LABELS)) is InputError, function


@pytest.mark.parametrize("name", [*ALWAYS, *CONDITIONAL])
def test_labels_are_taken_as_declared_and_no_others(name):
    for function, call in calls_with_labels(name).items():
        assert refusal(partial(call, LABELS)) is None, function
        least = -2 if function == "denoiser" else -1  # to a denoiser -1 is "no label", which guidance asks for
        for labels in (LABELS + least, LABELS + CLASSES - 1, LABELS.astype(np.float32), np.eye(N, dtype=int)):
            assert refusal(partial(call, labels)) is InputError, function


@pytest.mark.parametrize("name", [*ALWAYS, *CONDITIONAL])
def test_samples_depend_on_their_label(name):
    model, variables, sample = case(name)
    one, two = (np.asarray(sample(variables, KEYS, jnp.asarray(labels))) for labels in (LABELS, LABELS[::-1]))
    assert one.shape == (N, *SHAPE) and np.isfinite(one).all()
    assert np.abs(one - two).max() > 1e-3  # codes are discrete: not every sample need change


# --- sampling -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_SAMPLES)
def test_a_model_without_samples_says_so(name):
    model, variables, _ = case(name)
    assert model.nfe is None and model.trajectory is None
    with pytest.raises(InputError, match="does not sample"):
        model.sample(variables, KEYS, steps=3)


@pytest.mark.parametrize("name", SAMPLING)
def test_the_cost_of_sampling_is_known_for_exactly_the_options_of_sampling(name):
    model, variables, _ = case(name)
    sample, taken = partial(model.sample, variables, KEYS), TAKEN[name]
    for options in taken:
        assert model.nfe(**options) >= 1, options
        assert jax.eval_shape(partial(sample, **options)).shape == (N, *SHAPE), options
    known = {option for options in taken for option in options}
    for option in set(STRANGE) - known:
        refusals = [refusal(partial(call, **{option: STRANGE[option]})) for call in (sample, model.nfe)]
        assert refusals[0] is refusals[1] is not None, option


@pytest.mark.parametrize("name", SAMPLING)
def test_a_sample_depends_on_its_own_key_alone_and_ends_its_trajectory(name):
    """Two drawn together are the first two of four; of models that have it, as the last frame of their trajectory."""
    model, variables, sample = case(name)
    four, two = np.asarray(sample(variables, KEYS)), partial(sample, variables)
    if name in TRAJECTORIES:
        frames = quick_jit(partial(model.trajectory, frames=2, **FEW.get(name, {})))(variables, KEYS[:2])
        assert frames.shape == (2, 2, *SHAPE) and np.abs(frames[0] - frames[1]).max() > 1e-3
        two = lambda keys: frames[-1]  # noqa: E731
    np.testing.assert_allclose(two(KEYS[:2]), four[:2], rtol=1e-4, atol=1e-4)
    assert np.isfinite(four).all() and len(np.unique(four.reshape(N, -1), axis=0)) == N


# --- training -----------------------------------------------------------------------------------------------------------------


def halves():
    return [jax.tree.map(lambda a, part=part: a[part], BATCH) for part in (slice(0, 2), slice(2, 4))]


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_finite_and_a_batch_costs_what_its_halves_do(name):
    """The draws are those of the examples' own keys."""
    model, (params, state), _ = case(name)
    for objective in model.objectives:
        loss = partial(objective.loss, step=objective.start, train=True)
        with_gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))
        found = [with_gradient(params, state, None, half) for half in halves()]
        for (value, (new_state, metrics)), grads in found:
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, new_state, metrics, grads)))
            assert all(np.shape(metric) == () for metric in metrics.values())
            assert jax.tree.structure(new_state) == jax.tree.structure(state)
            own = grads if objective.group is None else functools.reduce(dict.get, objective.group.split("/"), grads)
            leaves = jax.tree_util.tree_leaves_with_path(own)
            still = {"/".join(key.key for key in path) for path, leaf in leaves if not np.any(leaf != 0)}
            assert still <= UNMOVED.get(name, set())
        whole, _ = quick_jit(loss)(params, state, None, BATCH)
        mean = np.mean([value for (value, _), _ in found])
        assert np.isclose(whole, mean, rtol=1e-4) == (name not in COUPLED), (objective.name, whole, mean)


# --- what else it can do ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_likelihoods_are_of_a_known_kind_and_one_number_an_image(name):
    model, variables, _ = case(name)
    assert {likelihood.kind for likelihood in model.likelihoods} <= KINDS
    assert len({likelihood.name for likelihood in model.likelihoods}) == len(model.likelihoods)
    for likelihood in model.likelihoods:
        nats = jax.eval_shape(likelihood.fn, variables, KEYS, IMAGES)
        assert nats.shape == (N,) and nats.dtype == jnp.float32, likelihood.name
        options = fields_of(likelihood.fn)  # which the command line offers: none that the model has bound itself
        assert not options.keys() & getattr(likelihood.fn, "keywords", {}).keys(), likelihood.name


@pytest.mark.parametrize("name", [name for name in SAMPLING if name in LATENTS])
def test_a_latent_that_is_drawn_can_be_decoded_and_what_lies_between_two_is_one(name):
    model, variables, _ = case(name)
    for latent in model.latents:
        a, b = (latent.draw(variables, keys) for keys in (KEYS, jax.random.split(jax.random.key(2), N)))
        for weight, end in ((0.0, a), (1.0, b)):
            np.testing.assert_allclose(latent.between(a, b, weight), end, rtol=1e-4, atol=1e-5)
        x = jax.eval_shape(latent.decode, variables, KEYS, latent.between(a, b, 0.3))
        assert x.shape == (N, *SHAPE) and (len(a.shape) == 3) == latent.layers


@pytest.mark.parametrize("name", [name for name in SAMPLING if name not in [*TRAJECTORIES, *LATENTS, *FLOWS]])
def test_what_is_decoded_is_an_image_and_a_posterior_is_what_encode_draws_from(name):
    model, variables, _ = case(name)
    labels = None if model.num_classes is None else LABELS

    def there_and_back():
        z = model.encode(variables, KEYS, X, labels)
        return model.decode(variables, KEYS, z, labels), z, model.posterior and model.posterior(variables, X, labels)[0]

    image, z, parameter = jax.eval_shape(there_and_back)
    assert image.shape == X.shape and len(z.shape) in (2, 3)
    assert (parameter is None) == (name in NO_POSTERIOR) and (parameter is None or z.shape == parameter.shape)


@pytest.mark.parametrize("name", [name for name in TRAJECTORIES if name not in [*ALWAYS, *NO_LATENT]])
def test_latents_of_noise_are_shaped_as_the_images_that_they_stand_for(name):
    model, variables, _ = case(name)
    labels = None if model.num_classes is None else LABELS
    z = jax.eval_shape(model.encode, variables, KEYS, X, labels)
    assert z.shape == X.shape == jax.eval_shape(model.decode, variables, KEYS, z, labels).shape


@pytest.mark.parametrize("name", FLOWS)
def test_the_latent_of_a_flow_has_the_numbers_of_an_image_and_gives_it_back(name):
    model, variables, _ = case(name)
    labels = None if model.num_classes is None else jnp.asarray(LABELS)
    z, x = quick_jit(lambda x: (z := model.encode(variables, KEYS, x, labels), model.decode(variables, KEYS, z, labels)))(X)
    assert z.shape == (N, 64) and model.posterior is None
    np.testing.assert_allclose(x, X, atol=1e-3)


@pytest.mark.parametrize("name", COMPLETING)
def test_what_is_known_of_an_image_stays_and_the_rest_is_drawn_by_the_images_own_key(name):
    model, variables, _ = case(name)
    found = np.asarray(quick_jit(lambda keys, x: model.complete(variables, keys, x, UPPER_HALF))(KEYS, X[:1].repeat(N, 0)))
    np.testing.assert_array_equal(found[:, :4], X[:1, :4].repeat(N, 0))
    assert np.isfinite(found).all() and len(np.unique(found.reshape(N, -1), axis=0)) == N

"""The examples run as they stand, and docs/adding_a_model.md shows what runs."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from examples import own_model
from gm_jax import build
from gm_jax.cli.config import load_config
from gm_jax.core import Batch, Variables
from gm_jax.data.sources import load_digits
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.settings import fields_of
from gm_jax.study import entries
from gm_jax.variational import gaussian_kl

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs/adding_a_model.md").read_text()
CONFIG = "examples/own_model_config.py"


def run(directory, *command, **environment) -> str:
    """The output of a Python program of the checkout, its caches in `directory`."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(directory)} | environment
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pure_functions_learn_to_draw_digits(tmp_path):
    out = run(tmp_path, "examples/pure_functions.py", STEPS="60")
    distances = dict(re.findall(r"distance of 296 (\w+) images .*: (\S+)$", out, re.MULTILINE))
    real, samples, noise = (float(distances[name]) for name in ("real", "samples", "noise"))
    assert real < samples < noise / 2


# --- a model of one's own -----------------------------------------------------------------------------------------------------


def flat(images):
    return to_float(images).reshape(len(images), -1)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def pca(digits):
    return PCA(4).fit(flat(digits.x_train).astype(np.float64))


@pytest.fixture(scope="module")
def best(pca):
    """The closed-form maximum of the likelihood (Tipping & Bishop 1999, eq. 14-15), in another frame of z."""
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    W = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_) @ frame
    params = {"W": W, "mean": pca.mean_, "log_variance": np.log(pca.noise_variance_)}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def test_the_density_is_that_of_sklearn(digits, pca, best):
    x = flat(digits.x_test)
    np.testing.assert_allclose(own_model.log_prob(best, x), pca.score_samples(x), rtol=1e-3, atol=1e-2)


def test_gradient_descent_finds_the_closed_form(digits, pca):
    model = own_model.make((8, 8, 1), latent_dim=4)
    batch = Batch(jnp.asarray(to_float(digits.x_train)), None, jax.random.split(jax.random.key(0), len(digits.x_train)))
    optimizer, loss = optax.adam(1e-2), model.objectives[0].loss

    @jax.jit
    def step(params, opt_state):
        grads = jax.grad(lambda p: loss(p, {}, None, batch, step=0, train=True)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = model.init(jax.random.key(1), batch).params
    opt_state = optimizer.init(params)
    for _ in range(400):
        params, opt_state = step(params, opt_state)
    best = pca.score(flat(digits.x_train))
    assert best - 0.02 < float(own_model.log_prob(params, flat(digits.x_train)).mean()) < best + 0.01
    assert np.exp(params["log_variance"]) == pytest.approx(pca.noise_variance_, rel=0.01)


def test_posterior_prior_and_decoder_make_up_the_density(digits, best):
    """Where the posterior is exact, its bound is the density: E_q[log p(x|z)] - KL(q || p) = log p(x)."""
    model = own_model.make((8, 8, 1), latent_dim=4)
    x, variance = jnp.asarray(to_float(digits.x_test[:8])), jnp.exp(best["log_variance"])
    q = model.posterior(Variables(best), x)
    basis, s = own_model.principal(best)
    error = x.reshape(8, 64) - q.mean * s @ basis.T - best["mean"]
    expected_error = (error**2).sum(1) + (jnp.exp(q.logvar) * s**2).sum(1)
    expected = -0.5 * (expected_error / variance + 64 * jnp.log(2 * jnp.pi * variance)) - gaussian_kl(*q).sum(1)
    np.testing.assert_allclose(expected, own_model.log_prob(best, x.reshape(8, 64)), rtol=1e-3, atol=1e-2)


def test_codes_and_samples_have_the_moments_of_the_model(best):
    model, small = own_model.make((8, 8, 1), latent_dim=4), {**best, "W": best["W"] / 50, "mean": best["mean"] * 0}
    keys, variables = jax.random.split(jax.random.key(0), 20_000), Variables(small)  # so small that nothing is clipped
    samples = np.asarray(jax.jit(model.sample)(variables, keys)).reshape(-1, 64)
    np.testing.assert_allclose(np.cov(samples.T), small["W"] @ small["W"].T, atol=2e-5)
    x = jnp.broadcast_to(samples[0].reshape(8, 8, 1), (20_000, 8, 8, 1))
    q, z = model.posterior(variables, x[:1]), np.asarray(jax.jit(model.encode)(variables, keys, x))
    np.testing.assert_allclose(z.mean(0), q.mean[0], atol=0.03)
    np.testing.assert_allclose(z.var(0), np.exp(q.logvar[0]), rtol=0.04)


def test_the_likelihood_bounds_that_of_levels():
    """Two pixels: the probability of every pair of levels, by integration over its bin."""
    model = own_model.make((1, 2, 1), latent_dim=1)
    params = {"W": jnp.array([[0.01], [0.02]]), "mean": jnp.zeros(2), "log_variance": jnp.log(1e-4)}
    images = jnp.full((4000, 1, 2, 1), 127, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), len(images))
    nats = np.asarray(model.likelihoods[0].fn(Variables(params), keys, images))
    bin_ = 127 / 127.5 - 1 + (np.arange(201) - 100) / 100.5 / 255
    points = jnp.stack(jnp.meshgrid(bin_, bin_), -1).reshape(-1, 2)
    cov = params["W"] @ params["W"].T + 1e-4 * jnp.eye(2)
    exact = -np.log(np.exp(multivariate_normal.logpdf(points, jnp.zeros(2), cov)).mean() * (2 / 255) ** 2)
    stderr = nats.std() / np.sqrt(len(nats))
    assert exact - 3 * stderr < nats.mean() < exact + 0.05


@pytest.mark.parametrize("latent_dim", [0, 64])
def test_latent_sizes_that_make_no_sense(latent_dim):
    with pytest.raises(InputError, match=f"latent_dim={latent_dim} "):
        own_model.make((8, 8, 1), latent_dim=latent_dim)


def test_train_and_eval_take_a_module_by_its_path(tmp_path, digits, pca):
    workdir = tmp_path / "run"
    run(tmp_path, "train.py", f"--config={CONFIG}:tiny", f"--workdir={workdir}")
    run(tmp_path, "eval.py", f"--workdir={workdir}", "--tasks=samples,likelihood")
    assert list((workdir / "samples").glob("*.png"))
    [entry] = json.loads((workdir / "results.json").read_text())["metrics"]["dequantized_nats"]
    best = -pca.score(flat(digits.x_test[: entry["n"]])) - 64 * np.log(2 / 255)
    assert entry["kind"] == "bound" and entry["value"] == pytest.approx(best, abs=2)


@pytest.mark.parametrize("preset", entries.STUDIES)
def test_it_joins_every_study(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, own = entries.find(f"vae,{CONFIG}", preset)
    entries.resolve(own, {"model.latent_dim": "3"})
    config = build.resolve(load_config(ROOT / CONFIG, preset))
    assert set(config["model"]) == {"name", *fields_of(own_model.make)}
    build.build_model(config, (8, 8, 1) if preset != "cifar10" else (32, 32, 3), 10)


def test_the_page_shows_the_model_that_runs():
    source = (ROOT / "examples/own_model.py").read_text()
    [shown] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    parts = [part.strip("\n") for part in re.split(r"^ *\.\.\.$", shown, flags=re.MULTILINE)]
    assert all(f"\n{part}\n" in source for part in parts)
    positions = [source.index(part) for part in parts]
    assert all(a < b for a, b in itertools.pairwise(positions))

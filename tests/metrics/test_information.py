"""Latent measures on linear-Gaussian encoders, whose information is known, and on codes that can be counted."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import information


def linear_gaussian(n, signal, noise, dims=2, seed=0):
    """q(z|x) = N(signal x, noise^2) for x ~ N(0, I): I(x; z) = dims / 2 log(1 + signal^2 / noise^2)."""
    x = np.random.default_rng(seed).normal(size=(n, dims))
    return signal * x, np.full((n, dims), 2 * np.log(noise))


def information_of(signal, noise, dims=2):
    return 0.5 * dims * np.log1p((signal / noise) ** 2)


def brute_force(mean, logvar, rows, eps):
    """The log ratios from differences, which cancel nothing."""
    z = mean[rows] + np.exp(0.5 * logvar[rows]) * eps
    log_q = -0.5 * ((z[:, None] - mean) ** 2 / np.exp(logvar) + logvar).sum(-1)
    own = -0.5 * (eps**2 + logvar[rows]).sum(-1)
    return own - np.logaddexp.reduce(log_q, axis=1) + np.log(len(mean))


@pytest.mark.parametrize("log_variance", [0.0, -3.0, -12.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_log_ratios_are_those_of_brute_force(log_variance, offset):
    rng = np.random.default_rng(0)
    mean = offset + rng.normal(size=(90, 5))
    mean[40:] = mean[:50] + 0.5 * np.exp(0.5 * log_variance) * rng.normal(size=(50, 5))  # neighbours to be confused with
    logvar = log_variance + 0.3 * rng.normal(size=mean.shape)
    rows, eps = rng.permutation(90)[:70], rng.normal(size=(70, 5))  # more than one block
    found, expected = information._log_ratios(mean, logvar, rows, eps), brute_force(mean, logvar, rows, eps)
    assert expected.max() - expected.min() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_below_the_ceiling_it_is_the_information_on_the_image():
    found = information.index_code_information(*linear_gaussian(4000, 1.5, 0.5), rows=2000)
    assert found.value == pytest.approx(information_of(1.5, 0.5), abs=3.5 * found.stderr + 0.02) and found.stderr < 0.04
    assert found.value < found.ceiling - 5


def test_above_the_ceiling_it_is_log_n():
    """For 8 dimensions at a ratio of 1000 the information is 55 nats, which 500 images cannot show."""
    assert information_of(1000, 1, 8) > 50
    found = information.index_code_information(*linear_gaussian(500, 1000.0, 1.0, dims=8))
    assert found == pytest.approx((np.log(500), 0, np.log(500)), abs=1e-9) and found.value <= found.ceiling


def test_the_minibatch_estimate_is_right_far_below_its_ceiling_and_stuck_at_it_above():
    assert information.minibatch_information(*linear_gaussian(10_000, 0.5, 1.0)).value == pytest.approx(
        information_of(0.5, 1.0), abs=0.02
    )
    found = information.minibatch_information(*linear_gaussian(3000, 30.0, 0.3))  # 9.2 nats; log 3000 is 8.0
    whole = information.index_code_information(*linear_gaussian(3000, 30.0, 0.3))
    assert found.ceiling == pytest.approx(np.log(256)) and 5.2 < found.value <= found.ceiling < whole.value <= whole.ceiling


@pytest.mark.parametrize("signal, noise", [(0.8, 0.6), (2.0, 0.5), (0.1, 1.0)])
def test_rate_is_information_plus_marginal_kl(signal, noise):
    """The aggregate posterior is N(0, v) with v = signal^2 + noise^2; KL(N(0, v) || N(0, 1)) = (v - 1 - log v) / 2."""
    posterior = linear_gaussian(4000, signal, noise)
    found, rate = information.index_code_information(*posterior, rows=2000), information.kl_to_prior(*posterior).sum(1).mean()
    v = signal**2 + noise**2
    assert rate - found.value == pytest.approx(v - 1 - np.log(v), abs=3.5 * found.stderr + 0.02 * rate + 0.01)
    assert found.value <= rate + 3.5 * found.stderr


def test_what_makes_no_sense_is_refused():
    posterior, codes = linear_gaussian(40, 1.0, 1.0), np.zeros((4, 2), int)
    with pytest.raises(InputError, match="rows is 0"):
        information.index_code_information(*posterior, rows=0)
    for call in (information.minibatch_information, information.minibatch_code_information):
        with pytest.raises(InputError, match="batch is 0"):
            call(*(posterior if call is information.minibatch_information else (codes,)), batch=0)
    with pytest.raises(InputError, match="1 of 40 images"):
        information.active_units(np.where(np.arange(40)[:, None] == 1, np.nan, posterior[0]))
    for call in (information.code_information, information.minibatch_code_information, information.code_usage):
        with pytest.raises(InputError, match="there are no images"):
            call(codes[:0])
    with pytest.raises(InputError, match="there are no images"):
        information.kl_to_prior(np.zeros((0, 2)), np.zeros((0, 2)))


def test_kl_of_every_dimension():
    kl = information.kl_to_prior(np.array([[0.0, 2.0, 0.0]]), np.array([[0.0, 0.0, np.log(4.0)]]))
    np.testing.assert_allclose(kl, [[0, 2, 0.5 * (4 - 1 - np.log(4))]])


def test_a_collapsed_posterior_says_nothing():
    mean, logvar = np.full((300, 4), 0.25, np.float32), np.zeros((300, 4), np.float32)
    for found in (information.index_code_information(mean, logvar), information.minibatch_information(mean, logvar)):
        assert found.value == pytest.approx(0, abs=1e-12)
    assert information.active_units(mean) == 0


def test_active_units_vary_with_the_image():
    mean, _ = linear_gaussian(1000, 1.0, 1.0, dims=4)
    assert information.active_units(mean * [1, 0.2, 0.05, 0]) == 2  # variances 1, 0.04, 0.0025, 0
    assert information.active_units(mean * [1, 0.2, 0.05, 0] + 7) == 2


@pytest.mark.parametrize("log_variance", [-12.0, -60.0, -2000.0])
def test_equal_images_are_not_told_apart_however_sharp_the_posterior(log_variance):
    mean = np.repeat(np.random.default_rng(0).normal(3, 1, size=(100, 128)), 2, axis=0)
    found = information.index_code_information(mean, np.full(mean.shape, log_variance))
    assert found.value == pytest.approx(np.log(100), abs=1e-3)


def test_rows_are_a_sample_of_the_outer_mean_only():
    posterior, seen = linear_gaussian(1000, 1.5, 0.5), []
    few = information.index_code_information(*posterior, rows=200, progress=lambda done, total: seen.append((done, total)))
    every = information.index_code_information(*posterior)
    assert few.value == pytest.approx(every.value, abs=4 * few.stderr) and few.stderr > 1.5 * every.stderr
    assert few.ceiling == every.ceiling == pytest.approx(np.log(1000))
    assert seen[-1] == (200, 200) and len(seen) == -(-200 // information.BLOCK)


def test_the_seed_decides_rows_and_noise():
    posterior = linear_gaussian(300, 1.5, 0.5)
    first, again, other = (information.index_code_information(*posterior, rows=100, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert information.minibatch_information(*posterior, seed=1) != information.minibatch_information(*posterior, seed=2)


def test_fewer_images_than_a_minibatch_are_one():
    found = information.minibatch_information(*linear_gaussian(20, 100.0, 0.1))
    assert found.value == pytest.approx(np.log(20), abs=1e-3) and found.ceiling == np.log(20) and found.stderr is None


def test_posteriors_that_are_not_finite_are_refused():
    mean, logvar = linear_gaussian(5, 1.0, 1.0)
    logvar[3, 1] = np.nan
    for measure in (information.index_code_information, information.minibatch_information, information.kl_to_prior):
        with pytest.raises(InputError, match="of 1 of 5 images hold NaN"):
            measure(mean, logvar)


def test_information_of_codes_is_the_entropy_of_whole_maps():
    maps = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]], [[0, 1], [2, 3]], [[0, 1], [2, 2]]])  # the first one twice
    found = information.code_information(maps)
    assert found.value == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4)) and found.ceiling == pytest.approx(np.log(4))
    assert information.code_information(np.arange(50).reshape(50, 1)).value == pytest.approx(np.log(50))
    assert str(information.code_information(np.zeros((50, 4, 4), int)).value) == "0.0"


def test_minibatch_information_of_codes_is_capped():
    different = information.minibatch_code_information(np.arange(2000).reshape(-1, 1, 1))
    assert different.value == different.ceiling == pytest.approx(np.log(256))
    two = information.minibatch_code_information(np.arange(2000).reshape(-1, 1) % 2)
    assert two.value == pytest.approx(np.log(2), abs=0.02)


def test_usage_of_codes():
    assert information.code_usage(np.tile([[0, 1], [2, 7]], (5, 1, 1))) == (pytest.approx(4), 4)
    perplexity, used = information.code_usage(np.array([[0, 0, 0, 5]]))
    assert perplexity == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))) and used == 2

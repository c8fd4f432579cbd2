import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jacobian_rnn.linalg.batch_means import (
    CAPACITY,
    add_block,
    no_batches,
    running_means,
    student_quantile,
    time_average,
    widen,
)
from tests.networks import mostly_slow, normal


@jax.jit
def batched(blocks):
    """Add blocks of 10 steps, `(blocks, k)`."""
    start = no_batches(blocks.shape[1], 10, blocks.dtype)
    return jax.lax.scan(lambda b, total: (add_block(b, total, 10), None), start, blocks)[0]


def test_batches_merge_when_all_are_full_and_lose_nothing():
    blocks = normal(0, (5 * CAPACITY + 3, 2))
    batches = batched(blocks)
    assert batches.length == 80
    assert jnp.sum(batches.steps) == 10 * len(blocks)
    np.testing.assert_allclose(jnp.sum(batches.sums, axis=0), jnp.sum(blocks, axis=0), atol=1e-10)
    np.testing.assert_allclose(batches.sums[3], jnp.sum(blocks[24:32], axis=0), atol=1e-12)


def test_widened_batches_hold_at_least_the_length():
    batches = batched(jnp.ones((20, 1)))
    wide = widen(batches, 35)
    assert wide.length == 40
    np.testing.assert_array_equal(wide.steps[:6], [40, 40, 40, 40, 40, 0])


def test_running_means_end_at_the_mean_and_are_nan_beyond_the_run():
    blocks = normal(0, (20, 3))
    means, steps = running_means(batched(blocks))
    np.testing.assert_allclose(means[19], jnp.mean(blocks, axis=0) / 10, atol=1e-12)
    assert steps[19] == 200
    assert bool(jnp.all(jnp.isnan(means[20:])))


def coverage(noise):
    """Share of 95 % intervals over runs that hold the true mean, zero."""

    def of_run(blocks):
        average = time_average(batched(blocks))
        error = average.standard_error
        reach = student_quantile(0.95, average.num_batches - 1)
        return jnp.abs(average.mean) < reach * error, average.long_enough

    covered, long_enough = jax.vmap(of_run)(noise)
    return float(jnp.mean(covered)), float(jnp.mean(long_enough))


def autoregressive(key, shape, memory):
    noise = jax.random.normal(key, shape)
    scale = np.sqrt(1 - memory**2)
    step = lambda last, new: ((memory * last + scale * new),) * 2  # noqa: E731
    return jax.vmap(lambda run: jax.lax.scan(step, run[0], run)[1])(noise)


@pytest.mark.parametrize("num_blocks", mostly_slow([20, 100, 1000], [100]))
def test_intervals_cover_the_mean_of_white_noise(num_blocks):
    noise = jax.random.normal(jax.random.key(0), (1000, num_blocks, 4))
    covered, long_enough = coverage(noise)
    # 4000 intervals: a standard error of 0.35 %.
    assert 0.93 < covered < 0.975
    assert long_enough > 0.97


def test_intervals_cover_the_mean_of_correlated_noise():
    covered, long_enough = coverage(autoregressive(jax.random.key(1), (1000, 1000, 4), 0.8))
    assert 0.93 < covered < 0.975
    assert long_enough > 0.9


@pytest.mark.slow
def test_a_run_shorter_than_the_correlation_time_says_so():
    _, long_enough = coverage(autoregressive(jax.random.key(1), (200, 100, 4), 0.98))
    assert long_enough < 0.35
    average = time_average(batched(jnp.ones((5, 1))))
    assert not bool(jnp.any(average.long_enough))
    assert bool(jnp.all(jnp.isnan(time_average(batched(jnp.ones((1, 1)))).standard_error)))


def test_a_trend_shows_as_drift_and_noise_does_not():
    noise = normal(0, (200, 1))
    assert abs(time_average(batched(noise)).drift[0]) < 4
    assert time_average(batched(noise + jnp.linspace(0, 10, 200)[:, None])).drift[0] > 4


@pytest.mark.parametrize("rate", [-np.log(2), 1e-8, 0.1, 700.0])
def test_batches_that_differ_by_rounding_alone_are_equal(rate):
    blocks = 10 * rate * (1 + 4e-16 * jnp.linspace(-1, 1, 200)[:, None])
    average = time_average(batched(blocks))
    assert bool(average.long_enough[0])
    assert average.drift[0] == average.standard_error[0] == 0
    # A drift of a few hundred roundings is one.
    blocks = 10 * (rate + 1e-13 * (1 + rate) * jnp.linspace(-1, 1, 200)[:, None])
    assert abs(time_average(batched(blocks)).drift[0]) > 4


def test_covariance_is_that_of_the_components():
    white = normal(0, (4000, 2))
    mixed = white @ jnp.array([[1.0, 0.8], [0.0, 0.6]])
    deviations = time_average(batched(mixed)).deviations
    covariance = deviations.T @ deviations
    correlation = covariance[0, 1] / jnp.sqrt(covariance[0, 0] * covariance[1, 1])
    assert float(correlation) == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("level", [0.68, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("nu", [10, 31, 63])
def test_student_quantile_agrees_with_scipy(level, nu):
    expected = stats.t.ppf((1 + level) / 2, nu)
    assert float(student_quantile(level, jnp.asarray(nu))) == pytest.approx(expected, rel=2e-3)

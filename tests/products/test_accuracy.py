"""How far the log singular values of products can be trusted, and where they say so themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import (
    Recurrence,
    log_singular_values_by_lag,
    product_of,
    step_jacobians,
)
from tests.chains import exact_logs, haar, known_chain
from tests.networks import mostly_slow, normal


@pytest.mark.parametrize(
    ("n", "num_steps", "low"),
    [
        (3, 20_000, -0.6),  # a range of 20,000 nats and more
        pytest.param(16, 2000, -2.0, marks=pytest.mark.slow),
        pytest.param(64, 20_000, -1.0, marks=pytest.mark.slow),
    ],
)
def test_chains_with_known_singular_values_are_exact_to_1e9(n, num_steps, low):
    rates = np.linspace(0.5, low, n)
    jacobians, exact = known_chain(
        n, n, num_steps, lambda generator: rates + 0.3 * generator.normal(size=n)
    )
    product = product_of(jacobians, estimate_error=n < 64)
    np.testing.assert_allclose(product.log_singular_values(), exact, atol=1e-9)


@pytest.mark.parametrize(("n", "spread"), mostly_slow([(16, 0.1), (8, 1.0)], [(16, 0.1)]))
def test_float32_is_good_to_a_millionth_of_the_range(n, spread):
    rates = np.linspace(0.5, -1.5, n) * spread
    jacobians, exact = known_chain(
        n, n, 5000, lambda generator: rates + 0.1 * generator.normal(size=n)
    )
    with jax.enable_x64(False):
        logs = np.asarray(product_of(jnp.asarray(jacobians, jnp.float32)).log_singular_values())
    assert np.max(np.abs(logs - exact)) < 1e-3 + 1e-6 * (exact[0] - exact[-1])


def test_two_triply_degenerate_rates_stay_equal_over_3000_steps():
    rates = np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    jacobians, exact = known_chain(0, 6, 3000, lambda _: rates)
    logs = product_of(jacobians).log_singular_values()
    np.testing.assert_allclose(logs, exact, atol=1e-9)


def zoo():
    """Give small products that are well and badly conditioned, each by its name."""
    for seed in range(4):
        generator = np.random.default_rng(seed)
        n, steps = int(generator.integers(2, 6)), int(generator.integers(20, 60))
        normal = generator.normal(size=(steps, n, n))
        frame, rates = haar(generator, n), generator.uniform(-1, 1, n)
        forth = (frame * np.exp(rates)) @ frame.T
        back = (frame * np.exp(-rates)) @ frame.T
        yield f"growth undone {seed}", np.array([forth] * steps + [back] * steps)
        yield f"hardly undone {seed}", np.array([forth] * 8 + [back] * 8)
        nudge = np.exp(0.01 * generator.normal(size=(steps, 1, 1)))
        undone = np.linalg.inv(normal)[::-1] * nudge
        yield f"random growth undone {seed}", np.concatenate([normal, undone])
        yield f"triangular {seed}", np.triu(normal)
        yield f"random {seed}", normal
        yield f"kept {seed}", np.tile(normal[0], (steps, 1, 1))
        walk, _ = known_chain(seed, n, 300, lambda g, n=n: 0.7 * g.normal(size=n))
        yield f"wandering {seed}", walk
        saturated = np.exp(-12 * generator.random((steps, n)))[:, :, None] * normal
        yield f"saturated {seed}", saturated
        yield f"saturated columns {seed}", np.swapaxes(saturated, 1, 2)


@pytest.mark.slow
def test_log_error_can_be_trusted_over_a_zoo_of_products():
    underestimated, lost = [], 0
    for name, jacobians in zoo():
        # Log ranges stay below 900 nats, and cancellation below as much again.
        exact = exact_logs(jacobians, 800)
        product = product_of(jacobians)
        error = np.max(np.abs(np.asarray(product.log_singular_values()) - exact))
        said = float(product.log_error)
        lost += error > 1e-2
        # Two passes agree by chance now and then: a tenth is all that can be relied on.
        if said < min(error / 10, 1e-2):
            underestimated.append((name, error, said))
    assert not underestimated
    assert lost >= 3  # the zoo has products that cannot be right


def test_lags_that_reach_states_that_are_not_finite_have_no_spectrum():
    tripling = Recurrence(lambda params, carry, x: jax.nn.relu(carry @ params) * x, 3 * jnp.eye(2))
    xs = jnp.ones((700, 2)).at[650:].set(0)  # states overflow, and a zero makes them NaN
    spectra = log_singular_values_by_lag(tripling, jnp.ones(2), xs, lags=[0, 5])
    np.testing.assert_array_equal(spectra, [[0, 0], [np.nan, np.nan]])
    spectra = log_singular_values_by_lag(tripling, jnp.ones(2), xs[:100], lags=[5])
    np.testing.assert_allclose(spectra, [[5 * np.log(3)] * 2], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GRUCell", "LSTMCell"])
def test_spectra_by_lag_are_those_of_the_last_steps(network, name):
    recurrence, carry, xs = network(name, 4)
    jacobians = step_jacobians(recurrence, carry, xs)
    lags = [12, 1, 0, 5, 5]
    spectra = log_singular_values_by_lag(recurrence, carry, xs, lags=lags)
    for lag, spectrum in zip(lags, spectra, strict=True):
        expected = product_of(jacobians[12 - lag :]).log_singular_values()
        np.testing.assert_allclose(spectrum, expected, atol=1e-10)


def test_lags_of_one_byte_do_not_wrap_around_in_long_sequences():
    system = Recurrence(lambda p, carry, _: p * carry, jnp.array([0.5, 0.9]))
    lags = np.array([3, 100], np.uint8)
    spectra = log_singular_values_by_lag(system, jnp.zeros(2), None, lags=lags, num_steps=300)
    expected = np.array([3, 100])[:, None] * np.log([0.9, 0.5])
    np.testing.assert_allclose(spectra, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("lags", "error", "message"),
    [
        ([13], ValueError, "lags: received .* from 0 to 12"),
        ([-1], ValueError, "lags: received"),
        ([], TypeError, "lags: received"),
        (3, TypeError, "lags: received 3"),
        ([1.0], TypeError, "expected a sequence of Python ints"),
    ],
)
def test_lags_that_are_none_are_refused(network, lags, error, message):
    recurrence, carry, xs = network("GRUCell", 4)
    with pytest.raises(error, match=message):
        log_singular_values_by_lag(recurrence, carry, xs, lags=lags)


def test_singular_vectors_are_those_of_a_dense_svd():
    jacobians = np.random.default_rng(0).normal(size=(6, 5, 5))
    product = product_of(jacobians)
    left, right = product.singular_vectors()
    dense = np.linalg.multi_dot(jacobians[::-1])
    values = np.asarray(product.singular_values())
    np.testing.assert_allclose((left * values[None]) @ right, dense, atol=1e-11 * values[0])
    np.testing.assert_allclose(left.T @ left, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(right @ right.T, np.eye(5), atol=1e-12)


def test_singular_vectors_are_orthonormal_over_thousands_of_nats_and_carry_the_gradient():
    rates = np.linspace(1.0, -2.0, 6)
    jacobians, exact = known_chain(
        1, 6, 1500, lambda generator: rates + 0.2 * generator.normal(size=6)
    )
    product = product_of(jacobians)
    left, right = product.singular_vectors()
    np.testing.assert_allclose(left.T @ left, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(right @ right.T, np.eye(6), atol=1e-10)
    # A gradient along a left vector is multiplied by its singular value; the others would have to
    # be absent to e^-4500, so this can hold for the first alone.
    gain = product.log_adjoint_growth(left[:, 0])
    assert float(gain) == pytest.approx(exact[0], abs=1e-9)
    last = product_of(np.swapaxes(jacobians, 1, 2)[::-1]).singular_vectors()
    np.testing.assert_allclose(np.abs(np.sum(last[0] * right.T, axis=0)), 1, atol=1e-9)


def test_vectors_of_lost_directions_are_zero_and_the_others_right():
    jacobians = np.random.default_rng(0).normal(size=(30, 4, 4))
    jacobians[7, 2] = 0
    left, right = product_of(jacobians).singular_vectors()
    np.testing.assert_allclose(left.T @ left, np.diag([1, 1, 1, 0]), atol=1e-12)
    np.testing.assert_allclose(right @ right.T, np.diag([1, 1, 1, 0]), atol=1e-12)


def sum_of_first(jacobians, num):
    return jnp.sum(product_of(jacobians, estimate_error=False).log_singular_values()[:num])


@pytest.mark.parametrize("num", [1, 3])
def test_gradients_of_log_singular_values_agree_with_finite_differences(num):
    jacobians = normal(0, (8, 4, 4))
    direction = normal(1, jacobians.shape)
    slope = jnp.sum(jax.grad(sum_of_first)(jacobians, num) * direction)
    step = 1e-6
    above = sum_of_first(jacobians + step * direction, num)
    below = sum_of_first(jacobians - step * direction, num)
    assert float(slope) == pytest.approx(float(above - below) / (2 * step), rel=1e-6)


def test_gradients_are_right_where_a_direction_is_lost():
    jacobians = jnp.asarray(normal(0, (8, 4, 4))).at[3, 1].set(0)
    gradient = jax.grad(sum_of_first)(jacobians, 3)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    direction = jnp.asarray(normal(1, jacobians.shape)).at[3, 1].set(0)
    step = 1e-6
    above = sum_of_first(jacobians + step * direction, 3)
    below = sum_of_first(jacobians - step * direction, 3)
    slope = float(jnp.sum(gradient * direction))
    assert slope == pytest.approx(float(above - below) / (2 * step), rel=1e-5)
    everything = jax.grad(sum_of_first)(jacobians, 4)
    assert bool(jnp.all(jnp.isfinite(everything)))


@pytest.mark.slow
def test_gradients_at_equal_singular_values_are_finite_and_of_their_sum_right():
    jacobians = jnp.stack([jnp.asarray(haar(np.random.default_rng(s), 3)) for s in range(5)])
    first = jax.grad(sum_of_first)(jacobians, 1)
    assert bool(jnp.all(jnp.isfinite(first)))
    # The sum of all is log|det|, whose gradient is J⁻ᵀ.
    everything = jax.grad(sum_of_first)(jacobians, 3)
    np.testing.assert_allclose(
        everything, jnp.swapaxes(jnp.linalg.inv(jacobians), 1, 2), atol=1e-12
    )

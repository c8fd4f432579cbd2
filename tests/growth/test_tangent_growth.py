import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    finite_time_growth,
    from_linen,
    jacobian_product,
    largest_exponent,
)
from jacobian_rnn.linalg.frames import generic_columns
from tests.networks import mostly_slow, normal, random_variables


def logistic(r, carry, x):
    del x
    return r * carry * (1 - carry)


def henon(params, carry, x):
    del x
    a, b = params
    return jnp.stack([1 - a * carry[0] ** 2 + carry[1], b * carry[0]])


def linear(matrix, carry, x):
    del x
    return matrix @ carry


def test_logistic_map_at_4_has_exponent_ln_2():
    system = Recurrence(logistic, jnp.array(4.0))
    rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=200_000, num_warmup=1000)
    # The distribution of log|f'| has standard deviation pi/sqrt(12) around ln 2.
    assert abs(float(rate) - np.log(2)) < 4 * np.pi / np.sqrt(12 * 199_000)


def test_logistic_map_on_its_period_2_orbit_has_the_exact_exponent():
    r = 3.2
    system = Recurrence(logistic, jnp.array(r))
    rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=3000, num_warmup=1000)
    assert float(rate) == pytest.approx(0.5 * np.log(abs(4 + 2 * r - r**2)), abs=1e-12)


def test_henon_map_has_its_published_exponent():
    system = Recurrence(henon, jnp.array([1.4, 0.3]))
    rate = largest_exponent(system, jnp.array([0.1, 0.1]), None, num_steps=400_000, num_warmup=1000)
    assert float(rate) == pytest.approx(0.41927, abs=0.003)


def test_linear_system_grows_at_the_largest_modulus_of_an_eigenvalue():
    matrix = jnp.array([[1.2, 5.0], [0.0, 0.7]])
    system = Recurrence(linear, matrix)
    rate = largest_exponent(system, jnp.zeros(2), None, num_steps=500, num_warmup=200)
    assert float(rate) == pytest.approx(np.log(1.2), abs=1e-12)


def test_exponent_is_the_rate_at_which_the_product_stretches_the_generic_vector():
    cell = nn.GRUCell(6, param_dtype=jnp.float64)
    xs = normal(0, (3000, 2))
    carry = jnp.zeros(6)
    system = from_linen(cell, random_variables(cell, carry, xs[0]))
    rate = largest_exponent(system, carry, xs)
    matrix, log_scale = jacobian_product(system, carry, xs, estimate_error=False).dense()
    image = matrix @ generic_columns(6, 1)[:, 0]
    assert float(rate) == pytest.approx(
        float(log_scale + jnp.log(jnp.linalg.norm(image))) / 3000, abs=1e-12
    )


def test_warm_up_removes_the_transient():
    system = Recurrence(linear, jnp.array([[1.0, 100.0], [0.0, 0.5]]))
    short = largest_exponent(system, jnp.zeros(2), None, num_steps=50)
    settled = largest_exponent(system, jnp.zeros(2), None, num_steps=50, num_warmup=40)
    assert abs(float(settled)) < 1e-10 < abs(float(short))


def test_a_step_to_zero_gives_minus_infinity():
    system = Recurrence(linear, jnp.zeros((2, 2)))
    assert largest_exponent(system, jnp.ones(2), None, num_steps=3) == -jnp.inf


def resetting(weights, carry, x):
    """Apply a tanh network whose carry is zeroed by a flag, the last input."""
    return jnp.tanh(weights @ jnp.where(x[-1] > 0, 0.0, carry) + x[:-1])


def with_resets(steps, num_steps=120, n=4):
    flags = jnp.zeros((num_steps, 1)).at[np.array(steps)].set(1)
    return Recurrence(resetting, normal(3, (n, n))), jnp.append(normal(4, (120, n)), flags, 1)


def test_a_reset_before_the_count_starts_the_vector_anew():
    system, xs = with_resets([0])
    carry = jnp.ones(4)
    rate = largest_exponent(system, carry, xs, num_warmup=60)
    after_reset = system.step(system.params, carry, xs[0])
    expected = largest_exponent(system, after_reset, xs[1:], num_warmup=59)
    assert float(rate) == pytest.approx(float(expected), abs=1e-13)
    gradient = jax.grad(lambda c: largest_exponent(system, c, xs, num_warmup=60))(carry)
    np.testing.assert_array_equal(gradient, 0)
    assert largest_exponent(system, carry, xs) == -jnp.inf


def test_a_reset_in_a_window_gives_minus_infinity_without_an_error_bar():
    system, xs = with_resets([45])
    growth = finite_time_growth(system, jnp.ones(4), xs, lags=[5, 20], key=jax.random.key(0))
    value, error = growth.finite_time_exponents()
    np.testing.assert_array_equal(value > -jnp.inf, [True, False])
    np.testing.assert_array_equal(np.isnan(error), [False, True])
    # In the mean square the windows that are cut are zeros like any other number.
    assert bool(jnp.all(jnp.isfinite(growth.generalized_exponents(2).value)))
    assert growth.generalized_exponents(-2).value[1] == -jnp.inf


def doubling(params, carry, x):
    """Double; an input above zero resets."""
    del params
    return jax.nn.relu(2 * jnp.where(x > 0, 0.5, carry))


@pytest.mark.parametrize("num_warmup", [0, 1100])
def test_states_that_stop_being_finite_have_no_exponent(num_warmup):
    system = Recurrence(doubling, ())
    xs = jnp.zeros(1200).at[1090].set(1)
    rate = largest_exponent(system, jnp.ones(2), xs, num_warmup=num_warmup)
    assert bool(jnp.isnan(rate))
    rate = largest_exponent(system, jnp.ones(2), xs[:1000], num_warmup=10)
    assert float(rate) == pytest.approx(np.log(2), abs=1e-13)


@pytest.mark.parametrize("lags", [[10, 100], [5, 50]])
def test_growth_ends_at_the_step_at_which_states_stop_being_finite(lags):
    # 1240 steps: 40 to settle, and windows.
    system, xs = Recurrence(doubling, ()), jnp.zeros(1240).at[1090].set(1)
    growth = finite_time_growth(system, jnp.ones(2), xs, lags=lags, key=jax.random.key(0))
    starts = np.arange(40, 1240, lags[-1])[:, None]
    # Step 1023 makes the state inf, and a reset after it makes nothing of it good.
    good = starts + np.array(lags) <= 1023
    expected = np.where(good, np.log(2) * np.array(lags), np.nan)
    np.testing.assert_allclose(growth.log_growth[:, :, 0], expected, atol=1e-11)


def test_growth_after_a_settling_that_was_not_finite_is_unknown():
    # Squared, the state is inf at step 13; of 59 steps, two windows leave 19 to settle.
    system = Recurrence(lambda p, state, x: jnp.where(x > 0, 0.5, p * state**2), jnp.array(1.0))
    xs = jnp.zeros(59).at[15].set(1)
    growth = finite_time_growth(system, jnp.full(2, 1.1), xs, lags=[1, 20], key=jax.random.key(0))
    assert bool(jnp.all(jnp.isnan(growth.log_growth)))


@pytest.mark.parametrize("rate", [1e25, 1e-25])
def test_norms_are_not_squared_out_of_range(rate):
    with jax.enable_x64(False):
        system = Recurrence(linear, rate * jnp.eye(2, dtype=jnp.float32))
        zero, key = jnp.zeros(2, jnp.float32), jax.random.key(0)
        largest = largest_exponent(system, zero, None, num_steps=9)
        growth = finite_time_growth(system, zero, None, lags=[1], key=key, num_steps=9)
        assert float(largest) == pytest.approx(np.log(rate), rel=1e-6)
        np.testing.assert_allclose(growth.log_growth, np.log(rate), rtol=1e-6)


@pytest.mark.parametrize("num_warmup", [-1, 5, 6])
def test_a_warm_up_that_leaves_no_step_is_refused(num_warmup):
    system = Recurrence(linear, jnp.eye(2))
    with pytest.raises(ValueError, match="num_warmup: received"):
        largest_exponent(system, jnp.ones(2), None, num_steps=5, num_warmup=num_warmup)


def test_an_empty_sequence_has_no_rate():
    system = Recurrence(linear, jnp.eye(2))
    with pytest.raises(ValueError, match="num_warmup"):
        largest_exponent(system, jnp.ones(2), None, num_steps=0)


def newman_growth(n, windows, lags, seed=0):
    """Growth over windows of i.i.d. Gaussian matrices of unit gain."""

    def step(params, carry, x):
        del params
        return x @ carry

    xs = jax.random.normal(jax.random.key(seed), (windows * max(lags), n, n)) / np.sqrt(n)
    system = Recurrence(step, ())
    return finite_time_growth(
        system, jnp.zeros(n), xs, lags=lags, key=jax.random.key(1), num_vectors=1
    )


@pytest.mark.parametrize(
    ("order", "exact"),
    mostly_slow([(1, -0.015615), (2, 0.0), (4, 0.117783)], [(1, -0.015615)]),
)
def test_generalized_exponents_of_gaussian_products_are_exact(order, exact):
    growth = newman_growth(16, 4000, [1, 5])
    value, error = growth.generalized_exponents(order)
    # The moments of products of independent isotropic factors are products: the same at each lag.
    assert np.all(np.abs(value * order - exact) < 4 * error * order)
    assert np.all(error < 0.02)


def test_typical_growth_lies_below_mean_growth_and_is_newmans_exponent():
    growth = newman_growth(16, 4000, [1, 5])
    value, error = growth.finite_time_exponents()
    assert np.all(np.abs(value - -0.0319) < 4 * error)
    annealed = growth.generalized_exponents(2)
    assert np.all(value + 2 * error < annealed.value)


def test_windows_end_with_the_sequence_and_lags_are_nested():
    matrix = jnp.diag(jnp.array([2.0, 2.0]))
    system = Recurrence(linear, matrix)
    growth = finite_time_growth(
        system, jnp.zeros(2), None, lags=[3, 1], key=jax.random.key(0), num_steps=10, num_vectors=4
    )
    assert growth.log_growth.shape == (3, 2, 4)
    np.testing.assert_array_equal(growth.lags, [1, 3])
    expected = np.log(2) * np.array([1, 3])[:, None] * np.ones((3, 2, 4))
    np.testing.assert_allclose(growth.log_growth, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("lags", "error", "message"),
    [([0], ValueError, "lags: received"), ([6], ValueError, "1 to 5"), ([1.5], TypeError, "ints")],
)
def test_lags_out_of_range_are_refused(lags, error, message):
    system = Recurrence(linear, jnp.eye(2))
    with pytest.raises(error, match=message):
        finite_time_growth(
            system, jnp.ones(2), None, lags=lags, key=jax.random.key(0), num_steps=10
        )


def test_order_zero_and_no_vectors_are_refused():
    with pytest.raises(ValueError, match="order: received 0"):
        newman_growth(2, 4, [1]).generalized_exponents(0)
    with pytest.raises(ValueError, match="num_vectors: received 0"):
        finite_time_growth(
            Recurrence(linear, jnp.eye(2)),
            jnp.ones(2),
            None,
            lags=[1],
            key=jax.random.key(0),
            num_steps=10,
            num_vectors=0,
        )

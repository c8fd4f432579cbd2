import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    from_linen,
    jacobian_product,
    leading_singular_values,
    leading_singular_values_by_lag,
    log_singular_values_by_lag,
    lru,
    product_of,
    stack,
    trajectory,
    zero_carry,
)
from tests.networks import normal, random_variables
from tests.systems import through


def of_matrices(matrices, **options):
    return through(leading_singular_values, matrices, **{"num": 3} | options)


def network(cell_class, width, num_steps):
    cell = cell_class(width, param_dtype=jnp.float64)
    xs = jnp.asarray(normal(0, (num_steps, 3)))
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    variables = cell.init(jax.random.key(1), carry, xs[0])
    return from_linen(cell, variables), carry, xs


@pytest.mark.parametrize(("width", "num_steps"), [(24, 60), (24, 0), (6, 300)])
def test_values_and_vectors_are_those_of_the_exact_product(width, num_steps):
    cell = nn.LSTMCell(width, param_dtype=jnp.float64)
    xs = jnp.asarray(normal(0, (num_steps, 3)))
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    system = from_linen(cell, random_variables(cell, carry, jnp.zeros(3)))
    leading = leading_singular_values(system, carry, xs, num=5)
    product = jacobian_product(system, carry, xs)
    exact = product.log_singular_values()[:5]
    np.testing.assert_allclose(leading.log_singular_values, exact, atol=1e-10)
    if num_steps:  # or all values are equal, and others could always be hidden behind them
        assert float(leading.log_error.max()) <= 1e-8
    identity = leading.left_vectors.T @ leading.left_vectors
    np.testing.assert_allclose(identity, np.eye(5), atol=1e-12)
    # P v = σ u, in units of σ₁. Vectors of equal values are any basis of their space.
    matrix, log_scale = product.dense()
    images = matrix @ leading.right_vectors.T
    sizes = jnp.exp(leading.log_singular_values - log_scale)
    np.testing.assert_allclose(images, leading.left_vectors * sizes[None], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [100, 5000])
@pytest.mark.parametrize("cell_class", [nn.SimpleCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("width", [64, 128])
def test_wide_networks_over_long_times_have_their_exact_values(cell_class, width, num_steps):
    system, carry, xs = network(cell_class, width, num_steps)
    leading = leading_singular_values(system, carry, xs, num=8)
    exact = jacobian_product(system, carry, xs, estimate_error=False).log_singular_values()[:8]
    np.testing.assert_allclose(leading.log_singular_values, exact, atol=1e-8)
    assert float(leading.log_error.max()) <= 1e-8


def test_values_that_are_nearly_equal_are_both_found():
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.standard_normal((40, 40)))[0] for _ in range(2))
    values = np.concatenate([[3, 3 - 1e-9, 1.5], np.geomspace(1, 1e-6, 37)])
    matrices = np.concatenate([((left * values) @ right)[None], np.tile(np.eye(40), (9, 1, 1))])
    leading = of_matrices(matrices)
    np.testing.assert_allclose(leading.log_singular_values, np.log(values[:3]), atol=1e-10)
    plane = right[:2].T @ right[:2]
    found = leading.right_vectors[:2].T @ leading.right_vectors[:2]
    np.testing.assert_allclose(found, plane, atol=1e-7)


def test_lags_are_those_of_the_spectrum_by_lag():
    system, carry, xs = network(nn.GRUCell, 20, 50)
    lags = [30, 0, 50, 1]
    leading = leading_singular_values_by_lag(system, carry, xs, num=4, lags=lags)
    exact = log_singular_values_by_lag(system, carry, xs, lags=lags)[:, :4]
    np.testing.assert_allclose(leading.log_singular_values, exact, atol=1e-8)
    assert leading.left_vectors.shape == (4, 20, 4)


@pytest.mark.parametrize("rate", [-5, 5])
def test_values_far_beyond_the_range_of_float32_are_kept_in_logs(rate):
    matrices = np.exp(rate) * normal(0, (200, 12, 12)) / np.sqrt(12)
    leading = of_matrices(matrices.astype(np.float32))
    assert int(leading.num_rounds) < 10
    exact = product_of(jnp.asarray(matrices)).log_singular_values()[:3]
    np.testing.assert_allclose(leading.log_singular_values, exact, atol=1e-2)
    assert leading.log_singular_values.dtype == jnp.float32


def test_what_rounding_has_taken_is_said_and_so_is_an_iteration_cut_short():
    matrix = normal(0, (20, 20))
    back_and_forth = np.repeat([matrix, np.linalg.inv(matrix)], 100, axis=0)
    assert float(of_matrices(back_and_forth).log_error.max()) > 1
    flat = np.linalg.qr(normal(1, (40, 40)))[0][None] * np.linspace(1, 0.9, 40)
    short = of_matrices(flat, max_rounds=2)
    assert int(short.num_rounds) == 2
    error = np.abs(short.log_singular_values - np.log(np.linalg.svd(flat[0])[1][:3]))
    assert np.all(error < short.log_error)
    assert float(short.log_error.max()) > 1e-4


@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_values_in_a_dense_cluster_have_an_error_that_holds(spread):
    values = 1 + spread * np.random.default_rng(0).random(200)
    found = of_matrices(np.diag(values)[None], num=2)
    error = np.abs(found.log_singular_values - np.sort(np.log(values))[::-1][:2])
    assert np.all(error <= found.log_error)
    assert float(found.log_error.max()) > 1e-3


def test_values_have_the_derivatives_of_those_of_the_exact_product():
    matrices = jnp.asarray(normal(0, (15, 20, 20)))

    def ours(scale):
        return of_matrices(matrices.at[7].multiply(scale)).log_singular_values

    def exact(scale):
        scaled = matrices.at[7].multiply(scale)
        return product_of(scaled, estimate_error=False).log_singular_values()[:3]

    scale = jnp.asarray(1 + normal(1, (20, 20)) / 10)
    np.testing.assert_allclose(jax.jacrev(ours)(scale), jax.jacrev(exact)(scale), atol=1e-7)
    ours_pushed, exact_pushed = (jax.jvp(f, (scale,), (scale,))[1] for f in (ours, exact))
    np.testing.assert_allclose(ours_pushed, exact_pushed, atol=1e-7)


def test_directions_that_are_cut_have_minus_infinity_and_what_is_not_finite_nan():
    matrices = normal(0, (5, 6, 6))
    matrices[2] = np.outer(normal(1, 6), normal(2, 6))
    leading = of_matrices(matrices)
    assert np.isfinite(leading.log_singular_values[0])
    np.testing.assert_array_equal(leading.log_singular_values[1:], -np.inf)

    def square(params, carry, x):
        return params * carry**2 + 0 * x

    overflow = leading_singular_values(
        Recurrence(square, jnp.array(1.0)), jnp.full(3, 1e200), jnp.zeros((4, 1)), num=2
    )
    assert np.all(np.isnan(overflow.log_singular_values))
    assert np.all(np.isnan(overflow.log_error))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num": 0}, "num: received 0, expected 1 to 3"),
        ({"num": 4}, "num: received 4, expected 1 to 3"),
        ({"max_rounds": 0}, "max_rounds: received 0"),
        ({"tolerance": np.nan}, "tolerance: received nan"),
        ({"key": 5}, "key: received a int, expected a jax.random.key"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        of_matrices(np.ones((2, 3, 3)), **options)


def summed(carry):
    return carry[0].reshape(4, -1).sum(axis=1)


def test_layers_of_many_units_have_values_and_vectors_without_a_matrix():
    lower = lru(2, 1200, key=jax.random.key(0), radii=(0.5, 0.9), dtype=jnp.float64)
    lower = dataclasses.replace(lower, output=summed)
    upper = lru(4, 800, key=jax.random.key(1), radii=(0.5, 0.9), dtype=jnp.float64)
    both, xs = stack(lower, upper), jnp.zeros((150, 2))
    leading = leading_singular_values(both, zero_carry(both), xs, num=3)
    assert np.all(np.isfinite(leading.log_error))
    # Without input the layers are linear, so the last state is the product times the first.
    for log_value, left, right in zip(
        leading.log_singular_values, leading.left_vectors.T, leading.right_vectors, strict=True
    ):
        carry = ((right[:1200], right[1200:2400]), (right[2400:3200], right[3200:]))
        last = trajectory(both, carry, xs)[-1]
        np.testing.assert_allclose(last / jnp.exp(log_value), left, atol=1e-7)

"""Over 500 products: the values are right, or `log_error` says that they are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import product_of
from tests.products.product_zoo import kinds

KINDS = {kind.name: kind for kind in kinds()}
QUICK = ("gates", "random walks", "walks apart and back", "permuted gates")


@functools.cache
def drawn(name, num):
    """Draw products of a kind; return Jacobians `(num, T, n, n)` and exact logs `(num, n)`."""
    draws = [KINDS[name].draw(np.random.default_rng(seed)) for seed in range(num)]
    return tuple(np.stack(arrays) for arrays in zip(*draws, strict=True))


def measured(jacobians):
    """Return log singular values and `log_error` of each product, and of it cut in halves."""

    def one(jacobians):
        half = len(jacobians) // 2
        whole = product_of(jacobians)
        cut = product_of(jacobians[half:]) @ product_of(jacobians[:half])
        return [(product.log_singular_values(), product.log_error) for product in (whole, cut)]

    return jax.jit(jax.vmap(one))(jacobians)


def check(name, num, dtype):
    """Return the largest errors `(2, num)` of a kind, having compared them with what is said."""
    jacobians, exact = drawn(name, num)
    errors = []
    for values, said in measured(jnp.asarray(jacobians, dtype)):
        error, said = np.abs(np.asarray(values, float) - exact).max(axis=1), np.asarray(said)
        assert not np.any(np.isnan(said))
        trusted = said < 1e-2
        assert np.all(error[trusted] <= 10 * said[trusted]), (name, error, said)
        assert np.all(said[error > 0.1] > 1e-2), (name, error, said)
        errors.append(error)
    return np.array(errors)


@pytest.mark.parametrize("name", QUICK)
def test_directions_that_overtake_each_other_keep_their_singular_values(name):
    assert check(name, 10, jnp.float64).max() < 1e-9


@pytest.mark.parametrize("name", ["two layers of gates", "triangular gates, 0.1"])
def test_coupling_one_way_keeps_digits_in_one_order_or_the_other(name):
    jacobians, exact = drawn(name, 8)

    def worst(**order):
        products = [product_of(one, **order) for one in jacobians]
        return max(
            np.abs(np.asarray(product.log_singular_values()) - logs).max()
            for product, logs in zip(products, exact, strict=True)
        )

    assert worst(backwards=False) > 1e-7
    assert worst() < 1e-9


@pytest.mark.parametrize("name", ["gates", "random walks"])
def test_float32_keeps_them_to_a_thousandth(name):
    with jax.enable_x64(False):
        assert check(name, 10, jnp.float32).max() < 1e-3


@pytest.mark.parametrize(("n", "num_steps"), [(32, 5000)])
def test_wide_and_long_products_of_gates_are_right(n, num_steps):
    inputs = np.random.default_rng(0).normal(size=(num_steps, 3))
    logs = -np.logaddexp(0, inputs @ np.random.default_rng(1).normal(size=(3, n)))
    factors = np.exp(logs)[:, :, None] * np.eye(n)
    values = product_of(factors, estimate_error=False).log_singular_values()
    np.testing.assert_allclose(values, np.sort(logs.sum(0))[::-1], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_values_are_right_over_the_zoo_or_said_to_be_wrong(name):
    assert check(name, 25, jnp.float64).max() < KINDS[name].right_to
    with jax.enable_x64(False):
        check(name, 25, jnp.float32)


def test_a_direction_that_left_the_float_range_is_reported():
    # Coupled for five steps and then no more: what couples them falls below 1e-38, and the second
    # direction overtakes the first later, as far as float32 knows from nothing.
    together = np.random.default_rng(0).normal(size=(5, 2, 2))
    fall, rise = np.diag([1.0, np.exp(-2.0)]), np.diag([1.0, np.exp(2.0)])
    jacobians = np.concatenate([together, np.tile(fall, (60, 1, 1)), np.tile(rise, (120, 1, 1))])
    product = product_of(jnp.asarray(jacobians, jnp.float32))
    assert int(product.first_underflow_step) >= 0
    assert np.isinf(product.log_error)
    assert np.isinf(product.log_growth_error)
    # In float64 it stays in range.
    product = product_of(jacobians)
    assert int(product.first_underflow_step) == -1
    assert float(product.log_error) < 1e-10


def test_what_left_the_float_range_and_never_counts_leaves_the_growth_known():
    together = np.random.default_rng(0).normal(size=(5, 2, 2))
    fall = np.diag([1.0, np.exp(-2.0)])
    jacobians = np.concatenate([together, np.tile(fall, (200, 1, 1))])
    product, fine = product_of(jnp.asarray(jacobians, jnp.float32)), product_of(jacobians)
    assert int(product.first_underflow_step) >= 0
    assert np.isinf(product.log_error)
    error = float(product.log_growth_error)
    assert error < 1e-4
    assert abs(float(product.log_norm()) - float(fine.log_norm())) <= error + 1e-5
    assert abs(float(product.log_rms_growth()) - float(fine.log_rms_growth())) <= error + 1e-5
    # Whoever sees the second state alone sees nothing else.
    assert np.isinf(product.log_growth_through_error(jnp.array([[0, 1]], jnp.float32)))
    assert float(product.log_growth_through_error(jnp.array([[1, 0]], jnp.float32))) < 1e-4


@pytest.mark.parametrize(
    ("dtype", "small", "smaller", "large"),
    [(jnp.float32, 1e-25, 1e-30, 1e10), (jnp.float64, 1e-180, 1e-200, 1e100)],
)
def test_what_a_composition_cannot_know_of_its_factors_is_reported(dtype, small, smaller, large):
    later = product_of(jnp.asarray([[[1, small], [0, smaller]]], dtype))
    earlier = product_of(jnp.asarray(np.array([np.diag([1, large])] * 5), dtype))
    assert bool(later.right_cut.all())
    assert float(later.log_error) < 1e-3
    product = later @ earlier
    assert int(product.first_underflow_step) == 5
    assert np.isinf(product.log_error)
    # Exact zeros in the same places are none of its business.
    apart = product_of(jnp.asarray([[[1, 0], [0, smaller]]], dtype))
    assert not bool(apart.right_cut.any())
    assert float((apart @ earlier).log_error) < 1e-2


@pytest.mark.parametrize(
    ("dtype", "large", "small"), [(jnp.float32, 1e20, 1e-25), (jnp.float64, 1e150, 1e-180)]
)
def test_an_entry_that_underflows_as_it_is_multiplied_is_reported(dtype, large, small):
    steps = [np.diag([large, 1.0])] * 4 + [np.array([[1.0, 0.0], [small, 1.0]])]
    steps += [np.diag([1.0, 1 / large])] + [np.diag([1 / large, 1.0])] * 3
    product = product_of(jnp.asarray(np.array(steps), dtype))
    assert int(product.first_underflow_step) >= 0
    assert np.isinf(product.log_error)


def test_a_composition_counts_entries_far_below_rounding():
    # The entry 1e-60 is multiplied by 1e80 in the earlier product, and decides both values.
    later, earlier = np.array([[1, 1e-60], [0, 1e-70]]), np.diag([1, 1e20])
    jacobians = np.array([earlier] * 4 + [later])
    expected = np.log(10) * np.array([20, -10])
    np.testing.assert_allclose(product_of(jacobians).log_singular_values(), expected, atol=1e-9)
    cut = product_of(jacobians[4:]) @ product_of(jacobians[:4])
    np.testing.assert_allclose(cut.log_singular_values(), expected, atol=1e-9)
    assert float(cut.log_error) < 1e-9

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobian_rnn import graded_singular_values
from jacobian_rnn.linalg.graded_svd import scaled_norm
from tests.networks import mostly_slow


def random_case(seed, n, spread):
    generator = np.random.default_rng(seed)
    return generator.uniform(-spread, spread, n), generator.normal(size=(n, n))


def exact_logs(d, v):
    """Return the log singular values of diag(exp d) v in arbitrary precision, descending."""
    n = len(d)
    with mpmath.workdps(int((max(d) - min(d)) / 2) + 60):
        rows = [[mpmath.exp(d[i]) * mpmath.mpf(v[i, j]) for j in range(n)] for i in range(n)]
        values = mpmath.svd_r(mpmath.matrix(rows), compute_uv=False)
        return np.array(sorted((float(mpmath.log(value)) for value in values), reverse=True))


@pytest.mark.parametrize(
    ("n", "spread"),
    mostly_slow([(1, 500.0), (2, 500.0), (3, 50.0), (5, 200.0), (8, 500.0)], [(8, 500.0)]),
)
def test_values_agree_with_arbitrary_precision_over_a_thousand_nats(n, spread):
    d, v = random_case(n, n, spread)
    values, _ = graded_singular_values(jnp.array(d), jnp.array(v))
    np.testing.assert_allclose(values, exact_logs(d, v), rtol=1e-15, atol=2e-13)


@pytest.mark.parametrize("n", mostly_slow([4, 7], [7]))
def test_moderate_scales_agree_with_an_ordinary_svd_vectors_included(n):
    d, v = random_case(n, n, 2.0)
    values, vectors = graded_singular_values(jnp.array(d), jnp.array(v))
    _, s, vt = np.linalg.svd(np.exp(d)[:, None] * v)
    np.testing.assert_allclose(np.exp(values), s, rtol=1e-13)
    np.testing.assert_allclose(np.abs(np.sum(vectors * vt, axis=1)), 1, atol=1e-12)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(n), atol=1e-13)


def test_single_precision_keeps_single_precision_over_eight_hundred_nats():
    d, v = random_case(0, 6, 400.0)
    d, v = d.astype(np.float32), v.astype(np.float32)
    values, vectors = graded_singular_values(jnp.array(d), jnp.array(v))
    assert values.dtype == vectors.dtype == jnp.float32
    np.testing.assert_allclose(values, exact_logs(d.astype(float), v.astype(float)), atol=1e-4)


def test_shifting_all_scales_shifts_all_values():
    d, v = random_case(3, 5, 10.0)
    base = graded_singular_values(jnp.array(d), jnp.array(v))[0]
    shifted = graded_singular_values(jnp.array(d + 12_345.0), jnp.array(v))[0]
    np.testing.assert_allclose(shifted - 12_345.0, base, atol=1e-11)


def test_rows_that_are_zero_give_minus_infinity_and_leave_the_others_right():
    d, v = random_case(4, 5, 3.0)
    d[[1, 3]] = -np.inf
    values, vectors = graded_singular_values(jnp.array(d), jnp.array(v))
    alive = np.linalg.svd(np.exp(d[[0, 2, 4]])[:, None] * v[[0, 2, 4]], compute_uv=False)
    np.testing.assert_allclose(values[:3], np.log(alive), atol=1e-13)
    assert np.all(np.isneginf(values[3:]))
    np.testing.assert_array_equal(vectors[3:], 0)


def test_nan_is_never_turned_into_a_number_and_shapes_are_checked():
    values, _ = graded_singular_values(jnp.array([jnp.nan, 0.0, 0.0]), jnp.eye(3))
    assert np.all(np.isnan(values))
    with pytest.raises(ValueError, match=r"factor: received shape \(4, 4\), expected \(3, 3\)"):
        graded_singular_values(jnp.ones(3), jnp.ones((4, 4)))


def test_equal_values_are_found_and_have_finite_derivatives():
    identity = jnp.eye(4)
    values, tangents = jax.jvp(
        lambda d: graded_singular_values(d, identity)[0], (jnp.zeros(4),), (jnp.ones(4),)
    )
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_allclose(tangents, 1, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("argument", [0, 1])
def test_derivative_is_that_of_an_ordinary_svd_where_that_exists(argument):
    case = tuple(map(jnp.array, random_case(5, 5, 2.0)))

    def graded(d, v):
        return graded_singular_values(d, v)[0]

    def ordinary(d, v):
        return jnp.log(jnp.linalg.svd(jnp.exp(d)[:, None] * v, compute_uv=False))

    expected = jax.jacfwd(ordinary, argument)(*case)
    np.testing.assert_allclose(jax.jacrev(graded, argument)(*case), expected, atol=1e-11)
    np.testing.assert_allclose(jax.jacfwd(graded, argument)(*case), expected, atol=1e-11)


def test_derivative_holds_where_an_ordinary_svd_has_lost_everything():
    d, v = jnp.array([-100.0, 300.0, -300.0, 50.0]), jnp.array(random_case(6, 4, 1.0)[1])
    slopes = jax.jacrev(lambda d: graded_singular_values(d, v)[0])(d)
    order = jnp.argsort(-d)
    # With gaps of many nats each value follows its own row.
    np.testing.assert_allclose(slopes[:, order], np.eye(4), atol=1e-8)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.0, 2000.0))
def test_values_sum_to_the_log_of_the_determinant(seed, spread):
    d, v = random_case(seed, 6, spread)
    values, _ = graded_singular_values(jnp.array(d), jnp.array(v))
    expected = d.sum() + np.linalg.slogdet(v)[1]
    assert float(jnp.sum(values)) == pytest.approx(expected, abs=1e-10 + 1e-13 * spread)
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_scaled_norm_is_that_of_the_same_numbers_in_float64(scale):
    array = (scale * np.random.default_rng(0).normal(size=(5, 7))).astype(np.float32)
    expected = np.linalg.norm(array.astype(float))
    assert float(scaled_norm(jnp.asarray(array))) == pytest.approx(expected, rel=1e-6)
    gradient = jax.grad(scaled_norm)(jnp.asarray(array))
    np.testing.assert_allclose(gradient, array / expected, atol=1e-6)


def test_a_scaled_norm_keeps_what_is_not_finite_and_has_a_gradient_at_zero():
    assert scaled_norm(jnp.array([1.0, -jnp.inf])) == jnp.inf
    assert bool(jnp.isnan(scaled_norm(jnp.array([jnp.inf, jnp.nan]))))
    assert scaled_norm(jnp.zeros(3)) == 0
    np.testing.assert_array_equal(jax.grad(scaled_norm)(jnp.zeros(3)), 0)

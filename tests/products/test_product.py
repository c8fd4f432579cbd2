import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobian_rnn import (
    Recurrence,
    jacobian_product,
    product_of,
    state_gradients,
    step_jacobians,
    trajectory,
)
from jacobian_rnn.products import multiply as module
from tests.chains import exact_logs, haar
from tests.networks import mostly_slow

HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def linear(matrix, carry, x):
    del x
    return matrix @ carry


def graded_chain(seed, n, num_steps, rates):
    """Multiply U_t diag(exp rates) U_{t-1}ᵀ with Haar U: log σ of the product = T · rates."""
    generator = np.random.default_rng(seed)
    frames = [haar(generator, n) for _ in range(num_steps + 1)]
    return np.stack(
        [after @ np.diag(np.exp(rates)) @ before.T for before, after in itertools.pairwise(frames)]
    )


@pytest.mark.parametrize(
    ("seed", "n", "num_steps"),
    mostly_slow([(0, 2, 120), (1, 4, 120), (2, 6, 100), (3, 3, 250)], [(3, 3, 250)]),
)
def test_products_that_span_500_nats_agree_with_arbitrary_precision(seed, n, num_steps):
    rates = np.linspace(250, -250, n) / num_steps
    jacobians = graded_chain(seed, n, num_steps, rates)
    exact = exact_logs(jacobians, 320)
    assert exact[0] - exact[-1] > 499
    product = product_of(jacobians)
    np.testing.assert_allclose(product.log_singular_values(), exact, atol=1e-10)
    assert float(product.log_error) < 1e-10
    halves = product_of(jacobians[num_steps // 2 :]) @ product_of(jacobians[: num_steps // 2])
    np.testing.assert_allclose(halves.log_singular_values(), exact, atol=1e-10)


def test_gaussian_chains_agree_with_arbitrary_precision():
    jacobians = np.random.default_rng(4).normal(size=(150, 5, 5))
    product = product_of(jacobians)
    np.testing.assert_allclose(
        product.log_singular_values(), exact_logs(jacobians, 300), atol=1e-10
    )


def test_a_jordan_block_has_its_closed_form_where_a_plain_product_loses_it():
    a, b, n = 0.9, 0.3, 2000
    product = product_of(np.tile([[a, b], [0, a]], (n, 1, 1)))
    expected = n * np.log(a) + np.arcsinh(n * b / (2 * a)) * np.array([1, -1])
    np.testing.assert_allclose(product.log_singular_values(), expected, atol=1e-9)


def test_degenerate_clusters_stay_together_over_thousands_of_steps():
    rates = np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    product = product_of(graded_chain(5, 6, 3000, rates))
    np.testing.assert_allclose(product.log_singular_values(), 3000 * rates, atol=1e-8)
    assert float(product.log_error) < 1e-8


def test_scaled_rotations_have_equal_values_and_no_error():
    generator = np.random.default_rng(6)
    product = product_of(np.stack([0.7 * haar(generator, 5) for _ in range(500)]))
    np.testing.assert_allclose(product.log_singular_values(), 500 * np.log(0.7), atol=1e-11)


@pytest.mark.parametrize(
    ("dtype", "log10"), [(np.float64, 150), (np.float64, -150), (np.float32, 30)]
)
def test_a_common_scale_near_the_end_of_the_float_range_only_shifts_the_logs(dtype, log10):
    jacobians = np.random.default_rng(7).normal(size=(60, 4, 4)).astype(dtype)
    base = product_of(jacobians).log_singular_values()
    scaled = product_of(jacobians * dtype(10.0**log10)).log_singular_values()
    shift = 60 * math.log(dtype(10.0**log10))
    tolerance = 1e-14 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(scaled, base + shift, rtol=tolerance, atol=1e3 * tolerance)


def test_triangular_factors_with_a_growing_diagonal_are_no_special_case():
    generator = np.random.default_rng(8)
    jacobians = np.triu(generator.normal(size=(80, 4, 4)), 1) + np.diag([0.01, 0.5, 1.0, 20.0])
    product = product_of(jacobians)
    np.testing.assert_allclose(product.log_singular_values(), exact_logs(jacobians, 450), atol=1e-9)
    from_identity = product_of(jacobians, frame=np.eye(4))
    np.testing.assert_allclose(
        from_identity.log_singular_values(), product.log_singular_values(), atol=1e-9
    )


def test_growth_that_is_undone_is_flagged_as_soon_as_digits_are_lost():
    grow = HADAMARD @ np.diag([2, 2, 0.5, 0.5]) @ HADAMARD.T
    undo = HADAMARD @ np.diag([0.5, 0.5, 2, 2]) @ HADAMARD.T
    for half in (5, 10, 15, 20):
        product = product_of(np.stack([grow] * half + [undo] * half))
        error = np.abs(product.log_singular_values()).max()
        assert error / 10 < float(product.log_error) < 1e-2
    lost = product_of(np.stack([grow] * 100 + [undo] * 100))
    assert float(lost.log_error) > 1e-2
    assert float(lost.log_growth_error) > 1e-2
    # The sum rule does not see it.
    assert abs(float(lost.log_abs_det())) < 1e-10


def test_wandering_growth_is_flagged():
    generator = np.random.default_rng(9)
    logs = generator.normal(0, 0.5, (3000, 6))
    frames = [haar(generator, 6) for _ in range(3001)]
    jacobians = np.stack(
        [frames[t + 1] @ np.diag(np.exp(logs[t])) @ frames[t].T for t in range(3000)]
    )
    product = product_of(jacobians)
    true_error = np.abs(product.log_singular_values() - np.sort(logs.sum(0))[::-1]).max()
    assert true_error > 1
    assert float(product.log_error) > 1e-2


@pytest.mark.parametrize("gain", [10.0, 20.0])
def test_saturated_networks_keep_their_most_negative_directions(gain):
    generator = np.random.default_rng(10)
    n, num_steps = 16, 200
    weights = gain * generator.normal(size=(n, n)) / np.sqrt(n)
    state = generator.normal(size=n)
    jacobians, log_det = [], 0.0
    for _ in range(num_steps):
        pre = weights @ state
        slope = 1 / np.cosh(np.clip(pre, -300, 300)) ** 2
        state = np.tanh(pre)
        jacobians.append(slope[:, None] * weights)
        log_det += np.log(slope).sum() + np.linalg.slogdet(weights)[1]
    product = product_of(np.stack(jacobians))
    assert float(product.log_abs_det()) == pytest.approx(log_det, rel=1e-12)
    assert float(jnp.sum(product.log_singular_values())) == pytest.approx(log_det, rel=1e-12)
    assert int(product.first_lost_step) == -1


def test_a_dead_unit_costs_one_direction_and_leaves_the_others_right():
    jacobians = np.random.default_rng(11).normal(size=(40, 5, 5))
    jacobians[17, 2] = 0
    product = product_of(jacobians)
    values = product.log_singular_values()
    assert np.isneginf(values[-1])
    with mpmath.workdps(120):
        whole = mpmath.eye(5)
        for jacobian in jacobians:
            whole = mpmath.matrix(jacobian.tolist()) * whole
        exact = sorted((mpmath.svd_r(whole, compute_uv=False)), reverse=True)[:4]
        exact = [float(mpmath.log(value)) for value in exact]
    np.testing.assert_allclose(values[:4], exact, atol=1e-11)
    assert int(product.first_lost_step) == -1
    assert np.isneginf(product.log_abs_det())
    assert np.isfinite(float(product.log_error))


def test_a_direction_lost_to_rounding_is_reported_with_its_step():
    generator = np.random.default_rng(12)
    jacobians = generator.normal(size=(20, 4, 4))
    jacobians[13] = haar(generator, 4) @ np.diag([1, 1, 1, 1e-18]) @ haar(generator, 4)
    product = product_of(jacobians)
    assert int(product.first_lost_step) == 13
    later = product_of(jacobians[8:]) @ product_of(jacobians[:8])
    assert int(later.first_lost_step) == 13


def test_non_finite_jacobians_are_refused_when_concrete_and_reported_when_traced():
    jacobians = np.random.default_rng(13).normal(size=(9, 3, 3))
    jacobians[4, 1, 1] = np.nan
    with pytest.raises(ValueError, match="jacobians: received 1 of 81 values that are NaN"):
        product_of(jacobians)
    product = jax.jit(product_of)(jnp.array(jacobians))
    assert int(product.first_nonfinite_step) == 4
    assert np.all(np.isnan(product.log_singular_values()))


def test_an_empty_product_is_the_identity_and_one_step_is_its_matrix():
    empty = product_of(np.zeros((0, 3, 3)))
    np.testing.assert_allclose(empty.log_singular_values(), 0, atol=1e-15)
    np.testing.assert_allclose(empty.dense()[0], np.eye(3), atol=1e-15)
    assert int(empty.num_steps) == 0
    one = np.random.default_rng(14).normal(size=(1, 3, 3))
    expected = np.log(np.linalg.svd(one[0], compute_uv=False))
    np.testing.assert_allclose(product_of(one).log_singular_values(), expected, atol=1e-14)
    both = product_of(one) @ empty
    np.testing.assert_allclose(both.log_singular_values(), expected, atol=1e-14)


def test_a_single_state_multiplies_numbers():
    factors = np.array([2.0, -0.5, 3.0, -7.0])
    product = product_of(factors[:, None, None])
    assert float(product.log_norm()) == pytest.approx(np.log(21.0), abs=1e-14)
    np.testing.assert_allclose(product.dense()[0], [[1.0]])
    assert float(product.log_singular_values()[0]) == pytest.approx(float(product.log_abs_det()))


def test_summaries_agree_with_the_dense_product():
    jacobians = np.random.default_rng(15).normal(size=(6, 4, 4))
    dense = np.linalg.multi_dot(jacobians[::-1])
    product = product_of(jacobians)
    scaled, log_scale = product.dense()
    np.testing.assert_allclose(np.exp(log_scale) * scaled, dense, rtol=1e-11, atol=1e-11)
    assert float(product.log_norm()) == pytest.approx(np.log(np.linalg.norm(dense, 2)), abs=1e-12)
    rms = np.log(np.linalg.norm(dense) / 2)
    assert float(product.log_rms_growth()) == pytest.approx(rms, abs=1e-12)
    assert float(product.log_abs_det()) == pytest.approx(np.linalg.slogdet(dense)[1], abs=1e-12)
    v = np.array([1.0, -2.0, 0.5, 3.0])
    gain = np.log(np.linalg.norm(dense.T @ v) / np.linalg.norm(v))
    assert float(product.log_adjoint_growth(v)) == pytest.approx(gain, abs=1e-12)
    np.testing.assert_allclose(
        product.singular_values(), np.linalg.svd(dense, compute_uv=False), rtol=1e-10
    )
    with pytest.raises(ValueError, match=r"cotangent: received shape \(3,\), expected \(4,\)"):
        product.log_adjoint_growth(v[:3])


def test_composition_does_not_depend_on_where_time_is_cut():
    jacobians = graded_chain(16, 5, 90, np.array([3.0, 1.0, 0.0, -1.0, -4.0]))
    whole = product_of(jacobians).log_singular_values()
    a, b, c = (product_of(part) for part in (jacobians[:13], jacobians[13:50], jacobians[50:]))
    for together in ((c @ b) @ a, c @ (b @ a)):
        np.testing.assert_allclose(together.log_singular_values(), whole, atol=1e-10)
        assert int(together.num_steps) == 90
        assert float(together.log_error) < 1e-10
    with pytest.raises(ValueError, match="expected two of the same system"):
        _ = a @ product_of(np.eye(3)[None])


def test_transposed_and_reversed_chains_share_their_singular_values():
    jacobians = np.random.default_rng(17).normal(size=(70, 4, 4))
    adjoint = np.swapaxes(jacobians, 1, 2)[::-1]
    np.testing.assert_allclose(
        product_of(jacobians).log_singular_values(),
        product_of(adjoint).log_singular_values(),
        atol=1e-11,
    )


def test_streaming_and_given_jacobians_give_the_same_product(network):
    recurrence, carry, xs = network("LSTMCell", 4)
    streamed = jacobian_product(recurrence, carry, xs)
    given_ = product_of(step_jacobians(recurrence, carry, xs))
    np.testing.assert_allclose(
        streamed.log_singular_values(), given_.log_singular_values(), atol=1e-11
    )


def test_switching_the_error_off_changes_nothing_else():
    jacobians = np.random.default_rng(18).normal(size=(30, 4, 4))
    with_error, without = product_of(jacobians), product_of(jacobians, estimate_error=False)
    # The two are different programs, so the last bits may differ.
    np.testing.assert_allclose(
        with_error.log_singular_values(), without.log_singular_values(), atol=1e-12
    )
    assert np.isnan(without.log_error)
    assert np.isnan(without.log_growth_error)
    assert with_error.left.shape == (3, 4, 4)
    assert without.left.shape == (1, 4, 4)


def test_products_run_under_jit_and_vmap():
    jacobians = jnp.array(np.random.default_rng(19).normal(size=(3, 25, 4, 4)))
    mapped = jax.jit(jax.vmap(lambda j: product_of(j).log_singular_values()))(jacobians)
    for row, jacobian in zip(mapped, jacobians, strict=True):
        np.testing.assert_allclose(row, product_of(jacobian).log_singular_values(), atol=1e-12)


@pytest.mark.slow
def test_gradient_with_respect_to_parameters_agrees_with_finite_differences(network):
    recurrence, carry, xs = network("GRUCell", 3)

    def values(scale):
        scaled = jax.tree.map(lambda a: scale * a, recurrence)
        return jacobian_product(scaled, carry, xs, estimate_error=False).log_singular_values()

    slopes = jax.jacrev(values)(1.0)
    differences = (values(1 + 1e-6) - values(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes, differences, rtol=1e-6, atol=1e-6)


def test_a_second_network_of_the_same_kind_compiles_nothing(network):
    recurrence, carry, xs = network("GRUCell", 3)
    jacobian_product(recurrence, carry, xs)
    compiled = module._jacobian_product._cache_size()
    other, carry, xs = network("GRUCell", 3, seed=5)
    jacobian_product(other, carry, xs)
    assert module._jacobian_product._cache_size() == compiled


@pytest.mark.parametrize(
    ("jacobians", "error", "match"),
    [
        (np.zeros((3, 2)), ValueError, r"jacobians: received shape \(3, 2\)"),
        (np.zeros((3, 2, 4)), ValueError, "one square matrix per step"),
        (np.zeros((2, 3, 2, 2)), ValueError, "no batch axis"),
        (np.zeros((3, 2, 2), int), TypeError, "real floating-point"),
        (np.zeros((3, 2, 2), complex), TypeError, "real floating-point"),
    ],
)
def test_what_is_no_chain_of_square_matrices_is_refused(jacobians, error, match):
    with pytest.raises(error, match=match):
        product_of(jacobians)


def test_a_frame_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="frame: received shape"):
        product_of(np.zeros((1, 3, 3)), frame=np.eye(2))
    with pytest.raises(ValueError, match="expected orthonormal columns"):
        product_of(np.zeros((1, 3, 3)), frame=np.ones((3, 3)))
    with pytest.raises(ValueError, match="up to nan, expected orthonormal columns"):
        product_of(np.zeros((1, 3, 3)), frame=np.full((3, 3), np.nan))


def test_half_precision_is_refused():
    with pytest.raises(TypeError, match="dtype: received float16, expected float32 or float64"):
        product_of(np.zeros((1, 3, 3), np.float16))


def test_factors_in_reversed_order_would_be_noticed(network):
    recurrence, carry, xs = network("SimpleCell", 4)
    cotangent = jnp.arange(1.0, 5.0)
    gradient = state_gradients(recurrence, carry, xs, lambda s: s[-1] @ cotangent)[0]
    expected = jnp.log(jnp.linalg.norm(gradient) / jnp.linalg.norm(cotangent))
    jacobians = step_jacobians(recurrence, carry, xs)
    right = product_of(jacobians).log_adjoint_growth(cotangent)
    wrong = product_of(jacobians[::-1]).log_adjoint_growth(cotangent)
    assert float(right) == pytest.approx(float(expected), abs=1e-10)
    assert abs(float(wrong - expected)) > 0.01


def test_an_lstm_without_its_cell_state_would_be_noticed(network):
    recurrence, carry, xs = network("LSTMCell", 6)
    jacobians = step_jacobians(recurrence, carry, xs)
    whole = product_of(jacobians).log_norm()
    hidden_alone = product_of(jacobians[:, 6:, 6:]).log_norm()
    assert abs(float(whole - hidden_alone)) > 1
    cotangent = jnp.zeros(12).at[6].set(1.0)
    gradient = state_gradients(recurrence, carry, xs, lambda s: s[-1] @ cotangent)[0]
    through_both = product_of(jacobians).log_adjoint_growth(cotangent)
    assert float(through_both) == pytest.approx(
        float(jnp.log(jnp.linalg.norm(gradient))), abs=1e-10
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.0, 4.0))
def test_log_singular_values_sum_to_the_log_determinants_of_the_steps(seed, spread):
    generator = np.random.default_rng(seed)
    scales = np.exp(generator.uniform(-spread, spread, (50, 4, 1)))
    jacobians = scales * generator.normal(size=(50, 4, 4))
    expected = np.linalg.slogdet(jacobians)[1].sum()
    product = product_of(jacobians)
    assert float(jnp.sum(product.log_singular_values())) == pytest.approx(expected, abs=1e-9)
    assert float(product.log_abs_det()) == pytest.approx(expected, abs=1e-9)
    bound = np.log(np.linalg.norm(jacobians, 2, axis=(1, 2))).sum()
    assert float(product.log_norm()) <= bound + 1e-9


@pytest.mark.slow
def test_a_trajectory_at_its_fixed_point_has_the_growth_that_its_spectral_radius_hides():
    # Pascanu et al. (2013): all eigenvalues of the weights are zero, the gradient doubles.
    weights = jnp.array([[8.0, 8.0], [-8.0, -8.0]])
    fixed = jnp.array([0.0, float(np.arctanh(0.5))])
    bias = fixed - weights @ jnp.tanh(fixed)

    def step(params, carry, x):
        del x
        return params[0] @ jnp.tanh(carry) + params[1]

    system = Recurrence(step, (weights, bias))
    jacobian = step_jacobians(system, fixed, None, num_steps=1)[0]
    product = product_of(jnp.tile(jacobian, (50, 1, 1)))
    expected = 49 * np.log(2) + np.log(14.142135623730951)
    assert float(product.log_norm()) == pytest.approx(expected, abs=1e-6)
    assert trajectory(system, fixed, None, num_steps=1).shape == (2, 2)

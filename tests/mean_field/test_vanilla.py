"""Mean field of the vanilla RNN: averages, fixed points, critical lines."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax

from jacobian_rnn.mean_field import (
    Gate,
    GRUUnits,
    correlation_fixed_point,
    critical_weight_std,
    fresh_growth,
    full_spectrum,
    gaussian_average,
    newman_exponents,
    order_parameters,
    reference,
    reference_names,
    spectrum_summary,
    squared_singular_values,
)
from jacobian_rnn.mean_field.activations import moments
from jacobian_rnn.mean_field.quadrature import gaussian_correlation
from tests.networks import mostly_slow


def exact_average(function, variance):
    """Average an even function with mpmath, cut where it changes and where the Gaussian does."""
    with mpmath.workdps(30):
        std = mpmath.sqrt(variance)
        cuts = {mpmath.mpf(2) ** k / std for k in range(-2, 6)} | {mpmath.mpf(k) for k in range(13)}
        cuts = sorted(cut for cut in cuts if cut <= 12)
        half = mpmath.quad(lambda z: function(std * z) * mpmath.npdf(z), cuts)
        return float(2 * half)


@pytest.mark.parametrize("variance", [1e-8, 1e-2, 1.0, 1e2, 1e5, 1e8])
def test_averages_are_exact_to_twelve_digits_however_wide_the_gaussian(variance):
    square = gaussian_average(lambda x: jnp.tanh(x) ** 2, variance)
    assert square == pytest.approx(
        exact_average(lambda x: mpmath.tanh(x) ** 2, variance), rel=1e-12
    )
    slope = gaussian_average(lambda x: jnp.exp(-4 * jnp.logaddexp(x, -x)) * 16, variance)
    assert slope == pytest.approx(exact_average(lambda x: mpmath.sech(x) ** 4, variance), rel=1e-12)


@pytest.mark.parametrize("mean", [-7.0, 0.3, 4.0])
@pytest.mark.parametrize("variance", [0.0, 1e-6, 0.5, 200.0])
def test_moments_of_gaussians_off_the_centre_are_exact(mean, variance):
    fourth = gaussian_average(lambda x: x**4, variance, mean)
    assert fourth == pytest.approx(mean**4 + 6 * mean**2 * variance + 3 * variance**2, rel=1e-12)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("name", ["erf", "relu", "linear"])
def test_moments_in_closed_form_are_the_averages_of_the_functions(name, variance):
    functions = {"erf": lax.erf, "relu": lambda x: jnp.maximum(x, 0), "linear": lambda x: x}
    function = functions[name]
    slope = jax.vmap(jax.grad(function))
    closed = moments(name, jnp.asarray(variance))
    averaged = (
        gaussian_average(lambda x: function(x) ** 2, variance),
        gaussian_average(lambda x: slope(x) ** 2, variance),
        gaussian_average(lambda x: slope(x) ** 4, variance),
    )
    np.testing.assert_allclose(closed, averaged, rtol=1e-12)


def test_correlated_averages_of_erf_and_relu_are_the_closed_forms():
    q, c = 1.7, 0.6
    erf = 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q))  # Williams 1997
    assert gaussian_correlation(lax.erf, q, c) == pytest.approx(erf, rel=1e-12)
    angle = np.arccos(c)  # Cho & Saul 2009
    relu = q / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * c)
    assert gaussian_correlation(lambda x: jnp.maximum(x, 0), q, c) == pytest.approx(relu, rel=1e-10)


def test_published_rates_of_the_autonomous_tanh_network():
    for gain, variance, rate in zip(*reference("tanh_rate").columns.values(), strict=True):
        theory = order_parameters(gain)
        assert theory.variance == pytest.approx(variance, abs=6e-7)
        assert theory.rate == pytest.approx(rate, abs=6e-7)


def test_published_order_parameters_at_drive_a_twentieth():
    for std, variance, chi in zip(*reference("tanh_ordered").columns.values(), strict=True):
        theory = order_parameters(std, bias_std=0.03**0.5, input_std=0.02**0.5)
        assert theory.variance == pytest.approx(variance, abs=6e-7)
        assert theory.squared_growth == pytest.approx(chi, abs=6e-7)
        assert theory.time_scale == pytest.approx(1 / abs(np.log(chi)), rel=2e-5)


def test_published_critical_line():
    for drive, std, variance in zip(*reference("tanh_critical_line").columns.values(), strict=True):
        critical = critical_weight_std(bias_std=drive**0.5)
        assert critical == pytest.approx(std, abs=6e-7)
        theory = order_parameters(critical, bias_std=drive**0.5)
        assert theory.variance == pytest.approx(variance, abs=2e-6)
        assert theory.squared_growth == pytest.approx(1, abs=1e-9)


def test_critical_points_of_other_functions():
    assert critical_weight_std(activation="linear") == 1
    assert critical_weight_std(activation="relu", bias_std=0.3) == pytest.approx(2**0.5)
    assert critical_weight_std(activation="erf") == pytest.approx(np.pi**0.5 / 2)
    for drive in (1e-3, 0.3):
        critical = critical_weight_std(input_std=drive, activation="erf")
        theory = order_parameters(critical, input_std=drive, activation="erf")
        assert theory.squared_growth == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("gain", [1e-3, 0.5, 0.999, 1.0])
def test_a_network_without_drive_and_gain_below_one_rests(gain):
    theory = order_parameters(gain)
    assert theory.variance == 0
    assert theory.rate == pytest.approx(np.log(gain), abs=1e-14)


def test_activity_just_above_the_transition_grows_as_the_expansion_says():
    gain = 1 + 1e-4
    theory = order_parameters(gain)
    assert theory.variance == pytest.approx((gain**2 - 1) / (2 * gain**2), rel=1e-3)
    assert theory.rate == pytest.approx(2 / 3 * (gain - 1) ** 2, rel=1e-3)


def test_large_gains_follow_the_asymptotic_rate():
    gain = 1e3
    assert order_parameters(gain).rate == pytest.approx(
        np.log(4 * gain / (3 * np.sqrt(2 * np.pi))) / 2, abs=2e-3
    )


def test_unbounded_units_have_a_fixed_point_only_below_criticality():
    below = order_parameters(1.2, bias_std=0.1, activation="relu")
    assert below.variance == pytest.approx(0.01 / (1 - 0.72))
    above = order_parameters(1.6, bias_std=0.1, activation="relu")
    assert above.variance == jnp.inf
    assert above.squared_growth == pytest.approx(1.28)
    assert order_parameters(1.1, activation="linear").variance == jnp.inf


@pytest.mark.slow
def test_derivatives_of_the_rate_are_those_of_finite_differences():
    def rate(std, drive):
        return order_parameters(std, bias_std=drive).rate

    for point in ((2.0, 0.0), (0.9, 0.3), (3.0, 1.0)):
        for i in range(2 if point[1] else 1):
            step = np.eye(2)[i] * 1e-4
            numeric = (rate(*(point + step)) - rate(*(point - step))) / 2e-4
            assert float(jax.grad(rate, i)(*point)) == pytest.approx(float(numeric), rel=1e-6)
    slope = jax.grad(lambda b: critical_weight_std(bias_std=b))(0.3)
    numeric = critical_weight_std(bias_std=0.3001) - critical_weight_std(bias_std=0.2999)
    assert slope == pytest.approx(float(numeric) / 2e-4, rel=1e-6)


@pytest.mark.slow
def test_copies_come_together_in_the_ordered_phase_and_stay_apart_in_the_chaotic_one():
    ordered = correlation_fixed_point(0.9, bias_std=0.05**0.5)
    assert ordered.correlation == 1
    assert ordered.slope == pytest.approx(0.653092, abs=1e-6)  # χ itself
    chaotic = correlation_fixed_point(2.0, bias_std=0.05**0.5)
    q = order_parameters(2.0, bias_std=0.05**0.5).variance
    mapped = 4 * gaussian_correlation(jnp.tanh, q, chaotic.correlation) + 0.05
    assert mapped / q == pytest.approx(float(chaotic.correlation), abs=1e-12)
    assert 0 < chaotic.correlation < 1
    assert 0 < chaotic.slope < 1


def test_unequal_inputs_keep_copies_apart_in_any_phase():
    apart = correlation_fixed_point(0.5, input_std=0.5, input_correlation=0.0)
    together = correlation_fixed_point(0.5, input_std=0.5, input_correlation=1.0)
    assert apart.correlation == pytest.approx(0, abs=1e-12)
    assert together.correlation == 1


def test_the_correlation_map_is_that_of_nodes_in_two_dimensions():
    gain, bias, input_std, shared = 1.5, 0.2, 0.6, 0.5
    found = correlation_fixed_point(
        gain, bias_std=bias, input_std=input_std, input_correlation=shared
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = np.outer(weights, weights) / (2 * np.pi)
    q = float(order_parameters(gain, bias_std=bias, input_std=input_std).variance)
    c = float(found.correlation)
    first = np.sqrt(q) * nodes[:, None]
    second = c * first + np.sqrt(q * (1 - c**2)) * nodes[None]
    kept = np.sum(weights * np.tanh(first) * np.tanh(second))
    assert (gain**2 * kept + bias**2 + shared * input_std**2) / q == pytest.approx(c, abs=1e-10)
    slope = gain**2 * np.sum(weights / np.cosh(first) ** 2 / np.cosh(second) ** 2)
    assert found.slope == pytest.approx(slope, rel=1e-8)
    assert found.time_scale == pytest.approx(-1 / np.log(slope), rel=1e-6)


def test_simulated_copies_end_at_the_correlation_of_theory():
    theory = correlation_fixed_point(1.5, bias_std=0.05**0.5)
    n = 2000
    generator = np.random.default_rng(0)
    weights, bias, first, second = map(generator.standard_normal, ((n, n), n, n, n))
    weights *= 1.5 / n**0.5
    bias *= 0.05**0.5
    found = []
    for step in range(150):
        first, second = (weights @ np.tanh(x) + bias for x in (first, second))
        if step >= 50:
            found.append(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    assert np.mean(found) == pytest.approx(float(theory.correlation), abs=0.05)


@pytest.mark.slow
def test_moments_of_a_product_at_finite_depth():
    table = reference("pennington_variance").columns
    for std, drive, orthogonal, slope in zip(*table.values(), strict=True):
        ten = squared_singular_values(
            std, num_steps=10, bias_std=drive**0.5, orthogonal=bool(orthogonal)
        )
        assert ten.normalized_variance == pytest.approx(10 * slope, abs=6e-4)
    linear = squared_singular_values(0.9, num_steps=3, activation="linear", orthogonal=True)
    assert linear.mean == pytest.approx(0.9**6)
    assert linear.normalized_variance == pytest.approx(0, abs=1e-12)


def test_the_width_coefficient_is_that_of_products_with_fresh_weights():
    # J = W diag(φ'(x)), W and x fresh at every step: growth of one vector is a sum of logs.
    n, num_steps, gain = 24, 120_000, 3.0
    theory = order_parameters(gain)
    generator = np.random.default_rng(1)
    slopes = 1 / np.cosh(generator.standard_normal((num_steps, n)) * float(theory.variance) ** 0.5)
    vectors = generator.standard_normal((num_steps, n))
    # Gaussian W makes every step's direction uniform and independent.
    squares = vectors**2 / np.sum(vectors**2, axis=1, keepdims=True)
    logs = np.log(np.sum(squares * slopes**4, axis=1)) / 2
    logs += np.log(generator.chisquare(n, num_steps) / n) / 2 + np.log(gain)
    error = logs.std() / num_steps**0.5
    predicted = float(theory.rate - theory.width_coefficient / n)
    # What is left is of order 1/N².
    assert abs(logs.mean() - predicted) < 4 * error + 8 / n**2
    assert abs(logs.mean() - float(theory.rate)) > 20 * error


def test_theory_is_differentiable_compiled_and_batched():
    gains = jnp.array([1.5, 2.0, 3.0])
    batched = jax.vmap(lambda gain: order_parameters(gain).rate)(gains)
    each = jnp.stack([order_parameters(gain).rate for gain in gains])
    np.testing.assert_allclose(batched, each, rtol=1e-12)


THEORIES = {
    "order parameters": lambda g: order_parameters(g).rate,
    "correlation": lambda g: correlation_fixed_point(g, bias_std=0.3).correlation,
    "critical line": lambda g: critical_weight_std(bias_std=g),
    "spectrum": lambda g: spectrum_summary(g).dimension,
    "exponents": lambda g: full_spectrum(g, np.array([0.2, 0.4]))[1],
    "depth": lambda g: squared_singular_values(g, num_steps=3).normalized_variance,
    "exact": lambda g: newman_exponents(4, g).exponents[0],
    "fresh weights": lambda g: fresh_growth(GRUUnits(candidate=Gate(g))).rate,
    "average": lambda g: gaussian_average(jnp.tanh, 1.0, g),
}


@pytest.mark.parametrize(
    "name", mostly_slow(THEORIES, ["order parameters", "correlation", "critical line", "average"])
)
def test_theory_works_inside_compiled_functions(name):
    theory = THEORIES[name]
    assert jax.jit(theory)(1.7) == pytest.approx(float(theory(1.7)), rel=1e-12)


@pytest.mark.slow
def test_traced_numbers_that_are_out_of_range_give_no_number():
    bad = jnp.array([jnp.nan, -0.5, jnp.inf])
    assert jnp.isnan(jax.vmap(lambda b: critical_weight_std(bias_std=b))(bad)).all()
    assert jnp.isnan(jax.vmap(lambda g: order_parameters(g).rate)(bad)).all()
    drive = jax.vmap(lambda b: order_parameters(0.5, bias_std=b, activation="relu").variance)
    assert jnp.isnan(drive(bad)).all()
    assert jnp.isnan(jax.jit(lambda v: gaussian_average(jnp.square, v))(-1.0))
    copies = jax.jit(lambda r: correlation_fixed_point(1.5, input_correlation=r).correlation)
    assert jnp.isnan(copies(2.0))


def test_single_precision_is_kept_and_good_to_five_digits():
    theory = order_parameters(jnp.float32(3.0), bias_std=jnp.float32(0))
    assert theory.rate.dtype == jnp.float32
    assert theory.rate == pytest.approx(0.310249, abs=2e-5)


def test_every_table_of_reference_values_names_formula_source_and_check():
    assert len(reference_names()) > 10
    for name in reference_names():
        table = reference(name)
        assert table.formula
        assert table.source
        assert table.checked
        assert all(np.isfinite(column).all() for column in table.columns.values())
    with pytest.raises(ValueError, match=r"expected one of .*newman"):
        reference("no such table")


@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
def test_standard_deviations_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=r"weight_std: received .*expected a finite number, at"):
        order_parameters(bad)
    with pytest.raises(ValueError, match="bias_std: received"):
        critical_weight_std(bias_std=bad)
    with pytest.raises(ValueError, match="input_std: received"):
        squared_singular_values(1.0, num_steps=2, input_std=bad)


def test_averages_that_do_not_converge_are_not_numbers():
    assert jnp.isnan(gaussian_average(lambda x: jnp.exp(x**2 / 2), 1.0))
    assert not jnp.isfinite(gaussian_average(lambda x: jnp.exp(x**2), 1.0, 30.0))
    assert gaussian_average(jnp.exp, 2.0, 1.0) == pytest.approx(np.exp(2.0), rel=1e-12)
    with pytest.raises(ValueError, match=r"variance: received -1.0, expected a finite number"):
        gaussian_average(jnp.tanh, -1.0)


@pytest.mark.parametrize(
    "function",
    [lambda x: 1 / x**2, lambda x: 1 / jnp.abs(x), lambda x: 1 / (x - 1) ** 2],
    ids=["double pole", "pole", "double pole elsewhere"],
)
def test_averages_over_poles_are_not_numbers(function):
    assert jnp.isnan(gaussian_average(function, 1.0))


def test_other_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="weight_std: received 'a', expected a number"):
        order_parameters("a")
    with pytest.raises(ValueError, match="centers: received none"):
        gaussian_average(jnp.tanh, 1.0, centers=())
    with pytest.raises(ValueError, match=r"fractions: received shape \(\), expected"):
        full_spectrum(3.0, 0.5)
    with pytest.raises(ValueError, match="activation: received 'gelu', expected one of 'tanh'"):
        order_parameters(1.0, activation="gelu")
    with pytest.raises(ValueError, match=r"weight_std: received shape \(2,\), expected a scalar"):
        order_parameters(jnp.ones(2))
    with pytest.raises(ValueError, match=r"input_correlation: received 1.5, .* 0 to 1"):
        correlation_fixed_point(1.0, input_correlation=1.5)
    with pytest.raises(ValueError, match="num_steps: received -1, expected at least 0"):
        squared_singular_values(1.0, num_steps=-1)

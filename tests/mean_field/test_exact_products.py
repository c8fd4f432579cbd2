"""Random matrix products with exact exponents, and the full spectrum of the tanh network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn.mean_field import (
    critical_weight_std_of_width,
    full_spectrum,
    fuss_catalan_edge,
    fuss_catalan_moment,
    gaussian_generalized_exponent,
    ginibre_exponents,
    newman_exponents,
    order_parameters,
    reference,
    spectrum_summary,
)
from tests.networks import mostly_slow


def test_tables_of_exact_exponents():
    for name, exact in (("newman", newman_exponents), ("ginibre", ginibre_exponents)):
        for width, index, exponent in zip(*reference(name).columns.values(), strict=True):
            value = exact(int(width)).exponents[int(index) - 1]
            assert value == pytest.approx(exponent, abs=6e-7)
    for width, index, variance in zip(*reference("newman_variance").columns.values(), strict=True):
        value = newman_exponents(int(width)).variances[int(index) - 1]
        assert value == pytest.approx(variance, abs=6e-7)
    for order, exponent in zip(*reference("gaussian_generalized").columns.values(), strict=True):
        value = gaussian_generalized_exponent(16, order)
        assert value == pytest.approx(exponent, abs=6e-7)
    for width, std in zip(*reference("critical_width").columns.values(), strict=True):
        assert critical_weight_std_of_width(int(width)) == pytest.approx(std, abs=6e-6)


def test_moments_and_edges_of_gaussian_products():
    for factors, *moments, edge in zip(*reference("fuss_catalan").columns.values(), strict=True):
        found = [fuss_catalan_moment(int(factors), order) for order in (1, 2, 3)]
        assert found == moments
        assert fuss_catalan_edge(int(factors)) == pytest.approx(edge, rel=5e-5)
    assert fuss_catalan_moment(4, 0) == 1
    assert fuss_catalan_moment(0, 7) == 1
    assert fuss_catalan_edge(10**6) == pytest.approx(np.e * 1e6, rel=1e-5)


@pytest.mark.parametrize("width", mostly_slow([2, 4, 16], [4]))
def test_the_engine_measures_newmans_exponents_within_four_exact_errors(width):
    num_steps = 4000
    factors = np.random.default_rng(width).standard_normal((num_steps, width, width)) / width**0.5
    exact = newman_exponents(width, 1.5)
    measured = jrnn.lyapunov_spectrum_of(jnp.asarray(1.5 * factors), qr_every=1)
    scores = (measured.exponents - exact.exponents) / jnp.sqrt(exact.variances / num_steps)
    assert jnp.max(jnp.abs(scores)) < 4


def test_complex_products_have_their_exact_exponents():
    width, num_steps = 4, 4000
    generator = np.random.default_rng(0)
    parts = generator.standard_normal((2, num_steps, width, width)) / (2 * width) ** 0.5
    frame, total = np.eye(width, dtype=complex), np.zeros(width)
    for factor in parts[0] + 1j * parts[1]:
        frame, upper = np.linalg.qr(factor @ frame)
        total += np.log(np.abs(np.diagonal(upper)))
    exact = ginibre_exponents(width)
    sums = np.cumsum(1 / np.arange(1, width) ** 2)[::-1]
    variances = (np.pi**2 / 6 - np.append(sums, 0)) / 4
    np.testing.assert_allclose(exact.variances, variances, rtol=1e-12)
    scores = (total / num_steps - exact.exponents) / jnp.sqrt(exact.variances / num_steps)
    assert jnp.max(jnp.abs(scores)) < 4


def test_generalized_exponents_lie_above_the_typical_rate_and_meet_it_at_order_zero():
    typical = newman_exponents(16).exponents[0]
    assert gaussian_generalized_exponent(16, 1e-4) / 1e-4 == pytest.approx(float(typical), abs=1e-5)
    assert gaussian_generalized_exponent(16, 2.0, 1.3) == pytest.approx(2 * np.log(1.3))
    assert gaussian_generalized_exponent(16, 2.0) / 2 > typical


def test_generalized_exponents_of_wide_networks_keep_their_digits_in_single_precision():
    with jax.enable_x64(False):
        # N^(p/2) (1 + 2/N) at p = 4.
        found = gaussian_generalized_exponent(10**4, 4.0)
        assert found == pytest.approx(np.log1p(2e-4), rel=1e-5)
        assert gaussian_generalized_exponent(10**7, 2.0) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_published_spectra_of_the_tanh_network():
    for gain, *values in zip(*reference("tanh_spectrum").columns.values(), strict=True):
        np.testing.assert_allclose(spectrum_summary(gain), values, rtol=0, atol=1e-6)
    table = reference("tanh_spectrum_measured").columns
    for gain, *values in zip(*table.values(), strict=True):
        np.testing.assert_allclose(spectrum_summary(gain), values, rtol=1e-2)
    fractions, exponents = reference("orthogonal_spectrum").columns.values()
    found = full_spectrum(1.5, jnp.asarray(fractions), bias_std=0.05**0.5, orthogonal=True)
    np.testing.assert_allclose(found, exponents, atol=6e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("std", "bias", "orthogonal"), [(3.0, 0.0, False), (20.0, 0.0, False), (1.5, 0.05**0.5, True)]
)
def test_the_summary_is_that_of_the_spectrum_itself(std, bias, orthogonal):
    summary = spectrum_summary(std, bias_std=bias, orthogonal=orthogonal)
    positive, dimension = float(summary.fraction_positive), float(summary.dimension)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes, weights = (nodes + 1) / 2, weights / 2
    # The lowest end falls steeply: nodes crowd there, as 1 − (1 − u)⁴.
    parts = [np.array([positive]), positive * nodes, dimension * nodes, 1 - (1 - nodes) ** 4]
    fractions = np.concatenate(parts)
    spectrum = full_spectrum(std, jnp.asarray(fractions), bias_std=bias, orthogonal=orthogonal)
    assert np.all(np.diff(spectrum[np.argsort(fractions)]) < 0)
    at_positive, above_zero, above_dimension, everything = np.split(
        spectrum, np.cumsum([part.size for part in parts])[:-1]
    )
    assert at_positive == pytest.approx(0, abs=1e-6)
    assert positive * weights @ above_zero == pytest.approx(float(summary.entropy_rate), rel=1e-5)
    # The dimension is where the sum of all exponents above it is zero.
    assert weights @ above_dimension == pytest.approx(0, abs=1e-5)
    steepness = 4 * (1 - nodes) ** 3
    assert (weights * steepness) @ everything == pytest.approx(float(summary.mean), abs=1e-5)
    assert summary.largest == pytest.approx(
        float(order_parameters(std, bias_std=bias).rate), rel=1e-12
    )


def test_a_linear_network_has_the_triangular_law_and_an_orthogonal_one_a_single_rate():
    fractions = jnp.array([0.01, 0.3, 0.99])
    gaussian = full_spectrum(1.7, fractions, activation="linear")
    np.testing.assert_allclose(gaussian, np.log(1.7) + np.log1p(-fractions) / 2, atol=1e-12)
    single = full_spectrum(1.7, fractions, activation="linear", orthogonal=True)
    np.testing.assert_allclose(single, np.log(1.7), atol=1e-9)
    assert spectrum_summary(1.7, activation="linear", orthogonal=True).dimension == 1


def test_half_of_a_relu_network_is_lost():
    fractions = jnp.array([0.1, 0.45, 0.55])
    spectrum = full_spectrum(2.0, fractions, activation="relu")
    # Half the units pass gradients: a Gaussian matrix of half the size.
    expected = np.log(2) + np.log(0.5 - fractions[:2]) / 2
    np.testing.assert_allclose(spectrum[:2], expected, atol=1e-9)
    assert spectrum[2] == -jnp.inf
    assert spectrum_summary(2.0, activation="relu").mean == -jnp.inf


@pytest.mark.slow
def test_a_network_at_rest_has_the_eigenvalues_of_its_weights():
    fractions = jnp.array([0.25, 0.75])
    radii = 0.5 * np.sqrt(1 - fractions)  # circular law
    np.testing.assert_allclose(full_spectrum(0.5, fractions), np.log(radii), atol=1e-12)
    assert spectrum_summary(0.5).fraction_positive == 0
    assert spectrum_summary(0.5).dimension == 0


@pytest.mark.slow
def test_a_network_of_128_units_has_the_spectrum_of_theory():
    n, gain = 128, 3.0
    generator = np.random.default_rng(3)
    weights = jnp.asarray(generator.standard_normal((n, n)) * gain / n**0.5)
    network = jrnn.Recurrence(lambda w, h, _: jnp.tanh(w @ h), weights)
    state = jnp.asarray(generator.standard_normal(n))
    measured = jrnn.lyapunov_spectrum(
        network, state, None, num_steps=400, num_warmup=100, qr_every=1
    )
    theory = spectrum_summary(gain)
    exponents = measured.exponents
    assert exponents[0] == pytest.approx(float(theory.largest), abs=0.04)
    assert jnp.mean(exponents > 0) == pytest.approx(float(theory.fraction_positive), abs=0.02)
    middle = full_spectrum(gain, (np.arange(n) + 0.5) / n)[n // 8 : -n // 4]
    assert jnp.max(jnp.abs(exponents[n // 8 : -n // 4] - middle)) < 0.1


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_units: received 0, expected at least 1"):
        newman_exponents(0)
    with pytest.raises(TypeError, match=r"num_units: received 2.5"):
        ginibre_exponents(2.5)
    with pytest.raises(ValueError, match=r"weight_std: received 0.0, .* above 0"):
        newman_exponents(2, 0.0)
    with pytest.raises(ValueError, match=r"order: received -16, .* above -16"):
        gaussian_generalized_exponent(16, -16)
    with pytest.raises(ValueError, match="num_factors: received -1, expected at least 0"):
        fuss_catalan_moment(-1, 2)
    with pytest.raises(ValueError, match="num_factors: received 0, expected at least 1"):
        fuss_catalan_edge(0)
    with pytest.raises(ValueError, match=r"fractions: received .*expected each above 0"):
        full_spectrum(2.0, jnp.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="weight_std: received -1"):
        spectrum_summary(-1.0)


@pytest.mark.slow
def test_spectra_are_differentiable_in_the_gain():
    def sum_of(gain):
        return jnp.sum(full_spectrum(gain, jnp.array([0.1, 0.6])))

    numeric = (sum_of(3.0 + 1e-4) - sum_of(3.0 - 1e-4)) / 2e-4
    assert jax.grad(sum_of)(3.0) == pytest.approx(float(numeric), rel=1e-5)

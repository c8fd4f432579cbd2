import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import (
    Recurrence,
    ensemble_spectrum,
    entropy_rate,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    lyapunov_spectrum_of,
)
from tests.networks import normal


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.905, 0.0, -14.572], 2 + 0.905 / 14.572),  # Lorenz
        ([0.41927, 0.41927 * 0 - 1.203973 - 0.41927], 1 + 0.41927 / 1.623243),  # Hénon
        ([-0.1, -0.2], 0.0),
        ([0.3, 0.2], 2.0),
        ([0.5, -0.5, -1.0], 2.0),
        ([0.3, -jnp.inf], 1.0),
        ([-jnp.inf, -jnp.inf], 0.0),
        ([-1.0, 0.0, 0.5], 2.5),  # in any order
    ],
)
def test_kaplan_yorke_dimension(exponents, dimension):
    assert float(kaplan_yorke_dimension(jnp.array(exponents))) == pytest.approx(dimension)


def test_dimension_and_entropy_have_finite_gradients():
    exponents = jnp.array([0.5, 0.1, -0.2, -jnp.inf])
    np.testing.assert_allclose(jax.grad(entropy_rate)(exponents), [1, 1, 0, 0])
    assert bool(jnp.all(jnp.isfinite(jax.grad(kaplan_yorke_dimension)(exponents)[:3])))


@pytest.mark.parametrize("function", [kaplan_yorke_dimension, entropy_rate])
def test_a_batch_of_exponents_is_refused(function):
    with pytest.raises(ValueError, match="exponents: received shape"):
        function(jnp.zeros((2, 3)))


def newman(seed, steps=4000, n=4, **options):
    jacobians = 1.3 * normal(seed, (steps, n, n)) / np.sqrt(n)
    return lyapunov_spectrum_of(jacobians, qr_every=1, **options)


@pytest.mark.slow
def test_errors_propagate_to_derived_numbers():
    spectrum = newman(0)
    largest = spectrum.largest_exponent()
    assert largest == (spectrum.exponents[0], spectrum.standard_errors[0])
    entropy = spectrum.entropy_rate()
    np.testing.assert_allclose(entropy.value, jnp.sum(spectrum.exponents[spectrum.exponents > 0]))
    # The increments of Newman's exponents are independent: variances add.
    positive = spectrum.exponents > 0
    expected = jnp.sqrt(jnp.sum(jnp.where(positive, spectrum.standard_errors**2, 0)))
    assert float(entropy.standard_error) == pytest.approx(float(expected), rel=0.3)
    spread = np.std([float(newman(s).kaplan_yorke_dimension().value) for s in range(1, 20)], ddof=1)
    error = float(spectrum.kaplan_yorke_dimension().standard_error)
    assert error == pytest.approx(spread, rel=0.6)


@pytest.mark.slow
def test_too_few_exponents_leave_dimension_and_entropy_unknown():
    spectrum = newman(0, num_exponents=1)
    assert float(spectrum.exponents[0]) > 0
    assert np.isnan(spectrum.kaplan_yorke_dimension().value)
    assert np.isnan(spectrum.entropy_rate().value)
    assert "unknown (more exponents needed)" in str(spectrum)


def test_print_shows_exponents_intervals_and_checks():
    text = str(newman(0))
    for part in ("4 Lyapunov exponents from 4000 steps", "λ_1 ", "95 % over time", "Kaplan–Yorke"):
        assert part in text
    for part in ("sum rule: growth of volume against log|det J|", "digits lost:"):
        assert part in text
    assert "WARNING" not in text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_rates_give_no_warning(dtype):
    with jax.enable_x64(dtype == "float64"):
        system = Recurrence(lambda p, state, x: x - p * state, jnp.asarray(0.5, dtype))
        xs = jnp.asarray(np.random.default_rng(0).normal(size=(2000, 1)), dtype)
        spectrum = lyapunov_spectrum(system, jnp.zeros(1, dtype), xs)
        assert float(spectrum.exponents[0]) == pytest.approx(-np.log(2), rel=1e-6)
        assert "WARNING" not in str(spectrum)


def test_rounding_of_large_exponents_does_not_violate_the_sum_rule():
    spectrum = newman(0)._replace(sum_rule_residual=jnp.asarray(1e-6))
    assert "sum rule is violated" in str(spectrum)
    # Four logs of 1e9 are known to 4e9 eps, 1e-6.
    assert "sum rule is violated" not in str(spectrum._replace(exponents=jnp.full(4, 1e9)))


def test_exponents_without_an_error_bar_are_printed_without():
    text = str(newman(0, steps=1))
    assert "no error bar: fewer than two batches" in text
    assert "nan" not in text


@pytest.mark.slow
def test_print_leaves_out_the_middle_of_many_exponents():
    assert "…" in str(newman(0, n=8))


@pytest.mark.slow
def test_a_short_run_and_a_drifting_one_say_so():
    assert "WARNING: too short: " in str(newman(0, steps=9))
    growth = jnp.linspace(0, 3, 2000)[:, None, None] + jnp.zeros((2000, 2, 2))
    noise = normal(0, (2000, 2, 2))
    text = str(lyapunov_spectrum_of(jnp.exp(growth) * noise, qr_every=1))
    assert "exponents drift from half to half" in text


def test_history_ends_at_the_result():
    spectrum = newman(0)
    last = int(jnp.sum(~jnp.isnan(spectrum.history[:, 0]))) - 1
    np.testing.assert_allclose(spectrum.history[last], spectrum.exponents, atol=1e-12)
    assert int(spectrum.history_steps[last]) == int(spectrum.num_steps) == 4000


@pytest.mark.slow
def test_an_ensemble_separates_members_from_time():
    jacobians = normal(0, (30, 600, 3, 3))
    run = jax.vmap(lambda j: lyapunov_spectrum_of(j, qr_every=1))
    alike = ensemble_spectrum(run(jacobians))
    np.testing.assert_allclose(alike.spread / alike.spread_over_time, 1, atol=0.4)
    gains = jnp.exp(jnp.linspace(-1, 1, 30))[:, None, None, None]
    different = ensemble_spectrum(run(gains * jacobians))
    expected = np.std(np.linspace(-1, 1, 30), ddof=1)
    np.testing.assert_allclose(different.spread, expected, rtol=0.1)
    np.testing.assert_allclose(different.standard_errors, different.spread / np.sqrt(30))
    assert "30 Lyapunov spectra" in str(run(jacobians))


def test_one_spectrum_is_no_ensemble():
    with pytest.raises(ValueError, match="spectra: received exponents of shape"):
        ensemble_spectrum(newman(0))
    with pytest.raises(TypeError, match="spectra: received a list"):
        ensemble_spectrum([newman(0), newman(1)])


@pytest.mark.parametrize("level", [95, 0, -0.5])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match="level: received"):
        newman(0).interval(level)

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import plotting
from tests.plotting.drawings import is_open, labels, marked, points


@pytest.fixture
def spectrum():
    """Give three exponents of four, with a history of two batches in room for three."""
    fields = {
        "exponents": jnp.array([0.5, 0.0, -1.0]),
        "standard_errors": jnp.array([0.01, 0.02, 0.03]),
        "num_batches": jnp.array([64, 32, 16]),
        "long_enough": jnp.ones(3, bool),
        "history": jnp.array([[0.4, 0.1, -0.9], [0.5, 0.0, -1.0], 3 * [jnp.nan]]),
        "history_steps": jnp.array([10, 20, 0]),
        "run": SimpleNamespace(frame=jnp.zeros((4, 3))),
    }
    return jrnn.LyapunovSpectrum(**(dict.fromkeys(jrnn.LyapunovSpectrum._fields) | fields))


def test_exponents_have_their_intervals_over_time_and_the_place_of_their_number(axes, spectrum):
    fractions = np.array([0.1, 0.5, 0.9])
    theory = (fractions, jnp.array([1.0, 0.5, -jnp.inf]))
    plotting.lyapunov_exponents(axes, spectrum, theory=theory)
    places, values, halves = points(axes, "3 exponents, 95 % over time")
    np.testing.assert_allclose(places, [1 / 8, 3 / 8, 5 / 8])  # of all four, not of three
    np.testing.assert_allclose(values, spectrum.exponents)
    low, high = spectrum.interval()
    np.testing.assert_allclose(halves, (high - low) / 2)
    np.testing.assert_allclose(marked(axes, "theory").get_xdata(), fractions)
    assert np.isnan(marked(axes, "theory").get_ydata()[2])
    assert axes.get_xlim() == (0, 1)
    assert axes.get_ylabel() == "exponent λᵢ (nats per step)"


def test_exponents_of_too_short_a_run_are_open_and_lost_ones_stand_on_the_edge(axes, spectrum):
    honest = spectrum._replace(
        exponents=spectrum.exponents.at[2].set(-jnp.inf),
        long_enough=jnp.array([True, False, False]),
    )
    plotting.lyapunov_exponents(axes, honest)
    assert points(axes, "3 exponents")[0].tolist() == [1 / 8]
    assert is_open(axes, "too short a run")
    assert points(axes, "too short a run")[0].tolist() == [3 / 8]
    assert marked(axes, "lost (−∞): 1 of 3").get_xdata().tolist() == [5 / 8]
    assert axes.get_xlim() == (0, 3 / 4)  # as far as there are exponents
    axes.set_xlim(0, 1)
    plotting.lyapunov_exponents(axes, honest)
    assert axes.get_xlim() == (0, 1)  # and not narrower than what was there


def test_an_ensembles_bars_are_standard_errors_over_members(axes):
    errors = np.array([0.1, 0.2, np.nan])
    ensemble = jrnn.EnsembleSpectrum(np.array([1.0, 0.0, -1.0]), errors, errors, errors)
    plotting.lyapunov_exponents(axes, ensemble, num_states=10, shown=[1, 2], label="mine")
    places, values, halves = points(axes, "mine")
    assert (places.tolist(), values.tolist()) == ([0.15], [0.0])
    np.testing.assert_allclose(halves, 0.2)
    assert is_open(axes, "error unknown")
    for options, match in (
        ({"shown": [3]}, "shown: received"),
        ({"shown": [True, False, True]}, "expected integers, some of 0 to 2"),
        ({"num_states": 2}, "num_states: received 2, expected at least 3"),
        (
            {"theory": (np.zeros(2), np.zeros(3))},
            r"theory\[1\]: received shape \(3,\), expected",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            plotting.lyapunov_exponents(axes, ensemble, **options)
    with pytest.raises(TypeError, match="spectrum: received a ndarray"):
        plotting.lyapunov_exponents(axes, errors)


def test_convergence_draws_the_history_and_the_final_interval(axes, spectrum):
    plotting.convergence(axes, spectrum, most=2)
    assert labels(axes) == ["λ₁", "λ₃"]
    steps, values = marked(axes, "λ₃").get_data()
    made = ~np.isnan(np.asarray(spectrum.history[:, 2]))
    np.testing.assert_array_equal(steps, spectrum.history_steps[made])
    np.testing.assert_allclose(values, spectrum.history[made, 2])
    low, high = spectrum.interval()
    heights = [(band.get_y(), band.get_y() + band.get_height()) for band in axes.patches]
    np.testing.assert_allclose(heights, [(low[i], high[i]) for i in (0, 2)])
    assert axes.get_xscale() == "log"
    with pytest.raises(ValueError, match="most: received 0"):
        plotting.convergence(axes, spectrum, most=0)


@pytest.mark.slow
def test_rates_of_finite_times_are_open_where_rare_windows_carry_them(axes):
    rng = np.random.default_rng(0)
    lags = jnp.array([1, 50])
    spread = rng.normal(size=(40, 2, 3)) * np.array([0.1, 15.0])[:, None]
    growth = jrnn.FiniteTimeGrowth(lags, jnp.array(spread))
    plotting.finite_time_rates(axes, growth)
    typical, mean = growth.finite_time_exponents(), growth.generalized_exponents(2)
    np.testing.assert_allclose(points(axes, "typical")[1], typical.value)
    np.testing.assert_allclose(points(axes, "typical")[2], typical.standard_error)
    assert points(axes, "mean square")[0].tolist() == [1]
    np.testing.assert_allclose(points(axes, "mean square, not")[1], mean.value[1])
    assert is_open(axes, "mean square, not to be trusted")


@pytest.mark.slow
def test_rates_without_a_number_stand_on_the_edge_on_their_side(axes):
    logs = jnp.tile(jnp.array([-jnp.inf, jnp.inf, jnp.nan])[None, :, None], (4, 1, 2))
    plotting.finite_time_rates(axes, jrnn.FiniteTimeGrowth(jnp.array([1, 9, 99]), logs))
    ends = (("−∞", 1, 0.03), ("+∞", 9, 0.97), ("no number", 99, 0.03))
    for label, lag, height in (
        (f"{of}: {end}", *at) for of in ("typical", "mean square") for end, *at in ends
    ):
        marks = marked(axes, label)
        assert (marks.get_xdata().tolist(), marks.get_ydata().tolist()) == ([lag], [height])

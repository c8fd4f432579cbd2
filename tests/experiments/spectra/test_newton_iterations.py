import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments.spectra import newton_iterations as experiment
from experiments.spectra._linearizations import SCHEMES, solve
from paper_figures.spectra import newton_iterations as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of

SMALL = dataclasses.replace(
    experiment.PRESETS["quick"], width=5, lengths=(24,), num_warmup=24, num_steps=40
)


@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_t_iterations_reach_the_states_of_a_sequential_run(gain):
    network, carry, xs, guess = experiment.problem(SMALL, gain, jax.random.key(0))
    xs, states = xs[:24], jrnn.trajectory(network, carry, xs[:24])[1:]
    solution = solve(network, carry, xs, guess, tolerance=1e-10)
    assert solution.residual < 1e-10
    assert solution.num_iterations <= (6 if gain < 1 else 24)
    # Nothing is below zero: no iteration is spared.
    exhausted = solve(network, carry, xs, guess, tolerance=0.0)
    assert exhausted.num_iterations == 24
    np.testing.assert_allclose(exhausted.states, states, atol=1e-9)


def test_sequences_begin_where_the_warm_up_of_the_same_sine_ends():
    network, carry, xs, _ = experiment.problem(SMALL, 0.9, jax.random.key(1))
    assert xs.shape == (SMALL.num_steps,)
    # A sine obeys x(t+1) + x(t−1) = 2 cos ω x(t).
    cosine = (xs[2:] + xs[:-2]) / (2 * xs[1:-1])
    np.testing.assert_allclose(cosine, cosine[0], rtol=1e-9)
    assert np.cos(SMALL.frequencies[1]) <= cosine[0] <= np.cos(SMALL.frequencies[0])
    assert 0 < np.abs(xs).max() <= SMALL.max_amplitude
    # Settled: the state is that of a run from anywhere under the sine continued backwards.
    frequency = float(np.arccos(cosine[0]))
    amplitude, phase = _sine(np.asarray(xs), frequency)
    earlier = amplitude * np.sin(frequency * np.arange(-400, 0) + phase)
    state = jrnn.trajectory(network, jnp.zeros(SMALL.width), jnp.asarray(earlier))[-1]
    long = dataclasses.replace(SMALL, num_warmup=0)
    assert not np.allclose(experiment.problem(long, 0.9, jax.random.key(1))[1], state, atol=1e-2)
    np.testing.assert_allclose(carry, state, atol=0.02)


def _sine(xs, frequency):
    times = np.arange(xs.size)
    basis = np.stack([np.sin(frequency * times), np.cos(frequency * times)], axis=1)
    sine, cosine = np.linalg.lstsq(basis, xs, rcond=None)[0]
    return np.hypot(sine, cosine), np.arctan2(cosine, sine)


def test_the_rise_is_interpolated_in_log_iterations():
    exponents, iterations = np.array([-0.3, -0.1, 0.1, 0.2]), np.array([5, 10, 40, 90])
    np.testing.assert_allclose(experiment.rise(exponents, iterations, 20), 0.0, atol=1e-12)
    assert np.isnan(experiment.rise(exponents, iterations, 100))
    assert np.isnan(experiment.rise(exponents, iterations, 2))


def constructed(iterations, of_schemes=(3, 80, 5, 300, 77), solved=(1, 1, 1, 0, 1)):
    """Two networks at four gains, whose λ₁ is −0.3, −0.05, 0.05, 0.3; T = 300.

    Iterations of the schemes are those at the stable gain. They take T at all others.
    """
    counts = np.tile(np.array(iterations)[:, None], (2, 1, 1))
    by_scheme = np.full((2, 4, len(SCHEMES)), 300)
    by_scheme[:, 0] = of_schemes
    converged = np.ones((2, 4, len(SCHEMES)), bool)
    converged[:, 0] = solved
    converged[:, 3, SCHEMES.index("damped")] = False
    schemes = ("network", "gain", "scheme")
    dataset = xr.Dataset(
        {
            "exponent": (("network", "gain"), np.tile([-0.3, -0.05, 0.05, 0.3], (2, 1))),
            "exponent_error": (("network", "gain"), np.full((2, 4), 0.01)),
            "iterations": (("network", "gain", "length"), counts),
            "residual": (("network", "gain", "length"), np.zeros(counts.shape)),
            "converged": (("network", "gain", "length"), np.ones(counts.shape, bool)),
            "state_error": (("network", "gain", "length"), np.zeros(counts.shape)),
            "scheme_iterations": (schemes, by_scheme),
            "scheme_converged": (schemes, converged),
            "scheme_error": (schemes, np.zeros(by_scheme.shape)),
        },
        coords={
            "network": [0, 1],
            "gain": [0.5, 1.0, 1.5, 2.0],
            "length": [300],
            "scheme": list(SCHEMES),
        },
    )
    return described(experiment.compared(dataset), experiment.Newton(lengths=(300,)))


@pytest.mark.parametrize(
    ("iterations", "verdicts"),
    [
        ([5, 40, 160, 290], ["holds", "fails", "holds", "holds", "holds"]),
        ([25, 40, 160, 220], ["fails", "holds", "fails", "not measured", "holds"]),
        ([5, 160, 200, 300], ["holds", "fails", "holds", "holds", "fails"]),
        ([5, 6, 10, 300], ["holds", "fails", "holds", "fails", "holds"]),
    ],
)
def test_claims_hold_or_fail_by_what_was_counted(iterations, verdicts):
    claims = figure.claims(constructed(iterations))[:5]
    assert [claim.verdict for claim in claims] == verdicts
    assert claims[0].measured == claims[1].measured == iterations[0]
    np.testing.assert_allclose(claims[2].measured, iterations[3] / 300)


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, ["holds"] * 5),
        ({"of_schemes": (6, 80, 5, 300, 77)}, ["fails", *["holds"] * 4]),
        ({"of_schemes": (3, 80, 5, 300, 140)}, ["holds", "fails", *["holds"] * 3]),
        ({"solved": (1, 1, 1, 1, 1)}, [*["holds"] * 3, "fails", "holds"]),
    ],
)
def test_claims_of_linearisations_hold_or_fail_by_what_was_counted(changes, verdicts):
    """With ln(1e10) / 0.3 = 76.8, 77 iterations of Jacobi are those of theory."""
    claims = figure.claims(constructed([5, 40, 160, 290], **changes))[5:]
    assert [claim.verdict for claim in claims] == verdicts
    assert claims[0].measured == 5 - changes.get("of_schemes", (3,))[0]
    assert claims[2].measured == 1.0


@pytest.mark.slow
def test_the_experiment_counts_and_is_drawn(tmp_path):
    dataset = result_of(experiment, SMALL)
    assert "Newton iterations" in text_of(experiment, dataset)
    assert dataset["iterations"].sizes == {"network": 2, "gain": 4, "length": 1}
    newton = dataset["scheme_iterations"].sel(scheme="newton")
    np.testing.assert_array_equal(newton, dataset["iterations"].isel(length=0))
    # All that is solved is the sequential run.
    stable = dataset["exponent"] < 0
    solved = dataset["scheme_converged"].astype(bool) & stable
    assert float(dataset["scheme_error"].where(solved).max()) < 1e-6
    check_drawing(figure.draw(dataset), tmp_path)


def test_sequences_are_no_longer_than_the_run_that_measures_the_exponent():
    with pytest.raises(ValueError, match=r"--lengths: received \(24, 50\)"):
        dataclasses.replace(SMALL, lengths=(24, 50))

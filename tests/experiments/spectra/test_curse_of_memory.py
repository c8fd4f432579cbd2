import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.linalg import solve_discrete_lyapunov

from experiments.spectra import curse_of_memory as experiment
from paper_figures.spectra import curse_of_memory as figure
from tests.experiments.in_process import check_drawing, result_of, text_of

CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], memories=(2, 10, 20), autocorrelations=(0.0, 0.9)
)


@pytest.fixture(scope="module")
def dataset():
    with jax.enable_x64(True):
        return result_of(experiment, CONFIG)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_formulas_solve_the_lyapunov_equation_of_input_state_and_sensitivity(decay, rho):
    # x' = ρ x + √(1 − ρ²) ξ, h' = λ h + x', s' = λ s + h.
    step = np.array([[rho, 0, 0], [rho, decay, 0], [0, 1, decay]])
    noise = (1 - rho**2) * np.outer([1, 1, 0], [1, 1, 0])
    covariance = solve_discrete_lyapunov(step, noise, method="bilinear")
    state, sensitivity, reparametrised = experiment.second_moments(decay, rho)
    np.testing.assert_allclose(covariance[0, 0], 1, rtol=1e-8)
    np.testing.assert_allclose(state, covariance[1, 1], rtol=1e-8)
    np.testing.assert_allclose(sensitivity, covariance[2, 2], rtol=1e-8)
    # g = √(1 − λ²) h, and dλ/dν = λ log λ.
    scale = (1 - decay**2) ** 0.5
    weights = decay * np.log(decay) * np.array([0, -decay / scale, scale])
    np.testing.assert_allclose(reparametrised, weights @ covariance @ weights, rtol=1e-7)


def test_the_simulation_has_the_moments_of_theory_and_errors_of_the_right_size(dataset):
    score = ((dataset["ratio"] - 1) / dataset["ratio_error"]).to_numpy()
    assert np.abs(score).max() < 4
    # The root mean square of true standard scores is one; 18 of them are correlated in groups.
    assert 0.3 < np.sqrt((score**2).mean()) < 2
    # Long averages of short memories are precise: this is no comparison of noise with noise.
    one = dataset.sel(memory=2, autocorrelation=0.0, quantity="state")
    assert one["standard_error"] < 0.02 * one["moment"]


def test_the_slope_is_that_of_a_power_law():
    config = dataclasses.replace(CONFIG, memories=(2, 10, 100, 1000), fitted_from=10)
    memory = np.array(config.memories, float)
    # Below the range of the fit the law is another one.
    moment = np.where(memory >= 10, 3 * memory**2.5, 1e6) * np.ones((3, 2, 1))
    dims = ("quantity", "autocorrelation", "memory")
    dataset = xr.Dataset(
        {"moment": (dims, moment), "standard_error": (dims, 0.1 * moment)},
        coords={
            "quantity": list(experiment.QUANTITIES),
            "autocorrelation": list(config.autocorrelations),
            "memory": memory,
        },
    )
    compared = experiment.compared(dataset, config)
    np.testing.assert_allclose(compared["slope"], -2.5, rtol=1e-12)
    # Three points a decade apart, each 10 % uncertain: 0.1 / (log 10 √2).
    np.testing.assert_allclose(compared["slope_error"], 0.1 / (np.log(10) * 2**0.5), rtol=1e-12)


def test_claims_fail_where_a_point_is_off_and_the_curse_is_weaker_than_cubic(dataset):
    sure = dataset.assign(
        ratio=0 * dataset["ratio"] + 1.05,
        ratio_error=0 * dataset["ratio_error"] + 0.01,
        slope_error=0 * dataset["slope_error"] + 0.01,
    )
    white = dataset["slope"].copy()
    white.loc[{"autocorrelation": 0.0}] = [-1, -2.95, 0.05]
    found = figure.claims(sure.assign(slope=white))
    assert [claim.verdict for claim in found] == ["holds"] * 5
    off, weaker = sure["ratio"].copy(), white.copy()
    off.loc[{"autocorrelation": 0.9, "memory": 10}] = 0.85
    weaker.loc[{"autocorrelation": 0.0}] = [-1, -2.8, -0.2]
    found = figure.claims(sure.assign(ratio=off, slope=weaker))
    assert [claim.verdict for claim in found] == ["fails"] * 5
    assert "ρ = 0.9 and a memory of 10 steps" in found[0].quantity
    lost = off.where(off["memory"] != 20)
    assert figure.claims(sure.assign(ratio=lost))[0].verdict == "not measured"


@pytest.mark.slow
def test_the_figure_shows_theory_as_lines_and_simulation_as_points(dataset, tmp_path):
    assert "LRU" in text_of(experiment, dataset)
    drawing = figure.draw(dataset)
    sensitivity = drawing.axes[1]
    one = dataset.sel(quantity="sensitivity", autocorrelation=0.9)
    drawn = np.asarray(sensitivity.containers[1].lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn, one["moment"])
    curves = [line for line in sensitivity.lines if len(line.get_xdata()) == CONFIG.num_curve]
    np.testing.assert_allclose(curves[1].get_ydata(), one["curve"])
    check_drawing(drawing, tmp_path)

import dataclasses
import io

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from scipy.linalg import solve_discrete_lyapunov

from experiments import curse_of_memory as experiment
from experiments import results
from paper_figures import curse_of_memory as figure

CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], memories=(2, 10, 20), autocorrelations=(0.0, 0.9)
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "ROOT", tmp_path_factory.mktemp("curse") / "results")
        console = Console(file=text, width=80)
        assert experiment.run(CONFIG, "quick", num_workers=1, console=console) == 0
        return text.getvalue(), results.read(results.path_of(experiment.NAME, "quick", "float64"))


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


def test_the_simulation_has_the_moments_of_theory_and_errors_of_the_right_size(ran):
    _, dataset = ran
    score = dataset["score"].to_numpy()
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


def test_claims_fail_where_the_curse_is_weaker_than_cubic(ran):
    _, dataset = ran
    found = figure.claims(dataset)
    assert len(found) == 5
    white = dataset["slope"].copy()
    white.loc[{"quantity": "sensitivity", "autocorrelation": 0.0}] = -2.8
    weaker = dataset.assign(slope=white, score=dataset["score"] * 0 + 3.1)
    assert [claim.verdict for claim in figure.claims(weaker)[:4]] == ["fails"] * 4
    exact = dataset.assign(slope=white * 0 - 3, score=dataset["score"] * 0 - 2.9)
    assert [claim.verdict for claim in figure.claims(exact)] == ["holds"] * 4 + ["fails"]


@pytest.mark.slow
def test_the_figure_shows_theory_as_lines_and_simulation_as_points(ran, tmp_path):
    text, dataset = ran
    assert "…" not in text
    drawing = figure.draw(dataset)
    sensitivity = drawing.axes[1]
    one = dataset.sel(quantity="sensitivity", autocorrelation=0.9)
    drawn = np.asarray(sensitivity.containers[1].lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn, one["moment"])
    curves = [line for line in sensitivity.lines if len(line.get_xdata()) == CONFIG.num_curve]
    np.testing.assert_allclose(curves[1].get_ydata(), one["curve"])
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

import dataclasses

import mpmath
import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from experiments.training import error_wall as experiment
from paper_figures.training import error_wall as figure

QUICK = dataclasses.replace(
    experiment.PRESETS["quick"], num_grid=5, num_distances=20, num_updates=300, lengths=(10,)
)


@pytest.fixture(scope="module")
def surface():
    return experiment.surface(QUICK)


@pytest.mark.slow
def test_on_the_wall_the_gradient_is_a_geometric_sum(surface):
    # There x stays at 1/2, and dx_T/db is the sum of the powers of w σ'(1/2).
    value = 1 / (1 + np.exp(-0.5))
    slope = value * (1 - value)
    factor = QUICK.line_weight * slope
    through_time = (factor**50 - 1) / (factor - 1)
    expected = 2 * abs(value - 0.7) * slope * through_time * np.hypot(1, value)
    on_wall = surface.sel(offset=0)
    np.testing.assert_allclose(on_wall["gradient_across"], expected, rtol=1e-9)
    np.testing.assert_allclose(on_wall["loss_across"], (value - 0.7) ** 2, rtol=1e-9)
    np.testing.assert_allclose(on_wall["log_growth_across"], 50 * np.log(factor), rtol=1e-9)
    np.testing.assert_allclose(surface["log_growth_on_wall"], 50 * np.log(factor), rtol=1e-12)
    np.testing.assert_allclose(
        surface["wall"],
        0.5 - value * surface["weight"].where(surface["weight"] * slope > 1),
        rtol=1e-12,
    )
    assert surface["gradient_across"].max() >= on_wall["gradient_across"]


def test_gradient_and_curvature_are_those_of_arbitrary_precision(surface):
    def error(w, b):
        x = mpmath.mpf(1) / 2
        for _ in range(50):
            x = w / (1 + mpmath.exp(-x)) + b
        return (1 / (1 + mpmath.exp(-x)) - mpmath.mpf(7) / 10) ** 2

    point = surface.isel(weight=2, bias=3)
    at = (mpmath.mpf(point["weight"].item()), mpmath.mpf(point["bias"].item()))
    with mpmath.workdps(40):
        gradient = [float(mpmath.diff(error, at, order)) for order in ((1, 0), (0, 1))]
        ww, wb, bb = (float(mpmath.diff(error, at, order)) for order in ((2, 0), (1, 1), (0, 2)))
    np.testing.assert_allclose(point["gradient"], np.hypot(*gradient), rtol=1e-7)
    curvature = np.abs(np.linalg.eigvalsh([[ww, wb], [wb, bb]])).max()
    np.testing.assert_allclose(point["curvature"], curvature, rtol=1e-7)


@pytest.mark.slow
def test_only_the_clipped_gradient_is_made_smaller():
    def silent(*_):
        pass

    # A clipped step of next to nothing leaves the network at chance; the others learn something.
    config = dataclasses.replace(QUICK, clip_norm=1e-9)
    dataset = experiment.trained(config, 10, silent)
    plain, clipped = (dataset.sel({"method": method}) for method in experiment.METHODS)
    assert (clipped["accuracy"] < 0.4).all()
    assert (plain["accuracy"] > clipped["accuracy"] + 0.1).all()
    # Norms are those before clipping.
    assert (clipped["largest_gradient"] > 0.1).all()


def constructed(surface, clipped, plain):
    """Join the surface with accuracies `(seed, learning rate)` at one length."""
    config = dataclasses.replace(QUICK, num_seeds=3, learning_rates=(0.1, 0.2))
    accuracies = np.transpose([plain, clipped], (0, 2, 1))
    dims = ("method", "learning_rate", "seed")
    coords = {"method": list(experiment.METHODS), "learning_rate": [0.1, 0.2], "seed": range(3)}
    names = ("accuracy", "largest_gradient")
    trainings = xr.Dataset({name: (dims, accuracies) for name in names}, coords=coords)
    return experiment.combine(
        config,
        {
            experiment.Unit(experiment.TRAININGS, "10"): trainings,
            experiment.Unit(experiment.SURFACE, "50"): surface,
        },
    )


def test_the_learning_rate_at_which_most_seeds_learn_counts(surface):
    dataset = constructed(
        surface, [[0.5, 0.99], [0.98, 1.0], [0.99, 0.5]], [[0.99, 0.2], [0.2, 0.2], [0.9, 0.9]]
    )
    clipped, plain = (dataset.sel({"method": m, "length": 10}) for m in figure.ARMS)
    np.testing.assert_allclose(clipped["success"], 2 / 3)
    np.testing.assert_allclose(plain["success_by_rate"], [1 / 3, 0])
    expected = binomtest(2, 3).proportion_ci(method="wilson")
    np.testing.assert_allclose(clipped["interval"], [expected.low, expected.high], rtol=1e-9)
    *_, at_best, at_largest, at_smallest = figure.claims(dataset)
    # One of three seeds learned clipped only.
    np.testing.assert_allclose(at_best.measured, 1 / 3)
    np.testing.assert_allclose(at_best.uncertainty, 1 / 3)
    np.testing.assert_allclose(at_largest.measured, 2 / 3)
    # One of three learned with either.
    np.testing.assert_allclose(at_smallest.measured, 0, atol=1e-12)
    assert at_smallest.verdict == "not decided"


def test_claims_fail_where_clipping_hurts_or_the_wall_is_low(surface):
    low = surface.assign(gradient_across=surface["gradient_across"] / 1e3)
    dataset = constructed(low, np.full((3, 2), 0.5), np.ones((3, 2)))
    verdicts = [one.verdict for one in figure.claims(dataset)]
    assert verdicts == ["fails", "holds", "holds", "fails", "fails", "holds"]
    nothing = constructed(surface, np.zeros((3, 2)), np.zeros((3, 2)))
    assert [one.verdict for one in figure.claims(nothing)[-3:]] == ["fails", "fails", "holds"]


def test_a_line_that_crosses_no_wall_is_refused():
    with pytest.raises(ValueError, match=r"--line-weight: received 4, expected above 4\.26"):
        dataclasses.replace(QUICK, line_weight=4)

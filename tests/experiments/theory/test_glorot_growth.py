import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.theory import glorot_growth as experiment
from paper_figures.theory import glorot_growth as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of

CONFIG = dataclasses.replace(experiment.PRESETS["quick"], widths=(16, 36), num_networks=6)


@pytest.fixture(scope="module")
def dataset():
    return result_of(experiment, CONFIG)


def test_growth_is_that_of_powers_of_the_kept_weights():
    key, width = jax.random.key(0), 6
    kernel = np.asarray(jax.random.normal(jax.random.split(key)[0], (width, width), "float64"))
    kernel = kernel / np.sqrt(width)
    growth = experiment.growth_of(key, width, 12, width, "float64")
    # As many gradients as states tell all of them.
    powers = [np.linalg.matrix_power(kernel, lag) for lag in range(1, 13)]
    expected = [np.log(np.linalg.norm(power) / np.sqrt(width)) for power in powers]
    np.testing.assert_allclose(growth, expected, atol=1e-10)


def test_the_time_is_where_growth_first_exceeds_the_level():
    growth = np.array([[2.0, 3.0, 0.0], [0.0, 0.5, 2.5], [0.0, -1.0, 0.9], [-1.0, 3.0, 0.0]])
    np.testing.assert_allclose(experiment.first_time(growth, 1.0), [0.5, 2.25, np.inf, 1.5])


def constructed(power, of_median):
    """Nine networks of ten whose times go with one power of the width, and one with another.

    Those nine decide the median, and the tenth, which grows much more, the mean square.
    """
    widths, places = np.array([16, 64, 256]), np.arange(0.25, 12, 0.25)
    factors = np.exp(np.linspace(-0.01, 0.01, 100))
    times = 8 * widths[:, None] ** of_median * factors
    few = np.arange(100) % 10 == 0
    steps = places * widths[:, None, None] ** 0.5
    growth = np.log(2) * steps / times[:, :, None]
    growth[:, few] = np.log(6.2) * steps / (10 * (widths / 64) ** power * 1.6)[:, None, None]
    dataset = xr.Dataset(
        {
            "time": (("width", "network"), times),
            "growth": (("width", "network", "place"), growth),
        },
        coords={"width": widths, "place": places},
    )
    fitted = experiment.fitted(dataset, float(np.log(2)), np.random.default_rng(0))
    return described(fitted, experiment.Glorot(widths=(16, 64, 256), num_networks=100))


@pytest.mark.parametrize(
    ("power", "of_median", "verdicts"),
    [
        (0.5, 0.4, ["holds", "holds"]),
        (0.9, 0.4, ["fails", "holds"]),
        (0.5, 0.6, ["holds", "fails"]),
    ],
)
def test_claims_are_those_of_the_powers_of_both_averages(power, of_median, verdicts):
    result = constructed(power, of_median)
    assert [claim.verdict for claim in figure.claims(result)] == verdicts
    np.testing.assert_allclose(result["power"], [power, of_median], atol=0.05)
    assert ((result["power_error"] > 0) & (result["power_error"] < 0.15)).all()


def test_the_mean_square_is_that_of_numbers_of_any_size():
    growth = np.array([[[0.0, 800.0], [1.0, 700.0]]])
    expected = [np.log((1 + np.exp(2)) / 2) / 2, 800 - np.log(2) / 2]
    np.testing.assert_allclose(experiment.log_mean_square(growth)[0], expected)


@pytest.mark.slow
def test_the_experiment_runs_and_is_drawn(dataset, tmp_path):
    assert "to the power of" in text_of(experiment, dataset)
    assert dataset["growth"].sizes == {"width": 2, "network": 6, "place": 48}
    above = (dataset["growth"] > np.log(CONFIG.factor)).any("place")
    assert (np.isfinite(dataset["time"]) | ~above).all()
    check_drawing(figure.draw(dataset), tmp_path)


@pytest.mark.parametrize("widths", [(64,), (64, 16)])
def test_a_power_needs_two_ascending_widths(widths):
    with pytest.raises(ValueError, match="--widths: received"):
        dataclasses.replace(CONFIG, widths=widths)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.training import copy_memory as experiment
from paper_figures.training import copy_memory as figure
from tests.experiments.in_process import done

QUICK = dataclasses.replace(
    experiment.PRESETS["quick"], num_updates=20, window=5, plateau=(5, 20), dtype="float64"
)


def test_arms_are_the_cells_that_they_are_called():
    h, x = jnp.linspace(-1, 1, QUICK.width), jnp.ones(3)
    outputs = {}
    for arm, function in ((experiment.TANH, np.tanh), (experiment.LINEAR, lambda x: x)):
        cell = experiment.cell_of(QUICK, arm)
        variables = cell.init(jax.random.key(0), h, x)
        kernels = {name: np.asarray(layer["kernel"]) for name, layer in variables["params"].items()}
        np.testing.assert_allclose(kernels["h"] @ kernels["h"].T, np.eye(QUICK.width), atol=1e-12)
        outputs[arm] = cell.apply(variables, h, x)[0]
        np.testing.assert_allclose(
            outputs[arm], function(x @ kernels["i"] + h @ kernels["h"]), rtol=1e-12
        )


def constructed(plateau, lstm, tanh, linear):
    arms, seeds = [experiment.LSTM, experiment.TANH, experiment.LINEAR], [0, 1]
    return xr.Dataset(
        {
            "plateau": (("arm", "seed"), [2 * [plateau], 2 * [0.0], 2 * [0.0]]),
            "test_loss": (("arm", "seed"), [2 * [lstm], 2 * [tanh], 2 * [linear]]),
            "baseline": 2.0,
        },
        coords={"arm": arms, "seed": seeds},
    )


def test_claims_are_about_the_loss_of_having_no_memory():
    verdicts = [one.verdict for one in figure.claims(constructed(2.03, 2.0, 2.03, 1.0))]
    assert verdicts == ["holds"] * 4
    verdicts = [one.verdict for one in figure.claims(constructed(1.95, 1.0, 1.95, 1.97))]
    assert verdicts == ["fails"] * 4
    *_, ahead, _ = figure.claims(constructed(2.0, 2.0, 2.0, 1.0))
    np.testing.assert_allclose(ahead.measured, np.log(2))


@pytest.mark.slow
def test_the_figure_shows_what_was_trained(tmp_path):
    dataset = done(experiment, QUICK)
    np.testing.assert_allclose(dataset["baseline"], 10 * np.log(8) / (QUICK.num_steps + 20))
    # A linear network multiplies gradients by an orthogonal matrix at every step.
    np.testing.assert_allclose(dataset["log_growth"].sel(arm=experiment.LINEAR), 0, atol=1e-9)
    assert (dataset["log_growth"].sel(arm=experiment.LSTM) < -1).all()
    # All arms see the same data: their losses differ, but each starts above that of guessing well.
    first = dataset["loss"].isel(update=0)
    assert (first > dataset["baseline"]).all()

    drawing = figure.draw(dataset)
    assert "24" in drawing.axes[0].get_title()
    points = [line.get_ydata() for line in drawing.axes[1].lines if len(line.get_xdata()) == 2]
    ratio = dataset["test_loss"] / dataset["baseline"]
    np.testing.assert_allclose(points[0], ratio.sel(arm=experiment.LSTM))
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

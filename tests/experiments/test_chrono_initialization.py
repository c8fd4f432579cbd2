import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments import chrono_initialization as experiment
from experiments import results
from paper_figures import chrono_initialization as figure

QUICK = dataclasses.replace(
    experiment.PRESETS["quick"], num_updates=20, window=5, plateau=(5, 20), dtype="float64"
)


@pytest.mark.slow
def test_the_arms_differ_in_the_biases_of_two_gates_only():
    chrono, slow = (
        experiment.draw(QUICK, arm).params["params"]
        for arm in (experiment.CHRONO, experiment.BIAS_ONE)
    )
    memory = 1 / (1 - jax.nn.sigmoid(chrono["hf"]["bias"]))
    assert ((memory > 2) & (memory < QUICK.max_lag)).all()
    assert np.ptp(memory) > 1
    np.testing.assert_array_equal(chrono["hi"]["bias"], -chrono["hf"]["bias"])
    np.testing.assert_array_equal(slow["hf"]["bias"], 1.0)
    for params in (chrono, slow):
        for gate in ("hi", "hf"):
            params[gate]["bias"] = 0.0
    jax.tree.map(np.testing.assert_array_equal, chrono, slow)


def constructed(losses):
    """Compare losses `(arm, seed, update)` of 100 updates."""
    config = dataclasses.replace(QUICK, window=10, plateau=(11, 40), threshold=0.5)
    losses = np.asarray(losses)
    zeros = np.zeros(losses.shape[:2])
    dataset = xr.Dataset(
        {
            "loss": (("arm", "seed", "update"), losses),
            "gradient_norm": (("arm", "seed", "update"), losses),
            "test_loss": (("arm", "seed"), zeros),
            "log_growth": (("arm", "seed"), zeros + np.array([[-1.0], [-5.0]])),
            "baseline": 1.0,
            "horizon": 11,
        },
        coords={"arm": [experiment.CHRONO, experiment.BIAS_ONE], "update": 1 + np.arange(100)},
    )
    return experiment.compared(dataset, config).assign_attrs(configuration='{"num_updates": 100}')


def step_at(update):
    return np.where(np.arange(100) < update, 1.0, 0.0)


def test_a_network_leaves_the_baseline_when_its_smoothed_loss_does():
    dataset = constructed([[step_at(20), step_at(50)], [step_at(80), step_at(100)]])
    # Of ten losses, six have to be zero.
    np.testing.assert_array_equal(dataset["crossing"], [[26, 56], [86, np.nan]])
    np.testing.assert_allclose(dataset["plateau"], [[10 / 30, 1], [1, 1]])
    earlier, plateau, gain = figure.claims(dataset)
    np.testing.assert_allclose(earlier.measured, (60 + 44) / 2)
    np.testing.assert_allclose(earlier.uncertainty, np.std([60, 44], ddof=1) / 2**0.5)
    assert [one.verdict for one in (earlier, plateau, gain)] == ["holds"] * 3


def test_claims_fail_or_are_open_where_chrono_is_later_or_never_there():
    dataset = constructed([[step_at(80), step_at(80)], 2 * [0.9 * step_at(20)]])
    assert [one.verdict for one in figure.claims(dataset)] == ["fails", "fails", "holds"]
    dataset = constructed([[step_at(100), step_at(80)], 2 * [step_at(100)]])
    assert figure.claims(dataset)[0].verdict == "not measured"


@pytest.mark.slow
def test_the_experiment_writes_what_it_trained_and_the_figure_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    console = Console(file=io.StringIO(), width=100)
    assert experiment.run(QUICK, "quick", num_workers=0, console=console) == 0
    dataset = results.read(results.path_of(experiment.NAME, "quick", "float64"))
    assert dataset["loss"].shape == (2, 2, 20)
    assert dataset["loss"].dtype == np.float64
    assert dataset.attrs["wall_seconds"] > 0

    # Log growths are those of plainly multiplied Jacobians.
    task = experiment.adding(QUICK.num_steps, "float64")
    networks = experiment.draw(QUICK, experiment.BIAS_ONE)
    network = jax.tree.map(lambda leaf: leaf[1], networks)
    key = jax.random.fold_in(jax.random.key(1), 1)
    gains = []
    for xs in task.sample(key, QUICK.num_sequences).xs:
        product = jnp.eye(2 * QUICK.width)
        for jacobian in jrnn.step_jacobians(network, jrnn.zero_carry(network), xs):
            product = jacobian @ product
        gains.append(np.log(np.linalg.norm(product) / (2 * QUICK.width) ** 0.5))
    measured = dataset["log_growth"].sel(arm=experiment.BIAS_ONE, seed=1)
    np.testing.assert_allclose(measured, np.median(gains), rtol=1e-9)

    drawing = figure.draw(dataset)
    curves = [line for line in drawing.axes[0].lines if len(line.get_xdata()) == 20]
    assert len(curves) == 4
    np.testing.assert_allclose(np.asarray(curves[0].get_ydata())[4:], dataset["smoothed"][0, 0, 4:])
    np.testing.assert_allclose(dataset["smoothed"][0, 0, 4], dataset["loss"][0, 0, :5].mean())
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [1, 2])
def test_a_seed_is_the_same_network_however_many_are_drawn(count):
    one = experiment.draw(dataclasses.replace(QUICK, num_seeds=count), experiment.CHRONO)
    two = experiment.draw(QUICK, experiment.CHRONO)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-12), one.params, two.params
    )

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments.training import _arms
from experiments.training import chrono_initialization as experiment
from jacobian_rnn import tasks
from paper_figures.training import chrono_initialization as figure
from tests.experiments.in_process import done

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
    config = dataclasses.replace(QUICK, num_updates=100, window=10, plateau=(11, 40), threshold=0.5)
    parts = {
        unit: xr.Dataset(
            {
                "loss": (("seed", "update"), np.asarray(of_arm)),
                "gradient_norm": (("seed", "update"), np.asarray(of_arm)),
                "skill": (("seed", "record"), np.zeros((2, 1))),
                "test_loss": ("seed", np.zeros(2)),
                "log_growth": ("seed", [growth, growth]),
                "baseline": 1.0,
                "horizon": 11,
            },
            coords={"update": 1 + np.arange(100)},
        )
        for unit, growth, of_arm in zip(experiment.units(config), (-1.0, -5.0), losses, strict=True)
    }
    return experiment.combine(config, parts).assign_attrs(configuration='{"num_updates": 100}')


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
    assert figure.claims(dataset)[0].verdict == "not decided"


@pytest.mark.slow
def test_the_figure_shows_what_was_trained(tmp_path):
    dataset = done(experiment, QUICK)
    assert dataset["loss"].shape == (2, 2, 20)
    assert dataset["loss"].dtype == np.float64
    assert dataset["record"].to_numpy().tolist() == [0, 20]

    # Log growths are those of plainly multiplied Jacobians.
    task = tasks.adding(QUICK.num_steps, dtype=jnp.float64)
    networks = experiment.draw(QUICK, experiment.BIAS_ONE)
    network = jax.tree.map(lambda leaf: leaf[1], networks)
    key = _arms.keys_of(_arms.GROWTH, 2)[1]
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


def test_a_seed_is_the_same_network_however_many_are_drawn():
    more = experiment.draw(dataclasses.replace(QUICK, num_seeds=3), experiment.CHRONO)
    two = experiment.draw(QUICK, experiment.CHRONO)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:2], b, rtol=1e-12), more.params, two.params
    )


@pytest.mark.parametrize(
    "option", [{"window": 21}, {"plateau": (5, 21)}, {"num_records": 21}], ids=str
)
def test_a_stretch_beyond_the_training_is_refused(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}: received 21, .* 20 updates"):
        dataclasses.replace(QUICK, **option)

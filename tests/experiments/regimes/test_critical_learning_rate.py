import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments.regimes import critical_learning_rate as experiment
from experiments.regimes.critical_learning_rate import CriticalLearningRate, Unit
from jacobian_rnn import tasks, training
from paper_figures.regimes import critical_learning_rate as figure
from tests.experiments.in_process import check_drawing, described, text_of

CONFIG = CriticalLearningRate(
    num_networks=30,
    num_rates=25,
    learning_rates=(1e-4, 10.0),
    budgets=(100, 200),
    num_resamples=40,
)


def made_up(power, *, too_slow_below=0.0):
    """Lay out networks that learn below a rate which goes with a power of the delay."""
    generator = np.random.default_rng(0)
    rates = experiment.rates_of(CONFIG)
    parts = {}
    for delay in CONFIG.delays:
        critical = 0.5 * (delay / 12) ** power
        shape = (CONFIG.num_rates, CONFIG.num_networks, len(CONFIG.budgets))
        edge = np.exp(0.3 * generator.logistic(size=shape))
        learned = (rates[:, None, None] * edge < critical) & (
            rates[:, None, None] >= too_slow_below
        )
        axes = ("learning_rate", "network", "budget")
        parts[Unit(str(delay))] = xr.Dataset(
            {"outcome": (axes, np.where(learned, 0, -1)), "test_skill": (axes, 1.0 * learned)},
            {"learning_rate": rates, "budget": list(CONFIG.budgets)},
        )
    return described(experiment.combine(CONFIG, parts), CONFIG)


@pytest.mark.parametrize("power", [-2.72, -1.0])
def test_the_power_and_the_critical_rates_are_found(power):
    dataset = made_up(power)
    for _, at in dataset.groupby("budget"):
        low, high = at["exponent_interval"].squeeze().to_numpy()
        # Over many draws its standard deviation is 0.06.
        np.testing.assert_allclose(at["exponent"], power, atol=0.2)
        assert low < float(at["exponent"].squeeze()) < high
        assert 0.1 < high - low < 0.4
    last = dataset.isel(budget=-1)
    truth = 0.5 * (last["delay"] / 12) ** power
    low, high = last["critical_rate_interval"].transpose("end", "delay").to_numpy()
    assert np.mean((low < truth) & (truth < high)) >= 0.8
    np.testing.assert_allclose(last["critical_rate"], truth, rtol=0.3)
    np.testing.assert_allclose(last["prefactor"] * 12 ** last["exponent"], 0.5, rtol=0.15)


def test_rates_that_are_too_small_to_learn_in_time_do_not_count():
    with_slow, without = made_up(-1.0, too_slow_below=0.01), made_up(-1.0)
    np.testing.assert_allclose(with_slow["exponent"], without["exponent"], atol=0.05)


def test_claims_compare_with_the_published_power():
    assert [claim.verdict for claim in figure.claims(made_up(-2.72))] == ["holds", "not decided"]
    assert [claim.verdict for claim in figure.claims(made_up(-1.0))] == ["holds", "fails"]
    assert figure.claims(made_up(0.7))[0].verdict == "fails"


def test_the_leak_is_not_trained_and_all_else_is():
    key = jax.random.key(0)
    task = tasks.delayed_recall(2, num_classes=2)
    network = jrnn.leaky_rate_network(2, 3, key=key, leak=0.5)
    options = {"hyperparameters": jnp.float32(0.1), "num_updates": 2, "batch_size": 4}
    trained, _ = training.train(
        task,
        network,
        jnp.zeros(3, jnp.float32),
        optimizer=experiment.sgd_of(0.9),
        key=key,
        held_out_size=4,
        records=1,
        **options,
    )
    changed = jax.tree.map(
        lambda old, new: bool(jnp.any(old != new)), network.params, trained.recurrence.params
    )
    assert changed == {
        "input": {"kernel": True},
        "recurrent": {"kernel": True, "bias": True},
        "leak": False,
    }


def test_every_delay_has_networks_of_its_own(monkeypatch):
    config = dataclasses.replace(experiment.PRESETS["quick"], dtype="float64")
    seen = []

    def train(task, networks, *_, **options):
        seen.append((task.horizon, np.asarray(networks.params["recurrent"]["kernel"])))
        assert options["hyperparameters"].shape == (config.num_rates, 1)
        raise StopIteration

    monkeypatch.setattr(experiment.training, "train", train)
    for unit in experiment.units(config):
        with pytest.raises(StopIteration):
            experiment.work(config, unit, lambda *_: None)
    (first, one), (second, other) = seen
    assert (first, second) == (6, 3)
    assert not np.any(one == other)


def test_the_figure_and_the_text_say_the_power(tmp_path):
    dataset = made_up(-2.0)
    drawn = figure.draw(dataset)
    check_drawing(drawn, tmp_path)
    plt.close(drawn)
    power = f"{float(dataset['exponent'][-1]):.2f}"
    assert f"delay^({power})" in text_of(experiment, dataset)

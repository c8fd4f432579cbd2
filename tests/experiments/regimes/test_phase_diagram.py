import io
import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.regimes import phase_diagram
from experiments.regimes.phase_diagram import PhaseDiagram, Unit
from jacobian_rnn import training
from paper_figures.regimes import phase_diagram as figure

SMALL = PhaseDiagram(
    cells=("SimpleCell",),
    gains=(0.5, 2.0),
    num_gains=2,
    horizons=(8,),
    num_seeds=1,
    learning_rates=(0.003, 0.01),
    width=4,
    num_updates=5,
    batch_size=4,
    held_out_size=8,
    num_sequences=2,
    chunk_size=2,
    dtype="float64",
)


def made_up(cells=("SimpleCell", "GRUCell"), horizons=(10, 40), num_gains=5, num_seeds=2):
    """Lay out networks that learn where the magnitude of the log growth is small."""
    config = PhaseDiagram(
        cells=cells,
        horizons=horizons,
        gains=(0.5, 2.0),
        num_gains=num_gains,
        num_seeds=num_seeds,
        learning_rates=(0.01,),
    )
    rate = np.repeat(np.log(phase_diagram.gains_of(config)), num_seeds)
    parts = {}
    for cell in cells:
        for horizon in horizons:
            log_growth = horizon * rate
            parts[Unit(cell, str(horizon))] = xr.Dataset(
                {
                    "log_growth": (("network", "sequence"), np.stack([log_growth] * 3, axis=1)),
                    "peak": (("network", "sequence"), np.stack([log_growth] * 3, axis=1)),
                    "outcome": ("network", np.where(np.abs(log_growth) < 10, 0, -1)),
                    "exponent": ("network", rate),
                }
            )
    return config, parts


@pytest.fixture(scope="module")
def small():
    with jax.enable_x64(True):
        networks = phase_diagram.networks(SMALL, Unit("SimpleCell", "8"))
        numbers = jax.device_get(jax.jit(jax.vmap(networks.program))(networks.rows))
    part = networks.record(numbers)
    return phase_diagram.combine(SMALL, {Unit("SimpleCell", "8"): part})


def test_a_result_names_its_axes_and_holds_every_training(small):
    assert dict(small["log_growth"].sizes) == {
        "cell": 1, "horizon": 1, "gain": 2, "seed": 1, "sequence": 2,
    }  # fmt: skip
    assert small["outcome_by_rate"].dims[-1] == "learning_rate"
    np.testing.assert_allclose(small["learning_rate"], [0.003, 0.01])
    np.testing.assert_allclose(small["gain"], [0.5, 2.0])
    assert np.isfinite(small["test_loss_by_rate"]).all()
    assert small["test_loss"].dtype == np.float64
    text = io.StringIO()
    phase_diagram.show(small, Console(file=text, width=160))
    assert "Spearman" in text.getvalue()
    assert "2 networks" in text.getvalue()


@pytest.mark.slow
def test_predictions_are_those_of_the_library(small):
    seed = np.int32(0)
    task = protocol.recall(8, "float64")
    key = protocol.key_of(protocol.DRAWING, seed)
    network = drawing.draw("SimpleCell", 4, 2.0, task.input_size, dtype=np.float64, key=key)
    xs = task.sample(protocol.key_of(protocol.SEQUENCES, seed), 2).xs
    alone = jrnn.predict_regime(network, np.zeros(4), xs, horizon=8)
    at = small.isel(cell=0, gain=1, seed=0).sel(horizon=8)
    np.testing.assert_allclose(at["log_growth"], alone.log_growth_of_output, rtol=1e-9)
    np.testing.assert_allclose(at["exponent"], alone.exponent, rtol=1e-9)


def test_the_learning_rate_with_the_best_validation_counts_and_its_outcome_is_observed():
    def of_rates(*values):
        return np.array(values)[:, None]  # one record each

    records = training.Records(
        np.full((2, 1), 5),
        of_rates(0.2, 0.9),
        of_rates(1.0, 0.1),
        of_rates(0.99, 0.8),
        of_rates(1.0, 0.2),
        np.zeros((2, 0, 9)),
    )
    updates = np.ones((2, 5))
    kept = protocol.best_of(
        training.TrainingHistory(updates, updates, updates, records, np.ones(2))
    )
    assert kept["best_rate"] == 1
    assert kept["test_skill"] == 0.8
    assert kept["test_loss"] == 0.2
    assert kept["outcome"] == jrnn.Outcome.LEARNED
    np.testing.assert_allclose(kept["test_skill_by_rate"], [0.99, 0.8])


def test_parts_are_laid_out_by_their_names_and_a_missing_one_is_nan():
    config, parts = made_up()
    del parts[Unit("GRUCell", "40")]
    dataset = phase_diagram.combine(config, parts)
    assert dataset["cell"].to_numpy().tolist() == ["SimpleCell", "GRUCell"]
    gains = phase_diagram.gains_of(config)
    at = dataset["log_growth"].sel(cell="SimpleCell", horizon=40, seed=1).isel(sequence=0)
    np.testing.assert_allclose(at, 40 * np.log(gains))
    assert dataset["outcome"].sel(cell="GRUCell", horizon=40).isnull().all()
    assert phase_diagram.rank_correlation(dataset).num_networks == 30


def test_rank_correlation_is_high_where_success_follows_the_prediction_and_low_where_not():
    dataset = phase_diagram.combine(*made_up(num_gains=12))
    follows = phase_diagram.rank_correlation(dataset, num_resamples=200)
    assert follows.value > 0.7
    assert follows.interval[0] < follows.value < follows.interval[1]
    generator = np.random.default_rng(0)
    dataset["outcome"][:] = generator.integers(-1, 1, dataset["outcome"].shape)
    low, high = phase_diagram.rank_correlation(dataset, num_resamples=200).interval
    assert low < 0 < high
    dataset["outcome"][:] = 0
    assert np.isnan(phase_diagram.rank_correlation(dataset, num_resamples=10).value)


def test_at_equal_horizon_the_horizon_alone_correlates_with_nothing():
    dataset = phase_diagram.combine(*made_up(num_gains=8))
    dataset["outcome"][:] = np.where(dataset["horizon"] == 10, 0, -1)[:, None, None]
    alone = phase_diagram.rank_correlation(dataset, num_resamples=10)
    assert alone.value > 0.3
    equal = phase_diagram.rank_correlation(dataset, at_equal_horizon=True, num_resamples=10)
    assert np.isnan(equal.value)
    dataset["outcome"][:] = np.where(np.abs(dataset["log_growth"].isel(sequence=0)) < 5, 0, -1)
    equal = phase_diagram.rank_correlation(dataset, at_equal_horizon=True, num_resamples=10)
    assert equal.value > 0.6


def test_every_cell_has_a_panel_and_theory_only_the_plain_one():
    config, parts = made_up()
    dataset = phase_diagram.combine(config, parts)
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    drawn = figure.draw(dataset.assign_attrs(configuration=json.dumps(fields)))
    first, second = drawn.axes[:2]
    assert first.get_title() == "linen SimpleCell"
    (theory,) = {float(np.asarray(line.get_xdata())[0]) for line in first.lines}
    # With noise a tanh network is critical above σ_w = 1.
    assert 1 < theory < 2
    assert not second.lines
    plt.close(drawn)

import numpy as np
import pandas as pd
import pytest

import jacobian_rnn as jrnn
from experiments.regimes import calibrate_threshold as experiment
from experiments.regimes import learning_table
from experiments.regimes._forecasting import Samples, samples_of
from paper_figures.regimes import calibrate_threshold as figure


def made_up(low, high):
    """Lay out networks of two cells that learn between a growth and a peak."""
    rng = np.random.default_rng(0)
    growth, peak = rng.uniform(-30, 0, 2000), rng.uniform(0, 20, 2000)
    table = pd.DataFrame({"growth": growth, "peak": peak, "cell": np.tile(["a", "b"], 1000)})
    return Samples(table, {}, (growth > low) & (peak < high), np.arange(2000) // 20)


def test_thresholds_are_the_growth_and_the_peak_that_separate_best():
    found = experiment.thresholds(made_up(-11, 7), "cell", 50)
    assert found["name"].to_numpy().tolist() == ["a", "b"]
    # Cuts are quantiles, one in forty: neighbours are 0.8 and 0.5 nats apart.
    np.testing.assert_allclose(found["threshold"], [[-11, 7]] * 2, atol=1.5)
    low, high = found["threshold_interval"].transpose("end", ...).to_numpy()
    assert (low <= [-10.2, 7.5]).all()
    assert (high >= [-11.8, 6.5]).all()
    assert (high - low < 2).all()
    assert (found["balanced_accuracy"] > 0.95).all()


def test_a_kind_of_which_no_network_learned_is_left_out():
    samples = made_up(-11, 7)
    samples.learned[samples.table["cell"] == "b"] = False
    assert experiment.thresholds(samples, "cell", 5)["name"].to_numpy().tolist() == ["a"]


def test_the_library_has_the_thresholds_that_the_published_table_gives():
    samples = samples_of(learning_table.published_table(), [400])
    found = experiment.thresholds(samples, "all", 20)
    np.testing.assert_allclose(found["threshold"][0], jrnn.THRESHOLDS, atol=0.05)
    assert float(found["balanced_accuracy"][0]) == pytest.approx(0.70, abs=0.005)


def test_claims_compare_with_the_thresholds_of_the_library():
    found = experiment.thresholds(made_up(*jrnn.THRESHOLDS), "all", 20)
    assert [claim.verdict for claim in figure.claims(found)] == ["holds"] * 3
    off = found.assign(threshold=found["threshold"] + 20)
    assert [claim.verdict for claim in figure.claims(off)] == ["fails", "fails", "holds"]

import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.regimes import _comparison_words as words
from experiments.regimes import comparison_scores as scores
from experiments.regimes import regime_versus_training as experiment
from experiments.regimes._chosen_gains import choose_gains
from jacobian_rnn import LearningFeatures
from paper_figures.regimes import regime_versus_training as figure

DIMS = ("setting", "cell", "gain_index", "seed")


def made_up(regime, outcome):
    """Lay out networks of two settings and three cells, four gains and two seeds."""
    shape = (2, 3, 4, 2)
    regime, outcome = np.broadcast_to(regime, shape), np.broadcast_to(outcome, shape)
    log_growth = np.where(regime == 0, 0.0, 40.0 * regime)
    return xr.Dataset(
        {
            "regime": (DIMS, regime),
            "outcome": (DIMS, outcome),
            "borderline": (DIMS, np.zeros(shape, bool)),
            "spectral_radius": (DIMS, np.ones(shape)),
            "kernel_norm": (DIMS, np.ones(shape)),
            "exponent": (DIMS, np.ones(shape)),
            "test_skill": (DIMS, np.ones(shape)),
            "gain": (DIMS[:3], np.ones(shape[:3])),
            "deciding_growth": ((*DIMS, "sequence"), np.stack([log_growth] * 5, axis=-1)),
            "probability": (DIMS, np.where(regime == 0, 0.75, 0.05)),
            **{f"feature_{name}": (DIMS, np.zeros(shape)) for name in LearningFeatures._fields},
            "horizon": 40,
            "num_updates": 500,
            "batch_size": 32,
            "threshold": ("bound", list(jrnn.THRESHOLDS)),
        },
        coords={
            "setting": ["delayed_recall, adam", "delayed_recall, sgd"],
            "cell": ["SimpleCell", "GRUCell", "LSTMCell"],
        },
    )


def test_comparison_scores_the_networks_of_the_settings_it_is_given():
    outcome = np.random.default_rng(0).integers(-1, 1, (2, 3, 4, 2))
    regime = outcome.copy()
    regime[0] = 0  # right in the second setting only
    dataset = made_up(regime, outcome)
    (adam,), (sgd,) = (scores.settings_of(dataset, name) for name in ("adam", "sgd"))
    right = scores.compare(dataset, [sgd])
    assert right.prediction.balanced_accuracy == 1.0
    assert right.prediction.num_networks == 24
    dataset["deciding_growth"][1, 0, 0] = np.nan
    assert scores.compare(dataset, [sgd]).prediction.num_networks == 22
    assert scores.compare(dataset, [adam]).prediction.balanced_accuracy == 0.5


def findings(dataset):
    agreements = {
        name: scores.compare(dataset, scores.settings_of(dataset, name)) for name in words.TITLES
    }
    return words.findings(dataset, agreements)


def test_what_was_found_is_counted_and_the_worst_cell_is_named():
    regime = np.array([-1, 0, 0, 1])[:, None] * np.ones((2, 3, 4, 2), int)
    outcome = np.where(regime == 0, 0, -1)
    outcome[0, 1, 1:3] = -1  # four stable GRUs that are stuck with Adam
    outcome[0, 2, 0, 0] = 0  # an LSTM that vanishes and learns
    dataset = made_up(regime, outcome)
    lines = findings(dataset)
    adam = lines[2 : lines.index("", 2)]
    said = [" ".join(line.split()) for line in adam]
    assert said[0].endswith("24 networks:")
    # 8 of 9 that learned, 11 of 15 that did not.
    assert f"right: {(8 / 9 + 11 / 15) / 2:.0%} [" in said[1]
    assert "largest exponent > 0 50%" in said[2]
    assert said[4] == "gradient vanishing, predicted not to: 1 of 6 learned"
    assert said[5] == "gradient stable, predicted to learn: 8 of 12 learned"
    assert said[7] == (
        "most wrong: GRUCell, delayed recall, 4 of 8 (stable and did not learn: 4, not stable and "
        "learned: 0)"
    )
    assert not any("No prediction" in line for line in lines)
    assert len(words.disagreements(dataset)) == 5
    dataset["deciding_growth"][0, 0, 0, 0] = np.nan
    assert findings(dataset)[-1].endswith("all digits of it: 1.")


def test_forecasts_are_scored_and_the_most_wrong_ones_are_told():
    regime = np.array([-1, 0, 0, 1])[:, None] * np.ones((2, 3, 4, 2), int)
    outcome = np.where(regime == 0, 0, -1)
    outcome[0, 2, 3, 1] = 0  # an LSTM that explodes and learns
    dataset = made_up(regime, outcome)
    dataset["probability"][0, 2, 3, 1] = 0.01
    (adam,), (sgd,) = (scores.settings_of(dataset, name) for name in ("adam", "sgd"))
    right = scores.score_forecasts(dataset, [sgd])
    assert right.value.area == right.value.balanced_accuracy == 1.0
    # Half of them learned, at a probability of 0.75, and half did not, at 0.05.
    assert right.value.brier == pytest.approx((0.25**2 + 0.05**2) / 2)
    assert right.constant_brier == pytest.approx(0.25)
    assert right.num_networks == 24
    off = scores.score_forecasts(dataset, [adam])
    # The 13th that learned is below all 11 that did not.
    assert off.value.area == pytest.approx(12 / 13)
    assert off.low.area < off.value.area <= off.high.area
    first, *drivers = words.wrong_forecasts(dataset, [adam])
    assert first.startswith("delayed_recall, adam, LSTMCell, gain 1.00: learns with probability")
    assert first.endswith("but learned (skill 1.00)")
    assert "nats of log odds" in drivers[0]


def test_nothing_is_scored_where_no_network_learned():
    lines = findings(made_up(0, -1))
    assert sum("cannot be said" in line for line in lines) == 2
    assert not any("nan" in line for line in lines)


def test_claims_score_predictions_beside_rules():
    regime = np.tile([-1, 0, 0, 1], (2, 3, 2, 1)).reshape(2, 3, 4, 2)
    outcome = np.where(regime == 0, 0, -1)
    outcome[1] = -1 - outcome[1]  # wrong throughout with SGD
    made = figure.claims(made_up(regime, outcome))
    # All networks with a stable gradient learn with Adam, and none with SGD.
    verdicts = [one.verdict for one in made]
    assert verdicts == [
        "holds",
        "holds",
        "holds",
        "not decided",
        "fails",
        "fails",
        "fails",
        "fails",
        "fails",
        "holds",
    ]
    assert [made[i].measured for i in (3, 4, 8, 9)] == [0, 1, 1, 0]


def test_parts_that_lack_a_step_or_a_singular_value_are_joined_with_nan():
    parts = [xr.Dataset({"a": ("index", np.ones(n))}, {"index": np.arange(n)}) for n in (2, 3)]
    joined = experiment.joined(parts, "cell")
    np.testing.assert_array_equal(joined["a"].isnull(), [[0, 0, 1], [0, 0, 0]])


@pytest.mark.slow
def test_a_part_keeps_the_whole_product_beside_the_profile():
    config = experiment.PRESETS["quick"]
    unit = experiment.Unit("SimpleCell", "delayed_recall")
    part = experiment.work(config, unit, lambda *_: None)
    assert part["setting"].to_numpy().tolist() == ["delayed_recall, adam", "delayed_recall, sgd"]
    task = protocol.recall(config.recall_delay, config.dtype)
    np.testing.assert_allclose(
        part["gain"].isel(setting=0), choose_gains(config, "SimpleCell", task).gains
    )
    # The mean square of the singular values is the growth of a random gradient.
    squares = np.exp(2 * part["log_singular_value"]).mean("index")
    known = part["carry_log_growth"].notnull()
    np.testing.assert_allclose(
        np.log(squares).where(known) / 2, part["carry_log_growth"], atol=1e-3
    )
    # Eight gradients of eight units are all directions, where rounding has left digits.
    profile = part["profile"].sel(step=config.recall_delay)
    assert profile.notnull().mean() > 0.5
    np.testing.assert_allclose(
        profile, part["carry_log_growth"].where(profile.notnull()), atol=0.01
    )

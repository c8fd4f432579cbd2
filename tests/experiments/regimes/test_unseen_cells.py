"""Tests of scoring the shipped forecast on cells that it has never seen."""

import numpy as np
import pytest
import xarray as xr

from experiments.regimes import _ensemble as ensemble
from experiments.regimes import _forecasting as forecasting
from experiments.regimes import _unseen_scores as scores
from experiments.regimes import unseen_cells as experiment
from experiments.regimes._forecasting import FORECAST, MAJORITY, Samples
from experiments.regimes._learning import Unit
from experiments.regimes._state_tracking import LEARNING_RATES
from jacobian_rnn import THRESHOLDS, LearningFeatures, Outcome
from jacobian_rnn.regimes.forecast import forecast_from
from paper_figures.regimes import unseen_cells as figure
from tests.experiments.in_process import check_drawing, described, text_of

CONFIG = experiment.UnseenCells(
    cells=("minGRU", "S5", "GatedDeltaNet"),
    tasks=("recall", "parity"),
    networks_of_a_shape=40,
    widths=(16,),
    records=(100,),
    num_updates=400,
    num_resamples=30,
    parity_networks=3,
    chunk_size=40,
)


def features_of(num, rng):
    """Make up features of which the forecast makes much of some, and little of others."""
    columns = {name: np.zeros(num) for name in LearningFeatures._fields}
    columns |= {name: rng.uniform(-30, 0, num) for name in ("growth", "gradient_signal")}
    columns |= {"memory": rng.uniform(-30, 0, num), "relative_update": np.full(num, -4.0)}
    columns |= {"readout_skill": rng.uniform(0, 1, num), "overshoot": np.full(num, -3.0)}
    columns |= {"hidden_correlation": np.full(num, -1e3), "input_correlation": np.full(num, -1e3)}
    return columns | {"first_growth": np.full(num, -np.inf)}


def made_up(learned_above, skill_of):
    """Make up all parts. A network learns where its growth is above a number of nats."""
    rng = np.random.default_rng(0)
    parts = {}
    for shape in ensemble.shapes(CONFIG):
        num = CONFIG.networks_of_a_shape
        columns = features_of(num, rng)
        columns["separation"] = columns["growth"] / 10
        measured = {name: ("network", values) for name, values in columns.items()}
        learned = np.stack(
            [columns["growth"] > learned_above + 3, columns["growth"] > learned_above], 1
        )
        outcome = np.where(learned, Outcome.LEARNED, Outcome.STUCK)
        trained = {
            "outcome": (("network", "budget"), outcome),
            "validation_skill": (("network", "budget"), learned.astype(float)),
            "test_skill": (("network", "budget"), learned.astype(float)),
        }
        parts[Unit("measured", *shape)] = xr.Dataset(measured)
        parts[Unit("trained", *shape)] = xr.Dataset(trained)
    for unit in experiment.units(CONFIG)[:2]:
        skill = skill_of[unit.kernel] + 0.01 * np.arange(
            CONFIG.parity_networks * len(LEARNING_RATES)
        )
        names = {name: ("network", skill) for name in ("skill", "longer_skill")}
        parts[unit] = xr.Dataset(names)
    return parts


@pytest.fixture(scope="module")
def dataset():
    parts = made_up(-4, {"positive": 0.0, "signed": 0.95})
    return described(experiment.combine(CONFIG, parts), CONFIG)


@pytest.fixture(scope="module")
def known():
    return scores.known_samples()


def test_the_arm_comes_first_and_every_shape_is_measured_and_trained():
    units = experiment.units(CONFIG)
    assert [unit.kernel for unit in units[:2]] == ["positive", "signed"]
    assert len(units) == len(set(units)) == 2 + 2 * 3 * 2


def test_the_forecast_is_that_of_the_shipped_model_and_sees_no_outcome(known):
    few = known.take(np.arange(0, len(known.learned), 97))
    predicted = scores.predict_unseen(few, known)
    turned = scores.predict_unseen(few._replace(learned=~few.learned), known)
    assert set(predicted) == set(scores.PREDICTORS)
    for name in scores.PREDICTORS:
        np.testing.assert_array_equal(predicted[name], turned[name])
        assert np.all((predicted[name] >= 0) & (predicted[name] <= 1))
    for number in range(0, len(few.learned), 10):
        row = few.table.iloc[number]
        said = forecast_from(
            LearningFeatures(*(row[name] for name in LearningFeatures._fields)),
            horizon=int(row["horizon"]),
            num_updates=int(row["num_updates"]),
            batch_size=int(row["batch_size"]),
        )
        assert predicted[FORECAST][number] == pytest.approx(said.probability, rel=1e-9)
    np.testing.assert_array_equal(predicted[MAJORITY], known.learned.mean())


def test_the_regime_says_of_unseen_networks_what_known_ones_of_it_did(known):
    few = known.take(np.arange(3))
    few.table[["growth", "peak"]] = [[-1.0, 0.0], [-5.0, 0.0], [-1.0, 9.0]]
    stable, vanishing, exploding = scores.predict_unseen(few, known)[scores.REGIME]
    growth, peak = (known.table[name].to_numpy() for name in ("growth", "peak"))
    lowest, highest = THRESHOLDS
    inside = (growth >= lowest) & (peak <= highest)
    assert stable == known.learned[inside].mean()
    assert vanishing == exploding == known.learned[~inside].mean()


def test_infinite_features_of_unseen_networks_count_as_the_end_of_what_is_known(known):
    few = known.take(np.arange(2))
    few.table["first_growth"] = [-np.inf, -1e6]
    one, other = scores.predict_unseen(few, known)["χ, growth of one step"]
    assert one == other
    assert np.isfinite(one)


def test_growth_that_decides_is_found_and_kinds_are_scored_apart(dataset):
    area = dataset["score_of"].sel(score="area")
    assert area.sel(predictor="growth over the horizon") > 0.95
    assert area.sel(predictor=FORECAST) > 0.8
    assert area.sel(predictor=MAJORITY) == 0.5
    for kind in scores.KINDS:
        label = dataset[f"sample_{kind}"].to_numpy()
        for one in dataset[kind].to_numpy():
            here = label == one
            found = forecasting.score(
                dataset["probability"].to_numpy()[here],
                dataset["learned"].to_numpy()[here],
                scores.known_samples().learned.mean(),
            )
            np.testing.assert_allclose(dataset[f"{kind}_score"].sel({kind: one}), found)
    low, high = dataset["interval"].sel(predictor=FORECAST, score="area").to_numpy()
    assert low <= area.sel(predictor=FORECAST) <= high


def test_bins_hold_all_samples_and_say_how_many_of_each_learned(dataset):
    probability, learned = dataset["probability"].to_numpy(), dataset["learned"].to_numpy()
    assert dataset["bin_count"].sum() == len(probability) == 2 * int(dataset["num_networks"])
    error = 0.0
    for number in range(10):
        here = (probability >= number / 10) & (probability < (number + 1) / 10)
        at = dataset.isel(bin=number)
        assert at["bin_count"] == here.sum()
        if here.any():
            np.testing.assert_allclose(at["bin_share"], learned[here].mean())
            np.testing.assert_allclose(at["bin_forecast"], probability[here].mean())
            error += here.mean() * abs(learned[here].mean() - probability[here].mean())
    found = dataset["score_of"].sel(predictor=FORECAST, score="calibration_error")
    assert float(found) == pytest.approx(error)


def test_where_all_or_none_learned_there_is_no_area(known):
    few = known.take(np.arange(0, len(known.learned), 97))
    none = Samples(few.table, few.terms, np.zeros(len(few.learned), bool), few.group)
    found = scores.score_unseen(none, known, 5)
    assert np.isnan(found["score_of"].sel(predictor=FORECAST, score="area"))
    assert np.isnan(found["interval"].sel(predictor=FORECAST, score="area")).all()
    assert np.isfinite(found["score_of"].sel(predictor=FORECAST, score="brier"))


def test_probabilities_that_are_too_high_are_said_to_be_and_of_known_cells_too(dataset, known):
    probability, learned = dataset["probability"].to_numpy(), dataset["learned"].to_numpy()
    here = dataset["sample_task"].to_numpy() == "recall"
    off = (probability - learned)[here].mean()
    assert float(dataset["task_excess"].sel(task="recall")[0]) == pytest.approx(off)
    fitted = scores.predict_unseen(known, known)[FORECAST]
    there = known.table["task"].to_numpy() == "recall"
    off = (fitted - known.learned)[there].mean()
    assert float(dataset["known_task_excess"].sel(task="recall")[0]) == pytest.approx(off)
    assert np.isnan(dataset["known_task_excess"].sel(task="parity")).all()


def test_what_is_shown_and_drawn_and_claimed(dataset, tmp_path):
    text = text_of(experiment, dataset)
    assert "GatedDeltaNet" in text
    assert "Parity, signed eigenvalues: mean skill 0.9" in text
    check_drawing(figure.draw(dataset), tmp_path)
    verdicts = {claim.statement: claim.verdict for claim in figure.claims(dataset)}
    assert verdicts["A delta rule with eigenvalues in [−1, 1] learns parity"] == "holds"
    parts = made_up(-4, {"positive": 0.5, "signed": 0.5})
    other = described(experiment.combine(CONFIG, parts), CONFIG)
    failed = [claim for claim in figure.claims(other) if "delta rule" in claim.statement]
    assert [claim.verdict for claim in failed] == ["fails", "fails"]
    (calibration,) = (one for one in figure.claims(other) if one.statement.startswith("Its prob"))
    off = other["task_excess"].sel(statistic="value")
    assert f"{float(off.sel(task='recall')):+.2f} on recall" in calibration.reason

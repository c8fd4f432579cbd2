"""Tests of fitting and scoring forecasts, on tables that are made up."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_forecast as experiment
from experiments.regimes import learning_table
from experiments.regimes._forecasting import FORECAST, MAJORITY, fit, score
from jacobian_rnn import LearningFeatures
from paper_figures.regimes import learning_forecast as figure

GENERATOR = np.random.default_rng(0)


def made_up(num=400):
    """Make a table of networks that learn where growth is above -8 nats, whatever else they are."""
    rng = np.random.default_rng(1)
    growth = rng.uniform(-20, 0, num)
    columns = {name: rng.standard_normal(num) for name in LearningFeatures._fields}
    columns |= {name: rng.standard_normal(num) for name in learning_table.RULES}
    columns |= {
        "growth": growth,
        "cell": rng.choice(["GRUCell", "LSTMCell", "LRU"], num),
        "task": rng.choice(["adding", "recall"], num),
        "optimizer": "adam",
        "kernel": "orthogonal",
        "horizon": 20,
        "width": rng.choice([16, 32], num),
        "batch_size": 16,
        "num_parameters": 1000,
        "learning_rate": 0.01,
        "seed": np.arange(num),
        "data_seed": 0,
        "learned_50": growth > -8,
        "learned_100": growth > -8,
    }
    return pd.DataFrame(columns)


def test_a_fit_finds_the_weights_that_samples_were_drawn_with():
    terms = {name: GENERATOR.standard_normal(20_000) for name in ("a", "b", "c")}
    odds = 0.5 + 2 * terms["a"] - terms["b"]
    learned = GENERATOR.random(20_000) < 1 / (1 + np.exp(-odds))
    found = fit(terms, learned, {"a": 1, "b": -1}, 1.0)
    assert found.intercept == pytest.approx(0.5, abs=0.1)
    for name, weight in {"a": 2, "b": -1, "c": 0}.items():
        assert found.weights[name] == pytest.approx(weight, abs=0.1)


def test_terms_whose_weight_contradicts_theory_are_left_out_and_the_rest_is_fitted_without_them():
    terms = {name: GENERATOR.standard_normal(2000) for name in ("a", "b")}
    learned = terms["a"] + terms["b"] > 0.3 * GENERATOR.standard_normal(2000)
    found = fit(terms, learned, {"a": 1, "b": -1}, 1.0)
    assert found.weights["b"] == 0
    values = terms["a"][:, None] / terms["a"].std()
    alone = LogisticRegression(C=1.0, max_iter=1000).fit(values, learned)
    assert found.weights["a"] == pytest.approx(alone.coef_[0, 0] / terms["a"].std(), rel=1e-3)


def test_a_term_that_never_varies_is_left_out():
    terms = {"a": GENERATOR.standard_normal(500), "constant": np.full(500, np.log(20))}
    found = fit(terms, terms["a"] > 0.1 * GENERATOR.standard_normal(500), {"constant": -1}, 1.0)
    assert found.weights["constant"] == 0
    assert found.weights["a"] > 1
    assert fit({"constant": terms["constant"]}, terms["a"] > 0, {}, 1.0).weights["constant"] == 0


def test_scores_of_probabilities_known_by_hand():
    learned = np.array([True, True, False, False])
    found = score(np.array([0.9, 0.4, 0.6, 0.1]), learned, np.full(4, 0.5))
    assert found.area == 0.75
    assert found.balanced_accuracy == 0.5
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert found.calibration_error == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
    assert np.isnan(score(np.full(4, 0.5), np.ones(4, bool), np.full(4, 0.5)).area)


def test_what_is_left_out_is_forecast_by_the_others_alone():
    samples = forecasting.samples_of(made_up(), [50, 100])
    cell = samples.table["cell"].to_numpy()
    before, share = forecasting.predict_left_out(samples, cell, 1.0)
    turned = samples._replace(learned=np.where(cell == "LRU", ~samples.learned, samples.learned))
    after, _ = forecasting.predict_left_out(turned, cell, 1.0)
    here = cell == "LRU"
    np.testing.assert_array_equal(before[FORECAST][here], after[FORECAST][here])
    assert np.abs(before[FORECAST][~here] - after[FORECAST][~here]).max() > 0.1
    np.testing.assert_array_equal(before[MAJORITY], share)


def test_the_experiment_finds_that_growth_decides_where_it_does(monkeypatch):
    table = made_up()
    again = pd.concat([table] + [table[:40].assign(data_seed=seed) for seed in (1, 2)])
    monkeypatch.setattr(learning_table, "published_table", lambda: again)
    monkeypatch.setattr(learning_table, "NUM_FITS", 5)
    config = experiment.LearningForecasts(num_resamples=20)
    parts = {
        unit: experiment.work(config, unit, lambda *_: None) for unit in experiment.units(config)
    }
    dataset = experiment.combine(config, parts)
    area = dataset["score_of"].sel(score="area")
    assert (area.sel(predictor=FORECAST) > 0.99).all()
    assert (area.sel(predictor=list(forecasting.RULES)) < 0.7).all()
    assert dataset["ceiling"].sel(ceiling_score="alike") == 1
    assert all(
        claim.verdict != "fails" for claim in figure.claims(dataset) if "beats" in claim.statement
    )


def test_the_published_model_is_the_fit_to_the_published_table():
    from jacobian_rnn.regimes import published_model

    model = published_model()
    samples = forecasting.samples_of(
        learning_table.published_table(),
        learning_table.budgets_of(learning_table.published_table()),
    )
    found = fit(samples.terms, samples.learned, forecasting.forecast_signs(), forecasting.PENALTY)
    assert found.intercept == pytest.approx(model.intercept, rel=1e-3, abs=1e-3)
    for name, weight in model.weights.items():
        assert found.weights[name] == pytest.approx(weight, rel=1e-3, abs=1e-3)

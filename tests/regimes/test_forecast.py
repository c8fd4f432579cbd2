"""Tests of forecasts of learning: what they weigh, and what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jacobian_rnn import LearningFeatures, draw, predict_learning, tasks
from jacobian_rnn.regimes import ForecastModel, published_model
from jacobian_rnn.regimes.forecast import TERMS, terms_of
from jacobian_rnn.training import add_readout

FEATURES = LearningFeatures(
    growth=-21.0,
    peak=2.0,
    spread=0.5,
    exponent=-0.2,
    gradient_signal=-24.0,
    memory=-20.0,
    separation=-3.0,
    readout_skill=0.1,
    gradient_norm=0.0,
    relative_update=-5.0,
    overshoot=-6.0,
    growth_change=-1.0,
)
SETTINGS = {"horizon": 100, "num_updates": 400, "batch_size": 25}
OPTIONS = {"num_updates": 400, "batch_size": 16, "learning_rate": 0.003}


def model_of(**weights):
    """Make a model that weighs some terms, with one other fit twice as sure."""
    every = {name: weights.get(name, 0.0) for name in TERMS}
    fits = np.array([[*every.values(), 1.0], [*(2 * w for w in every.values()), 1.0]])
    return ForecastModel(every, 1.0, fits, dict.fromkeys(TERMS, 0.0), "made up")


@pytest.fixture(scope="module")
def cell():
    return draw(nn.SimpleCell(4), key=jax.random.key(0), num_inputs=4, gain=0.9)


def test_terms_are_what_their_meanings_say():
    terms = terms_of(FEATURES, **SETTINGS)
    expected = {
        "vanishing": -21.0,
        "exploding": 2.0,
        "resolved": -24 + np.log(10_000) / 2,
        "memory": -20.0,
        "separation": -3.0,
        "readout": 0.1,
        "travel": np.log(400) - 5,
        "overshoot": -3.0,
        "steps": np.log(100),
    }
    assert set(terms) == set(TERMS) == set(expected)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value)


def test_growth_counts_below_zero_and_its_peak_above():
    grown = terms_of(FEATURES._replace(growth=5.0, peak=-1.0, gradient_signal=9.0), **SETTINGS)
    assert [float(grown[name]) for name in ("vanishing", "exploding", "resolved")] == [0, 0, 3]


def test_a_hundredfold_budget_resolves_a_tenth_of_the_gradient():
    small, large = (
        terms_of(FEATURES, **SETTINGS | {"num_updates": num})["resolved"] for num in (40, 4000)
    )
    assert float(large - small) == pytest.approx(np.log(10))


def test_terms_of_many_networks_have_their_axes():
    many = LearningFeatures(*(np.full((2, 3), value) for value in FEATURES))
    budgets = np.array([100, 200, 400])
    terms = terms_of(many, horizon=100, num_updates=budgets, batch_size=25)
    assert {values.shape for values in terms.values()} == {(2, 3)}


def test_the_probability_is_that_of_the_weighted_terms(cell):
    model = model_of(vanishing=0.5, steps=-0.25)
    forecast = predict_learning(cell, tasks.delayed_recall(8), model=model, **OPTIONS)
    log_odds = 1 + 0.5 * min(forecast.features.growth, 0) - 0.25 * np.log(8)
    assert forecast.probability == pytest.approx(1 / (1 + np.exp(-log_odds)), rel=1e-6)
    # Of two fits, the central 90 % reach nearly from one to the other.
    other = 1 / (1 + np.exp(-(2 * log_odds - 1)))
    low, high = sorted([forecast.probability, other])
    width = high - low
    assert forecast.interval == pytest.approx((low + 0.05 * width, high - 0.05 * width))
    assert forecast.contributions["steps"] == pytest.approx(-0.25 * np.log(8))


def test_a_forecast_says_what_drives_it_strongest_first(cell):
    forecast = predict_learning(
        cell, tasks.delayed_recall(8), model=model_of(vanishing=10.0, readout=1.0), **OPTIONS
    )
    lines = str(forecast).splitlines()
    assert lines[0].startswith("learns with probability 0.")
    assert "at lag 8 a gradient is e^" in lines[1]
    assert lines[1].strip().startswith("against it")


def test_a_batch_of_ones_own_is_forecast_like_a_task(cell):
    task = tasks.delayed_recall(8)
    batch = task.sample(jax.random.key(5), 300)
    of_task = predict_learning(cell, task, model=model_of(vanishing=1.0), **OPTIONS)
    of_batch = predict_learning(cell, batch, horizon=8, model=model_of(vanishing=1.0), **OPTIONS)
    assert of_batch.horizon == 8
    assert of_batch.features.growth == pytest.approx(of_task.features.growth, abs=1)


def test_a_network_with_its_readout_and_another_optimiser_can_be_given(cell):
    task = tasks.delayed_recall(8)
    network = add_readout(cell, jnp.zeros(4, jnp.float32), 4, key=jax.random.key(1))
    small, large = (
        predict_learning(
            network,
            task,
            optimizer=optax.sgd,
            model=model_of(travel=1.0),
            **OPTIONS | {"learning_rate": rate},
        ).features.relative_update
        for rate in (0.01, 0.1)
    )
    assert large - small == pytest.approx(np.log(10), abs=1e-3)


def test_the_published_model_has_a_weight_of_the_right_sign_for_every_term():
    model = published_model()
    assert set(model.weights) == set(model.typical) == set(TERMS)
    assert all(TERMS[name].sign * weight >= 0 for name, weight in model.weights.items())
    assert any(model.weights.values())
    assert model.resampled.shape[1] == len(TERMS) + 1
    assert "learning_ensemble" in model.provenance


def test_what_cannot_be_forecast_is_refused(cell):
    task = tasks.delayed_recall(8)
    batch = task.sample(jax.random.key(0), 10)
    for options, error, said in [
        ({"num_updates": 0}, ValueError, "num_updates: received 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: received 0"),
        ({"horizon": 8}, ValueError, "a task, which knows its own"),
    ]:
        with pytest.raises(error, match=said):
            predict_learning(cell, task, **OPTIONS | options)
    with pytest.raises(ValueError, match="horizon: received None"):
        predict_learning(cell, batch, **OPTIONS)
    with pytest.raises(TypeError, match=r"tasks\.Batch\(xs, targets\)"):
        predict_learning(cell, batch.xs, **OPTIONS)
    with pytest.raises(TypeError, match="network: received a SimpleCell"):
        predict_learning(nn.SimpleCell(4), task, **OPTIONS)
    broken = dataclasses.replace(cell, params=jax.tree.map(lambda a: a * jnp.nan, cell.params))
    with pytest.raises(ValueError, match=r"network.*NaN"):
        predict_learning(broken, task, **OPTIONS)

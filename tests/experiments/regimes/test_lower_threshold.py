import dataclasses

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from experiments.regimes import lower_threshold as experiment
from experiments.regimes import threshold_effects as effects
from experiments.regimes.lower_threshold import LowerThreshold, Unit
from experiments.regimes.threshold_effects import (
    BATCH,
    EPSILON,
    GROWTH,
    LAW,
    NOISE,
    OTHER,
    PRECISION,
    SGD,
    SGD_UPDATES,
    UPDATES,
)
from paper_figures.regimes import lower_threshold as figure
from tests.experiments.in_process import check_drawing, described, text_of

CONFIG = LowerThreshold(
    num_networks=120,
    num_resamples=60,
    learning_rates=(0.001, 0.01),
    sgd_rates=(0.1,),
    budgets=(100, 300, 1000),
    epsilons=(1e-10, 1e-6),
    batch_sizes=(2, 32),
    noises=(0.1,),
)


def made_up(per_decade, *, at_usual=-12.0, of_float64=0.0):
    """Lay out networks that learn above a growth which falls with the budget as told."""
    growth = np.linspace(-40, 20, CONFIG.num_networks)
    generator = np.random.default_rng(2)
    noises = [CONFIG.usual_noise, *CONFIG.noises]
    parts = {}
    for unit in experiment.units(CONFIG):
        if unit.factor == GROWTH:
            continue
        budgets = np.array(experiment.budgets_of(CONFIG, unit))
        lower = at_usual + per_decade * np.log10(budgets / CONFIG.usual_updates)
        if unit.factor == BATCH:
            lower = lower + per_decade * np.log10(int(unit.value) / CONFIG.usual_batch)
        if unit.factor == PRECISION:
            lower = lower + of_float64
        shape = (len(experiment.settings(CONFIG, unit)), len(growth), len(budgets))
        edge = generator.logistic(size=shape)
        learned = (growth[:, None] + edge > lower) & (growth[:, None] + edge < 7)
        parts[unit] = xr.Dataset(
            {
                "outcome": (("setting", "network", "budget"), np.where(learned, 0.0, -1.0)),
                "test_skill": (("setting", "network", "budget"), learned.astype(float)),
            },
            {"budget": budgets},
        )
    parts[Unit(GROWTH, "")] = xr.Dataset(
        {"log_growth": (("noise", "network"), np.tile(growth, (len(noises), 1)))},
        {"noise": noises},
    )
    return described(experiment.combine(CONFIG, parts), CONFIG)


@pytest.fixture(scope="module")
def lawful():
    return made_up(LAW, of_float64=-3.0)


def moved(dataset, factor, rate=np.nan, bound="lower"):
    rates = dataset["effect_rate"].to_numpy()
    same = np.isnan(rates) if np.isnan(rate) else rates == rate
    (place,) = np.flatnonzero((dataset["effect_factor"].to_numpy() == factor) & same)
    at = dataset.isel(effect=place).sel(bound=bound)
    return float(at["moved"]), at["moved_interval"].to_numpy()


def test_thresholds_are_where_half_of_the_networks_learn(lawful):
    usual = lawful["threshold"].sel(budget=CONFIG.usual_updates).isel(setting=0)
    ends = lawful["threshold_interval"].sel(budget=CONFIG.usual_updates).isel(setting=0)
    for bound, truth in (("lower", -12), ("upper", 7)):
        low, high = ends.sel(bound=bound).to_numpy()
        assert low < truth < high
        assert low < usual.sel(bound=bound) < high < low + 10


def test_what_moves_the_threshold_is_found_and_what_does_not_is_not(lawful):
    for factor, rate, truth in (
        (UPDATES, 0.01, LAW),
        (BATCH, 0.001, LAW),
        (SGD_UPDATES, 0.1, LAW),
        (PRECISION, 0.01, -3.0),
        (EPSILON, 0.01, 0.0),
        (NOISE, 0.001, 0.0),
        (OTHER, np.nan, 0.0),
    ):
        value, (low, high) = moved(lawful, factor, rate)
        assert low < truth < high, factor
        assert low < value < high < low + 10
    value, (low, high) = moved(lawful, UPDATES, 0.01, "upper")
    assert low < 0 < high


def test_claims_hold_of_networks_that_follow_the_law_and_fail_of_others(lawful):
    def verdicts(dataset):
        made = [claim for claim in figure.claims(dataset) if claim.source == figure.LIVI]
        return {claim.verdict for claim in made if "updates" in claim.quantity}

    assert verdicts(lawful) <= {"holds", "not decided"}
    assert verdicts(made_up(-6.0)) == {"fails"}
    unknown = lawful.assign(moved_interval=lawful["moved_interval"] * np.nan)
    assert verdicts(unknown) == {"not measured"}


def test_thresholds_beyond_all_networks_are_at_the_end_and_count_for_no_effect():
    dataset = made_up(LAW, at_usual=-60.0)
    assert (
        (dataset["threshold"].sel(bound="lower") == -40)
        .where(dataset["outcome"].notnull().any("network"), other=True)
        .all()
    )
    assert not dataset["reached"].sel(bound="lower").any()
    assert np.isnan(moved(dataset, UPDATES, 0.01)[0])
    assert "< -40.0" in text_of(experiment, dataset)
    assert "not known, 0 levels" in text_of(experiment, dataset)


def test_where_no_network_learns_the_threshold_is_zero():
    growth, none = np.linspace(-9, -1, 5), np.zeros(5, bool)
    assert effects._cuts(growth, none, np.ones((1, 5)), 0) == [0.0]
    # Learning that does not go with growth as it should tells of no threshold in between.
    wrong = np.array([True, True, True, False, False])
    assert effects._cuts(growth, wrong, np.ones((1, 5)), 0) == [-9.0]


def test_every_setting_differs_from_the_usual_one_in_one_thing():
    every = [
        one for unit in experiment.units(CONFIG)[:-1] for one in experiment.settings(CONFIG, unit)
    ]
    assert len(set(every)) == len(every) == 2 + 1 + 2 * (2 + 2 + 1 + 1)
    assert {one.factor for one in every} == {UPDATES, SGD, BATCH, EPSILON, NOISE, PRECISION}
    with pytest.raises(ValueError, match="--usual-epsilon: received 1e-06"):
        dataclasses.replace(CONFIG, usual_epsilon=1e-6)
    with pytest.raises(ValueError, match="--budgets: received"):
        dataclasses.replace(CONFIG, usual_updates=7)


def test_networks_are_trained_in_the_precision_that_is_asked_for(monkeypatch):
    config = dataclasses.replace(
        experiment.PRESETS["quick"], num_networks=2, usual_updates=2, budgets=(2,), dtype="float32"
    )
    told = []

    def train(task, networks, carry, *, hyperparameters, **options):
        xs = task.sample(options["key"][0], 1).xs
        leaves = jax.tree.leaves((networks, carry, hyperparameters, xs))
        told.append({str(leaf.dtype) for leaf in leaves})
        raise StopIteration

    monkeypatch.setattr(experiment.training, "train", train)
    for factor in (UPDATES, PRECISION):
        with pytest.raises(StopIteration):
            experiment.work(config, Unit(factor, ""), lambda *_: None)
    assert told == [{"float32"}, {"float64"}]


def test_the_figure_shows_every_panel(lawful, tmp_path):
    drawn = figure.draw(lawful)
    assert [axes.get_xlabel() for axes in drawn.axes] == list(figure.PANELS.values())
    check_drawing(drawn, tmp_path)
    plt.close(drawn)

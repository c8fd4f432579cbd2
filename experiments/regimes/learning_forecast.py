"""Score forecasts of learning on cells, tasks and widths that they were not fitted to.

The ensemble's table is split by cell, by task and by width. Each part is forecast by a model that
was fitted to the others. Simple rules are fitted and scored alike. Networks that were trained again
on other data say how well any forecast could do.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_table
from experiments.regimes._forecasting import FORECAST, PREDICTORS, RULES
from experiments.runner import results
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report

Split = Literal["shape", "cell", "task", "width"]
MEANING = {
    "shape": "a cell with a task: others of both are known",
    "cell": "a cell that was never seen",
    "task": "a task that was never seen",
    "width": "a width that was never seen",
}


@dataclasses.dataclass(frozen=True)
class LearningForecasts:
    """How forecasts are fitted and scored.

    Attributes:
        table: path of a result of `learning_ensemble`; the table of the package if it is empty.
        splits: what is left out, all networks of one kind at a time.
        penalty: of squared weights of terms of variance one, beside the sum of log losses.
        num_resamples: of shapes, for intervals.
        dtype: of stored numbers.
    """

    table: str = ""
    splits: Axis[Split] = ("shape", "cell", "task", "width")
    penalty: Positive = forecasting.PENALTY
    num_resamples: Count = 1000
    dtype: Dtype = "float64"


PRESETS = {
    "quick": LearningForecasts(splits=("cell",), num_resamples=50),
    "default": LearningForecasts(),
    "full": LearningForecasts(num_resamples=10000),
}


class Unit(NamedTuple):
    """What is left out."""

    split: str


def units(config: LearningForecasts) -> list[Unit]:
    """List the splits."""
    return [Unit(split) for split in config.splits]


def work(config: LearningForecasts, unit: Unit, report: Report) -> xr.Dataset:
    """Forecast every network by a model that has not seen its kind, and score the forecasts."""
    report("fitting", 0.0)
    table = _table(config)
    samples = forecasting.samples_of(table, learning_table.budgets_of(table))
    label = samples.group if unit.split == "shape" else samples.table[unit.split].to_numpy()
    predicted, share = forecasting.predict_left_out(samples, label, config.penalty)
    report("scoring", 0.5)
    names = list(forecasting.Scores._fields)
    draws = forecasting.resample_groups(samples.group, config.num_resamples)

    def scores(rows):
        return [
            forecasting.score(predicted[name][rows], samples.learned[rows], share[rows])
            for name in PREDICTORS
        ]

    every = np.array(scores(np.arange(len(label))))
    resampled = np.array([scores(rows) for rows in draws])
    lead = resampled[:, :1] - resampled
    by_kind = {
        str(one): forecasting.score(
            predicted[FORECAST][label == one], samples.learned[label == one], share[label == one]
        )
        for one in np.unique(label)
    }
    ends, places = (0.025, 0.975), ("predictor", "score")
    dataset = xr.Dataset(
        {
            "score_of": (places, every),
            "interval": (("end", *places), np.nanquantile(resampled, ends, axis=0)),
            "lead": (("end", *places), np.nanquantile(lead, ends, axis=0)),
            "probability": ("sample", predicted[FORECAST]),
            "learned": ("sample", samples.learned),
        },
        {"predictor": list(PREDICTORS), "score": names},
    )
    if unit.split == "shape":
        return dataset
    kinds = {
        f"{unit.split}_score": ((unit.split, "score"), np.array(list(by_kind.values()))),
        f"{unit.split}_share": (
            unit.split,
            [samples.learned[label == one].mean() for one in np.unique(label)],
        ),
    }
    return dataset.assign(kinds).assign_coords({unit.split: list(by_kind)})


def _table(config):
    if not config.table:
        return learning_table.published_table()
    return learning_table.table_of(results.read(Path(config.table)))


def combine(config: LearningForecasts, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join the splits, and add the model fitted to all networks and the ceiling."""
    dataset = xr.concat(
        [parts[unit] for unit in units(config)],
        pd.Index(config.splits, name="split"),
        data_vars="different",
        coords="different",
        compat="no_conflicts",
        join="outer",
    )
    table = _table(config)
    model = learning_table.fitted_model(table, "")
    errors = model.resampled.std(axis=0, ddof=1)[:-1]
    samples = forecasting.samples_of(table, learning_table.budgets_of(table))
    spread = [float(values.std()) for values in samples.terms.values()]
    found, drawn = _thresholds(samples, config.num_resamples)
    kinds = list(forecasting.RegimeThresholds._fields)
    budgets = learning_table.budgets_of(table)
    return dataset.assign(
        threshold=(("budget", "threshold_kind"), found),
        threshold_interval=(
            ("end", "budget", "threshold_kind"),
            np.quantile(drawn, (0.025, 0.975), axis=0),
        ),
        # Of the lower threshold over the logarithm of the number of sequences.
        slope=("slope_kind", _slope(found, drawn, budgets)),
        weight=("term", list(model.weights.values())),
        weight_error=("term", errors),
        term_spread=("term", spread),
        ceiling=("ceiling_score", list(ceiling(table).values())),
        num_networks=int((table["data_seed"] == 0).sum()),
    ).assign_coords(
        term=list(model.weights),
        ceiling_score=list(ceiling(table)),
        budget=budgets,
        threshold_kind=kinds,
        slope_kind=["value", "standard_error"],
    )


def _thresholds(samples, num_resamples):
    """Return the best thresholds of every budget, and those of groups drawn again."""
    names = ("growth", "peak")
    growth, peak = (samples.table[name].to_numpy(float) for name in names)
    budget = samples.table["num_updates"].to_numpy()

    def of(rows):
        each = [rows[budget[rows] == one] for one in np.unique(budget)]
        return [forecasting.best_thresholds(growth[e], peak[e], samples.learned[e]) for e in each]

    draws = forecasting.resample_groups(samples.group, max(num_resamples // 5, 10))
    return np.array(of(np.arange(len(budget)))), np.array([of(rows) for rows in draws])


def _slope(found, drawn, budgets):
    """Fit the lower threshold over the logarithm of the budget, by least squares."""
    logs = np.log(budgets) - np.log(budgets).mean()
    slopes = np.concatenate([found[None], drawn])[:, :, 0] @ logs / (logs @ logs)
    return [slopes[0], slopes[1:].std(ddof=1)]


def ceiling(table: pd.DataFrame) -> dict[str, float]:
    """Score a predictor that has seen the same networks trained on five other draws of data.

    The networks are those that were trained several times. The first training of each is predicted
    by the share of the others that learned.

    Returns:
        Area, balanced accuracy, and the share of pairs of trainings of one network that end alike.
    """
    which = ["cell", "task", "seed"]
    trainings = [
        table.pivot(index=which, columns="data_seed", values=f"learned_{budget}").dropna()
        for budget in learning_table.budgets_of(table)
    ]
    every = pd.concat(trainings).to_numpy(bool)
    learned, share = every[:, 0], every[:, 1:].mean(axis=1)
    alike = every[:, 1:] == learned[:, None]
    says = share > 0.5
    return {
        "area": float(roc_auc_score(learned, share)),
        "balanced_accuracy": float((says[learned].mean() + (~says[~learned]).mean()) / 2),
        "alike": float(np.mean(alike)),
    }


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print scores of the forecast and of simple rules, kind by kind, and what it weighs."""
    for split in dataset["split"].to_numpy().tolist():
        at = dataset.sel(split=split)
        table = Table(title=f"left out: {MEANING[split]}")
        for column in (
            "predictor",
            "area [95 %]",
            "balanced accuracy [95 %]",
            "Brier",
            "calibration error",
        ):
            table.add_column(column, justify="left" if column == "predictor" else "right")
        for name in PREDICTORS:
            one, interval = at["score_of"].sel(predictor=name), at["interval"].sel(predictor=name)
            said = [
                f"{float(one.sel(score=score)):.3f} [{float(interval.sel(score=score)[0]):.3f}, "
                f"{float(interval.sel(score=score)[1]):.3f}]"
                for score in ("area", "balanced_accuracy")
            ]
            plain = [
                f"{float(one.sel(score=score)):.3f}" for score in ("brier", "calibration_error")
            ]
            table.add_row(name, *said, *plain)
        console.print(table)
        if split == "shape":
            continue
        kinds = Table(title=f"each {split}, left out: forecast alone")
        for column in (split, "learned", "area", "balanced accuracy"):
            kinds.add_column(column, justify="left" if column == split else "right")
        for kind in at[split].to_numpy().tolist():
            one = at[f"{split}_score"].sel({split: kind})
            share = float(at[f"{split}_share"].sel({split: kind}))
            kinds.add_row(
                str(kind),
                f"{share:.0%}",
                *(f"{float(one.sel(score=score)):.3f}" for score in ("area", "balanced_accuracy")),
            )
        console.print(kinds)
    weights = Table(title="what the forecast weighs: log odds per standard deviation of a term")
    for column in ("term", "weight ± standard error"):
        weights.add_column(column, justify="left" if column == "term" else "right")
    for term in dataset["term"].to_numpy().tolist():
        at = dataset.sel(term=term)
        spread = float(at["term_spread"])
        weights.add_row(
            term, f"{spread * float(at['weight']):+.2f} ± {spread * float(at['weight_error']):.2f}"
        )
    console.print(weights)
    thresholds = Table(title="growth and peak between which networks learn, nats [95 %]")
    for column in ("updates", "growth above", "peak below", "balanced accuracy"):
        thresholds.add_column(column, justify="right")
    for budget in dataset["budget"].to_numpy().tolist():
        at, around = (
            dataset[name].sel(budget=budget).to_numpy()
            for name in ("threshold", "threshold_interval")
        )
        said = [f"{at[i]:+.1f} [{around[0, i]:+.1f}, {around[1, i]:+.1f}]" for i in (0, 1)]
        thresholds.add_row(str(budget), *said, f"{at[2]:.3f}")
    console.print(thresholds)
    for line in findings(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def findings(dataset: xr.Dataset) -> list[str]:
    """Say how good the forecasts are, beside the best rule and the ceiling."""
    lines = []
    for split in dataset["split"].to_numpy().tolist():
        at = dataset.sel(split=split)
        area, right = (
            float(at["score_of"].sel(predictor=FORECAST, score=score))
            for score in ("area", "balanced_accuracy")
        )
        rules = at["score_of"].sel(predictor=list(RULES), score="area")
        best = str(rules["predictor"][int(np.argmax(rules.to_numpy()))].item())
        low, high = at["lead"].sel(predictor=best, score="area").to_numpy()
        lines.append(
            f"{MEANING[split]}: area {area:.3f}, balanced accuracy {right:.3f}; over the best "
            f"rule, {best}, the area is larger by [{low:+.3f}, {high:+.3f}]"
        )
    ceiling = {
        name: float(dataset["ceiling"].sel(ceiling_score=name))
        for name in dataset["ceiling_score"].to_numpy().tolist()
    }
    lines.append(
        "Ceiling, from five other trainings of the same network: "
        f"area {ceiling['area']:.3f}, balanced accuracy {ceiling['balanced_accuracy']:.3f}. Two "
        f"trainings of a network on other data end alike in {ceiling['alike']:.0%}."
    )
    return lines

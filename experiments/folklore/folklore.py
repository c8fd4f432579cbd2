"""Put what is told about vanishing and exploding gradients to the test, statement by statement.

Each statement is measured on networks drawn for it, reduced to numbers with errors, and gets a
verdict that these numbers choose.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from experiments.folklore import _gradients, _rules, _training
from experiments.folklore._options import PRESETS, Folklore
from experiments.folklore._verdicts import findings, verdicts
from experiments.runner.experiment import Report

__all__ = ["PRESETS", "Folklore", "combine", "show", "units", "work"]

# Each statement as it is usually told.
STATEMENTS = {
    "a": "n derivatives are multiplied, so gradients grow or shrink exponentially with depth",
    "b": "the factor multiplied through the network is W_rec",
    "c": "weights larger than 1 explode, smaller than 1 vanish",
    "d": "a gradient measures how much the output changes when the input changes a little",
    "e": "with zero slope the model stops learning",
    "f": "exploding gradients make very large updates and unstable training",
    "g": "LSTMs do not vanish but can explode",
}


class Test(NamedTuple):
    """How statements are tested, part by part.

    Attributes:
        axis: dimension along which the parts lie.
        parts: of a configuration, the labels on that axis.
        measure: from the configuration, the number of the part and a key to what was measured.
        paired: whether parts share their random numbers.
    """

    axis: str
    parts: Callable[[Folklore], Sequence]
    measure: Callable[[Folklore, int, jax.Array], xr.Dataset]
    paired: bool = False


# The longest first.
TESTS = {
    "recall": Test("optimizer", lambda config: config.optimizers, _training.recall, paired=True),
    "updates": Test("clip", lambda _: _training.CLIPS, _training.updates, paired=True),
    "rules": Test(
        "kind",
        lambda config: [f"{cell}, N = {width}" for cell, width in config.rule_kinds],
        _rules.rules,
    ),
    "depth": Test("gain", lambda config: config.gains, _gradients.depth),
    "memory": Test("initialisation", lambda _: _gradients.KINDS, _gradients.memory, paired=True),
    "differences": Test(
        "difference_gain", lambda config: config.difference_gains, _gradients.differences
    ),
    "counterexamples": Test(
        "counterexample", lambda _: _rules.COUNTEREXAMPLES, _rules.counterexamples
    ),
}
GROWTHS = {
    "exponent": ("λ₁ from tangent vectors", "nats per step"),
    "log_gradient": ("log gradient norm, relative to that at the output", "nats"),
    "exact": ("log growth of a random gradient by the exact product", "nats"),
    "profile": ("the same by the backward profile", "nats"),
    "profile_error": ("its sampling error", "nats"),
}
MEANINGS = {
    **{f"{name}_{field}": said for name in ("chain", "memory") for field, said in GROWTHS.items()},
    "chain_slope": ("slope of the log gradient norm with depth", "nats per step"),
    "weight_rate": ("log spectral radius of W", "nats per step"),
    "rule_exponent": ("λ₁", "nats per step"),
    "rule_size": ("size of W by each rule", "1"),
    "counter_size": ("size of W by each rule, of counterexamples", "1"),
    "counter_rate": ("their growth of gradients", "nats per step"),
    "difference_error": ("error of a finite difference relative to the gradient's", "1"),
    "recall_log_growth": ("log growth of the gradient over the lag before training", "nats"),
    "recall_skill": ("held-out skill after training", "1"),
    "update_log_growth": ("log growth of the gradient over the delay before training", "nats"),
    "update_largest": ("norm of the largest update", "1"),
    "update_outcome": ("−1 stuck, 0 learned, 1 diverged", "1"),
    "finding_value": ("what the measurements come to", "as the finding says"),
    "finding_error": ("its standard error over networks or seeds", "as the finding says"),
    "text": ("the statement", "words"),
    "verdict": ("what the numbers say of it", "words"),
}


class Unit(NamedTuple):
    """What one worker does at a time: a part of a test."""

    test: str
    part: str


def units(config: Folklore) -> list[Unit]:
    """List the parts of all tests, those that take longest first."""
    return [Unit(name, str(part)) for name, test in TESTS.items() for part in test.parts(config)]


def work(config: Folklore, unit: Unit, report: Report) -> xr.Dataset:
    """Measure one part of a test."""
    report("measuring", 0.0)
    test = TESTS[unit.test]
    number = [str(part) for part in test.parts(config)].index(unit.part)
    # No two tests share their random numbers.
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(unit.test.encode()))
    measured = test.measure(config, number, key if test.paired else jax.random.fold_in(key, number))
    lost = [str(name) for name in measured.data_vars if measured[name].isnull().any()]
    # What diverges in training has no skill.
    if set(lost) - {"recall_skill"}:
        msg = f"{'-'.join(unit)}: {', '.join(lost)} hold what is not a number"
        raise ValueError(msg)
    return measured


def combine(config: Folklore, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all tests, and judge the statements."""
    joined: list[xr.Dataset] = []
    for name, test in TESTS.items():
        labels = list(test.parts(config))
        own = [parts[Unit(name, str(label))] for label in labels]
        one = xr.concat(own, test.axis, data_vars="all").assign_coords({test.axis: labels})
        joined.append(one)
    return judged(xr.merge(joined))


def judged(dataset: xr.Dataset) -> xr.Dataset:
    """Add what the measurements come to, and the verdicts."""
    found = findings(dataset)
    texts = verdicts(found)
    values = np.array(list(found.values()))
    dataset = dataset.assign(
        finding_value=("finding", values[:, 0]),
        finding_error=("finding", values[:, 1]),
        text=("statement", list(STATEMENTS.values())),
        verdict=("statement", [texts[statement] for statement in STATEMENTS]),
    ).assign_coords(finding=list(found), statement=list(STATEMENTS))
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print a row for each statement, and the numbers behind the verdicts."""
    table = Table(title="the folklore, measured", pad_edge=False, show_lines=True)
    for column in ("", "statement", "verdict"):
        table.add_column(column)
    for statement in dataset["statement"].to_numpy():
        one = dataset.sel(statement=statement)
        table.add_row(str(statement), *(str(one[name].values) for name in ("text", "verdict")))
    numbers = Table(pad_edge=False, title="mean ± standard error over networks or seeds")
    for column in ("finding", "value"):
        numbers.add_column(column)
    for name, value, error in zip(
        dataset["finding"].to_numpy(),
        dataset["finding_value"].to_numpy(),
        dataset["finding_error"].to_numpy(),
        strict=True,
    ):
        numbers.add_row(str(name), f"{value:.4g}" + ("" if np.isnan(error) else f" ± {error:.2g}"))
    console.print(numbers)
    console.print(table)

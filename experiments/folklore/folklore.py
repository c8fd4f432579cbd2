"""Put what is told about vanishing and exploding gradients to the test, statement by statement.

Each statement is measured on networks drawn for it, reduced to numbers with errors, and gets a
verdict that these numbers choose.
"""

import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from experiments import folklore_gradients, folklore_rules, folklore_training, results
from experiments.folklore_findings import findings, verdicts
from experiments.folklore_options import PRESETS, STATEMENTS, Folklore
from experiments.units import run_units

__all__ = ["NAME", "PRESETS", "Folklore", "run"]

NAME = "folklore"
TESTS = {
    "a": ("slope of the log gradient norm with depth, against λ₁", folklore_gradients.depth),
    "b": ("λ₁ of true Jacobians, against log spectral radius of W", folklore_rules.factor),
    "c": ("three rules about W against the sign of λ₁", folklore_rules.rules),
    "d": ("finite differences against ∂h_T/∂x_s", folklore_gradients.differences),
    "e": ("skill of trained networks against gain over the lag", folklore_training.slope),
    "f": ("gradient descent with and without clipping", folklore_training.updates),
    "g": ("gradients by lag in LSTMs of several initialisations", folklore_gradients.memory),
}
# The longest first, so that the workers finish together.
ORDER = "efcadgb"
MAY_DIVERGE = {"update_norm", "update_loss", "update_skill"}
MEANINGS = {
    "depth_log_gradient": ("log gradient norm, relative to that at the output", "nats"),
    "depth_exponent": ("λ₁ from tangent vectors", "nats per step"),
    "depth_slope": ("slope of the log gradient norm with depth", "nats per step"),
    "factor_exponent": ("λ₁", "nats per step"),
    "factor_alone": ("log spectral radius of W", "nats per step"),
    "rule_exponent": ("λ₁", "nats per step"),
    "rule_size": ("size of W by each rule", "1"),
    "nilpotent_size": ("the same of Pascanu's nilpotent W", "1"),
    "nilpotent_rate": ("growth of the gradient per step there", "nats per step"),
    "saturated_size": ("size of W of saturated networks by each rule", "1"),
    "saturated_exponent": ("λ₁ of saturated networks", "nats per step"),
    "difference_error": ("error of a finite difference relative to the gradient's", "1"),
    "difference_log_growth": ("log norm of what the gradient predicts", "nats"),
    "slope_log_growth": ("log growth of the gradient over the lag before training", "nats"),
    "slope_skill": ("held-out skill after training", "1"),
    "update_log_growth": ("log growth of the gradient over the delay before training", "nats"),
    "update_norm": ("norm of each update", "1"),
    "update_loss": ("training loss of each update", "nats"),
    "update_skill": ("held-out skill after training", "1"),
    "update_outcome": ("−1 stuck, 0 learned, 1 diverged", "1"),
    "update_baseline": ("loss of the trivial baseline", "nats"),
    "memory_log_gradient": ("log gradient norm, relative to that at the last step", "nats"),
    "memory_exponent": ("λ₁", "nats per step"),
    "finding_value": ("what the measurements come to", "as the finding says"),
    "finding_error": ("its standard error over networks or seeds", "as the finding says"),
    "text": ("the statement", "words"),
    "test": ("what tests it", "words"),
    "verdict": ("what the numbers say of it", "words"),
}


class Unit(NamedTuple):
    """What one worker does at a time: one statement."""

    statement: str


def run(config: Folklore, preset: str, *, num_workers: int, console: Console) -> int:
    """Measure, judge, write one NetCDF file; return the number of failed statements."""
    started = time.perf_counter()
    units = [Unit(statement) for statement in ORDER]
    parts, failures = run_units(
        work, config, units, results.directory(NAME), num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]statement {unit.statement} failed: {error}")
    if failures:
        console.print("finished statements are saved; the same command makes the others again")
        return len(failures)
    dataset = judged(xr.merge([parts[Unit(statement)] for statement in STATEMENTS]))
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, config, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, config.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(config: Folklore, unit: Unit, report: Callable[[str, float], None]) -> xr.Dataset:
    """Measure one statement."""
    report("measuring", 0.0)
    with config.precision():
        key = jax.random.key(config.seed)
        _, test = TESTS[unit.statement]
        # No two statements share their random numbers.
        measured = test(config, jax.random.fold_in(key, zlib.crc32(unit.statement.encode())))
    lost = [name for name in measured.data_vars if measured[name].isnull().any()]
    if set(lost) - MAY_DIVERGE:
        msg = f"statement {unit.statement}: {', '.join(map(str, lost))} hold what is not a number"
        raise ValueError(msg)
    return measured


def judged(dataset: xr.Dataset) -> xr.Dataset:
    """Add what the measurements come to, and the verdicts."""
    found = findings(dataset)
    texts = verdicts(found)
    values = np.array(list(found.values()))
    dataset = dataset.assign(
        finding_value=("finding", values[:, 0]),
        finding_error=("finding", values[:, 1]),
        text=("statement", [STATEMENTS[statement] for statement in STATEMENTS]),
        test=("statement", [TESTS[statement][0] for statement in STATEMENTS]),
        verdict=("statement", [texts[statement] for statement in STATEMENTS]),
    ).assign_coords(finding=list(found), statement=list(STATEMENTS))
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print a row for each statement, and the numbers behind the verdicts."""
    table = Table(title="the folklore, measured", pad_edge=False, show_lines=True)
    for column in ("", "statement", "tested by", "verdict"):
        table.add_column(column)
    for statement in dataset["statement"].to_numpy():
        one = dataset.sel(statement=statement)
        table.add_row(
            str(statement), *(str(one[name].values) for name in ("text", "test", "verdict"))
        )
    console.print(table)
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

"""Score the forecast of learning on cells that it has never seen.

The model that the package ships was fitted to six cells, and stays as it is. Here it forecasts
networks of eleven recurrences of today on four tasks, two of which are new to it as well. Then they
are trained. Simple rules are fitted to the table that the model was fitted to, and scored alike.
One more arm trains a delta rule on parity, with and without negative eigenvalues.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from experiments.regimes import _forecasting as forecasting
from experiments.regimes import _learning as learning
from experiments.regimes import _state_tracking as tracking
from experiments.regimes import _unseen_scores as scores
from experiments.regimes import learning_table
from experiments.regimes._ensemble import Cell, TaskName
from experiments.regimes._learning import LearningEnsemble, Unit
from experiments.regimes._modern_cells import MODERN
from experiments.runner.experiment import Axis, Count, Networks

PARITY = "parity"  # the stage of the arm


@dataclasses.dataclass(frozen=True)
class UnseenCells(LearningEnsemble):
    """Which networks are drawn, what is done with them, and how forecasts are scored.

    Attributes:
        num_resamples: of shapes, for intervals.
        parity_steps: of sequences that the arm with negative eigenvalues is trained on.
        parity_networks: of each kind, each with each learning rate.
        parity_updates: of each of these trainings.
    """

    cells: Axis[Cell] = tuple(MODERN)  # pyright: ignore[reportAssignmentType]
    tasks: Axis[TaskName] = ("recall", "copying_memory", "selective_copying", "parity")
    networks_of_a_shape: Count = 10
    retrained: int = 0
    horizons: Axis[Count] = (10, 20, 40)
    widths: Axis[Count] = (16, 32)
    chunk_size: Count | None = 10
    num_resamples: Count = 1000
    parity_steps: Count = 20
    parity_networks: Count = 5
    parity_updates: Count = 500


PRESETS = {
    "quick": UnseenCells(
        cells=("minGRU",),
        tasks=("recall", "parity"),
        networks_of_a_shape=4,
        horizons=(4,),
        widths=(8,),
        num_updates=40,
        records=(20,),
        batch_size=8,
        held_out_size=32,
        num_sequences=4,
        chunk_size=4,
        num_resamples=20,
        parity_steps=4,
        parity_networks=2,
        parity_updates=4,
    ),
    "default": UnseenCells(),
    "full": UnseenCells(
        shapes=3,
        networks_of_a_shape=32,
        horizons=(10, 20, 40, 80, 160),
        widths=(16, 32, 64, 128),
        num_updates=5000,
        records=(500, 1000, 2500),
        chunk_size=None,
        num_resamples=10000,
        parity_networks=32,
        parity_updates=5000,
    ),
}


def units(config: UnseenCells) -> list[Unit]:
    """List the kinds of the arm, then stages and shapes."""
    arm = [
        Unit(PARITY, "GatedDeltaNet", "parity", str(config.parity_steps), "16", "adam", kind)
        for kind in tracking.LARGEST_RATES
    ]
    return arm + learning.units(config)


def networks(config: UnseenCells, unit: Unit) -> Networks:
    """Return the networks of a kind of the arm, or of a shape at a stage."""
    if unit.stage != PARITY:
        return learning.networks(config, unit)
    return tracking.parity_networks(
        unit.kernel,
        num_steps=int(unit.horizon),
        width=int(unit.width),
        num_networks=config.parity_networks,
        num_updates=config.parity_updates,
        dtype=config.dtype,
    )


def combine(config: UnseenCells, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Score what was forecast of all networks that were both measured and trained."""
    table = learning_table.table_of(learning.combine(config, parts))
    unseen = forecasting.samples_of(table, learning_table.budgets_of(table))
    scored = scores.score_unseen(unseen, scores.known_samples(), config.num_resamples)
    arm = {unit.kernel: part for unit, part in parts.items() if unit.stage == PARITY}
    for name in tracking.SKILLS:
        if arm:
            each = [
                part[name].to_numpy().reshape(config.parity_networks, -1) for part in arm.values()
            ]
            scored[f"parity_{name}"] = (("eigenvalues", "seed", "learning_rate"), np.stack(each))
    for kind, names in {"cell": config.cells, "task": config.tasks}.items():
        scored = scored.sel({kind: [one for one in names if one in scored[kind]]})
    scored = scored.assign_coords(
        eigenvalues=list(arm), learning_rate=list(tracking.LEARNING_RATES)
    )
    return scored.assign(num_networks=len(table))


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print scores of the forecast and of simple rules, cell by cell and task by task.

    Accuracies are balanced. The last column is the calibration error in ten bins.
    """
    table = Table(box=None, title="never seen: all cells and tasks together")
    for column in ("predictor", "area [95 %]", "balanced", "Brier", "off"):
        side = "left" if column == "predictor" else "right"
        table.add_column(column, justify=side, no_wrap=True)
    for name in dataset["predictor"].to_numpy().tolist():
        at = dataset.sel(predictor=name)
        table.add_row(name, *_said(at["score_of"], at["interval"]))
    console.print(table)
    for kind in scores.KINDS:
        table = Table(box=None, title=f"each {kind}: forecast alone")
        for column in (kind, "learned", "area [95 %]", "Brier", "off"):
            table.add_column(column, justify="left" if column == kind else "right", no_wrap=True)
        for one in dataset[kind].to_numpy().tolist():
            at = dataset.sel({kind: one})
            area, _, *others = _said(at[f"{kind}_score"], at[f"{kind}_interval"])
            table.add_row(one, f"{float(at[f'{kind}_share']):.0%}", area, *others)
        console.print(table)
    for line in findings(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def _said(values, intervals):
    """Write an area with its interval, and the other scores plainly."""
    said = []
    for name in ("area", "balanced_accuracy", "brier", "calibration_error"):
        value, (low, high) = float(values.sel(score=name)), intervals.sel(score=name).to_numpy()
        said.append(f"{value:.3f}")
        if name == "area":
            said[-1] += f" [{low:.3f}, {high:.3f}]"
    return said


def findings(dataset: xr.Dataset) -> list[str]:
    """Say how good the forecast is on cells that it has never seen, and who learns parity."""
    at = dataset.sel(predictor=scores.FORECAST)
    lines = []
    for name, unit in {
        "area": "area under the curve",
        "calibration_error": "calibration error",
    }.items():
        value, (low, high) = (
            at[one].sel(score=name).to_numpy() for one in ("score_of", "interval")
        )
        lines.append(f"{unit}: {float(value):.3f} [{low:.3f}, {high:.3f}]")
    rules = dataset["score_of"].sel(predictor=list(scores.RULES), score="area")
    best = str(rules["predictor"][int(np.argmax(rules.to_numpy()))].item())
    low, high = dataset["lead"].sel(predictor=best, score="area").to_numpy()
    lines.append(
        f"The best simple rule, {best}, has an area of {float(rules.max()):.3f}; that of the "
        f"forecast is larger by [{low:+.3f}, {high:+.3f}]."
    )
    for task in dataset["task"].to_numpy().tolist():
        at = dataset.sel(task=task)
        new, known = (float(at[name][0]) for name in ("task_excess", "known_task_excess"))
        beside = "" if np.isnan(known) else f", and {known:+.2f} for the cells it was fitted to"
        lines.append(f"On {task} probabilities are off by {new:+.2f} on average{beside}.")
    for kind in dataset["eigenvalues"].to_numpy().tolist():
        skill, longer = (
            dataset[f"parity_{name}"].sel(eigenvalues=kind).to_numpy() for name in tracking.SKILLS
        )
        lines.append(
            f"Parity, {kind} eigenvalues: mean skill {skill.mean():.2f} on sequences as long as in "
            f"training, {longer.mean():.2f} on those {tracking.LONGER} times as long "
            f"({longer.min():.2f} to {longer.max():.2f} over {longer.size} networks)."
        )
    return lines

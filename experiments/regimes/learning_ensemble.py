"""Measure an ensemble of networks before training, train it, and keep which of them learned.

Networks of many cells meet many tasks. Their table is what forecasts of learning are fitted to and
scored against.
"""

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.regimes._learning import LearningEnsemble, Unit, combine, networks, units
from jacobian_rnn.regimes import LearningFeatures

__all__ = ["PRESETS", "LearningEnsemble", "Unit", "combine", "networks", "show", "units"]

PRESETS = {
    "quick": LearningEnsemble(
        cells=("SimpleCell",),
        tasks=("recall",),
        networks_of_a_shape=4,
        data_seeds=2,
        horizons=(10,),
        widths=(8,),
        num_updates=8,
        records=(4,),
        batch_size=8,
        held_out_size=32,
        num_sequences=4,
        chunk_size=6,
    ),
    "default": LearningEnsemble(),
    "full": LearningEnsemble(
        shapes=4,
        networks_of_a_shape=32,
        most_units=20480,
        num_updates=5000,
        records=(500, 1000, 2500),
        chunk_size=None,
    ),
}


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print what was measured of each cell, and how many of its networks learned each task."""
    once = dataset.isel(network=np.flatnonzero(dataset["data_seed"] == 0))
    cell, task = once["cell"].to_numpy(), once["task"].to_numpy()
    cells = list(dict.fromkeys(cell.tolist()))
    if names := [name for name in LearningFeatures._fields if name in once]:
        spreads = {
            name: [_spread(once[name].to_numpy()[cell == one]) for one in cells] for name in names
        }
        console.print(_table("feature: median over networks [10 %, 90 %]", cells, spreads))
    if "outcome" not in once:
        return
    outcome = once["outcome"].isel(budget=-1).to_numpy()
    learned = outcome == jrnn.Outcome.LEARNED
    counts = {}
    for name in sorted(set(task.tolist())):
        each = [learned[(cell == one) & (task == name)] for one in cells]
        counts[name] = [f"{here.sum()} / {here.size}" for here in each]
    num_updates = int(dataset["budget"][-1])
    console.print(_table(f"task: learned within {num_updates} updates, of so many", cells, counts))
    diverged = int((outcome == jrnn.Outcome.DIVERGED).sum())
    console.print(
        f"{learned.sum()} of {learned.size} networks learned, {diverged} diverged", highlight=False
    )


def _table(title, cells, rows):
    table = Table(title=title)
    for column in ("", *cells):
        table.add_column(column, justify="right" if column else "left")
    for name, said in rows.items():
        table.add_row(name, *said)
    return table


def _spread(values):
    low, middle, high = np.nanquantile(values, (0.1, 0.5, 0.9))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"

"""Find the growth and the peak between which networks learn: the thresholds that predictions use.

The networks are those of the ensemble's table: many cells and tasks, delayed recall at three noise
levels among them. The pair of thresholds that best separates those that learned from those that did
not is found over all of them, and beside it for each cell and each task alone. The library's
`THRESHOLDS` are a frozen copy of the pair for all.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_table
from experiments.runner.experiment import Axis, Count, Dtype, Report
from jacobian_rnn.regimes.score import balanced_accuracy

Kind = Literal["all", "cell", "task"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Which networks of the table are told apart.

    Attributes:
        kinds: thresholds are found for all networks, and for those of each cell and of each task.
        num_updates: after which it counts whether a network learned; one of the table's budgets.
        num_resamples: of shapes of networks, for the intervals of the thresholds.
        dtype: of stored numbers.
    """

    kinds: Axis[Kind] = ("all", "cell", "task")
    num_updates: Count = 400
    num_resamples: Count = 1000
    dtype: Dtype = "float64"


PRESETS = {
    "quick": Calibration(kinds=("all",), num_resamples=20),
    "default": Calibration(),
    "full": Calibration(num_resamples=10000),
}


class Unit(NamedTuple):
    """What a worker does at a time."""

    kind: str


def units(config: Calibration) -> list[Unit]:
    """List the kinds of networks."""
    return [Unit(kind) for kind in config.kinds]


def work(config: Calibration, unit: Unit, report: Report) -> xr.Dataset:
    """Find the thresholds of all networks, or of each cell or task."""
    report("reading the table", 0.0)
    table = learning_table.published_table()
    samples = forecasting.samples_of(table, [config.num_updates])
    return thresholds(samples, unit.kind, config.num_resamples)


def combine(config: Calibration, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Lay the kinds of networks one after another."""
    return xr.concat([parts[unit] for unit in units(config)], "network_kind")


def thresholds(samples: forecasting.Samples, kind: str, num_resamples: int) -> xr.Dataset:
    """Find the thresholds of highest balanced accuracy, and their 95 % interval over shapes.

    A cell or task of which all networks learned, or none, is left out.
    """
    label = np.full(len(samples.learned), "all")
    if kind != "all":
        label = samples.table[kind].to_numpy(str)
    rows = []
    for one in np.unique(label):
        part = samples.take(np.flatnonzero(label == one))
        if part.learned.all() or not part.learned.any():
            continue
        drawn = np.array(
            [
                _best(part.take(rows))[:2]
                for rows in forecasting.resample_groups(part.group, num_resamples)
                if 0 < part.learned[rows].mean() < 1
            ]
        )
        growth, peak = _growths(part)
        stable = (growth >= jrnn.THRESHOLDS.vanishing) & (peak <= jrnn.THRESHOLDS.exploding)
        best = _best(part)
        rows.append(
            {
                "threshold": best[:2],
                "threshold_interval": np.quantile(drawn, (0.025, 0.975), axis=0).T,
                "balanced_accuracy": best.balanced_accuracy,
                "balanced_accuracy_of_library": balanced_accuracy(stable, part.learned),
                "num_networks": len(part.learned),
                "num_learned": int(part.learned.sum()),
                "name": str(one),
            }
        )
    dims = {"threshold": ("bound",), "threshold_interval": ("bound", "end")}
    columns = {
        name: (("network_kind", *dims.get(name, ())), np.array([row[name] for row in rows]))
        for name in rows[0]
    }
    dataset = xr.Dataset(columns, {"bound": list(jrnn.Thresholds._fields)})
    for name in dims:
        dataset[name].attrs["units"] = "nats"
    return dataset.assign(kind=("network_kind", [kind] * len(rows)))


def _growths(samples):
    return (samples.table[name].to_numpy(float) for name in ("growth", "peak"))


def _best(samples):
    growth, peak = _growths(samples)
    return forecasting.best_thresholds(growth, peak, samples.learned)


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the thresholds of all networks and of each kind, beside those that the library uses."""
    title = "growth and peak between which networks learn, nats [95 % over shapes]"
    table = Table(
        title=title,
        caption="right: balanced accuracy, of these thresholds and of the library's",
        box=None,
        pad_edge=False,
    )
    for column in ("networks", "learned", "growth above", "peak below", "right", "library's"):
        side = "left" if column == "networks" else "right"
        table.add_column(column, justify=side, no_wrap=True)
    for place in range(dataset.sizes["network_kind"]):
        at = dataset.isel(network_kind=place)
        table.add_row(
            str(at["name"].item()),
            f"{int(at['num_learned'])}/{int(at['num_networks'])}",
            *(_with_interval(at.sel(bound=bound)) for bound in jrnn.Thresholds._fields),
            f"{float(at['balanced_accuracy']):.2f}",
            f"{float(at['balanced_accuracy_of_library']):.2f}",
        )
    console.print(table)
    frozen = ", ".join(f"{name} {value:+.1f}" for name, value in jrnn.THRESHOLDS._asdict().items())
    console.print(f"the library uses: {frozen} nats", highlight=False)


def _with_interval(at):
    low, high = at["threshold_interval"].to_numpy()
    return f"{float(at['threshold']):+.1f} [{low:+.1f}, {high:+.1f}]"

"""Phase diagrams: predicted gradient regime and training success over recurrent gain and horizon.

Networks of each cell are drawn over gains, horizons and seeds, predicted from their Jacobians,
trained on delayed recall with each learning rate, and laid out in one labelled dataset.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.protocol import Protocol
from experiments.runner.experiment import Axis, Count, Networks, Positive, Range
from jacobian_rnn.cells import layout_of

PILOT_UPDATES = 4
NETWORK = ("cell", "horizon", "gain", "seed")
KEPT = ("log_growth_of_output", "peak_of_output", "log_growth_error", "regime", "borderline",
        "exponent", "standard_error")  # fmt: skip
Cell = Literal["SimpleCell", "GRUCell", "LSTMCell"]


@dataclasses.dataclass(frozen=True)
class PhaseDiagram(Protocol):
    """Which networks are drawn, and how they are predicted and trained.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        gains: lowest and highest recurrent gain; recurrent kernels are the gain times orthogonal
            matrices.
        num_gains: how many, evenly in the logarithm.
        horizons: steps over which the symbol of delayed recall has to be remembered.
        chunk_size: networks that a device computes and saves at a time; chosen by measurement when
            a sweep begins if it is not given. It decides rounding, so it is kept with the result.
    """

    cells: Axis[Cell] = ("SimpleCell", "GRUCell", "LSTMCell")
    gains: Range = (0.5, 8.0)
    num_gains: Count = 16
    horizons: Axis[Count] = (5, 8, 13, 20, 32, 50, 80, 128)
    num_seeds: Count = 6
    learning_rates: Axis[Positive] = (0.01,)
    width: Count = 16
    num_updates: Count = 400
    batch_size: Count = 16
    held_out_size: Count = 128
    chunk_size: Count | None = None


PRESETS = {
    "quick": PhaseDiagram(
        cells=("SimpleCell",),
        num_gains=3,
        horizons=(5, 20),
        num_seeds=1,
        learning_rates=(0.01,),
        width=8,
        num_updates=40,
        batch_size=8,
        held_out_size=32,
        num_sequences=3,
        chunk_size=3,
    ),
    "default": PhaseDiagram(chunk_size=48),
    "full": PhaseDiagram(
        gains=(0.3, 20.0),
        num_gains=24,
        horizons=(10, 20, 40, 80, 160, 320, 640),
        num_seeds=5,
        learning_rates=(0.001, 0.003, 0.01),
        width=64,
        num_updates=3000,
        batch_size=32,
        held_out_size=256,
        num_sequences=16,
    ),
}


def gains_of(config: PhaseDiagram) -> np.ndarray:
    """Return the recurrent gains, ascending."""
    return np.geomspace(*config.gains, config.num_gains)


class Unit(NamedTuple):
    """Networks of one shape: of one cell, over one horizon."""

    cell: str
    horizon: str


def units(config: PhaseDiagram) -> list[Unit]:
    """List the shapes, the longest first: what comes later cannot need more memory."""
    horizons = sorted(config.horizons, reverse=True)
    return [Unit(cell, str(horizon)) for horizon in horizons for cell in reversed(config.cells)]


def networks(config: PhaseDiagram, unit: Unit) -> Networks:
    """Return the networks of a shape, seed by seed for each gain."""
    task = protocol.recall(int(unit.horizon), config.dtype)

    def draw(row):
        return drawing.draw(
            unit.cell,
            config.width,
            row["gain"],
            task.input_size,
            dtype=jnp.dtype(config.dtype),
            key=protocol.key_of(protocol.DRAWING, row["seed"]),
        )

    def program(row):
        """Draw one network, predict its regime, and train it with every learning rate."""
        network = draw(row)
        predicted = protocol.predict(config, task, network, row["seed"])
        history = protocol.train(config, task, network, row["seed"])
        return {name: getattr(predicted, name) for name in KEPT} | protocol.best_of(history)

    def pilot(row):
        """Draw one network and train it for a few updates."""
        shorter = dataclasses.replace(config, num_updates=PILOT_UPDATES)
        return protocol.best_of(protocol.train(shorter, task, draw(row), row["seed"]))

    gain, seed = np.meshgrid(gains_of(config), config.seeds, indexing="ij")
    rows = {"gain": gain.ravel().astype(config.dtype), "seed": seed.ravel().astype(np.int32)}
    # A step multiplies by the recurrent kernel of every gate.
    layout: Any = layout_of(drawing.CELLS[unit.cell])
    return Networks(rows, program, record, pilot, task.horizon * len(layout.gates))


def record(numbers: dict[str, np.ndarray]) -> xr.Dataset:
    """Name the axes of what was computed of many networks."""
    numbers["log_growth"] = numbers.pop("log_growth_of_output")
    numbers["peak"] = numbers.pop("peak_of_output")
    more = dict.fromkeys(("log_growth", "peak", "log_growth_error"), "sequence") | {
        name: "learning_rate" for name in numbers if name.endswith("_by_rate")
    }
    return xr.Dataset(
        {
            name: (("network", more[name]) if name in more else "network", values)
            for name, values in numbers.items()
        }
    )


def combine(config: PhaseDiagram, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Arrange networks by cell, horizon, gain and seed; a part that failed is NaN, or left out.

    A cell or horizon of which no part is there is left out.
    """
    every = itertools.product(config.cells, config.horizons)
    labels = [(cell, horizon) for cell, horizon in every if Unit(cell, str(horizon)) in parts]
    blocks = []
    for cell, horizon in labels:
        part = parts[Unit(cell, str(horizon))]
        index = {"gain": gains_of(config), "seed": config.seeds}
        variables = {}
        for name, variable in part.data_vars.items():
            shape = (1, 1, config.num_gains, config.num_seeds, *variable.shape[1:])
            dims = (*NETWORK, *variable.dims[1:])
            variables[name] = (dims, variable.to_numpy().reshape(shape))
        blocks.append(xr.Dataset(variables, {"cell": [cell], "horizon": [horizon], **index}))
    dataset = xr.combine_by_coords(blocks, join="outer", combine_attrs="drop")
    assert isinstance(dataset, xr.Dataset)
    kept = [cell for cell in config.cells if cell in dataset["cell"]]
    return (
        dataset.sel(cell=kept)
        .assign(threshold=("bound", list(jrnn.THRESHOLDS)))
        .assign_coords(
            bound=list(jrnn.Thresholds._fields), learning_rate=list(config.learning_rates)
        )
    )


class RankCorrelation(NamedTuple):
    """Spearman correlation of training success with −|predicted log growth|.

    Attributes:
        value: between −1 and 1; NaN if all networks learned, or none did.
        interval: `(2,)`, central 95 % over gains drawn again with replacement.
        num_networks: how many networks it is taken over.
    """

    value: float
    interval: tuple[float, float]
    num_networks: int

    def __str__(self) -> str:
        """Say it in one line."""
        low, high = self.interval
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}], {self.num_networks} networks"


def rank_correlation(
    dataset: xr.Dataset, *, at_equal_horizon: bool = False, num_resamples: int = 1000
) -> RankCorrelation:
    """Correlate success with −|median log growth|; all networks of a cell and gain are one group.

    Networks whose prediction or training is missing are left out.

    Args:
        dataset: of one cell or several.
        at_equal_horizon: whether networks are ranked among those of their horizon alone. Long
            horizons are hard to learn by themselves, and growths are large over them.
        num_resamples: of the groups, for the interval.
    """
    flat = dataset[["log_growth", "outcome"]].stack(group=("cell", "gain"), member=NETWORK[1::2])
    median = flat["log_growth"].median("sequence", skipna=True)
    magnitude = np.abs(median.transpose("group", "member").to_numpy())
    outcome = flat["outcome"].transpose("group", "member").to_numpy()
    horizon = np.broadcast_to(flat["horizon"].to_numpy(), magnitude.shape)
    there = ~np.isnan(magnitude) & ~np.isnan(outcome)
    learned = outcome == jrnn.Outcome.LEARNED

    def of(groups):
        kept = there[groups]
        told = np.stack([-magnitude[groups][kept], learned[groups][kept]])
        where = horizon[groups][kept] if at_equal_horizon else np.zeros(told.shape[1])
        ranks = np.zeros(told.shape)
        for value in np.unique(where):
            alike = where == value
            own = rankdata(told[:, alike], axis=1)
            ranks[:, alike] = own - own.mean(axis=1, keepdims=True)
        return float(np.corrcoef(*ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else np.nan

    generator = np.random.default_rng(0)
    num_groups = len(magnitude)
    drawn = [of(generator.integers(0, num_groups, num_groups)) for _ in range(num_resamples)]
    known = [value for value in drawn if not np.isnan(value)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
    every = of(np.arange(num_groups)) if there.any() else np.nan
    return RankCorrelation(every, (float(low), float(high)), int(there.sum()))


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print success over gain and horizon for each cell, and how it goes with the prediction."""
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).where(dataset["outcome"].notnull())
    rate = learned.mean("seed")
    log_growth = dataset["log_growth"].median("sequence").median("seed")
    for cell in dataset["cell"].to_numpy().tolist():
        table = Table(title=f"{cell}: fraction that learned (median log growth, nats)")
        table.add_column("gain", justify="right")
        for horizon in dataset["horizon"].to_numpy():
            table.add_column(f"{horizon} steps", justify="right")
        for gain in dataset["gain"].to_numpy():
            at = {"cell": cell, "gain": gain}
            pairs = zip(
                rate.sel(at).to_numpy().tolist(),
                log_growth.sel(at).to_numpy().tolist(),
                strict=True,
            )
            table.add_row(f"{gain:.2f}", *(f"{share:.2f} ({nats:+.0f})" for share, nats in pairs))
        console.print(table)
    console.print("Spearman correlation of training success with -|predicted log growth|:")
    equal = rank_correlation(dataset, at_equal_horizon=True)
    lines = {"all cells": rank_correlation(dataset), "all cells, at equal horizon": equal}
    for cell in dataset["cell"].to_numpy().tolist():
        lines[cell] = rank_correlation(dataset.sel(cell=[cell]))
    for name, correlation in lines.items():
        console.print(f"  {name}: {correlation}", highlight=False)

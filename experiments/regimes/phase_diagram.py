"""Phase diagrams: predicted gradient regime and training success over recurrent gain and horizon.

Networks of each cell are drawn over gains, horizons and seeds, predicted from their Jacobians,
trained on delayed recall with each learning rate, and laid out in one labelled dataset.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from annotated_types import Ge
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.runner.experiment import Axis, Count, Dtype, Networks, Positive, Range, Seed
from jacobian_rnn import tasks, training
from jacobian_rnn.cells import layout_of

PILOT_UPDATES = 4
NETWORK = ("cell", "horizon", "gain", "seed")
Cell = Literal["SimpleCell", "GRUCell", "LSTMCell"]


@dataclasses.dataclass(frozen=True)
class PhaseDiagram:
    """Which networks are drawn, and how they are predicted and trained.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        gains: lowest and highest recurrent gain; recurrent kernels are the gain times orthogonal
            matrices.
        num_gains: how many, evenly in the logarithm.
        horizons: steps over which the symbol of delayed recall has to be remembered.
        num_seeds: networks drawn for each cell, horizon and gain.
        first_seed: seeds count from here.
        learning_rates: of Adam; each network is trained with each, and the one with the best
            validation skill counts.
        clip_norm: global gradient norm to which the gradients that Adam sees are clipped.
        width: hidden units.
        num_updates: updates of each training.
        batch_size: sequences per update.
        held_out_size: sequences in validation and in test data.
        num_sequences: sequences per prediction, at least two for their spread.
        chunk_size: networks that a device computes and saves at a time; chosen by measurement when
            a sweep begins if it is not given. It decides rounding, so it is kept with the result.
        dtype: precision of networks, predictions and training.
    """

    cells: Axis[Cell] = ("SimpleCell", "GRUCell", "LSTMCell")
    gains: Range = (0.5, 8.0)
    num_gains: Count = 8
    horizons: Axis[Count] = (25, 50, 100, 200)
    num_seeds: Count = 3
    first_seed: Seed = 0
    learning_rates: Axis[Positive] = (0.003, 0.01)
    clip_norm: Positive = 1.0
    width: Count = 24
    num_updates: Count = 500
    batch_size: Count = 16
    held_out_size: Count = 128
    num_sequences: Annotated[int, Ge(2)] = 6
    chunk_size: Count | None = None
    dtype: Dtype = "float32"


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
    "default": PhaseDiagram(),
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
    """Return the networks of a shape."""
    return Shape(config, unit.cell, int(unit.horizon)).networks()


class Record(NamedTuple):
    """What an observation reads of one training."""

    loss: np.ndarray
    update_norm: np.ndarray
    test_skill: float
    baseline_loss: float


class Shape:
    """All networks of one cell on delayed recall over one horizon.

    Args:
        config: how to draw, predict and train.
        cell: its name.
        horizon: steps.
    """

    def __init__(self, config: PhaseDiagram, cell: str, horizon: int):
        """Make the task."""
        self.config, self.cell = config, cell
        self.dtype = jnp.dtype(config.dtype)
        self.task = tasks.delayed_recall(horizon, dtype=self.dtype)
        self.carry = drawing.zero_carry(cell, config.width, self.dtype)

    def networks(self) -> Networks:
        """Return the networks, seed by seed for each gain."""
        config = self.config
        gain, seed = np.meshgrid(
            gains_of(config), config.first_seed + np.arange(config.num_seeds), indexing="ij"
        )
        rows = {"gain": gain.ravel().astype(self.dtype), "seed": seed.ravel().astype(np.int32)}
        # A step multiplies by the recurrent kernel of every gate.
        layout: Any = layout_of(drawing.CELLS[self.cell])
        cost = self.task.horizon * len(layout.gates)
        return Networks(rows, self.program, self.record, self.pilot, cost)

    def program(self, row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Draw one network, predict its regime, and train it with every learning rate."""
        recurrence = self._draw(row)
        xs = self.task.sample(_key(1, row["seed"]), self.config.num_sequences).xs
        prediction = jrnn.predict_regime(
            recurrence, self.carry, xs, horizon=self.task.horizon
        )._asdict()
        kept = (
            "log_growth",
            "log_growth_error",
            "regime",
            "borderline",
            "exponent",
            "standard_error",
        )
        return {name: prediction[name] for name in kept} | self._train(
            recurrence, row["seed"], self.config.num_updates
        )

    def pilot(self, row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Draw one network and train it for a few updates."""
        return self._train(self._draw(row), row["seed"], PILOT_UPDATES)

    def record(self, numbers: dict[str, np.ndarray]) -> xr.Dataset:
        """Observe the outcome of each training, and keep all but the course of the loss."""
        loss, update_norm = numbers.pop("loss"), numbers.pop("update_norm")
        outcome = np.zeros(loss.shape[:2], np.int32)
        for index in np.ndindex(outcome.shape):
            skill = float(numbers["test_skill"][index])
            history = Record(loss[index], update_norm[index], skill, self.task.baseline_loss)
            outcome[index] = jrnn.observe_regime(history).outcome
        by_rate = {"outcome": outcome} | {
            name: numbers.pop(name)
            for name in ("validation_skill", "validation_loss", "test_skill", "final_loss")
        }
        # At equal skill the lower loss, so that a tie is not the first learning rate's.
        order = np.lexsort(
            (
                np.nan_to_num(by_rate["validation_loss"], nan=np.inf),
                -np.nan_to_num(by_rate["validation_skill"], nan=-np.inf),
            )
        )
        best = order[:, :1]
        chosen = {
            name: np.take_along_axis(by_rate[name], best, axis=1)[:, 0]
            for name in ("outcome", "validation_skill", "test_skill", "final_loss")
        }
        dims = {"log_growth": ("network", "sequence"), "log_growth_error": ("network", "sequence")}
        return xr.Dataset(
            {name: (dims.get(name, ("network",)), values) for name, values in numbers.items()}
            | {name: ("network", values) for name, values in chosen.items()}
            | {
                f"{name}_by_rate": (("network", "learning_rate"), values)
                for name, values in by_rate.items()
            }
            | {"best_rate": ("network", best[:, 0].astype(np.int32))}
        )

    def _draw(self, row):
        return drawing.draw(
            self.cell,
            self.config.width,
            row["gain"],
            self.task.input_size,
            dtype=self.dtype,
            key=_key(0, row["seed"]),
        )

    def _train(self, recurrence, seed, num_updates):
        config, task, carry = self.config, self.task, self.carry
        held_out = {
            split: task.sample_held_out(jax.random.key(2), config.held_out_size, split)
            for split in ("validation", "test")
        }

        def with_rate(rate):
            optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(rate))
            state = training.start(task, recurrence, carry, optimizer, key=_key(3, seed))
            state, updates = training.advance(
                state, carry, task, optimizer, num_updates=num_updates, batch_size=config.batch_size
            )
            validation_skill, validation_loss = training.evaluate(
                state.network, carry, task, held_out["validation"]
            )
            test_skill, test_loss = training.evaluate(state.network, carry, task, held_out["test"])
            return {
                "loss": updates.loss,
                "update_norm": updates.update_norm,
                "validation_skill": validation_skill,
                "validation_loss": validation_loss,
                "test_skill": test_skill,
                "final_loss": test_loss,
            }

        return jax.vmap(with_rate)(jnp.asarray(config.learning_rates, self.dtype))


def combine(config: PhaseDiagram, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Arrange networks by cell, horizon, gain and seed; a part that failed is NaN, or left out.

    A cell or horizon of which no part is there is left out.
    """
    seeds = config.first_seed + np.arange(config.num_seeds)
    every = itertools.product(config.cells, config.horizons)
    labels = [(cell, horizon) for cell, horizon in every if Unit(cell, str(horizon)) in parts]
    blocks = []
    for cell, horizon in labels:
        part = parts[Unit(cell, str(horizon))]
        index = {"gain": gains_of(config), "seed": seeds}
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


def rank_correlation(dataset: xr.Dataset, *, num_resamples: int = 1000) -> RankCorrelation:
    """Correlate success with −|median log growth|; all networks of a cell and gain are one group.

    Networks whose prediction or training is missing are left out.
    """
    flat = dataset[["log_growth", "outcome"]].stack(group=("cell", "gain"), member=NETWORK[1::2])
    median = flat["log_growth"].median("sequence", skipna=True)
    gain = np.abs(median.transpose("group", "member").to_numpy())
    outcome = flat["outcome"].transpose("group", "member").to_numpy()
    there = ~np.isnan(gain) & ~np.isnan(outcome)
    learned = outcome == jrnn.Outcome.LEARNED

    def of(groups):
        kept = there[groups]
        x, y = rankdata(-gain[groups][kept]), rankdata(learned[groups][kept])
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return np.nan
        return float(np.corrcoef(x, y)[0, 1])

    generator = np.random.default_rng(0)
    num_groups = len(gain)
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
            table.add_row(f"{gain:.2f}", *(f"{share:.2f} ({nats:+.1f})" for share, nats in pairs))
        console.print(table)
    console.print("Spearman correlation of training success with -|predicted log growth|:")
    console.print(f"  all cells: {rank_correlation(dataset)}", highlight=False)
    for cell in dataset["cell"].to_numpy().tolist():
        line = f"  {cell}: {rank_correlation(dataset.sel(cell=[cell]))}"
        console.print(line, highlight=False)


def _key(purpose, seed):
    return jax.random.fold_in(jax.random.key(purpose), seed)

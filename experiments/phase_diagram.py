"""Phase diagrams: predicted gradient regime and training success over recurrent gain and horizon.

Networks of each cell are drawn over gains, horizons and seeds, predicted from their Jacobians,
trained on delayed recall with each learning rate, and laid out in one labelled dataset.
"""

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

import jacobian_rnn as jrnn
from experiments import networks, results, sweep
from experiments.chunk_store import ChunkStore, SweepStoppedError
from experiments.phase_diagram_options import PRESETS, PhaseDiagram, gains_of
from jacobian_rnn import tasks, training
from jacobian_rnn.cells import layout_of

NAME = "phase_diagram"
NUMERIC_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jacobian_rnn")
COMPILER_OPTIONS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
PILOT_UPDATES = 4
NETWORK = ("cell", "horizon", "gain", "seed")


def result_path(config: PhaseDiagram) -> Path:
    """Return the result file: a preset's own, or one named by the configuration's fingerprint."""
    for preset, known in PRESETS.items():
        if dataclasses.replace(known, dtype=config.dtype) == config:
            return results.path_of(NAME, preset, config.dtype)
    return results.path_of(NAME, f"{results.CUSTOM}{results.fingerprint(config)}", config.dtype)


def run(config: PhaseDiagram, *, console: Console, root: Path | None = None) -> int:
    """Compute what is not computed yet, print it, write one file; return how many chunks failed.

    Args:
        config: what to compute.
        console: where progress and summary are shown.
        root: folder of the chunks and the result, in place of `results/phase_diagram`.

    Raises:
        SweepStoppedError: the sweep is running already, or cannot be saved.
    """
    started = time.perf_counter()
    root = root or results.directory(NAME)
    device = str(jax.devices()[0].device_kind)
    # Another release or device rounds otherwise: its chunks are of another sweep.
    versions = [f"{name} {importlib.metadata.version(name)}" for name in NUMERIC_PACKAGES]
    # And so do another processor, and other options of the compiler.
    options = [f"{name}={os.environ.get(name, '')}" for name in COMPILER_OPTIONS]
    fingerprint = results.fingerprint(config, device, platform.machine(), *versions, *options)
    store = ChunkStore(root / "chunks" / fingerprint, fingerprint, console)
    groups = [
        Shape(config, cell, horizon).group()
        # The longest first: what comes later cannot need more memory.
        for horizon in sorted(config.horizons, reverse=True)
        for cell in reversed(config.cells)
    ]
    with store.locked(jax.process_index()):
        size = sweep.planned_chunk_size(groups, store, config.chunk_size, console)
        console.print(
            f"{sum(len(g.rows['gain']) for g in groups)} networks in chunks of {size} on "
            f"{jax.device_count()} device(s) of {jax.process_count()} process(es); "
            f"chunks are kept in {store.folder}",
            highlight=False,
        )
        parts, failures = sweep.run(groups, store, chunk_size=size, console=console)
        if jax.process_index() > 0:
            return 0
        if parts:
            seconds = time.perf_counter() - started
            resolved = dataclasses.replace(config, chunk_size=size)
            dataset = results.described(
                laid_out(config, parts), resolved, device=device, seconds=seconds
            )
            dataset = dataset.assign_attrs(num_devices=jax.device_count())
            path = _write(dataset, root / result_path(config).name)
            show(dataset, console)
            console.print(
                f"{seconds:.0f} s; wrote {path}\n"
                f"draw it with `python -m paper_figures {NAME} --file {path}`",
                soft_wrap=True,
                highlight=False,
            )
    for name, error in failures.items():
        console.print(f"[red]{name} failed:[/] {error}", highlight=False, soft_wrap=True)
    if failures:
        console.print(
            f"{len(failures)} chunks failed; their cells and horizons are missing from the result, "
            "and the same command tries them again"
        )
    return len(failures)


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
        self.carry = networks.zero_carry(cell, config.width, self.dtype)

    def group(self) -> sweep.Group:
        """Return the networks as a part of a sweep, seed by seed for each gain."""
        config = self.config
        gain, seed = np.meshgrid(
            gains_of(config), config.first_seed + np.arange(config.seeds), indexing="ij"
        )
        rows = {"gain": gain.ravel().astype(self.dtype), "seed": seed.ravel().astype(np.int32)}
        name = f"{self.cell}-{self.task.horizon}"
        # A step multiplies by the recurrent kernel of every gate.
        layout: Any = layout_of(networks.CELLS[self.cell])
        cost = self.task.horizon * len(layout.gates)
        return sweep.Group(name, rows, self.program, self.record, self.pilot, cost)

    def program(self, row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Draw one network, predict its regime, and train it with every learning rate."""
        recurrence = self._draw(row)
        xs = self.task.sample(_key(1, row["seed"]), self.config.sequences).xs
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
            recurrence, row["seed"], self.config.updates
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
        return networks.draw(
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
            split: task.sample_held_out(jax.random.key(2), config.held_out, split)
            for split in ("validation", "test")
        }

        def with_rate(rate):
            optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(rate))
            state = training.start(task, recurrence, carry, optimizer, key=_key(3, seed))
            state, updates = training.advance(
                state, carry, task, optimizer, num_updates=num_updates, batch_size=config.batch
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


def laid_out(config: PhaseDiagram, parts: dict[str, xr.Dataset]) -> xr.Dataset:
    """Arrange networks by cell, horizon, gain and seed; a part that failed is NaN, or left out.

    A cell or horizon of which no part is there is left out.
    """
    seeds = config.first_seed + np.arange(config.seeds)
    labels = [
        (cell, horizon)
        for cell, horizon in itertools.product(config.cells, config.horizons)
        if f"{cell}-{horizon}" in parts
    ]
    blocks = []
    for cell, horizon in labels:
        part = parts[f"{cell}-{horizon}"]
        index = {"gain": gains_of(config), "seed": seeds}
        variables = {}
        for name, variable in part.data_vars.items():
            shape = (1, 1, config.gains[2], config.seeds, *variable.shape[1:])
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


def _write(dataset, path):
    try:
        return results.write(dataset, path)
    except OSError as error:
        msg = f"cannot write {path} ({error}): all chunks are saved; make room and run it again"
        raise SweepStoppedError(msg) from error


def _key(purpose, seed):
    return jax.random.fold_in(jax.random.key(purpose), seed)

"""Train networks over a parameter of their initialisation and the horizon of a task.

After M. Chen, J. Pennington and S. Schoenholz, "Dynamical isometry and a mean field theory of RNNs:
gating enables signal propagation in recurrent neural networks", ICML 2018, and D. Gilboa et al.,
"Dynamical isometry and a mean field theory of LSTMs and GRUs", 2019, whose maps two experiments
draw: one parameter of a cell, the column, against the horizon T. The task is delayed recall: name
the first symbol after T steps of noise. All networks of a cell and horizon are one program.

Depth scales are laid over the maps: ξ = 1/(2|λ₁|), the steps in which a squared gradient changes by
a factor e, from mean field theory with fresh weights at every step and from the measured λ₁ of the
untrained networks, which keep their weights; and, of gates, their time constant.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import depth_scales, results
from experiments.units import Report, run_units
from jacobian_rnn import tasks, training

RATES = "rates"  # the part of a cell that is not trained
NOISE_STD = 0.5  # the default of `tasks.delayed_recall`


@dataclasses.dataclass(frozen=True)
class Trainability:
    """How networks are trained and measured.

    Attributes:
        width: hidden units.
        horizons: of the task, in steps, each longer than the one before by the same factor.
        num_seeds: networks at each point; a seed has the same kernels and data in every column.
        num_updates: updates of each network.
        batch_size: sequences per update.
        learning_rate: of Adam.
        clip_norm: global gradient norm to which gradients are clipped before Adam sees them.
        held_out_size: test sequences.
        learned_above: skill above which a network counts as having learned.
        rate_steps: steps over which λ₁ is measured under the noise of the task.
        rate_warmup: steps before them.
        num_resamples: of columns and seeds, for the intervals.
        dtype: "float32" or "float64"; theory is always computed in float64.
    """

    width: int = 32
    horizons: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    num_seeds: int = 4
    num_updates: int = 500
    batch_size: int = 16
    learning_rate: float = 0.01
    clip_norm: float = 1.0
    held_out_size: int = 512
    learned_above: float = 0.5
    rate_steps: int = 6000
    rate_warmup: int = 2000
    num_resamples: int = 500
    dtype: str = "float32"


class Unit(NamedTuple):
    """What one worker does at a time: one horizon of one cell, or its rates."""

    cell: str
    part: str


class Cell(NamedTuple):
    """A kind of network, as an experiment knows it.

    Attributes:
        draw: `draw(config, column, key) -> Recurrence`.
        fresh_rate: `fresh_rate(config, networks, column) -> (rate, settled)`: λ₁ in mean field
            theory with fresh weights, for the measured variances of the column's `networks`.
        columns: `columns(config)`: the values of the parameter of its initialisation, ascending.
    """

    draw: Callable[[Any, Any, jax.Array], jrnn.Recurrence]
    fresh_rate: Callable[[Any, jrnn.Recurrence, float], tuple[float, bool]]
    columns: Callable[[Any], tuple[float, ...]]


def run_map(
    name: str,
    work: Callable,
    config: Trainability,
    cells: dict[str, Cell],
    preset: str,
    *,
    num_workers: int,
    console: Console,
    gated: bool = False,
) -> int:
    """Train and measure, compare, print and write; return the number of failed units.

    Args:
        name: of the experiment.
        work: `work(config, unit, report)`, a module-level function that calls `part`.
        config: how.
        cells: by name.
        preset: names the result file.
        num_workers: parallel processes.
        console: where progress and results are shown.
        gated: whether columns are biases of gates, which have a time constant.
    """
    started = time.perf_counter()
    # The longest first, so that the workers finish together.
    parts = [*(str(horizon) for horizon in reversed(config.horizons)), RATES]
    units = [Unit(cell, what) for what in parts for cell in reversed(cells)]
    done, failures = run_units(
        work, config, units, results.directory(name), num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    dataset = depth_scales.compared(joined(config, cells, done, gated=gated), config)
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, config, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(name, preset, config.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def part(config: Trainability, unit: Unit, cell: Cell, report: Report) -> xr.Dataset:
    """Draw the networks of a cell; train them over one horizon, or measure their rates."""
    report("drawing", 0.0)
    columns = cell.columns(config)
    networks = draw_networks(cell.draw, config, columns)
    if unit.part == RATES:
        return rates(config, networks, cell, columns, report)
    skill = trained(config, networks, recall(int(unit.part), config.dtype), report)
    return xr.Dataset({"skill": (("column", "seed"), skill)})


@partial(jax.jit, static_argnames=("draw", "config", "columns"))
def draw_networks(
    draw: Callable, config: Trainability, columns: tuple[float, ...]
) -> jrnn.Recurrence:
    """Draw a network for each column and seed, stacked along the first two axes."""

    def one(column, seed):
        return draw(config, column, _key(0, seed))

    of_seeds = jax.vmap(one, in_axes=(None, 0))
    values = jnp.asarray(columns, config.dtype)
    return jax.vmap(of_seeds, in_axes=(0, None))(values, jnp.arange(config.num_seeds))


@cache
def recall(horizon: int, dtype: str) -> tasks.Task:
    """Return delayed recall over a horizon, the same object for the same arguments."""
    return tasks.delayed_recall(horizon, dtype=jnp.dtype(dtype))


def trained(
    config: Trainability, networks: jrnn.Recurrence, task: tasks.Task, report: Report
) -> np.ndarray:
    """Train every network, and return its held-out skill `(columns, seeds)`.

    Args:
        config: how.
        networks: as drawn, `(columns, seeds)` along the first axes; carries start at zero.
        task: what to train on.
        report: is told what is being done.
    """
    report("training", 0.1)
    return np.asarray(_trained(networks, task, config))


# Start, training and test in one program, which compiles sooner than three.
@partial(jax.jit, static_argnames=("task", "config"))
def _trained(networks, task, config):
    def one(network, seed):
        carry, optimizer = jrnn.zero_carry(network), _optimizer(config)
        state = training.start(task, network, carry, optimizer, key=_key(1, seed))
        state, _ = training.advance(
            state,
            carry,
            task,
            optimizer,
            num_updates=config.num_updates,
            batch_size=config.batch_size,
        )
        return state.network

    def skill(network):
        carry = jrnn.zero_carry(network.recurrence)
        return training.evaluate(network, carry, task, held_out)[0]

    seeds = jnp.arange(config.num_seeds)
    networks = jax.vmap(jax.vmap(one), in_axes=(0, None))(networks, seeds)
    held_out = task.sample_held_out(jax.random.key(2), config.held_out_size, "test")
    # One column after another: the sequences of all networks at once would fill the memory.
    return jax.lax.map(jax.vmap(skill), networks)


def _optimizer(config):
    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, optax.adam(config.learning_rate))


def rates(
    config: Trainability,
    networks: jrnn.Recurrence,
    cell: Cell,
    columns: tuple[float, ...],
    report: Report,
) -> xr.Dataset:
    """Measure λ₁ of every untrained network, and compute it with fresh weights at every step."""
    report("measuring", 0.1)
    exponent = np.asarray(measured_rates(networks, config))
    fresh = []
    for index, column in enumerate(columns):
        report("theory", 0.5 + 0.5 * index / len(columns))
        of_column = jax.tree.map(lambda leaf, index=index: leaf[index], networks)
        fresh.append(cell.fresh_rate(config, of_column, column))
    rate, settled = (np.asarray(numbers) for numbers in zip(*fresh, strict=True))
    return xr.Dataset(
        {
            "exponent": (("column", "seed"), exponent),
            "fresh_rate": ("column", rate),
            "settled": ("column", settled),
        }
    )


@partial(jax.jit, static_argnames="config")
def measured_rates(networks: jrnn.Recurrence, config: Trainability) -> jax.Array:
    """Measure λ₁ of networks `(columns, seeds)` under the noise of the task, nats per step."""
    num_inputs = recall(1, config.dtype).input_size

    def one(network, seed):
        shape = (config.rate_warmup + config.rate_steps, num_inputs)
        xs = NOISE_STD * jax.random.normal(_key(3, seed), shape, config.dtype)
        carry = jrnn.zero_carry(network)
        return jrnn.largest_exponent(network, carry, xs, num_warmup=config.rate_warmup)

    seeds = jnp.arange(config.num_seeds)
    return jax.vmap(jax.vmap(one), in_axes=(0, None))(networks, seeds)


def joined(
    config: Trainability, cells: dict[str, Cell], parts: dict[Unit, xr.Dataset], *, gated: bool
) -> xr.Dataset:
    """Arrange the parts by cell, column, horizon and seed, with the depth scales in steps."""
    of_cells = []
    for name, cell in cells.items():
        skills = [parts[Unit(name, str(horizon))] for horizon in config.horizons]
        one = xr.concat(skills, "horizon").merge(parts[Unit(name, RATES)])
        of_cells.append(one.assign(value=("column", list(cell.columns(config)))))
    dataset = xr.concat(of_cells, "cell").transpose("cell", "column", "horizon", "seed")
    dataset = dataset.assign_coords(
        cell=list(cells), horizon=list(config.horizons), seed=np.arange(config.num_seeds)
    )
    if gated:
        # A gate that is open by f keeps f of its state in a step.
        time_constant = 1 / np.log1p(np.exp(-dataset["value"]))
        dataset = dataset.assign(time_constant=time_constant)
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print every map, and how skill goes with the depth scales."""
    for cell in dataset["cell"].to_numpy():
        one = dataset.sel(cell=cell)
        scales = one["scale"].to_numpy().tolist()
        table = Table(
            pad_edge=False,
            title=f"{cell}: mean held-out skill of {one.sizes['seed']} networks, by horizon",
            caption="Scales: in steps, " + ", ".join(depth_scales.MEANINGS[s] for s in scales),
        )
        horizons = one["horizon"].to_numpy()
        for column in ("value", *scales, *(f"T={horizon}" for horizon in horizons)):
            table.add_column(column, justify="right", no_wrap=True)
        for index in range(one.sizes["column"]):
            at = one.isel(column=index)
            table.add_row(
                f"{float(at['value']):g}",
                *(f"{float(steps):.3g}" for steps in at["depth_scale"]),
                *(f"{float(skill):.2f}" for skill in at["skill"].mean("seed")),
            )
        console.print(table)
    for line in depth_scales.lines(dataset):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _key(purpose, seed):
    return jax.random.fold_in(jax.random.key(purpose), seed)

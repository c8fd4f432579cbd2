"""Train LSTMs on the adding problem with chrono initialisation and with a forget bias of one.

After C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, figure 4:
chrono initialisation draws the biases of the forget gates so that the units' memories spread over
the length of the task, and the network leaves the loss of always answering 1, which is 1/6, earlier
than one whose gates all start with a memory of three steps. What the untrained gates do to a
gradient is measured from the step Jacobians before anything is trained.

The same seed draws the same kernels and the same data in both arms.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import results
from experiments.units import Report, run_units
from jacobian_rnn import tasks, training

NAME = "chrono_initialization"
CHRONO, BIAS_ONE = "chrono", "bias-1"
MEANINGS = {
    "loss": ("training loss of each batch, before its update", "1"),
    "gradient_norm": ("norm of the parameter gradient, before clipping", "1"),
    "test_loss": ("loss on held-out sequences after training", "1"),
    "log_growth": (
        "log growth of a gradient over a sequence before training, median of sequences",
        "nats",
    ),
    "crossing": ("updates until the smoothed loss is below the threshold, NaN if never", "1"),
    "plateau": ("mean loss over the updates of the plateau", "1"),
    "baseline": ("loss of the best constant answer", "1"),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How the networks of an arm, one for each seed, are drawn and trained.

    Attributes:
        width: hidden units.
        num_steps: length of the task, or its delay.
        num_seeds: networks of each arm.
        num_updates: updates of each network.
        batch_size: sequences per update.
        learning_rate: of Adam.
        clip_norm: global gradient norm to which gradients are clipped before Adam sees them.
        num_records: how often progress is reported; divides `num_updates`.
        num_sequences: sequences along which the growth of a gradient is measured before training.
        held_out_size: test sequences.
        window: updates over which the loss is averaged before it is compared with a threshold.
        threshold: fraction of the baseline's loss below which a network counts as having left it.
        plateau: first and last update of the stretch whose mean loss is compared with the baseline.
        dtype: "float32" or "float64".
    """

    width: int = 32
    num_steps: int = 200
    num_seeds: int = 4
    num_updates: int = 2500
    batch_size: int = 32
    learning_rate: float = 0.003
    clip_norm: float = 1.0
    num_records: int = 10
    num_sequences: int = 8
    held_out_size: int = 512
    window: int = 50
    threshold: float = 0.5
    plateau: tuple[int, int] = (100, 500)
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Chrono(Training):
    """The adding problem over `num_steps` steps; the rest is `Training`.

    Attributes:
        max_lag: T_max of the chrono initialisation, the longest memory it draws, steps.
    """

    max_lag: int = 200


PRESETS = {
    "quick": Chrono(
        width=6,
        num_steps=12,
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        num_records=1,
        num_sequences=2,
        held_out_size=32,
        window=10,
        plateau=(20, 60),
        max_lag=12,
    ),
    "default": Chrono(),
    "full": Chrono(
        width=128,
        num_steps=750,
        num_updates=10_000,
        batch_size=50,
        learning_rate=0.001,
        num_records=40,
        plateau=(200, 1000),
        max_lag=750,
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time: all networks of one initialisation."""

    arm: str


def run(config: Chrono, preset: str, *, num_workers: int, console: Console) -> int:
    """Train, compare, write one NetCDF file; return the number of failed units."""
    units = [Unit(CHRONO), Unit(BIAS_ONE)]
    return run_arms(NAME, work, config, units, preset, num_workers=num_workers, console=console)


def work(config: Chrono, unit: Unit, report: Report) -> xr.Dataset:
    """Train all networks of one initialisation."""
    task = adding(config.num_steps, config.dtype)
    return learning_curves(config, task, draw(config, unit.arm), report)


@cache
def adding(num_steps: int, dtype: str) -> tasks.Task:
    """Return the adding problem, the same object for the same arguments."""
    return tasks.adding(num_steps, dtype=jnp.dtype(dtype))


def draw(config: Chrono, arm: str) -> jrnn.Recurrence:
    """Draw an LSTM for each seed, Flax's default but for the biases of its gates."""
    cell = nn.OptimizedLSTMCell(config.width, param_dtype=jnp.dtype(config.dtype))
    networks = draw_networks(cell, 2, config.num_seeds, forget_bias=1.0)
    if arm == CHRONO:
        keys = jax.vmap(lambda seed: _key(4, seed))(jnp.arange(config.num_seeds))
        return jax.vmap(lambda one, key: jrnn.with_chrono_biases(one, config.max_lag, key=key))(
            networks, keys
        )
    return networks


# A program of its own, because compiling the initialisers takes long; once for all arms of a cell.
@partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="forget_bias")
def draw_networks(
    cell: nn.Module, num_inputs: int, num_seeds: int, *, forget_bias: float | None
) -> jrnn.Recurrence:
    """Draw a network of a kind for each seed, stacked along the first axis."""

    def of_one(seed):
        return jrnn.draw(cell, key=_key(0, seed), num_inputs=num_inputs, forget_bias=forget_bias)

    return jax.vmap(of_one)(jnp.arange(num_seeds))


def run_arms(
    name: str,
    work: Callable,
    config: Training,
    units: list,
    preset: str,
    *,
    num_workers: int,
    console: Console,
) -> int:
    """Do the units, each an arm of a comparison; print and write; return how many failed."""
    started = time.perf_counter()
    parts, failures = run_units(
        work, config, units, results.directory(name), num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    dataset = compared(xr.concat([parts[unit] for unit in units], "arm"), config)
    dataset = dataset.assign_coords(arm=["-".join(unit) for unit in units])
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, config, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(name, preset, config.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def learning_curves(
    config: Training,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    report: Report,
    *,
    measure: Callable[[training.Network], xr.Dataset] | None = None,
) -> xr.Dataset:
    """Train one network for each seed, all as one program.

    Args:
        config: how.
        task: what to train on.
        networks: as drawn, one for each seed along the first axis; carries start at zero.
        report: is told what is being done.
        measure: what else to measure of all networks, before training and at each record.

    Returns:
        Losses and gradient norms by seed and update; log growths and test losses by seed; what
        `measure` returned, with the dimension "record" in front and its updates in "record".
    """
    seeds = jnp.arange(config.num_seeds)
    report("Jacobians", 0.0)
    log_growths = np.asarray(_log_growths(networks, seeds, task, config.num_sequences))
    state = _start(networks, seeds, task, config)
    updates, measured = [], []
    for record in range(config.num_records):
        report("training", record / config.num_records)
        if measure is not None:
            measured.append(measure(state.network))
        state, recorded = _advance(state, task, config)
        updates.append(jax.tree.map(np.asarray, recorded))
    loss, gradient_norm, _ = (np.concatenate(parts, axis=1) for parts in zip(*updates, strict=True))
    test_loss = np.asarray(_test_losses(state.network, task, config.held_out_size))
    dataset = xr.Dataset(
        {
            "loss": (("seed", "update"), loss),
            "gradient_norm": (("seed", "update"), gradient_norm),
            "test_loss": ("seed", test_loss),
            "log_growth": ("seed", log_growths),
            "baseline": task.baseline_loss,
            "horizon": task.horizon,
        },
        coords={"seed": np.asarray(seeds), "update": 1 + np.arange(loss.shape[1])},
    )
    if measure is None:
        return dataset
    measured.append(measure(state.network))
    made = np.arange(config.num_records + 1) * (config.num_updates // config.num_records)
    return dataset.merge(xr.concat(measured, "record").assign_coords(record=made))


# Compiled once for all arms of a cell, if their task is the same object.


@partial(jax.jit, static_argnames=("task", "num_sequences"))
def _log_growths(networks, seeds, task, num_sequences):
    def of_one(network, seed):
        def of_sequence(xs):
            carry = jrnn.zero_carry(network)
            product = jrnn.jacobian_product(network, carry, xs, estimate_error=False)
            return product.log_rms_growth()

        return jnp.median(jax.vmap(of_sequence)(task.sample(_key(1, seed), num_sequences).xs))

    return jax.vmap(of_one)(networks, seeds)


@partial(jax.jit, static_argnames=("task", "config"))
def _start(networks, seeds, task, config):
    def of_one(network, seed):
        carry, optimizer = jrnn.zero_carry(network), _optimizer(config)
        return training.start(task, network, carry, optimizer, key=_key(2, seed))

    return jax.vmap(of_one)(networks, seeds)


@partial(jax.jit, static_argnames=("task", "config"), donate_argnums=0)
def _advance(state, task, config):
    def of_one(state):
        return training.advance(
            state,
            jrnn.zero_carry(state.network.recurrence),
            task,
            _optimizer(config),
            num_updates=config.num_updates // config.num_records,
            batch_size=config.batch_size,
        )

    return jax.vmap(of_one)(state)


@partial(jax.jit, static_argnames=("task", "held_out_size"))
def _test_losses(networks, task, held_out_size):
    held_out = task.sample_held_out(jax.random.key(3), held_out_size, "test")

    def of_one(network):
        carry = jrnn.zero_carry(network.recurrence)
        return training.evaluate(network, carry, task, held_out)[1]

    return jax.vmap(of_one)(networks)


def _optimizer(config):
    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, optax.adam(config.learning_rate))


def compared(dataset: xr.Dataset, config: Training) -> xr.Dataset:
    """Add smoothed losses, when each falls below the threshold, and the height of the plateau."""
    dataset = dataset.assign(baseline=dataset["baseline"].max(), horizon=dataset["horizon"].max())
    smoothed = dataset["loss"].rolling(update=config.window).mean()
    below = smoothed < config.threshold * dataset["baseline"]
    first, last = config.plateau
    stretch = (dataset["update"] >= first) & (dataset["update"] <= last)
    dataset = dataset.assign(
        smoothed=smoothed,
        crossing=below.idxmax("update").where(below.any("update")),
        plateau=dataset["loss"].where(stretch).mean("update"),
    )
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    dataset["smoothed"].attrs = {
        "long_name": f"training loss, mean over {config.window} updates",
        "units": "1",
    }
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print one line for each arm."""
    table = Table(
        pad_edge=False,
        title=f"{dataset.sizes['seed']} networks each, horizon {int(dataset['horizon'])} steps",
        caption=(
            "Log growth: of a gradient over a sequence before training, nats, median. Left: nets "
            "whose loss, smoothed, fell below the threshold. Updates: until then, median of these. "
            "Losses: mean ± standard error, in units of the baseline's."
        ),
    )
    for column in ("arm", "log growth", "left", "updates", "plateau", "test loss"):
        table.add_column(column, no_wrap=True)
    for arm in dataset["arm"].to_numpy():
        one = dataset.sel(arm=arm)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the median of none
            updates = float(np.nanmedian(one["crossing"]))
        table.add_row(
            str(arm),
            f"{float(one['log_growth'].median()):+.1f}",
            f"{int(one['crossing'].notnull().sum())}/{one.sizes['seed']}",
            f"{updates:.0f}",
            _relative(one["plateau"], one["baseline"]),
            _relative(one["test_loss"], one["baseline"]),
        )
    console.print(table)


def mean_and_error(values: xr.DataArray | np.ndarray) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    numbers = np.asarray(values, float)
    return float(numbers.mean()), float(numbers.std(ddof=1) / np.sqrt(numbers.size))


def _relative(values, baseline):
    mean, error = mean_and_error(values / baseline)
    return f"{mean:.3f} ± {error:.3f}"


def _key(purpose, seed):
    return jax.random.fold_in(jax.random.key(purpose), seed)

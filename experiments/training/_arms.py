"""Arms: networks drawn or treated in several ways, trained on one task, compared by their curves.

The same seed sees the same data in all arms.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from annotated_types import Ge
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.runner.experiment import Count, Dtype, Positive, Range, Report
from jacobian_rnn import tasks, training

Seeds = Annotated[int, Ge(2)]  # for their spread
# What a key is for.
NETWORK, GROWTH, TRAINING, TREATMENT = range(4)
MEANINGS = {
    "loss": ("training loss of each batch, before its update", "1"),
    "smoothed": ("training loss, mean over the window that ends here", "1"),
    "gradient_norm": ("norm of the parameter gradient, before clipping", "1"),
    "skill": ("skill on held-out sequences: 0 is the baseline, 1 is perfect", "1"),
    "test_loss": ("loss on other held-out sequences after training", "1"),
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
    """How the networks of an arm, one for each seed, are trained.

    Attributes:
        width: hidden units.
        num_steps: length of the task, or its delay.
        num_seeds: networks of each arm, at least two for their spread.
        num_updates: updates of each network.
        batch_size: sequences per update.
        learning_rate: of Adam.
        clip_norm: global gradient norm to which the gradients that Adam sees are clipped.
        num_records: how often networks are tested on held-out sequences.
        num_sequences: sequences along which Jacobians are multiplied.
        held_out_size: sequences of a test.
        window: updates over which the loss is averaged before it is compared with the threshold.
        threshold: fraction of the baseline's loss below which a network counts as having left it.
        plateau: first and last update of the stretch whose mean loss is compared with the baseline.
        dtype: precision.
    """

    width: Count = 32
    num_steps: Count = 200
    num_seeds: Seeds = 4
    num_updates: Count = 2500
    batch_size: Count = 32
    learning_rate: Positive = 0.003
    clip_norm: Positive = 1.0
    num_records: Count = 10
    num_sequences: Count = 8
    held_out_size: Count = 512
    window: Count = 50
    threshold: Positive = 0.5
    plateau: Range = (100, 500)
    dtype: Dtype = "float32"

    def __post_init__(self):
        """Refuse fields that do not fit each other."""
        for option, last in (
            ("num-records", self.num_records),
            ("window", self.window),
            ("plateau", self.plateau[1]),
        ):
            if last > self.num_updates:
                msg = f"--{option}: received {last}, expected at most {self.num_updates} updates"
                raise ValueError(msg)


def refuse_below(config: Training, **least: int) -> None:
    """Raise a ValueError for a field below the least value that the others allow it."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value < bound:
            msg = f"--{name.replace('_', '-')}: received {value}, expected at least {bound}"
            raise ValueError(msg)


class Unit(NamedTuple):
    """What a worker does at a time: all networks of one arm."""

    arm: str


# A program of its own, because compiling the initialisers takes long; once for all arms of a cell.
@partial(jax.jit, static_argnums=(0, 1, 2), static_argnames=("gain", "forget_bias"))
def draw_networks(
    cell: nn.Module,
    num_inputs: int,
    num_seeds: int,
    *,
    gain: float = 1.0,
    forget_bias: float | None = None,
) -> jrnn.Recurrence:
    """Draw a network of a kind for each seed, stacked along the first axis."""

    def of_one(key):
        return jrnn.draw(cell, key=key, num_inputs=num_inputs, gain=gain, forget_bias=forget_bias)

    return jax.vmap(of_one)(keys_of(NETWORK, num_seeds))


def keys_of(purpose: int, num_seeds: int) -> jax.Array:
    """Return a key for each seed."""
    fold = partial(jax.random.fold_in, jax.random.key(purpose))
    return jax.vmap(fold)(jnp.arange(num_seeds))


def learning_curves(
    config: Training,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    report: Report,
    *,
    penalty: training.Penalty | None = None,
) -> tuple[training.Network, xr.Dataset]:
    """Train one network for each seed, all as one program.

    Args:
        config: how.
        task: what to train on.
        networks: as drawn, one for each seed along the first axis; carries start at zero.
        report: is told what is being done.
        penalty: is added to the loss of each batch.

    Returns:
        The networks after training; their losses and gradient norms by update, skills by record,
        and what was measured before and after training.
    """
    report("multiplying Jacobians", 0.0)
    log_growth = _log_growths(networks, task, config.num_seeds, config.num_sequences)
    trained, history = training.train(
        task,
        networks,
        jrnn.zero_carry(jax.tree.map(lambda leaf: leaf[0], networks)),
        optimizer=clipped_adam(config.clip_norm, config.learning_rate),
        penalty=penalty,
        key=keys_of(TRAINING, config.num_seeds),
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        records=config.num_records,
        held_out_size=config.held_out_size,
        on_progress=lambda done, total: report("training", done / total),
    )
    of_seeds = {
        "loss": ("update", history.loss),
        "gradient_norm": ("update", history.gradient_norm),
        "skill": ("record", history.records.validation_skill),
    }
    dataset = xr.Dataset(
        {name: (("seed", dim), np.asarray(values)) for name, (dim, values) in of_seeds.items()}
        | {
            "test_loss": ("seed", np.asarray(history.test_loss)),
            "log_growth": ("seed", np.asarray(log_growth)),
            "baseline": task.baseline_loss,
            "horizon": task.horizon,
        },
        coords={
            "seed": np.arange(config.num_seeds),
            "update": 1 + np.arange(config.num_updates),
            "record": np.asarray(history.records.num_updates[0]),
        },
    )
    return trained, dataset


@partial(jax.jit, static_argnums=(1, 2, 3))
def _log_growths(networks, task, num_seeds, num_sequences):
    def of_one(network, key):
        def of_sequence(xs):
            carry = jrnn.zero_carry(network)
            product = jrnn.jacobian_product(network, carry, xs, estimate_error=False)
            return product.log_rms_growth()

        return jnp.median(jax.vmap(of_sequence)(task.sample(key, num_sequences).xs))

    return jax.vmap(of_one)(networks, keys_of(GROWTH, num_seeds))


@cache
def clipped_adam(clip_norm, learning_rate):
    """Return the optimiser, the same object for the same arguments."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate))


def combine(config: Training, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join arms, smooth losses, and say when each falls, and how high its plateau is."""
    dataset = xr.concat(parts.values(), "arm").assign_coords(arm=[unit.arm for unit in parts])
    # The same for all arms.
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
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print one line for each arm."""
    table = Table(
        pad_edge=False,
        title=f"{dataset.sizes['seed']} networks each, horizon {int(dataset['horizon'])} steps",
        caption=(
            "Growth: of a gradient over a sequence before training, log, nats, median. Left: nets "
            "whose smoothed loss fell below the threshold, and when, median. Losses: mean ± "
            "standard error, in units of the baseline's."
        ),
    )
    for column in ("arm", "growth", "left", "updates", "plateau", "test loss"):
        table.add_column(column, no_wrap=True)
    for arm in dataset["arm"].to_numpy():
        one = dataset.sel(arm=arm)
        left = one["crossing"].dropna("seed")
        losses = (mean_and_error(one[name] / one["baseline"]) for name in ("plateau", "test_loss"))
        table.add_row(
            str(arm),
            f"{float(one['log_growth'].median()):+.1f}",
            f"{left.size}/{one.sizes['seed']}",
            f"{float(left.median()):.0f}" if left.size else "never",
            *(f"{mean:.3f} ± {error:.3f}" for mean, error in losses),
        )
    console.print(table)


def mean_and_error(values: xr.DataArray | np.ndarray) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    numbers = np.asarray(values, float)
    return float(numbers.mean()), float(numbers.std(ddof=1) / np.sqrt(numbers.size))

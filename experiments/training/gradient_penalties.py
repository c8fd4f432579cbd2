"""Train networks whose gradients vanish with flossing in the loss, and with Pascanu's regulariser.

After R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
Jacobians", NeurIPS 2023, and R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training
recurrent neural networks", ICML 2013. One adds the squares of the first k Lyapunov exponents to the
loss. The other adds how far each step is from keeping the norm of the gradient. Networks start with
a recurrent gain at which gradients vanish over the horizon. Two tasks ask for memory over it: one
symbol has to be recalled after noise, or the order of two symbols among distractors.

What each term makes small is measured before and after training in every arm, on sequences that are
never trained on. The same seed draws the same network and sees the same data in all arms of a task.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen as nn
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.runner.experiment import Count, Positive, Range, Report
from experiments.training import _arms
from experiments.training._arms import Training
from jacobian_rnn import tasks, training, treatments

PLAIN, FLOSSED, KEPT = "plain", "flossing", "norm"
RECALL, ORDER = "delayed recall", "temporal order"
SEQUENCES = 6  # of keys, besides those of `_arms`
TRAINED = "_trained"  # what a variable is called after training
MEANINGS = {
    "rms_exponent": (
        "root mean square of the first k Lyapunov exponents, mean over sequences",
        "nats per step",
    ),
    "deviation": (
        "root mean square over steps of how far one is from keeping the norm of the gradient",
        "1",
    ),
}


@dataclasses.dataclass(frozen=True)
class Penalties(Training):
    """Two tasks on sequences of `num_steps` steps; the rest is `Training`.

    Attributes:
        gain: of the recurrent kernels, which are orthogonal.
        num_exponents: k, how many of the largest exponents are pushed towards zero.
        flossing_weight: of the sum of their squares in what is minimised.
        norm_weight: of Pascanu's regulariser in what is minimised.
    """

    width: Count = 16
    num_steps: Count = 25
    num_seeds: _arms.Seeds = 5
    num_updates: Count = 500
    learning_rate: Positive = 0.002
    batch_size: Count = 16
    num_records: Count = 10
    plateau: Range = (50, 100)
    held_out_size: Count = 256
    gain: Positive = 0.5
    num_exponents: Count = 4
    flossing_weight: Positive = 1.0
    norm_weight: Positive = 0.1

    def __post_init__(self):
        """Refuse fields that do not fit each other."""
        super().__post_init__()
        _arms.refuse_below(self, num_steps=10, width=self.num_exponents)


PRESETS = {
    "quick": Penalties(
        width=8,
        num_steps=10,
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        num_records=3,
        num_sequences=2,
        held_out_size=32,
        window=10,
        plateau=(20, 60),
        num_exponents=2,
    ),
    "default": Penalties(),
    "full": Penalties(
        width=64,
        num_steps=100,
        num_seeds=10,
        num_updates=5000,
        num_records=40,
        plateau=(500, 1000),
        num_exponents=16,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: all networks of one arm on one task."""

    task: str
    arm: str


def units(config: Penalties) -> list[Unit]:
    """List the arms on both tasks, those that take longer first."""
    del config
    return [Unit(task, arm) for arm in (FLOSSED, KEPT, PLAIN) for task in (RECALL, ORDER)]


def task_of(config: Penalties, name: str) -> tasks.Task:
    """Return a task on sequences of `num_steps` steps."""
    dtype = jnp.dtype(config.dtype)
    if name == RECALL:
        return tasks.delayed_recall(config.num_steps - 1, dtype=dtype)
    return tasks.temporal_order(config.num_steps, dtype=dtype)


def work(config: Penalties, unit: Unit, report: Report) -> xr.Dataset:
    """Draw all networks, and train them with the term of an arm."""
    task, carry = task_of(config, unit.task), jnp.zeros(config.width, config.dtype)
    cell = nn.SimpleCell(config.width, param_dtype=jnp.dtype(config.dtype))
    drawn = _arms.draw_networks(cell, task.input_size, config.num_seeds, gain=config.gain)
    penalty = {
        PLAIN: None,
        FLOSSED: treatments.flossing_penalty(
            carry, num_exponents=config.num_exponents, weight=config.flossing_weight
        ),
        KEPT: treatments.norm_penalty(carry, task, weight=config.norm_weight),
    }[unit.arm]
    optimizer = _arms.clipped_adam(config.clip_norm, config.learning_rate)
    keys = _arms.keys_of(_arms.TRAINING, config.num_seeds)

    # The readouts that training starts with.
    def begin(recurrence, key):
        return training.start(task, recurrence, carry, optimizer, key=key).network

    before = measure(jax.jit(jax.vmap(begin))(drawn, keys), task, config)
    trained, curves = _arms.learning_curves(config, task, drawn, report, penalty=penalty)
    after = measure(trained, task, config)
    return curves.merge(before).merge(after.rename({name: name + TRAINED for name in MEANINGS}))


def measure(networks: training.Network, task: tasks.Task, config: Penalties) -> xr.Dataset:
    """Measure what the terms make small, on held-out sequences."""
    measured = _measure(networks, task, config)
    return xr.Dataset({name: ("seed", np.asarray(values)) for name, values in measured.items()})


@partial(jax.jit, static_argnames=("task", "config"))
def _measure(networks, task, config):
    batch = task.sample_held_out(jax.random.key(SEQUENCES), config.num_sequences, "test")

    def of_one(network):
        recurrence, carry = network.recurrence, jrnn.zero_carry(network.recurrence)

        def of_sequence(xs, targets):
            squares = treatments.squared_exponents(
                recurrence, carry, xs, num_exponents=config.num_exponents
            )
            loss = training.loss_of_states(network, carry, task, targets)
            return squares, treatments.norm_deviation(recurrence, carry, xs, loss)

        squares, deviations = jax.vmap(of_sequence)(*batch)
        return {
            "rms_exponent": jnp.mean(jnp.sqrt(squares / config.num_exponents)),
            "deviation": jnp.sqrt(jnp.mean(deviations) / task.num_steps),
        }

    return jax.vmap(of_one)(networks)


def combine(config: Penalties, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all arms of a task, and the tasks."""
    joined = [
        _arms.combine(
            config,
            {_arms.Unit(arm): parts[Unit(task, arm)] for arm in (PLAIN, FLOSSED, KEPT)},
        )
        for task in (RECALL, ORDER)
    ]
    dataset = xr.concat(joined, "task").assign_coords(task=[RECALL, ORDER])
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": f"{meaning}, before training", "units": unit}
        dataset[name + TRAINED].attrs = {"long_name": f"{meaning}, after it", "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print one line for each arm of each task."""
    for task in dataset["task"].to_numpy():
        console.print(str(task))
        _arms.show(dataset.sel(task=task), console)

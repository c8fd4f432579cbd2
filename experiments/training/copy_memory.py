"""Train recurrent networks on the copying memory problem, against the loss of having no memory.

After figure 1 of M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks",
ICML 2016, and after M. Henaff, A. Szlam and Y. LeCun, "Recurrent orthogonal networks and
long-memory tasks", ICML 2016. A network that remembers nothing of the ten symbols, but knows when
to answer, has the cross entropy 10 ln 8/(T + 20); that is where LSTMs stay for long. Plain networks
with an orthogonal recurrent kernel, linear or tanh, are trained beside them.

The same seed sees the same data in all arms.
"""

import dataclasses

import jax
import jax.numpy as jnp
import xarray as xr
from flax import linen as nn

from experiments.runner.experiment import Count, Positive, Range, Report
from experiments.training import _arms
from experiments.training._arms import Training, Unit
from jacobian_rnn import tasks

LSTM, TANH, LINEAR = "LSTM", "orthogonal-tanh", "orthogonal-linear"
combine, show = _arms.combine, _arms.show


@dataclasses.dataclass(frozen=True)
class Copying(Training):
    """The copying memory problem with a delay of `num_steps` steps; the rest is `Training`."""

    width: Count = 64
    num_steps: Count = 50
    num_seeds: _arms.Seeds = 3
    num_updates: Count = 2000
    learning_rate: Positive = 0.001
    held_out_size: Count = 256
    plateau: Range = (1200, 1600)


PRESETS = {
    "quick": Copying(
        width=10,
        num_steps=4,
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        num_records=1,
        num_sequences=2,
        held_out_size=32,
        window=10,
        plateau=(20, 60),
    ),
    "default": Copying(),
    "full": Copying(
        width=128,
        num_steps=500,
        num_seeds=5,
        num_updates=20_000,
        num_records=80,
        plateau=(4000, 8000),
    ),
}


def units(config: Copying) -> list[Unit]:
    """List the kinds of networks, those that take longest first."""
    del config
    return [Unit(LSTM), Unit(TANH), Unit(LINEAR)]


def work(config: Copying, unit: Unit, report: Report) -> xr.Dataset:
    """Train all networks of one kind."""
    task = tasks.copying_memory(config.num_steps, dtype=jnp.dtype(config.dtype))
    networks = _arms.draw_networks(
        cell_of(config, unit.arm),
        task.input_size,
        config.num_seeds,
        forget_bias=1.0 if unit.arm == LSTM else None,
    )
    return _arms.learning_curves(config, task, networks, report)[1]


def cell_of(config: Copying, arm: str) -> nn.Module:
    """Return the cell of an arm; Flax's recurrent kernels are orthogonal."""
    dtype = jnp.dtype(config.dtype)
    if arm == LSTM:
        return nn.OptimizedLSTMCell(config.width, param_dtype=dtype)
    activation = jax.nn.tanh if arm == TANH else jax.nn.identity
    return nn.SimpleCell(config.width, activation_fn=activation, param_dtype=dtype)

"""Train LSTMs on the adding problem with chrono initialisation and with a forget bias of one.

After C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, figure 4:
chrono initialisation draws the biases of the forget gates so that the units' memories spread over
the length of the task, and the network leaves the loss of always answering 1, which is 1/6, earlier
than one whose gates all start with a memory of three steps. What the untrained gates do to a
gradient is measured from the step Jacobians before anything is trained.

The same seed draws the same kernels and the same data in both arms.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import xarray as xr
from annotated_types import Gt
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments.runner.experiment import Report
from experiments.training import _arms
from experiments.training._arms import Training, Unit
from jacobian_rnn import tasks

CHRONO, BIAS_ONE = "chrono", "bias-1"
combine, show = _arms.combine, _arms.show


@dataclasses.dataclass(frozen=True)
class Chrono(Training):
    """The adding problem over `num_steps` steps; the rest is `Training`.

    Attributes:
        max_lag: T_max of the chrono initialisation, the longest memory that it draws, steps.
    """

    max_lag: Annotated[int, Gt(2)] = 200


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


def units(config: Chrono) -> list[Unit]:
    """List the two arms."""
    del config
    return [Unit(CHRONO), Unit(BIAS_ONE)]


def work(config: Chrono, unit: Unit, report: Report) -> xr.Dataset:
    """Train all networks of one initialisation."""
    task = tasks.adding(config.num_steps, dtype=jnp.dtype(config.dtype))
    return _arms.learning_curves(config, task, draw(config, unit.arm), report)[1]


def draw(config: Chrono, arm: str) -> jrnn.Recurrence:
    """Draw an LSTM for each seed, Flax's default but for the biases of its gates."""
    cell = nn.OptimizedLSTMCell(config.width, param_dtype=jnp.dtype(config.dtype))
    networks = _arms.draw_networks(cell, 2, config.num_seeds, forget_bias=1.0)
    if arm == BIAS_ONE:
        return networks

    def with_chrono(network, key):
        return jrnn.with_chrono_biases(network, config.max_lag, key=key)

    return jax.vmap(with_chrono)(networks, _arms.keys_of(_arms.TREATMENT, config.num_seeds))

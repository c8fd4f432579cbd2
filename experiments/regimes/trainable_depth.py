"""Ask how long a task plain and minimal networks can be trained on, and lay depth scales over it.

After M. Chen, J. Pennington and S. Schoenholz, "Dynamical isometry and a mean field theory of RNNs:
gating enables signal propagation in recurrent neural networks", ICML 2018: a tanh network over the
standard deviation of its recurrent weights, which passes criticality, and a minimalRNN over the
mean of its gate's bias. Recurrent kernels are Gaussian; what theory needs of them, and of what the
inputs add, is measured from the networks drawn.
"""

import dataclasses
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr
from flax import linen as nn
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.trainability import (
    NOISE_STD,
    Cell,
    Trainability,
    Unit,
    part,
    recall,
    run_map,
)
from experiments.units import Report
from jacobian_rnn import mean_field
from jacobian_rnn.initialization.initializers import gaussian

NAME = "trainable_depth"
PLAIN, MINIMAL = "SimpleCell", "minimalRNN"


@dataclasses.dataclass(frozen=True)
class Depth(Trainability):
    """The columns of both maps; the rest is `Trainability`.

    Attributes:
        weight_stds: σ_w of the plain network.
        bias_means: of the minimalRNN's gate; all units have the same bias.
        minimal_weight_std: σ_w of the minimalRNN.
    """

    weight_stds: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5)
    bias_means: tuple[float, ...] = (-4.0, -2.5, -1.0, 0.5, 2.0, 3.5, 5.0, 6.5, 8.0)
    minimal_weight_std: float = 1.0


PRESETS = {
    "quick": Depth(
        width=8,
        horizons=(4,),
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        held_out_size=64,
        rate_steps=100,
        rate_warmup=50,
        num_resamples=20,
        weight_stds=(0.25, 1.5),
        bias_means=(-4.0, 2.0),
    ),
    "default": Depth(),
    "full": Depth(
        width=128,
        horizons=(5, 10, 20, 40, 80, 160, 320, 640),
        num_seeds=8,
        num_updates=2000,
        batch_size=32,
        rate_steps=20_000,
        rate_warmup=10_000,
        num_resamples=2000,
        weight_stds=tuple(round(0.4 + 0.15 * i, 2) for i in range(15)),
        bias_means=tuple(-4.0 + i for i in range(15)),
    ),
}


def run(config: Depth, preset: str, *, num_workers: int, console: Console) -> int:
    """Train, measure, compare, write one NetCDF file; return the number of failed units."""
    # Each takes long to compile.
    cells = {MINIMAL: CELLS[MINIMAL]} if preset == "quick" else CELLS
    return run_map(NAME, work, config, cells, preset, num_workers=num_workers, console=console)


def work(config: Depth, unit: Unit, report: Report) -> xr.Dataset:
    """Do one horizon of one cell, or its rates."""
    return part(config, unit, CELLS[unit.cell], report)


def draw_plain(config: Depth, std: jax.Array, key: jax.Array) -> jrnn.Recurrence:
    """Draw a tanh network with recurrent entries N(0, σ_w²/N); the rest is Flax's default."""
    cell = nn.SimpleCell(
        config.width, recurrent_kernel_init=gaussian(1.0), param_dtype=jnp.dtype(config.dtype)
    )
    return jrnn.draw(cell, key=key, num_inputs=recall(1, config.dtype).input_size, gain=std)


def draw_minimal(config: Depth, bias: jax.Array, key: jax.Array) -> jrnn.Recurrence:
    """Draw a minimalRNN with recurrent entries N(0, σ_w²/N) and one bias for all its gates."""
    num_inputs, dtype = recall(1, config.dtype).input_size, jnp.dtype(config.dtype)
    network_key, kernel_key = jax.random.split(key)
    network = jrnn.minimal_rnn(num_inputs, config.width, key=network_key, dtype=dtype)
    kernel = gaussian(config.minimal_weight_std)(kernel_key, (config.width, config.width), dtype)
    recurrent = network.params["recurrent"] | {"kernel": kernel}
    network = dataclasses.replace(network, params=network.params | {"recurrent": recurrent})
    return jrnn.with_gate_bias(network, "forget", bias)


def plain_rate(config: Depth, networks: jrnn.Recurrence, std: float) -> tuple[float, bool]:
    """Return λ₁ in theory of the plain network; fresh and kept weights are the same to it."""
    del config, std
    with jax.enable_x64(True):
        units: Any = mean_field.units_of(networks, input_std=NOISE_STD)
        theory = mean_field.order_parameters(units.unit.weight_std, input_std=units.unit.input_std)
        return float(theory.rate), True


def minimal_rate(config: Depth, networks: jrnn.Recurrence, bias: float) -> tuple[float, bool]:
    """Return λ₁ in theory of the minimalRNN with fresh weights at every step."""
    del config, bias
    with jax.enable_x64(True):
        units: Any = mean_field.units_of(networks, input_std=NOISE_STD)
        theory = mean_field.fresh_growth(units)
        return float(theory.rate), bool(theory.settled)


CELLS = {
    PLAIN: Cell(draw_plain, plain_rate, attrgetter("weight_stds")),
    MINIMAL: Cell(draw_minimal, minimal_rate, attrgetter("bias_means")),
}

"""Ask how long a task GRUs and LSTMs can be trained on, by the bias of the gate that keeps state.

After D. Gilboa et al., "Dynamical isometry and a mean field theory of LSTMs and GRUs", 2019, whose
theory draws fresh weights at every step; R. Jozefowicz, W. Zaremba and I. Sutskever, "An empirical
exploration of recurrent network architectures", ICML 2015, who start forget gates at a bias of 1;
and C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, for whom a
gate's time constant has to reach the horizon. All three give a number of steps for each bias, and
so does the measured λ₁ of the networks, which keep their weights.
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

NAME = "gate_bias_map"
GRU, LSTM = "GRUCell", "LSTMCell"


@dataclasses.dataclass(frozen=True)
class GateBias(Trainability):
    """The columns of both maps; the rest is `Trainability`.

    Attributes:
        biases: of the gate that keeps the state (GRU: update, LSTM: forget); all others are zero.
        gain: σ_w of the recurrent kernels of all gates.
        theory_steps: of an LSTM's population in theory, for each bias; it settles in some e^bias.
    """

    biases: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    gain: float = 1.0
    theory_steps: tuple[int, ...] = (400,) * 5 + (1600,) * 2


PRESETS = {
    "quick": GateBias(
        width=8,
        horizons=(4,),
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        held_out_size=64,
        rate_steps=100,
        rate_warmup=50,
        num_resamples=20,
        biases=(0.0, 1.0),
        theory_steps=(80, 80),
    ),
    "default": GateBias(),
    "full": GateBias(
        width=128,
        horizons=(5, 10, 20, 40, 80, 160, 320, 640),
        num_seeds=8,
        num_updates=2000,
        batch_size=32,
        rate_steps=20_000,
        rate_warmup=10_000,
        num_resamples=2000,
        biases=tuple(i / 2 for i in range(15)),
        theory_steps=(400,) * 9 + (1600,) * 3 + (4000,) * 3,
    ),
}


def run(config: GateBias, preset: str, *, num_workers: int, console: Console) -> int:
    """Train, measure, compare, write one NetCDF file; return the number of failed units."""
    # Each takes long to compile.
    cells = {LSTM: CELLS[LSTM]} if preset == "quick" else CELLS
    return run_map(
        NAME,
        work,
        config,
        cells,
        preset,
        num_workers=num_workers,
        console=console,
        gated=True,
    )


def work(config: GateBias, unit: Unit, report: Report) -> xr.Dataset:
    """Do one horizon of one cell, or its rates."""
    return part(config, unit, CELLS[unit.cell], report)


def draw_gru(config: GateBias, bias: jax.Array, key: jax.Array) -> jrnn.Recurrence:
    """Draw a GRU whose recurrent kernels are Gaussian; the rest is Flax's default."""
    return _draw(nn.GRUCell, config, bias, key)


def draw_lstm(config: GateBias, bias: jax.Array, key: jax.Array) -> jrnn.Recurrence:
    """Draw an LSTM whose recurrent kernels are Gaussian; the rest is Flax's default."""
    return _draw(nn.OptimizedLSTMCell, config, bias, key)


def _draw(kind, config, bias, key):
    cell = kind(
        config.width,
        recurrent_kernel_init=gaussian(config.gain),
        param_dtype=jnp.dtype(config.dtype),
    )
    num_inputs = recall(1, config.dtype).input_size
    return jrnn.draw(cell, key=key, num_inputs=num_inputs, forget_bias=bias)


def gru_rate(config: GateBias, networks: jrnn.Recurrence, bias: float) -> tuple[float, bool]:
    """Return λ₁ in theory of the GRU with fresh weights at every step."""
    del config, bias
    with jax.enable_x64(True):
        units: Any = mean_field.units_of(networks, input_std=NOISE_STD)
        theory = mean_field.fresh_growth(units)
        return float(theory.rate), bool(theory.settled)


def lstm_rate(config: GateBias, networks: jrnn.Recurrence, bias: float) -> tuple[float, bool]:
    """Return λ₁ in theory of the LSTM with fresh weights at every step."""
    with jax.enable_x64(True):
        units: Any = mean_field.units_of(networks, input_std=NOISE_STD)
        num_steps = config.theory_steps[config.biases.index(bias)]
        theory = mean_field.fresh_growth(units, num_steps=num_steps)
        return float(theory.rate), bool(theory.settled)


CELLS = {
    GRU: Cell(draw_gru, gru_rate, attrgetter("biases")),
    LSTM: Cell(draw_lstm, lstm_rate, attrgetter("biases")),
}

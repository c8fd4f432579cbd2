"""Ask three theories whether gradients in random GRUs and LSTMs grow, and measure the answer.

Flax's cells with independent Gaussian recurrent kernels, under white Gaussian input. Theory with
the same weights at every step, with fresh weights at every step (as in the literature), and with
the same weights and gates that stand still, beside the measured λ₁. A theory is wrong at a point if
its sign is not that of a measurement whose interval excludes zero.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from pydantic import FiniteFloat
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

import jacobian_rnn as jrnn
from experiments import drawing, gaussian_cells
from experiments.arrangement import arrange, label
from experiments.gaussian_cells import Cell
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn.mean_field.fresh_weights import fresh_growth
from jacobian_rnn.mean_field.kept_weights import frozen_growth, kept_growth

LEVEL = 0.95
THEORIES = {
    "kept": "same weights",
    "fresh": "fresh weights",
    "frozen": "gates stand still",
}
POINT = ("cell", "bias", "gain")


@dataclasses.dataclass(frozen=True)
class Growth:
    """What is measured and computed.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        gains: recurrent entries of each gate have standard deviation gain/√N.
        biases: of the gate that keeps the state (LSTM: forget, GRU: update); all other biases are
            zero.
        input_std: standard deviation of what the input adds to each gate's pre-activations.
        width: hidden units N, and as many channels of white input.
        num_networks: drawn afresh at each point.
        num_steps: measured steps.
        num_warmup: steps before them.
        theory_units: size of the populations of the theory with the same weights, at least four
            for each of their steps.
        theory_populations: number of these populations.
        theory_steps: their steps, for each bias; the first half of them settles.
        seed: of all draws.
        dtype: precision of the networks; theory is always computed in float64.
    """

    cells: Axis[Cell] = ("GRUCell", "LSTMCell")
    gains: Axis[Positive] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    biases: Axis[FiniteFloat] = (0.0, 1.0, 3.0)
    input_std: Positive = 0.3**0.5
    width: Count = 128
    num_networks: Annotated[int, Ge(2)] = 16
    num_steps: Count = 2000
    num_warmup: Count = 500
    theory_units: Count = 1600
    theory_populations: Annotated[int, Ge(2)] = 4
    theory_steps: tuple[Annotated[int, Ge(8)], ...] = (160, 200, 400)
    seed: Seed = 0
    dtype: Dtype = "float32"

    def __post_init__(self):
        """Check that every bias has its steps of theory, and populations are large enough."""
        if len(self.theory_steps) != len(self.biases):
            expected = f"one number for each of the {len(self.biases)} biases"
            msg = f"--theory-steps: received {self.theory_steps}, expected {expected}"
            raise ValueError(msg)
        if self.theory_units < 4 * max(self.theory_steps):
            expected = f"four for each of the {max(self.theory_steps)} steps of theory"
            msg = f"--theory-units: received {self.theory_units}, expected {expected}"
            raise ValueError(msg)


PRESETS = {
    "quick": Growth(
        gains=(0.5, 4.0),
        biases=(0.0,),
        width=24,
        num_networks=6,
        num_steps=400,
        num_warmup=100,
        theory_units=200,
        theory_populations=2,
        theory_steps=(40,),
    ),
    "default": Growth(),
    "full": Growth(
        gains=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0),
        biases=(0.0, 1.0, 2.0, 3.0),
        width=512,
        num_networks=32,
        num_steps=10_000,
        num_warmup=1000,
        theory_units=4000,
        theory_populations=8,
        theory_steps=(240, 300, 500, 800),
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: all gains of one cell and bias."""

    cell: str
    bias: str


class Prediction(NamedTuple):
    """λ₁ of three theories at one point, nats per step."""

    rates: np.ndarray  # in the order of THEORIES
    standard_errors: np.ndarray
    settled: bool  # of the theory of kept weights


def units(config: Growth) -> list[Unit]:
    """List cells and biases; the largest bias needs the longest theory, and comes first."""
    biases = sorted(config.biases, reverse=True)
    return [Unit(cell, f"{bias:g}") for bias in biases for cell in config.cells]


def work(config: Growth, unit: Unit, report: Report) -> xr.Dataset:
    """Measure the networks of one cell and bias at all gains, and compute all theories."""
    bias = float(unit.bias)
    exponents, predictions = [], []
    for number, gain in enumerate(config.gains):
        report(f"gain {gain:g}", number / len(config.gains))
        # No two points share their random numbers: their errors are independent.
        name = f"{'-'.join(unit)}-{gain:g}"
        key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
        keys = jax.random.split(key, config.num_networks)
        exponents.append(measure(config, unit.cell, gain, bias, keys))
        predictions.append(predict(config, unit.cell, gain, bias))
    exponents = np.asarray(exponents, float)
    if not np.isfinite(exponents).all():
        msg = f"{'-'.join(unit)}: λ₁ is not finite: {exponents}"
        raise ValueError(msg)
    return xr.Dataset(
        {
            "exponent": (("gain", "network"), exponents),
            "rate": (("gain", "theory"), np.stack([one.rates for one in predictions])),
            "rate_error": (
                ("gain", "theory"),
                np.stack([one.standard_errors for one in predictions]),
            ),
            "settled": ("gain", [one.settled for one in predictions]),
        },
        coords={
            "gain": list(config.gains),
            "network": np.arange(config.num_networks),
            "theory": list(THEORIES),
        },
    )


def combine(config: Growth, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all cells and biases, and score the theories."""
    dataset = arrange(parts, {"cell": str, "bias": float})
    return compared(dataset.sel(cell=list(config.cells), bias=list(config.biases)))


@partial(jax.jit, static_argnames=("config", "cell_name"))
def measure(config: Growth, cell_name: str, gain, bias, keys: jax.Array) -> jax.Array:
    """Measure λ₁ of one network for each key, each under white noise of its own."""
    width, dtype = config.width, jnp.dtype(config.dtype)

    def one(key):
        draw_key, input_key = jax.random.split(key)
        network = gaussian_cells.draw(
            cell_name, width, gain, bias, config.input_std, dtype=dtype, key=draw_key
        )
        xs = jax.random.normal(input_key, (config.num_warmup + config.num_steps, width), dtype)
        carry = drawing.zero_carry(cell_name, width, dtype)
        return jrnn.largest_exponent(network, carry, xs, num_warmup=config.num_warmup)

    return jax.vmap(one)(keys)


def predict(config: Growth, cell_name: str, gain: float, bias: float) -> Prediction:
    """Compute all theories at one point, in float64 whatever the networks have."""
    num_steps = config.theory_steps[config.biases.index(bias)]
    with jax.enable_x64(True):
        units = gaussian_cells.units_of(cell_name, gain, bias, config.input_std)
        kept_key, frozen_key = jax.random.split(jax.random.key(config.seed))
        kept = kept_growth(
            units,
            key=kept_key,
            num_units=config.theory_units,
            num_steps=num_steps,
            num_warmup=num_steps // 2,
            num_populations=config.theory_populations,
        )
        frozen = frozen_growth(units, key=frozen_key, num_units=config.width, num_steps=num_steps)
        growths = {"kept": kept, "fresh": fresh_growth(units), "frozen": frozen}
        return Prediction(
            np.array([float(growths[theory].rate) for theory in THEORIES]),
            np.array([float(growths[theory].standard_error) for theory in THEORIES]),
            bool(kept.settled),
        )


def compared(dataset: xr.Dataset) -> xr.Dataset:
    """Add means over networks with their intervals, and score the theories."""
    num_networks = dataset.sizes["network"]
    mean = dataset["exponent"].mean("network")
    error = dataset["exponent"].std("network", ddof=1) / np.sqrt(num_networks)
    half = stdtrit(num_networks - 1, (1 + LEVEL) / 2) * error
    interval = mean + half * xr.DataArray([-1, 1], dims="end")
    wrong = wrong_sign(dataset["rate"], interval)
    dataset = dataset.assign(
        mean_exponent=mean,
        standard_error=error,
        interval=interval,
        wrong=wrong,
        rms_error=np.sqrt(((dataset["rate"] - mean) ** 2).mean(("bias", "gain"))),
        num_wrong=wrong.sum(("bias", "gain")),
    )
    label(
        dataset,
        {
            "exponent": ("largest Lyapunov exponent of each network", "nats per step"),
            "mean_exponent": ("its mean over networks", "nats per step"),
            "standard_error": ("of that mean over networks", "nats per step"),
            "interval": ("95 % interval of that mean", "nats per step"),
            "rate": ("the same in theory", "nats per step"),
            "rate_error": ("standard error of the theory's own random numbers", "nats per step"),
            "settled": ("whether the populations of the theory of kept weights had settled", "1"),
            "wrong": ("theory has the other sign than an interval that excludes zero", "1"),
            "rms_error": ("root mean square of theory minus mean, over points", "nats per step"),
            "num_wrong": ("number of points of wrong sign", "1"),
        },
    )
    return dataset


def wrong_sign(rate: xr.DataArray, interval: xr.DataArray) -> xr.DataArray:
    """Say where a rate has the other sign than an interval `(..., end)` that excludes zero."""
    low, high = interval.isel(end=0), interval.isel(end=1)
    return ((low > 0) & (rate < 0)) | ((high < 0) & (rate > 0))


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print every point, and the scores of the theories."""
    table = Table(
        pad_edge=False,
        title=(
            f"λ₁ in nats per step: mean ± standard error over {dataset.sizes['network']} networks\n"
            "drawn afresh, and three theories"
        ),
        caption=(
            "!: says vanishing where the network explodes; †: says exploding where it vanishes "
            "(95 % interval over networks excludes zero). ?: not settled."
        ),
    )
    for column in ("cell", "bias", "gain", "measured", *THEORIES):
        table.add_column(column, no_wrap=True)
    for cell in dataset["cell"].to_numpy():
        for bias in dataset["bias"].to_numpy():
            for gain in dataset["gain"].to_numpy():
                one = dataset.sel(cell=cell, bias=bias, gain=gain)
                table.add_row(
                    *(str(cell).removesuffix("Cell"), f"{bias:g}", f"{gain:g}"),
                    f"{float(one['mean_exponent']):+.4f} ± {float(one['standard_error']):.4f}",
                    *(_written(one, theory) for theory in THEORIES),
                )
            table.add_section()
    console.print(table)
    for line in scores(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def scores(dataset: xr.Dataset) -> list[str]:
    """Say how far off each theory is, and how often its sign is wrong."""
    low, high = dataset["interval"].isel(end=0), dataset["interval"].isel(end=1)
    decided = (low > 0) | (high < 0)
    lines = []
    for theory, words in THEORIES.items():
        of_cells = [
            f"{cell}: rms error {float(at['rms_error']):.4f} nats per step, wrong sign at "
            f"{int(at['num_wrong'])} of {int(decided.sel(cell=cell).sum())} points"
            for cell in dataset["cell"].to_numpy()
            for at in [dataset.sel(cell=cell, theory=theory)]
        ]
        lines.append(f"{theory} ({words}). {'; '.join(of_cells)}")
    unsettled = int((~dataset["settled"].astype(bool)).sum())
    points = dataset["settled"].size
    return [
        *lines,
        f"{int(decided.sum())} of {points} intervals exclude zero; the theory of kept weights had "
        f"not settled at {unsettled} of {points} points",
    ]


def _written(one, theory):
    rate = float(one["rate"].sel(theory=theory))
    mark = ("!" if rate < 0 else "†") if bool(one["wrong"].sel(theory=theory)) else ""
    doubt = "?" if theory == "kept" and not bool(one["settled"]) else ""
    return f"{rate:+.4f}{mark}{doubt}"

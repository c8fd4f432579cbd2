"""Measure how long cells whose units see themselves alone remember as they are drawn.

Networks are drawn by the initialisations of their papers and read white Gaussian noise of unit
variance, as many channels as units. The Jacobian is a number for each unit, or a pair that turns
and shrinks. So all exponents cost as much as the steps. The memory −1/λ₁ is the number of steps
after which the gradient that lives longest has shrunk by a factor e.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

import jacobian_rnn as jrnn
from experiments.initialization import _measures as measures
from experiments.runner.experiment import Axis, Count, Dtype, Report, Seed

CELLS: dict[str, Callable[..., jrnn.Recurrence]] = {
    "minGRU": jrnn.min_gru,
    "minLSTM": jrnn.min_lstm,
    "ParaGRU": jrnn.para_gru,
    "IndRNN": jrnn.ind_rnn,
    "LRU": jrnn.lru,
    "RG-LRU": jrnn.rg_lru,
    "S5": jrnn.s5,
    "S6": jrnn.s6,
}
# The layers of cells that are gates.
GATES = {
    "minGRU": ("update",),
    "minLSTM": ("forget", "input"),
    "ParaGRU": ("update", "reset"),
    "RG-LRU": ("recurrence_gate", "input_gate"),
}
# A gate is saturated where it is this near to shut or to open.
SATURATED = 0.01
FIELDS = {
    "exponent": ("largest Lyapunov exponent of each network", "nats per step"),
    "error_over_time": ("its standard error over time", "nats per step"),
    "median_exponent": ("median over the exponents of each network", "nats per step"),
    "spread": ("largest minus smallest finite exponent of each network", "nats per step"),
    "lost": ("share of exponents that are -inf", "1"),
    "smallest_eigenvalue": ("smallest size of an eigenvalue of a step, over steps", "1"),
    "largest_eigenvalue": ("largest size of an eigenvalue of a step, over steps", "1"),
    "saturated": (f"share of gates within {SATURATED} of 0 or 1, NaN without gates", "1"),
    "memory": ("-1 / mean exponent; inf if the interval contains 0, NaN if above", "steps"),
    "memory_interval": ("the same of the ends of its 95 % interval over networks", "steps"),
}


@dataclasses.dataclass(frozen=True)
class UnitMemory:
    """What is measured.

    Attributes:
        widths: units, complex units or channels, ascending; inputs are as many.
        num_networks: networks drawn afresh per cell and width.
        num_steps: steps that count.
        num_warmup: steps before them, in which the state settles.
        seed: of all draws.
        dtype: precision.
    """

    widths: Axis[Count] = (64, 256, 1024)
    num_networks: Annotated[int, Ge(2)] = 8
    num_steps: Count = 500
    num_warmup: Count = 100
    seed: Seed = 0
    dtype: Dtype = "float32"


PRESETS = {
    "quick": UnitMemory(widths=(16,), num_networks=2, num_steps=60, num_warmup=20),
    "default": UnitMemory(),
    "full": UnitMemory(
        widths=(64, 128, 256, 512, 1024), num_networks=32, num_steps=5000, num_warmup=1000
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time: networks of one cell and width."""

    cell: str
    width: str


def units(config: UnitMemory) -> list[Unit]:
    """List cells and widths, the widest first."""
    widths = sorted(config.widths, reverse=True)
    return [Unit(cell, str(width)) for width in widths for cell in CELLS]


def work(config: UnitMemory, unit: Unit, report: Report) -> xr.Dataset:
    """Draw and measure networks of one cell and width."""
    width, dtype = int(unit.width), jnp.dtype(config.dtype)
    draw_key, input_key = jax.random.split(jax.random.key(config.seed))
    make = partial(CELLS[unit.cell], width, width, dtype=dtype)
    num_steps = config.num_warmup + config.num_steps
    each = []
    for number in range(config.num_networks):
        report("measuring", number / config.num_networks)
        network = make(key=jax.random.fold_in(draw_key, number))
        key = jax.random.fold_in(input_key, number)
        xs = jax.random.normal(key, (num_steps, width), dtype)
        measured = of_network(network, xs, unit.cell, config.num_warmup)
        each.append({name: float(value) for name, value in measured.items()})
    values = {name: np.array([one[name] for one in each]) for name in each[0]}
    memory = memory_of(values["exponent"])
    return xr.Dataset(
        {name: ("network", value) for name, value in values.items()}
        | {"memory": float(memory.value), "memory_interval": ("end", memory.interval)}
    )


@partial(jax.jit, static_argnames=("cell", "num_warmup"))
def of_network(
    network: jrnn.Recurrence, xs: Float[Array, "time inputs"], cell: str, num_warmup: int
) -> dict[str, Float[Array, ""]]:
    """Measure all exponents of one network, the eigenvalues of its steps, and its gates."""
    carry = jrnn.zero_carry(network)
    spectrum = jrnn.lyapunov_spectrum(network, carry, xs, num_warmup=num_warmup)
    exponents = spectrum.exponents
    finite = jnp.isfinite(exponents)

    def one_step(carry, x):
        unit_jacobians: Any = network.unit_jacobians
        sizes = size_of_eigenvalues(unit_jacobians(network.params, carry, x))
        gates = gates_of(cell, network.params, carry, x)
        share = jnp.mean((gates < SATURATED) | (gates > 1 - SATURATED))
        new = network.step(network.params, carry, x)
        return new, (jnp.min(sizes), jnp.max(sizes), share)

    _, (smallest, largest, saturated) = jax.lax.scan(one_step, carry, xs)
    lowest = jnp.min(jnp.where(finite, exponents, jnp.inf))
    share_saturated = jnp.mean(saturated[num_warmup:])
    return {
        "exponent": exponents[0],
        "error_over_time": spectrum.standard_errors[0],
        "median_exponent": jnp.median(exponents),
        "spread": jnp.where(jnp.any(finite), exponents[0] - lowest, jnp.nan),
        "lost": jnp.mean(~finite),
        "smallest_eigenvalue": jnp.min(smallest[num_warmup:]),
        "largest_eigenvalue": jnp.max(largest[num_warmup:]),
        "saturated": share_saturated if cell in GATES else jnp.full((), jnp.nan),
    }


def size_of_eigenvalues(blocks: Float[Array, "c c units"]) -> Float[Array, " units"]:
    """Return |J| of every unit, or the common size of the two eigenvalues of a pair that turns."""
    if blocks.shape[0] == 1:
        return jnp.abs(blocks[0, 0])
    return jnp.hypot(blocks[0, 0], blocks[1, 0])


def gates_of(cell: str, params: Any, carry: Any, x: Float[Array, " inputs"]) -> Array:
    """Return the values of all gates at a step, or none."""
    read = x @ params["embedding"]["kernel"] if "embedding" in params else x

    def gate(layer):
        kernel = layer["kernel"].reshape(read.size, -1)  # of one block
        return jax.nn.sigmoid(read @ kernel + layer["bias"] + layer.get("recurrent", 0) * carry)

    gates = [gate(params[name]) for name in GATES.get(cell, ())]
    return jnp.concatenate(gates) if gates else jnp.zeros(0, x.dtype)


def memory_of(exponents: np.ndarray) -> measures.Memory:
    """Return −1/λ₁ of the mean over networks, with its interval.

    Where λ₁ is −inf in every network the memory is 0. Where it is in some, there is no interval.
    """
    if np.isneginf(exponents).any():
        ends = np.zeros(2) if np.isneginf(exponents).all() else np.full(2, np.nan)
        return measures.Memory(np.array(0.0), ends)
    num = len(exponents)
    error = exponents.std(ddof=1) / np.sqrt(num)
    half = stdtrit(num - 1, (1 + measures.LEVEL) / 2) * error
    interval = exponents.mean() + half * np.array([-1, 1])
    return measures.memory_of(exponents.mean(), interval)


def combine(config: UnitMemory, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Arrange networks by cell and width."""
    rows = [
        xr.concat([parts[Unit(cell, str(width))] for width in config.widths], "width")
        for cell in CELLS
    ]
    dataset = xr.concat(rows, "cell").assign_coords(cell=list(CELLS), width=list(config.widths))
    for name, (meaning, unit) in FIELDS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print one line for each cell and width."""
    table = Table(
        box=None,
        pad_edge=False,
        collapse_padding=True,
        title=f"{dataset.sizes['network']} networks each, white input of unit variance",
        caption=(
            "memory: −1/λ₁ [95 % over networks]. Median and spread λ₁ − λₙ in nats per step, means "
            "over networks. |eigenvalues|: of single steps. saturated: share of gates that are."
        ),
    )
    headings = ("cell", "N", "memory (steps)", "median λ", "λ₁ − λₙ", "|eigenvalues|", "saturated")
    for column in headings:
        table.add_column(column, justify="right" if column == "N" else "left", no_wrap=True)
    for cell in dataset["cell"].to_numpy():
        for width in dataset["width"].to_numpy():
            one = dataset.sel(cell=cell, width=width)
            mean = one.mean("network")
            share = float(mean["saturated"])
            table.add_row(
                cell,
                str(width),
                described_memory(float(one["memory"]), one["memory_interval"].to_numpy()),
                f"{float(mean['median_exponent']):+.3f}",
                f"{float(mean['spread']):.3f}",
                f"{float(one['smallest_eigenvalue'].min()):.3g}–"
                f"{float(one['largest_eigenvalue'].max()):.4g}",
                "–" if np.isnan(share) else f"{100 * share:.2g} %",
            )
        table.add_section()
    console.print(table)


def described_memory(value: float, interval: np.ndarray) -> str:
    """Write a memory and its interval, steps."""
    low, high = interval
    if np.isnan(value):
        return "none: grows"
    if np.isnan(low):
        return "0 in some networks"
    if np.isinf(value):
        return f"unbounded [{low:.3g}, ∞)"
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"

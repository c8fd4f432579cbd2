"""Measure how a linear recurrence with long memory reacts to its parameter.

h' = λh + x, with inputs of unit variance and autocorrelation ρ^|t − s|. All its Jacobians are
λ < 1: no gradient explodes. Yet as the memory 1/(1 − λ) grows, the variance of dh/dλ grows like its
cube: the curse of memory (Zucchet and Orvieto 2024). With the LRU's normalisation and parameter,
√(1 − λ²) h and λ = exp(−exp ν), it does not grow where inputs are white.
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
from annotated_types import Ge, Gt, Lt
from jax import lax
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed

LABELS = {"state": "h", "sensitivity": "dh/dλ", "reparametrised": "LRU"}
QUANTITIES = tuple(LABELS)


@dataclasses.dataclass(frozen=True)
class Memories:
    """What is measured.

    Attributes:
        memories: 1/(1 − λ), steps, ascending.
        autocorrelations: ρ of the input, from 0 to below 1.
        num_sequences: independent sequences.
        num_warmup: steps before counting, in units of the longest memory.
        num_memories: steps that count, in the same unit.
        fitted_from: shortest memory that counts for slopes.
        num_curve: points of the curves of the theory.
        seed: of all draws.
        dtype: "float32" or "float64".
    """

    memories: Axis[Annotated[float, Gt(1)]] = (2, 4, 10, 30, 100, 300, 1000)
    autocorrelations: Axis[Annotated[float, Ge(0), Lt(1)]] = (0.0, 0.9, 0.99)
    num_sequences: Annotated[int, Ge(2)] = 512
    num_warmup: Count = 10
    num_memories: Count = 10
    fitted_from: Positive = 10
    num_curve: Count = 100
    seed: Seed = 0
    dtype: Dtype = "float64"


PRESETS = {
    "quick": Memories(memories=(2, 4, 10, 30, 100), num_sequences=64),
    "default": Memories(),
    "full": Memories(memories=(2, 4, 10, 30, 100, 300, 1000, 3000, 10_000), num_sequences=2048),
}


class Unit(NamedTuple):
    """What a worker does at a time: all memories under inputs of one autocorrelation."""

    autocorrelation: str


def units(config: Memories) -> list[Unit]:
    """List the autocorrelations, which take the same time."""
    return [Unit(f"{rho:g}") for rho in config.autocorrelations]


def work(config: Memories, unit: Unit, report: Report) -> xr.Dataset:
    """Simulate all memories side by side, each with its own noise."""
    report("simulating", 0.0)
    rho = float(unit.autocorrelation)
    key = jax.random.key(config.seed)
    decay = 1 - 1 / jnp.array(config.memories, config.dtype)
    longest = int(np.ceil(max(config.memories)))
    means = np.asarray(
        _means(
            decay,
            jnp.asarray(rho, config.dtype),
            jax.random.fold_in(key, zlib.crc32(unit.autocorrelation.encode())),
            config.num_sequences,
            config.num_warmup * longest,
            config.num_memories * longest,
        )
    )
    dims = ("quantity", "memory")
    return xr.Dataset(
        {
            "moment": (dims, means.mean(axis=0)),
            "standard_error": (dims, means.std(axis=0, ddof=1) / np.sqrt(config.num_sequences)),
        },
        coords={"quantity": list(QUANTITIES), "memory": list(config.memories)},
    )


def combine(config: Memories, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all autocorrelations, and lay theory beside them."""
    dataset = xr.concat([parts[unit] for unit in units(config)], "autocorrelation")
    dataset = dataset.assign_coords(autocorrelation=list(config.autocorrelations))
    dataset = dataset.transpose("quantity", "autocorrelation", "memory")
    return labelled(compared(dataset, config))


def second_moments(decay, autocorrelation) -> np.ndarray:
    """Return E h², E (dh/dλ)², and E (dh̃/dν)² for h̃ = √(1 − λ²) h and λ = exp(−exp ν).

    Args:
        decay: λ, from 0 to below 1.
        autocorrelation: ρ; broadcast against λ.

    Returns:
        The three of them, along a new first axis.
    """
    lam, rho = np.broadcast_arrays(np.asarray(decay, float), autocorrelation)
    lost, mixed = 1 - lam**2, 1 - rho * lam
    state = (1 + rho * lam) / (mixed * lost)
    sensitivity = (1 + lam**2) * (1 - (lam * rho) ** 2) + 2 * lost * lam * rho
    sensitivity = sensitivity / (lost**3 * mixed**2)
    # E h dh/dλ is half the derivative of E h²: λ/(1 − λ²)² · (1 + ρλ)/(1 − ρλ) + ...
    covariance = lam * (1 + rho * lam) / (mixed * lost**2) + rho / (mixed**2 * lost)
    normalised = lost * sensitivity - 2 * lam * covariance + lam**2 / lost * state
    return np.stack([state, sensitivity, (lam * np.log(lam)) ** 2 * normalised])


def step(params, carry, noise):
    """Advance input and state by one step."""
    decay, rho = params
    x = rho * carry["x"] + jnp.sqrt(1 - rho**2) * noise
    return {"h": decay * carry["h"] + x, "x": x}


@partial(jax.jit, static_argnames=("num_sequences", "num_warmup", "num_steps"))
def _means(decay, rho, key, num_sequences, num_warmup, num_steps):
    """Return the time averages of the three squares, `(sequences, 3, units)`."""
    num_units = decay.size
    normalisation = jnp.sqrt(1 - decay**2)

    def one_sequence(key):
        start_key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (num_warmup + num_steps, num_units), decay.dtype)
        x = jax.random.normal(start_key, (num_units,), decay.dtype)

        def states(decay):
            carry = {"h": jnp.zeros_like(x), "x": x}
            system = jrnn.Recurrence(step, (decay, rho))
            return jrnn.trajectory(system, carry, noise)[1 + num_warmup :, :num_units]

        # Units do not meet: one tangent holds the derivative of each by its own λ.
        h, sensitivity = jax.jvp(states, (decay,), (jnp.ones_like(decay),))
        scaled = normalisation * sensitivity - decay / normalisation * h
        scaled = decay * jnp.log(decay) * scaled
        return jnp.stack([jnp.mean(series**2, axis=0) for series in (h, sensitivity, scaled)])

    return lax.map(one_sequence, jax.random.split(key, num_sequences), batch_size=16)


def compared(dataset: xr.Dataset, config: Memories) -> xr.Dataset:
    """Add theory, the ratio to it, and slopes in 1 − λ."""
    rho = np.array(config.autocorrelations)[:, None]
    curve = np.geomspace(min(config.memories), max(config.memories), config.num_curve)
    dims = ("quantity", "autocorrelation")
    dataset = dataset.assign(
        theory=((*dims, "memory"), second_moments(1 - 1 / dataset["memory"].to_numpy(), rho)),
        curve=((*dims, "curve_memory"), second_moments(1 - 1 / curve, rho)),
    ).assign_coords(curve_memory=curve)
    dataset["ratio"] = dataset["moment"] / dataset["theory"]
    dataset["ratio_error"] = dataset["standard_error"] / dataset["theory"]

    fitted = dataset.sel(memory=dataset["memory"] >= config.fitted_from)
    x = -np.log(fitted["memory"])
    weight = (fitted["moment"] / fitted["standard_error"]) ** 2
    centred = x - (weight * x).sum("memory") / weight.sum("memory")
    information = (weight * centred**2).sum("memory")
    dataset["slope"] = (weight * centred * np.log(fitted["moment"])).sum("memory") / information
    dataset["slope_error"] = information**-0.5
    return dataset


def farthest(dataset: xr.Dataset) -> xr.Dataset:
    """Choose the point whose ratio to theory is farthest from one. NaN is the farthest."""
    return dataset.isel(abs(dataset["ratio"] - 1).fillna(np.inf).argmax(...))


def labelled(dataset: xr.Dataset) -> xr.Dataset:
    """Say what every variable is, and its unit."""
    for name, meaning in (
        ("moment", "mean square over time and sequences, of h, dh/dλ and d(√(1 − λ²) h)/dν"),
        ("standard_error", "of that mean, over sequences"),
        ("theory", "the same, exact"),
        ("curve", "the same at `curve_memory`"),
        ("ratio", "measured over exact"),
        ("ratio_error", "its standard error"),
        ("slope", "of log moment in log(1 − λ), weighted, memories from `fitted_from` on"),
        ("slope_error", "its standard error"),
    ):
        dataset[name].attrs = {"long_name": meaning, "units": "1"}
    for name in ("memory", "curve_memory"):
        dataset[name].attrs = {"long_name": "memory 1/(1 − λ)", "units": "steps"}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the distance from theory and the slopes."""
    table = Table(
        pad_edge=False,
        title="h' = λh + x: mean squares against theory",
        caption=(
            f"at a memory of {float(dataset['memory'][-1]):g} steps; ratio: to theory, where it is "
            "farthest from one; slope: in log(1 − λ); LRU: d(√(1 − λ²) h)/dν with λ = exp(−exp ν)"
        ),
    )
    for column in ("", "ρ", "measured", "theory", "ratio", "slope"):
        table.add_column(column, no_wrap=True)
    for quantity in QUANTITIES:
        for rho in dataset["autocorrelation"].to_numpy():
            one = dataset.sel(quantity=quantity, autocorrelation=rho)
            last, worst = one.isel(memory=-1), farthest(one)
            table.add_row(
                LABELS[quantity],
                f"{rho:g}",
                f"{float(last['moment']):.3g} ± {float(last['standard_error']):.1g}",
                f"{float(last['theory']):.3g}",
                f"{float(worst['ratio']):.3f} ± {float(worst['ratio_error']):.3f}",
                f"{float(one['slope']):+.3f} ± {float(one['slope_error']):.3f}",
            )
        table.add_section()
    console.print(table)

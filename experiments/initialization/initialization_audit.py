"""Audit default initialisations: how far do gradients travel before the first training step?

For every default scheme of Flax, PyTorch and Keras, freshly drawn networks are measured: the scale
and the orthogonality of each gate's recurrent kernel, and the largest Lyapunov exponent λ₁ under
white Gaussian input of unit variance, as many inputs as hidden units. The memory −1/λ₁ is the
number of steps after which a gradient has shrunk by a factor e.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

import jacobian_rnn as jrnn
from experiments.initialization import _measures as measures
from experiments.initialization import _schemes as schemes
from experiments.runner.experiment import Axis, Count, Dtype, Report, Seed


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is measured.

    Attributes:
        widths: hidden units, ascending; inputs are as many.
        num_networks: networks drawn afresh per scheme and width.
        num_steps: steps that count.
        num_warmup: steps before them, in which state and tangent vector settle.
        qr_every: steps between normalisations of the tangent vector.
        longer: how many times as many steps the run has that checks the horizon.
        seed: of all draws.
        dtype: precision.
    """

    widths: Axis[Count] = (32, 64, 128)
    num_networks: Annotated[int, Ge(2)] = 8
    num_steps: Count = 2000
    num_warmup: Count = 500
    qr_every: Count = 5
    longer: Count = 4
    seed: Seed = 0
    dtype: Dtype = "float32"


PRESETS = {
    "quick": Audit(widths=(16,), num_networks=3, num_steps=400, num_warmup=100),
    "default": Audit(),
    "full": Audit(
        widths=(32, 64, 128, 256, 512), num_networks=32, num_steps=20_000, num_warmup=2000
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time: networks of one scheme and width."""

    library: str
    cell: str
    width: str


def units(config: Audit) -> list[Unit]:
    """List schemes and widths, the widest first."""
    return [
        Unit(*scheme, str(width))
        for width in sorted(config.widths, reverse=True)
        for scheme in schemes.SCHEMES
    ]


def work(config: Audit, unit: Unit, report: Report) -> xr.Dataset:
    """Draw and measure networks of one scheme and width."""
    width, dtype = int(unit.width), jnp.dtype(config.dtype)
    # All schemes use the same seeds, so that they are compared under the same inputs.
    draw_key, input_key = jax.random.split(jax.random.key(config.seed))
    report("drawing", 0.0)
    # One after another: compiling all initialisers together takes longer than running them.
    drawn = [
        schemes.draw(schemes.Scheme(*unit[:2]), width, width, dtype=dtype, key=key)
        for key in jax.random.split(draw_key, config.num_networks)
    ]
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    report("measuring", 0.1)
    spectra, longer = measures.exponents(
        networks,
        jrnn.zero_carry(drawn[0]),
        jax.random.split(input_key, config.num_networks),
        num_inputs=width,
        num_steps=config.num_steps,
        num_warmup=config.num_warmup,
        qr_every=config.qr_every,
        longer=config.longer,
    )
    kernels = measures.of_kernels(jrnn.recurrent_kernels(networks))
    return kernels.merge(measures.of_exponents(spectra, np.asarray(longer)))


def combine(config: Audit, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Arrange networks by scheme and width."""
    rows = [
        xr.concat(
            [parts[Unit(*scheme, str(width))] for width in config.widths], "width", data_vars="all"
        )
        for scheme in schemes.SCHEMES
    ]
    dataset = xr.concat(rows, "scheme", data_vars="all").assign_coords(
        width=list(config.widths),
        scheme=[" ".join(scheme) for scheme in schemes.SCHEMES],
        library=("scheme", [scheme.library for scheme in schemes.SCHEMES]),
        cell=("scheme", [scheme.cell for scheme in schemes.SCHEMES]),
    )
    for name, (meaning, unit) in (measures.KERNEL | measures.EXPONENT).items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print kernels and exponents, one line for each scheme and width, and the checks."""
    kernels = Table(
        pad_edge=False,
        title="recurrent kernels: mean over networks, of the smallest and the largest gate",
        caption=(
            "N var: width times variance of the entries. ≠ orth.: ‖WWᵀ − c‖ / (c √N), 0 for a "
            "multiple of an orthogonal matrix, 1 for independent entries."
        ),
    )
    memories = Table(
        pad_edge=False,
        title=(
            f"λ₁ in nats per step, {dataset.sizes['network']} networks each, under white input of\n"
            "unit variance, as many channels as hidden units"
        ),
        caption=(
            "λ₁: mean ± standard error over networks. ± time: standard error over time of one "
            "network. Memory: −1/λ₁ [95 % over networks]."
        ),
    )
    for column in ("scheme", "N", "N var", "≠ orth.", "radius", "largest σ"):
        kernels.add_column(column, justify="right" if column == "N" else "left", no_wrap=True)
    for column in ("scheme", "N", "λ₁", "± time", "memory (steps)"):
        memories.add_column(column, justify="right" if column == "N" else "left", no_wrap=True)
    for scheme in dataset["scheme"].to_numpy():
        for width in dataset["width"].to_numpy():
            one = dataset.sel(scheme=scheme, width=width)
            columns = ("scaled_variance", "nonorthogonality", "spectral_radius")
            kernels.add_row(
                scheme,
                str(width),
                *(_range(one[name]) for name in (*columns, "largest_singular_value")),
            )
            memories.add_row(
                scheme,
                str(width),
                f"{float(one['mean_exponent']):+.4f} ± {float(one['error_over_networks']):.4f}",
                f"{float(one['typical_error_over_time']):.4f}",
                described_memory(float(one["memory"]), one["memory_interval"].to_numpy()),
            )
        for table in (kernels, memories):
            table.add_section()
    console.print(kernels)
    console.print(memories)
    for line in checks(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def checks(dataset: xr.Dataset) -> list[str]:
    """Say whether λ₁ depends on the horizon, and which errors over time are not to be trusted."""
    change = dataset["change"].to_numpy().ravel()
    error = dataset["error_of_change"].to_numpy().ravel()
    largest = np.abs(change).argmax()
    outside = np.abs(change) > stdtrit(dataset.sizes["network"] - 1, 0.975) * error
    short = int((~dataset["long_enough"].astype(bool)).sum())
    drifting = int((abs(dataset["drift"]) > 4).sum())
    return [
        "horizon: a longer run, with fresh inputs and another routine, changes λ₁ by "
        f"{change.mean():+.5f} on average and {change[largest]:+.4f} ± {error[largest]:.4f} at "
        f"most; {outside.sum()} of {change.size} changes exclude 0 at 95 %",
        f"{short} of {dataset['drift'].size} networks have too few uncorrelated batches for their "
        f"error over time; {drifting} drift from half to half by more than 4 standard errors",
    ]


def described_memory(value: float, interval: np.ndarray) -> str:
    """Write a memory and its interval, steps."""
    if np.isnan(value):
        return "none: grows"
    low, high = interval
    return (
        f"unbounded [{low:.3g}, ∞)" if np.isinf(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
    )


def _range(values):
    means = values.mean("network").dropna("gate")
    low, high = f"{float(means.min()):.2f}", f"{float(means.max()):.2f}"
    return low if low == high else f"{low}–{high}"

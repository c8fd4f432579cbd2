"""Audit default initialisations: how far do gradients travel before the first training step?

For every default scheme of Flax, PyTorch and Keras, freshly drawn networks are measured: the scale
and the orthogonality of each gate's recurrent kernel, and the largest Lyapunov exponent λ₁ under
white Gaussian input of unit variance, as many inputs as hidden units. The memory −1/λ₁ is the
number of steps after which a gradient has shrunk by a factor e.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

import jacobian_rnn as jrnn
from experiments import initialization_measures as measures
from experiments import initialization_schemes as schemes
from experiments import results
from experiments.initialization_schemes import Scheme
from experiments.units import run_units

NAME = "initialization_audit"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is measured.

    Attributes:
        widths: hidden units, ascending; inputs are as many.
        num_networks: networks drawn afresh per scheme and width, at least 2.
        num_steps: steps that count.
        num_warmup: steps before them, in which state and tangent vector settle.
        qr_every: steps between normalisations of the tangent vector.
        longer: how many times as many steps the run has that checks the horizon.
        seed: of all draws.
        dtype: "float32" or "float64".
    """

    widths: tuple[int, ...] = (32, 64, 128)
    num_networks: int = 8
    num_steps: int = 2000
    num_warmup: int = 500
    qr_every: int = 5
    longer: int = 4
    seed: int = 0
    dtype: str = "float32"


PRESETS = {
    "quick": Audit(widths=(16,), num_networks=3, num_steps=400, num_warmup=100),
    "default": Audit(),
    "full": Audit(
        widths=(32, 64, 128, 256, 512), num_networks=32, num_steps=20_000, num_warmup=2000
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time: a Flax cell, and all schemes that share its equations."""

    library: str
    cell: str


def run(audit: Audit, preset: str, *, num_workers: int, console: Console) -> int:
    """Run the audit, print it, write one NetCDF file; return the number of failed units."""
    started = time.perf_counter()
    units = [Unit(*scheme) for scheme in schemes.FLAX_SCHEMES]
    # Those with more schemes first, so that the workers finish together.
    units.sort(key=lambda unit: -len(schemes.with_equations_of(Scheme(*unit))))
    folder = results.directory(NAME)
    parts, failures = run_units(
        work, audit, units, folder, num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    dataset = xr.concat([parts[unit] for unit in units], "scheme", data_vars="all")
    dataset = dataset.sel(scheme=[" ".join(scheme) for scheme in schemes.SCHEMES])
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, audit, device=device, seconds=seconds)
    for name, (meaning, unit) in (measures.KERNEL | measures.EXPONENT).items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    path = results.write(dataset, results.path_of(NAME, preset, audit.dtype))
    show(dataset, audit, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(audit: Audit, unit: Unit, report: Callable[[str, float], None]) -> xr.Dataset:
    """Measure all networks of one Flax cell, and of the schemes that share its equations."""
    of_unit = schemes.with_equations_of(Scheme(*unit))
    total = len(of_unit) * len(audit.widths)
    rows: list[xr.Dataset] = []
    for scheme in of_unit:
        row = []
        for width in audit.widths:
            done = len(rows) * len(audit.widths) + len(row)
            report(f"{scheme.library} {scheme.cell}, {width}", done / total)
            row.append(measure(audit, scheme, width).expand_dims(width=[width]))
        rows.append(
            xr.concat(row, "width", data_vars="all")
            .expand_dims(scheme=[" ".join(scheme)])
            .assign_coords(
                library=("scheme", [scheme.library]),
                cell=("scheme", [scheme.cell]),
            )
        )
    return xr.concat(rows, "scheme", data_vars="all")


def measure(audit: Audit, scheme: Scheme, width: int) -> xr.Dataset:
    """Draw and measure networks of one scheme and width."""
    dtype = jnp.dtype(audit.dtype)
    # All schemes use the same seeds, so that they are compared under the same inputs.
    draw_key, short_key, long_key = jax.random.split(jax.random.key(audit.seed), 3)
    # One after another: compiling all initialisers together takes longer than running them.
    drawn = [
        schemes.draw(scheme, width, width, dtype=dtype, key=key)
        for key in jax.random.split(draw_key, audit.num_networks)
    ]
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    carry = jrnn.zero_carry(drawn[0])
    spectra = measures.exponents(
        networks,
        carry,
        jax.random.split(short_key, audit.num_networks),
        num_inputs=width,
        num_steps=audit.num_steps,
        num_warmup=audit.num_warmup,
        qr_every=audit.qr_every,
    )
    longer = measures.longer_exponents(
        networks,
        carry,
        jax.random.split(long_key, audit.num_networks),
        num_inputs=width,
        num_steps=audit.longer * audit.num_steps,
        num_warmup=audit.num_warmup,
    )
    kernels = measures.of_kernels(schemes.recurrent_matrices(networks))
    return kernels.merge(measures.of_exponents(spectra, np.asarray(longer)))


def show(dataset: xr.Dataset, audit: Audit, console: Console) -> None:
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
            f"λ₁ in nats per step, {audit.num_networks} networks each, under white input of\n"
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
        for width in audit.widths:
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
    for line in checks(dataset, audit):
        console.print(line, highlight=False, soft_wrap=True)


def checks(dataset: xr.Dataset, audit: Audit) -> list[str]:
    """Say whether λ₁ depends on the horizon, and which errors over time are not to be trusted."""
    change = dataset["change"].to_numpy().ravel()
    error = dataset["error_of_change"].to_numpy().ravel()
    largest = np.abs(change).argmax()
    outside = np.abs(change) > stdtrit(audit.num_networks - 1, (1 + measures.LEVEL) / 2) * error
    short = int((~dataset["long_enough"].astype(bool)).sum())
    drifting = int((abs(dataset["drift"]) > 4).sum())
    return [
        f"horizon: {audit.longer} times as many steps, fresh inputs and another routine change λ₁ "
        f"by {change.mean():+.5f} on average and {change[largest]:+.4f} ± {error[largest]:.4f} at "
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

"""Lay mean-field theory over measured Lyapunov spectra of tanh networks.

h' = tanh(W h + ξ), W Gaussian or orthogonal, ξ absent or white Gaussian noise. Every exponent is
measured for networks drawn afresh at several widths; theory is that of infinite width. How the
error of λ₁ shrinks is told by its slope against 1/N.
"""

import dataclasses
import itertools
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import results
from experiments.units import run_units
from jacobian_rnn.mean_field.singular_values import SpectrumSummary, full_spectrum, spectrum_summary
from jacobian_rnn.mean_field.vanilla import order_parameters

NAME = "full_spectrum"
QUANTITIES = SpectrumSummary._fields
LABELS = dict(zip(QUANTITIES, ("λ₁", "fraction > 0", "entropy/N", "D_KY/N", "mean λ"), strict=True))
CASE = ("kernel", "drive", "gain")
# The largest difference between measurement and theory that is asked for, at one width.
TARGET_WIDTH = 256
TARGETS = {"largest": 0.02, "fraction_positive": 0.01, "dimension": 0.015}


@dataclasses.dataclass(frozen=True)
class Spectra:
    """What is measured.

    Attributes:
        gains: σ_w, ascending; entries of W have variance σ_w²/N.
        kernels: "gaussian", "orthogonal".
        drives: "autonomous", "driven".
        input_std: standard deviation of the noise of driven networks, fresh at every step.
        widths: N, ascending.
        num_networks: networks drawn afresh at each width, at least 2.
        num_steps: steps that count.
        num_warmup: steps before them, in which state and frame settle.
        num_fractions: points of the theory's curve λ(p).
        seed: of all draws.
        dtype: "float32" or "float64".
    """

    gains: tuple[float, ...] = (2.0, 3.0, 5.0)
    kernels: tuple[str, ...] = ("gaussian", "orthogonal")
    drives: tuple[str, ...] = ("autonomous", "driven")
    input_std: float = 0.5
    widths: tuple[int, ...] = (64, 128, 256)
    num_networks: tuple[int, ...] = (12, 8, 8)
    num_steps: int = 1000
    num_warmup: int = 200
    num_fractions: int = 200
    seed: int = 0
    dtype: str = "float64"

    def input_std_of(self, drive: str) -> float:
        """Return the standard deviation of the noise."""
        return self.input_std if drive == "driven" else 0.0


PRESETS = {
    "quick": Spectra(
        gains=(3.0,),
        kernels=("gaussian",),
        widths=(12, 24),
        num_networks=(4, 2),
        num_steps=200,
        num_warmup=50,
    ),
    "default": Spectra(),
    "full": Spectra(
        gains=(1.5, 2.0, 3.0, 5.0),
        widths=(64, 128, 256, 512, 1024),
        num_networks=(48, 24, 12, 6, 3),
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time: all networks of one kind and width."""

    kernel: str
    drive: str
    gain: str
    width: str


def run(config: Spectra, preset: str, *, num_workers: int, console: Console) -> int:
    """Measure, compare, write one NetCDF file; return the number of failed units."""
    started = time.perf_counter()
    # The widest first, so that the workers finish together.
    units = [
        Unit(kernel, drive, f"{gain:g}", str(width))
        for width in reversed(config.widths)
        for kernel in config.kernels
        for drive in config.drives
        for gain in config.gains
    ]
    parts, failures = run_units(
        work, config, units, results.directory(NAME), num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    with precision(config):
        dataset = compared(joined(parts, config), config)
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, config, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, config.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(config: Spectra, unit: Unit, report: Callable[[str, float], None]) -> xr.Dataset:
    """Measure the spectra of all networks of one kind and width."""
    width = int(unit.width)
    num_networks = config.num_networks[config.widths.index(width)]
    # No two kinds share their random numbers: their errors are independent.
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32("-".join(unit).encode()))
    spectra = []
    for network, network_key in enumerate(jax.random.split(key, num_networks)):
        report(f"network {network + 1} of {num_networks}", network / num_networks)
        with precision(config):
            spectra.append(jax.device_get(measure(config, unit, network_key)))
    exponents = np.stack([spectrum.exponents for spectrum in spectra])
    if np.isnan(exponents).any():
        msg = f"{'-'.join(unit)}: {np.isnan(exponents).sum()} exponents are not numbers"
        raise ValueError(msg)
    with precision(config):
        measured = np.array([summary_of(of_network) for of_network in exponents])
    return xr.Dataset(
        {
            "exponents": (("network", "index"), exponents),
            "measured": (("network", "quantity"), measured),
            "error_over_time": ("network", [s.standard_errors[0] for s in spectra]),
            "sum_rule_residual": ("network", [s.sum_rule_residual for s in spectra]),
        },
        coords={
            "network": np.arange(num_networks),
            "index": np.arange(width),
            "quantity": list(QUANTITIES),
        },
    )


def precision(config: Spectra):
    """Return a context in which JAX computes in the precision of the configuration."""
    return jax.enable_x64(config.dtype == "float64")


def measure(config: Spectra, unit: Unit, key: jax.Array) -> jrnn.LyapunovSpectrum:
    """Draw one network, and measure all its exponents."""
    width, dtype = int(unit.width), jnp.dtype(config.dtype)
    weights_key, state_key, noise_key = jax.random.split(key, 3)
    num_steps = config.num_warmup + config.num_steps
    # Autonomous networks get noise of size zero: one compiled program serves all kinds.
    noise = jax.random.normal(noise_key, (num_steps, width), dtype)
    return jrnn.lyapunov_spectrum(
        jrnn.Recurrence(step, float(unit.gain) * kernel_of(unit.kernel, width, dtype, weights_key)),
        jnp.tanh(jax.random.normal(state_key, (width,), dtype)),
        config.input_std_of(unit.drive) * noise,
        num_warmup=config.num_warmup,
        qr_every=1,
    )


def step(weights, h, noise):
    """Advance activations: slopes scale rows of J, and elimination keeps rows of all sizes.

    With pre-activations as the state slopes scale columns, which W mixes. Over many steps exponents
    are the same, but with slopes of 1e-11 elimination keeps five digits of the growth of volume.
    Either way slopes are 1 − h², which of 1e-11 has five digits itself: sums agree with log|det J|
    to more only where both are compiled to round h alike, as the default preset's are.
    """
    return jnp.tanh(weights @ h + noise)


def kernel_of(kind: str, width: int, dtype, key: jax.Array) -> jax.Array:
    """Draw W for a gain of one."""
    if kind == "orthogonal":
        return jax.random.orthogonal(key, width, dtype=dtype)
    return jax.random.normal(key, (width, width), dtype) / np.sqrt(width).astype(dtype)


def summary_of(exponents: np.ndarray) -> SpectrumSummary:
    """Summarise a spectrum of N exponents, each number per unit."""
    spectrum = jnp.asarray(exponents)
    width = spectrum.size
    return SpectrumSummary(
        largest=spectrum[0],
        fraction_positive=jnp.mean(spectrum > 0, dtype=spectrum.dtype),
        entropy_rate=jrnn.entropy_rate(spectrum) / width,
        dimension=jrnn.kaplan_yorke_dimension(spectrum) / width,
        mean=jnp.mean(spectrum),
    )


def joined(parts: dict[Unit, xr.Dataset], config: Spectra) -> xr.Dataset:
    """Join all units; NaN where a width has fewer networks or exponents than another."""
    size = {"network": range(max(config.num_networks)), "index": range(max(config.widths))}
    dataset = xr.concat([part.reindex(size) for part in parts.values()], "unit", data_vars="all")
    units = list(parts)
    dataset = dataset.assign_coords(
        kernel=("unit", [unit.kernel for unit in units]),
        drive=("unit", [unit.drive for unit in units]),
        gain=("unit", [float(unit.gain) for unit in units]),
        width=("unit", [int(unit.width) for unit in units]),
    )
    dataset = dataset.set_index(unit=[*CASE, "width"]).unstack("unit")
    return dataset.transpose(*CASE, "width", "network", "index", "quantity").sel(
        kernel=list(config.kernels), drive=list(config.drives)
    )


def compared(dataset: xr.Dataset, config: Spectra) -> xr.Dataset:
    """Add means over networks, theory, and the slope of the error of λ₁ against 1/N."""
    measured = dataset["measured"]
    num_networks = measured.notnull().sum("network")
    theory = theory_of(config)
    error = measured.sel(quantity="largest", drop=True) - theory["theory"].sel(
        quantity="largest", drop=True
    )
    # An error a/N, and a spread between networks that shrinks as fast: each network estimates a.
    slopes = (error * dataset["width"]).stack(any=("width", "network"))
    dataset = dataset.merge(theory).assign(
        average=measured.mean("network"),
        # None for means over exponents of which some are lost.
        standard_error=measured.where(np.isfinite(measured)).std("network", ddof=1)
        / np.sqrt(num_networks),
        slope=slopes.mean("any"),
        slope_error=slopes.std("any", ddof=1) / np.sqrt(slopes.notnull().sum("any")),
    )
    dataset["fraction"] = (dataset["index"] + 0.5) / dataset["width"]
    for name, meaning, unit in (
        ("exponents", "all Lyapunov exponents of each network, descending", "nats per step"),
        ("fraction", "fraction p of the spectrum at which an exponent stands", "1"),
        ("measured", "summary of each network's spectrum, per unit", "nats per step, or 1"),
        ("average", "its mean over networks", "nats per step, or 1"),
        ("standard_error", "of that mean over networks", "nats per step, or 1"),
        ("theory", "the same at infinite width", "nats per step, or 1"),
        ("curve", "exponent of the theory at `curve_fraction`", "nats per step"),
        ("error_over_time", "standard error of λ₁ over time", "nats per step"),
        ("sum_rule_residual", "mean |growth of volume - log|det J||", "nats per step"),
        ("slope", "mean over all networks of N (λ₁ - theory)", "nats per step"),
        ("slope_error", "its standard error over networks", "nats per step"),
        (
            "theory_slope",
            "the same in theory, for weights drawn afresh at every step",
            "nats per step",
        ),
    ):
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def theory_of(config: Spectra) -> xr.Dataset:
    """Compute summary, curve and width coefficient of every kind of network."""
    shape = tuple(len(values) for values in (config.kernels, config.drives, config.gains))
    fractions = (np.arange(config.num_fractions) + 0.5) / config.num_fractions
    theory = np.zeros((*shape, len(QUANTITIES)))
    curve = np.zeros((*shape, len(fractions)))
    theory_slope = np.zeros(shape)
    for case in np.ndindex(shape):
        gain, input_std = config.gains[case[2]], config.input_std_of(config.drives[case[1]])
        orthogonal = config.kernels[case[0]] == "orthogonal"
        options = {"input_std": input_std, "orthogonal": orthogonal}
        theory[case] = spectrum_summary(gain, **options)
        curve[case] = full_spectrum(gain, jnp.asarray(fractions), **options)
        coefficient = order_parameters(gain, input_std=input_std).width_coefficient
        # An orthogonal W keeps lengths: what the length of a Gaussian product costs falls away.
        theory_slope[case] = -(coefficient - (0.5 if orthogonal else 0))
    return xr.Dataset(
        {
            "theory": ((*CASE, "quantity"), theory),
            "curve": ((*CASE, "curve_fraction"), curve),
            "theory_slope": (CASE, theory_slope),
        },
        coords={
            "kernel": list(config.kernels),
            "drive": list(config.drives),
            "gain": list(config.gains),
            "quantity": list(QUANTITIES),
            "curve_fraction": fractions,
        },
    )


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print measurement beside theory, the error of λ₁ by width, and the checks."""
    summaries = Table(
        pad_edge=False,
        title=f"width {int(dataset['width'][-1])}: mean ± standard error over networks",
        caption="per unit of the network; rates in nats per step",
    )
    for column in ("network", "", "measured", "theory", "difference"):
        summaries.add_column(column, no_wrap=True)
    errors = Table(
        pad_edge=False,
        title="λ₁ minus theory (nats per step), by width",
        caption=(
            "slope: mean over all networks of N (λ₁ − theory), the coefficient of 1/N; "
            "fresh: the same in theory, for weights drawn afresh at every step"
        ),
    )
    for column in ("network", "N", "λ₁ − theory"):
        errors.add_column(column, no_wrap=True)
    for kernel, drive, gain in cases(dataset):
        one = dataset.sel(kernel=kernel, drive=drive, gain=gain)
        name = (kernel, drive, f"g = {gain:g}")
        for line, (quantity, label) in itertools.zip_longest(name, LABELS.items(), fillvalue=""):
            at = one.isel(width=-1).sel(quantity=quantity)
            known = np.isfinite(float(at["average"]))
            summaries.add_row(
                line,
                label,
                _with_error(at["average"], at["standard_error"]) if known else "lost to rounding",
                f"{float(at['theory']):+.4f}",
                f"{float(at['average'] - at['theory']):+.4f}" if known else "",
            )
        summaries.add_section()
        largest = one.sel(quantity="largest")
        rows = [
            (str(width), _with_error(at["average"] - at["theory"], at["standard_error"]))
            for width in dataset["width"].to_numpy()
            for at in [largest.sel(width=width)]
        ]
        rows.append(("slope", _with_error(one["slope"], one["slope_error"], 2)))
        rows.append(("fresh", f"{float(one['theory_slope']):+.2f}"))
        for line, row in itertools.zip_longest(name, rows, fillvalue=""):
            errors.add_row(line, *row)
        errors.add_section()
    console.print(summaries)
    console.print(errors)
    for line in checks(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def checks(dataset: xr.Dataset) -> list[str]:
    """Say which targets are met, and how well the sum rule holds."""
    lines = []
    if TARGET_WIDTH in dataset["width"]:
        at = dataset.sel(width=TARGET_WIDTH)
        for quantity, target in TARGETS.items():
            difference = abs(at["average"] - at["theory"]).sel(quantity=quantity)
            missed = [
                f"{kernel}, {drive}, g = {gain:g} ({value:.4f})"
                for kernel, drive, gain in cases(dataset)
                if not (value := float(difference.sel(kernel=kernel, drive=drive, gain=gain)))
                <= target
            ]
            verdict = f"FAIL: {'; '.join(missed)}" if missed else "pass"
            lines.append(
                f"N = {TARGET_WIDTH}, |{LABELS[quantity]} − theory| ≤ {target:g}: "
                f"{difference.size - len(missed)} of {difference.size}, largest "
                f"{float(difference.max()):.4f}, {verdict}"
            )
    else:
        lines.append(f"targets are for N = {TARGET_WIDTH}, which was not measured")
    for gain in dataset["gain"].to_numpy():
        one = dataset.sel(gain=gain)
        worst = float(one["sum_rule_residual"].max())
        lost = (one["exponents"] == -np.inf).sum("index")
        lines.append(
            f"g = {gain:g}: largest sum rule residual {worst:.0e} nats per step"
            if not lost.any()
            else f"g = {gain:g}: up to {int(lost.max())} exponents of a network are lost, because "
            "saturated slopes round to exactly zero; they count as −inf, and no sum rule holds"
        )
    return lines


def cases(dataset: xr.Dataset) -> list[tuple[str, str, float]]:
    """List the kinds of networks: kernel, drive, gain."""
    return [
        (str(kernel), str(drive), float(gain))
        for kernel in dataset["kernel"].to_numpy()
        for drive in dataset["drive"].to_numpy()
        for gain in dataset["gain"].to_numpy()
    ]


def _with_error(value, error, digits=4):
    return f"{float(value):+.{digits}f} ± {float(error):.{digits}f}"

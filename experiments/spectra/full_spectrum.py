"""Lay mean-field theory over measured Lyapunov spectra of tanh networks.

h' = tanh(W h + ξ), W Gaussian or orthogonal, ξ absent or white Gaussian noise. Every exponent is
measured for networks drawn afresh at several widths; theory is that of infinite width. How the
error of λ₁ shrinks is told by its slope against 1/N.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import arrange, label
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn.cells.slopes import tanh_slope
from jacobian_rnn.mean_field.singular_values import SpectrumSummary, full_spectrum, spectrum_summary
from jacobian_rnn.mean_field.vanilla import order_parameters

QUANTITIES = SpectrumSummary._fields
LABELS = dict(zip(QUANTITIES, ("λ₁", "fraction > 0", "entropy/N", "D_KY/N", "mean λ"), strict=True))
CASE = ("kernel", "drive", "gain")
# The largest difference between measurement and theory that is asked for, at one width.
TARGET_WIDTH = 256
TARGETS = {"largest": 0.02, "fraction_positive": 0.01, "dimension": 0.015}


Kernel = Literal["gaussian", "orthogonal"]
Drive = Literal["autonomous", "driven"]


@dataclasses.dataclass(frozen=True)
class Spectra:
    """What is measured.

    Attributes:
        gains: σ_w; entries of W have variance σ_w²/N.
        kernels: W is Gaussian, or σ_w times an orthogonal matrix.
        drives: without input, or driven by noise.
        input_std: standard deviation of the noise of driven networks, fresh at every step.
        widths: N, ascending.
        num_networks: drawn afresh, for each width.
        num_steps: steps that count.
        num_warmup: steps before them, in which state and frame settle.
        num_fractions: points of the theory's curve λ(p).
        seed: of all draws.
        dtype: precision.
    """

    gains: Axis[Positive] = (2.0, 3.0, 5.0)
    kernels: Axis[Kernel] = ("gaussian", "orthogonal")
    drives: Axis[Drive] = ("autonomous", "driven")
    input_std: Positive = 0.5
    widths: Axis[Count] = (64, 128, 256)
    num_networks: tuple[Annotated[int, Ge(2)], ...] = (12, 8, 8)
    num_steps: Count = 1000
    num_warmup: Count = 200
    num_fractions: Count = 200
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Check that widths ascend, and that each has its number of networks."""
        if list(self.widths) != sorted(self.widths):
            msg = f"--widths: received {self.widths}, expected ascending ones"
            raise ValueError(msg)
        if len(self.num_networks) != len(self.widths):
            expected = f"one number for each of the {len(self.widths)} widths"
            msg = f"--num-networks: received {self.num_networks}, expected {expected}"
            raise ValueError(msg)

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
    """What a worker does at a time: all networks of one kind and width."""

    kernel: str
    drive: str
    gain: str
    width: str


def units(config: Spectra) -> list[Unit]:
    """List kinds and widths, the widest first."""
    return [
        Unit(kernel, drive, f"{gain:g}", str(width))
        for width in reversed(config.widths)
        for kernel in config.kernels
        for drive in config.drives
        for gain in config.gains
    ]


def work(config: Spectra, unit: Unit, report: Report) -> xr.Dataset:
    """Measure the spectra of all networks of one kind and width."""
    width = int(unit.width)
    num_networks = config.num_networks[config.widths.index(width)]
    # No two kinds share their random numbers: their errors are independent.
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32("-".join(unit).encode()))
    spectra = []
    for network, network_key in enumerate(jax.random.split(key, num_networks)):
        report(f"network {network + 1} of {num_networks}", network / num_networks)
        spectra.append(jax.device_get(measure(config, unit, network_key)))
    exponents = np.stack([spectrum.exponents for spectrum in spectra])
    if not np.isfinite(exponents).all():
        msg = f"{(~np.isfinite(exponents)).sum()} exponents are not finite"
        raise ValueError(msg)
    return xr.Dataset(
        {
            "exponents": (("network", "index"), exponents),
            "measured": (("network", "quantity"), [summary_of(one) for one in exponents]),
            "error_over_time": ("network", [one.standard_errors[0] for one in spectra]),
            "sum_rule_residual": ("network", [one.sum_rule_residual for one in spectra]),
        },
        coords={
            "network": np.arange(num_networks),
            "index": np.arange(width),
            "quantity": list(QUANTITIES),
        },
    )


def combine(config: Spectra, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all units; NaN where a width has fewer networks or exponents than another."""
    dataset = arrange(parts, {"kernel": str, "drive": str, "gain": float, "width": int})
    order = {"kernel": config.kernels, "drive": config.drives, "gain": config.gains}
    return compared(dataset.sel({name: list(values) for name, values in order.items()}), config)


def measure(config: Spectra, unit: Unit, key: jax.Array) -> jrnn.LyapunovSpectrum:
    """Draw one network, and measure all its exponents."""
    width, dtype = int(unit.width), jnp.dtype(config.dtype)
    weights_key, state_key, noise_key = jax.random.split(key, 3)
    num_steps = config.num_warmup + config.num_steps
    # Autonomous networks get noise of size zero: one compiled program serves all kinds.
    noise = jax.random.normal(noise_key, (num_steps, width), dtype)
    return jrnn.lyapunov_spectrum(
        jrnn.Recurrence(
            step, float(unit.gain) * kernel_of(unit.kernel, width, dtype, weights_key), jacobian
        ),
        jnp.tanh(jax.random.normal(state_key, (width,), dtype)),
        config.input_std_of(unit.drive) * noise,
        num_warmup=config.num_warmup,
        qr_every=1,
    )


def step(weights, h, noise):
    """Advance activations: slopes scale rows of J, and elimination keeps rows of all sizes.

    With pre-activations as the state slopes scale columns, which W mixes. Over many steps exponents
    are the same, but with slopes of 1e-11 elimination keeps five digits of the growth of volume.
    """
    return jnp.tanh(weights @ h + noise)


def jacobian(weights, h, noise):
    """Return the Jacobian of a step, with all digits of the slopes of saturated units."""
    return tanh_slope(weights @ h + noise)[:, None] * weights


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
        standard_error=measured.std("network", ddof=1) / np.sqrt(num_networks),
        slope=slopes.mean("any"),
        slope_error=slopes.std("any", ddof=1) / np.sqrt(slopes.notnull().sum("any")),
    )
    dataset["fraction"] = (dataset["index"] + 0.5) / dataset["width"]
    label(
        dataset,
        {
            "exponents": ("all Lyapunov exponents of each network, descending", "nats per step"),
            "fraction": ("fraction p of the spectrum at which an exponent stands", "1"),
            "measured": ("summary of each network's spectrum, per unit", "nats per step, or 1"),
            "average": ("its mean over networks", "nats per step, or 1"),
            "standard_error": ("of that mean over networks", "nats per step, or 1"),
            "theory": ("the same at infinite width", "nats per step, or 1"),
            "curve": ("exponent of the theory at `curve_fraction`", "nats per step"),
            "error_over_time": ("standard error of λ₁ over time", "nats per step"),
            "sum_rule_residual": ("mean |growth of volume - log|det J||", "nats per step"),
            "slope": ("mean over all networks of N (λ₁ - theory)", "nats per step"),
            "slope_error": ("its standard error over networks", "nats per step"),
            "theory_slope": (
                "the same in theory, for weights drawn afresh at every step",
                "nats per step",
            ),
        },
    )
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
        for line, (quantity, words) in itertools.zip_longest(name, LABELS.items(), fillvalue=""):
            at = one.isel(width=-1).sel(quantity=quantity)
            summaries.add_row(
                line,
                words,
                _with_error(at["average"], at["standard_error"]),
                f"{float(at['theory']):+.4f}",
                f"{float(at['average'] - at['theory']):+.4f}",
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
    worst = float(dataset["sum_rule_residual"].max())
    lines.append(f"largest sum rule residual {worst:.0e} nats per step")
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

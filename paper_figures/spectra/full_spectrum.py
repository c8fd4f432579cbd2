"""Whole Lyapunov spectra of tanh networks, theory and measurement, and the error of λ₁."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

import jacobian_rnn as jrnn
from experiments.spectra.full_spectrum import LABELS, TARGET_WIDTH, TARGETS
from jacobian_rnn import plotting
from paper_figures import style
from paper_figures.claims import Claim

# One of each for each gain.
STYLES = tuple(zip(style.COLOURS[:4], style.MARKERS, strict=False))
NUM_POINTS = 16  # of each measured spectrum that are drawn
SUM_RULE_TOLERANCE = 1e-8
UNITS = {"largest": "nats per step", "fraction_positive": "of 1", "dimension": "of 1"}
ZOOM = 0.25  # fraction of the spectrum that the insets show, and depth in nats per step
TITLES = {
    "gaussian": "Gaussian W",
    "orthogonal": "orthogonal W",
    "autonomous": "no input",
    "driven": "white input",
}
FACES = {"no input": "0.2", "white input (right)": "white"}
CAPTION = (
    "Networks per kind: {networks}; {num_steps} steps. Left: width {widest}, insets: its top. "
    "Points: mean over networks; bars: standard\nerror over networks. Right: dashed lines are "
    "theory to order 1/N, for weights drawn afresh at every step. White input: standard\ndeviation "
    "{input_std:g} on every pre-activation. g: entries of W have variance g²/N, or W is g times an "
    "orthogonal matrix."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw λ(p), a panel for each kernel and drive, and in the last column the error of λ₁."""
    kernels, drives = dataset["kernel"].to_numpy(), dataset["drive"].to_numpy()
    figure, grid = plt.subplots(
        len(kernels),
        len(drives) + 1,
        figsize=(style.WIDTH, 1.2 + 2.2 * len(kernels)),
        layout="constrained",
        squeeze=False,
        width_ratios=(*[1] * len(drives), 1.1),
    )
    lowest = float(dataset["curve"].quantile(0.1))
    top = 1.2 * float(dataset["curve"].max())
    for kernel, (*row, errors) in zip(kernels, grid, strict=True):
        for drive, axes in zip(drives, row, strict=True):
            _spectra(axes, dataset.sel(kernel=kernel, drive=drive))
            axes.set(xlim=(0, 1), ylim=(lowest, 1))
            axes.set_title(f"{TITLES[kernel]}, {TITLES[drive]}")
            inset = axes.inset_axes((0.17, 0.11, 0.3, 0.34))
            _spectra(inset, dataset.sel(kernel=kernel, drive=drive))
            inset.set(xlim=(0, ZOOM), ylim=(-ZOOM, top), xlabel="", ylabel="")
            inset.set_xticks([0, ZOOM / 2, ZOOM], ["0", "", f"{ZOOM:g}"])
            inset.tick_params(labelsize=6.5, pad=2)
            inset.yaxis.set_major_locator(MaxNLocator(4, steps=[2, 5, 10]))
            axes.set(xlabel="", ylabel="")
        row[0].set_ylabel("exponent λ (nats per step)")
        _errors(errors, dataset.sel(kernel=kernel))
        errors.set_title(f"{TITLES[kernel]}, error of λ₁")
    for axes in grid[-1, :-1]:
        axes.set_xlabel("fraction of the spectrum, p")
    grid[-1, -1].set_xlabel("1/N (N: width)")
    _share_limits(grid[:, -1])
    configuration = style.configuration(dataset)
    pairs = zip(configuration["num_networks"], configuration["widths"], strict=True)
    text = style.caption(
        dataset,
        CAPTION,
        networks=", ".join(f"{count} of N = {width}" for count, width in pairs),
        widest=configuration["widths"][-1],
    )
    style.legend_below(figure, _handles(dataset), text)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare theory with the kind of network that is farthest from it, and check the sum rule."""
    drives = dataset["drive"].to_numpy().tolist()
    return [
        *(_of_target(dataset.sel(drive=drive), name) for name in TARGETS for drive in drives),
        Claim(
            "All exponents sum to the mean of log|det J|, in saturated networks too",
            "exact",
            "largest difference over all networks, nats per step",
            "at most",
            0,
            SUM_RULE_TOLERANCE,
            float(dataset["sum_rule_residual"].max()),
        ),
    ]


def _of_target(dataset, name):
    """Compare one number with theory in all kinds of networks under one drive."""
    measured = uncertainty = np.nan
    quantity = f"largest |measured − theory| over kinds of networks, {UNITS[name]}"
    if TARGET_WIDTH in dataset["width"]:
        at = dataset.sel(width=TARGET_WIDTH, quantity=name)
        apart = abs(at["average"] - at["theory"])
        worst = at.isel(apart.argmax(...))
        measured, uncertainty = float(apart.max()), float(worst["standard_error"])
        quantity += f": {TITLES[str(worst['kernel'].values)]}, g = {float(worst['gain']):g}"
    return Claim(
        f"Mean-field theory of infinite width gives {LABELS[name]} of networks of width "
        f"{TARGET_WIDTH}, {TITLES[str(dataset['drive'].values)]}",
        "theory, after Engelken, Wolf and Abbott (2023)",
        quantity,
        "at most",
        0,
        TARGETS[name],
        measured,
        uncertainty,
    )


def _spectra(axes, one):
    """Draw the curves λ(p) of the theory and points of the widest networks."""
    widest = one.isel(width=-1)
    width = int(widest["width"])
    # Denser at the top of the spectrum, for the inset.
    shown = np.unique(np.round((width - 1) * np.linspace(0, 1, NUM_POINTS) ** 1.5).astype(int))
    for gain, (colour, marker) in zip(one["gain"].to_numpy(), STYLES, strict=False):
        of_gain = widest.sel(gain=gain)
        networks = of_gain["exponents"].isel(index=slice(width)).dropna("network", how="all")
        exponents = networks.transpose("network", "index").to_numpy()
        spread = exponents.std(axis=0, ddof=1)
        measured = jrnn.EnsembleSpectrum(
            exponents=exponents.mean(axis=0),
            standard_errors=spread / np.sqrt(len(exponents)),
            spread=spread,
            spread_over_time=np.full_like(spread, np.nan),
        )
        plotting.lyapunov_exponents(
            axes,
            measured,
            theory=(one["curve_fraction"].to_numpy(), of_gain["curve"].to_numpy()),
            shown=shown,
            colour=colour,
            marker=marker,
        )


def _errors(axes, one):
    """Draw the error of λ₁ against 1/N, with the lines of theory for fresh weights."""
    largest = one.sel(quantity="largest")
    inverse = 1 / one["width"].to_numpy()
    reach = np.array([0, 1.08 * inverse.max()])
    apart = 0.018 * inverse.max()
    num_gains, num_drives = one.sizes["gain"], one.sizes["drive"]
    for place, (drive, gain) in enumerate(np.ndindex(num_drives, num_gains)):
        colour, marker = STYLES[gain]
        of_kind = largest.isel(drive=drive, gain=gain)
        driven = str(of_kind["drive"].values) == "driven"
        axes.plot(
            reach,
            reach * float(of_kind["theory_slope"]),
            color=colour,
            linewidth=0.9,
            linestyle="--",
            zorder=1,
        )
        axes.errorbar(
            # Drawn apart: errors of different kinds are nearly the same.
            inverse + (place - (num_drives * num_gains - 1) / 2) * apart,
            of_kind["average"] - of_kind["theory"],
            yerr=of_kind["standard_error"],
            fmt=marker,
            color=colour,
            markerfacecolor="white" if driven else colour,
            markersize=3.5,
            markeredgewidth=0.8,
            elinewidth=0.8,
            zorder=2,
        )
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set_xlim(0, reach[1])
    axes.set_xticks([0, *inverse], ["0", *(f"1/{width}" for width in one["width"].to_numpy())])
    axes.set_ylabel("λ₁ − theory (nats per step)")


def _share_limits(column):
    low = min(axes.get_ylim()[0] for axes in column)
    high = max(axes.get_ylim()[1] for axes in column)
    for axes in column:
        axes.set_ylim(low, high)


def _handles(dataset):
    gains = dataset["gain"].to_numpy()
    yield from (
        Line2D(
            [], [], color=colour, marker=marker, linewidth=1, markersize=4, label=f"g = {gain:g}"
        )
        for gain, (colour, marker) in zip(gains, STYLES, strict=False)
    )
    yield Line2D([], [], color="0.2", linewidth=1, label="theory")
    yield Line2D([], [], color="0.2", linewidth=1, linestyle="--", label="to order 1/N")
    for label, face in FACES.items():
        points: dict[str, Any] = {
            "marker": "o",
            "linestyle": "",
            "markerfacecolor": face,
            "markersize": 4,
        }
        yield Line2D([], [], color="0.2", label=label, **points)

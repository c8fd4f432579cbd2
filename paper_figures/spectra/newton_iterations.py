"""Iterations of a parallel-in-time Newton solve against λ₁, and per step of the sequence."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.spectra.newton_iterations import FEW, MARGIN
from paper_figures.claims import Claim
from paper_figures.style import COLOURS, MARKERS, WIDTH

SOURCE = "Gonzalez, Kozachkov, Zoltowski, Clarkson and Linderman (2025)"


def draw(dataset: xr.Dataset) -> Figure:
    """Draw iterations against λ₁, and as a fraction of T; hollow where T did not suffice."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.5), layout="constrained")
    exponent = dataset["exponent"].to_numpy()
    for length, colour, marker in zip(dataset["length"].to_numpy(), COLOURS, MARKERS, strict=False):
        one = dataset.sel(length=length)
        for axes, quantity in ((left, "iterations"), (right, "fraction")):
            values = one[quantity].to_numpy()
            done = one["converged"].to_numpy().astype(bool)
            for chosen, face in ((done, colour), (~done, "none")):
                axes.plot(
                    exponent[chosen],
                    values[chosen],
                    marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=3.2,
                    markeredgewidth=0.4 if face == colour else 0.8,
                    markeredgecolor="white" if face == colour else colour,
                    zorder=3,
                )
        left.axhline(length, color=colour, linewidth=0.9, linestyle="--", zorder=1)
        left.annotate(
            f"T = {length}",
            (0.01, length),
            xycoords=left.get_yaxis_transform(),
            textcoords="offset points",
            xytext=(0, 2),
            color=colour,
            fontsize=7,
        )
        right.plot([], [], marker, color=colour, markersize=4, label=f"T = {length} steps")
    left.axhline(FEW, color="0.4", linewidth=0.9, linestyle=":", zorder=1)
    left.annotate(
        f"{FEW} iterations",
        (0.01, FEW),
        xycoords=left.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(0, 2),
        color="0.3",
        fontsize=7,
    )
    left.set_yscale("log")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_ylim(1, 1.6 * float(dataset["length"].max()))
    right.set_ylim(-0.03, 1.05)
    for axes in (left, right):
        axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.axvspan(-MARGIN, MARGIN, color="0.93", zorder=0, linewidth=0)
        axes.set_xlabel("largest Lyapunov exponent λ₁ (nats per step)")
    left.set_ylabel("Newton iterations")
    right.set_ylabel("Newton iterations / T")
    failed = int((~dataset["converged"].astype(bool)).sum())
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=(
            f"{dataset.sizes['network']} tanh networks of {configuration['width']} units, each at "
            f"{dataset.sizes['gain']} gains from {configuration['gains'][0]:g} to "
            f"{configuration['gains'][-1]:g}, under a weak sine; guesses are random. Solved when "
            "every step's\nresidual is below "
            f"{configuration['tolerance']:.0e}; hollow: not solved after T iterations "
            f"({failed} of {dataset['converged'].size}). Grey: |λ₁| at most {MARGIN:g}, where no "
            "claim is made. λ₁ is measured over "
            f"{configuration['num_steps']:,} steps."
        ),
        title_fontsize=6.5,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check how many iterations stable and chaotic networks need, and where the number rises."""
    longest = dataset.isel(length=-1)
    length = int(longest["length"])
    stable = longest["iterations"].where(dataset["exponent"] < -MARGIN)
    chaotic = longest["fraction"].where(dataset["exponent"] > MARGIN)
    few, few_error = _mean(longest["rise"].sel(level="few"))
    half, half_error = _mean(longest["rise"].sel(level="half"))
    fraction, fraction_error = _mean(chaotic.mean("gain"))
    typical, typical_error = _mean(stable.median("gain"))
    made = [
        Claim(
            f"Clearly stable networks (λ₁ < −{MARGIN:g}) need few iterations: every one",
            SOURCE,
            f"largest number of iterations at T = {length}",
            "at most",
            FEW,
            0,
            float(stable.max()),
        ),
        Claim(
            f"Clearly stable networks (λ₁ < −{MARGIN:g}) need few iterations: typically",
            SOURCE,
            f"median over gains, mean over networks, at T = {length}",
            "at most",
            FEW,
            0,
            typical,
            typical_error,
        ),
        Claim(
            f"Clearly chaotic networks (λ₁ > {MARGIN:g}) need about T iterations",
            SOURCE,
            f"iterations / T, mean over networks, at T = {length}",
            "within",
            1,
            0.25,
            fraction,
            fraction_error,
        ),
        Claim(
            f"Iterations begin to rise, above {FEW}, before λ₁ is positive",
            SOURCE,
            f"λ₁ at {FEW} iterations, T = {length}, nats per step",
            "at most",
            0,
            0,
            few,
            few_error,
        ),
        Claim(
            "Iterations reach T/2 only after λ₁ is positive",
            SOURCE,
            f"λ₁ at T/2 iterations, T = {length}, nats per step",
            "at least",
            0,
            0,
            half,
            half_error,
        ),
    ]
    if dataset.sizes["length"] > 1:
        shortest = dataset.isel(length=0)
        longer = length / int(shortest["length"])
        growth = (longest["iterations"] / shortest["iterations"]).where(
            dataset["exponent"] > MARGIN
        )
        measured, error = _mean(growth.mean("gain"))
        made.append(
            Claim(
                f"In clearly chaotic networks (λ₁ > {MARGIN:g}) iterations grow in proportion to T",
                SOURCE,
                f"iterations at T = {length} over those at T = {int(shortest['length'])}",
                "within",
                longer,
                0.25 * longer,
                measured,
                error,
            )
        )
    return made


def _mean(of_networks):
    """Return the mean over networks and its standard error, NaN where there is none."""
    values = of_networks.to_numpy()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return float(values.mean()), float(error)

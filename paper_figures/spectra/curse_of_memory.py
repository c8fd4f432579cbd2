"""Mean squares of a linear recurrence and of its derivative, against its memory."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import style
from paper_figures.claims import Claim

# One of each for each autocorrelation; the dotted line is the guide's.
STYLES = tuple(zip(style.COLOURS, style.MARKERS, ("-", "--", "-."), strict=False))
TITLES = {
    "state": "state",
    "sensitivity": "sensitivity to λ",
    "reparametrised": "g = √(1 − λ²) h, λ = exp(−exp ν)",
}
AXES = {
    "state": "mean square of h",
    "sensitivity": "mean square of dh/dλ",
    "reparametrised": "mean square of dg/dν",
}
PAPER = "Zucchet and Orvieto 2024"


def draw(dataset: xr.Dataset) -> Figure:
    """Draw each mean square against memory: theory as lines, simulation as points."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, panels = plt.subplots(1, len(TITLES), figsize=(style.WIDTH, 3.0), layout="constrained")
    for axes, quantity in zip(panels, TITLES, strict=True):
        for rho, (colour, marker, line) in zip(
            dataset["autocorrelation"].to_numpy(), STYLES, strict=False
        ):
            one = dataset.sel(quantity=quantity, autocorrelation=rho)
            axes.plot(one["curve_memory"], one["curve"], color=colour, linestyle=line, linewidth=1)
            axes.errorbar(
                one["memory"],
                one["moment"],
                yerr=one["standard_error"],
                fmt=marker,
                color=colour,
                markersize=4,
                markeredgecolor="white",
                markeredgewidth=0.4,
                elinewidth=0.8,
                zorder=3,
            )
        axes.set(xscale="log", yscale="log", title=TITLES[quantity], ylabel=AXES[quantity])
        axes.set_xlabel("memory 1/(1 − λ) (steps)")
    _slope_guide(panels[1], dataset)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, linewidth=1, markersize=4)
        for _, (colour, marker, line) in zip(dataset["autocorrelation"], STYLES, strict=False)
    ]
    labels = [f"ρ = {rho:g}" for rho in dataset["autocorrelation"].to_numpy()]
    longest = max(configuration["memories"])
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=(
            "h' = λh + x, inputs of variance 1 and autocorrelation ρ per step. Lines: exact. "
            f"Points: mean over {configuration['num_sequences']} sequences of "
            f"{configuration['num_memories'] * longest:,.0f} steps;\nbars (mostly smaller than the "
            "points): standard error over sequences. Right: normalised state and "
            "parameter ν of the LRU."
        ),
        title_fontsize=6.5,
    )
    return figure


def _slope_guide(axes, dataset):
    """Draw a line of slope 3 below the curves."""
    memory = np.array([10.0, float(dataset["memory"].max())])
    start = 0.12 * np.interp(
        memory[0],
        dataset["curve_memory"],
        dataset["curve"].sel(quantity="sensitivity").min("autocorrelation"),
    )
    guide = start * (memory / memory[0]) ** 3
    axes.plot(memory, guide, color="0.4", linewidth=0.8, linestyle=":")
    axes.annotate(
        "slope 3",
        (memory[1], guide[1]),
        xytext=(0, -26),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=7,
        color="0.3",
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the formulas and the power of the curse."""
    configuration = json.loads(dataset.attrs["configuration"])
    low, high = configuration["fitted_from"], max(configuration["memories"])
    found = []
    for quantity, statement, source in (
        ("state", "The variance of h follows its formula for every λ and ρ.", PAPER),
        ("sensitivity", "The variance of dh/dλ follows its formula for every λ and ρ.", PAPER),
        (
            "reparametrised",
            "The derivative of the normalised state by the LRU's parameter follows its formula.",
            "theory",
        ),
    ):
        score = abs(dataset["score"].sel(quantity=quantity))
        found.append(
            Claim(
                statement,
                source,
                f"largest |simulation − formula| of {score.size} points, in standard errors over "
                "sequences",
                "at most",
                3.0,
                0.0,
                float(score.max(skipna=False)),
            )
        )
    for quantity, statement, source, expected in (
        (
            "sensitivity",
            "With white input the variance of dh/dλ grows like (1 − λ)⁻³, though every Jacobian is "
            "λ < 1.",
            PAPER,
            -3.0,
        ),
        (
            "reparametrised",
            "With white input, normalisation and the LRU's parameter lift the curse.",
            PAPER,
            0.0,
        ),
    ):
        one = dataset.sel(quantity=quantity, autocorrelation=0.0)
        found.append(
            Claim(
                statement,
                source,
                f"log-log slope in 1 − λ at ρ = 0, memories of {low:g} to {high:g} steps",
                "within",
                expected,
                0.1,
                float(one["slope"]),
                float(one["slope_error"]),
            )
        )
    return found

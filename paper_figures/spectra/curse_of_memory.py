"""Mean squares of a linear recurrence and of its derivative, against its memory."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.spectra.curse_of_memory import farthest
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.style import Look

# One for each autocorrelation. The dotted line is the guide's.
LOOKS = tuple(map(Look, style.COLOURS, style.MARKERS, ("-", "--", "-.")))
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
# Of mean squares that span up to ten decades.
TOLERANCE = 0.1
SLOPE_TOLERANCE = 0.1
FORMULAS = {
    "state": ("The variance of h follows its formula for every λ and ρ.", PAPER),
    "sensitivity": ("The variance of dh/dλ follows its formula for every λ and ρ.", PAPER),
    "reparametrised": (
        "The derivative of the normalised state by the LRU's parameter follows its formula.",
        "theory",
    ),
}
POWERS = {
    "sensitivity": (
        "With white input the variance of dh/dλ grows like (1 − λ)⁻³, though every Jacobian is "
        "λ < 1.",
        -3.0,
    ),
    "reparametrised": (
        "With white input, normalisation and the LRU's parameter lift the curse.",
        0.0,
    ),
}
CAPTION = (
    "h' = λh + x, inputs of variance 1 and autocorrelation ρ per step. Lines: exact. Points: mean "
    "over {num_sequences} sequences of {length:,.0f} steps;\nbars, mostly smaller than points: "
    "standard error over sequences. Right: normalised state and parameter ν of the LRU."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw each mean square against memory: theory as lines, simulation as points."""
    figure, panels = plt.subplots(1, len(TITLES), figsize=(style.WIDTH, 3.0), layout="constrained")
    rhos = dataset["autocorrelation"].to_numpy()
    for axes, quantity in zip(panels, TITLES, strict=True):
        for rho, look in zip(rhos, LOOKS, strict=False):
            one = dataset.sel(quantity=quantity, autocorrelation=rho)
            axes.plot(
                one["curve_memory"],
                one["curve"],
                color=look.colour,
                linestyle=look.line,
                linewidth=1,
            )
            axes.errorbar(
                one["memory"],
                one["moment"],
                yerr=one["standard_error"],
                fmt=look.marker,
                color=look.colour,
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
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line,
               linewidth=1, markersize=4, label=f"ρ = {rho:g}")
        for rho, look in zip(rhos, LOOKS, strict=False)
    ]  # fmt: skip
    configuration = style.configuration(dataset)
    length = configuration["num_memories"] * max(configuration["memories"])
    style.legend_below(figure, handles, style.caption(dataset, CAPTION, length=length))
    return figure


def _slope_guide(axes, dataset):
    """Draw a line of slope 3 below the curves."""
    memory = np.array([10.0, float(dataset["memory"].max())])
    lowest = dataset["curve"].sel(quantity="sensitivity").min("autocorrelation")
    start = 0.12 * np.interp(memory[0], dataset["curve_memory"], lowest)
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
    configuration = style.configuration(dataset)
    low, high = configuration["fitted_from"], max(configuration["memories"])
    found = []
    for quantity, (statement, source) in FORMULAS.items():
        one = dataset.sel(quantity=quantity)
        worst = farthest(one)
        found.append(
            Claim(
                statement,
                source,
                f"simulation / formula at the worst of {one['ratio'].size} points, ρ = "
                f"{float(worst['autocorrelation']):g} and a memory of {float(worst['memory']):g} "
                "steps",
                "within",
                1.0,
                TOLERANCE,
                float(worst["ratio"]),
                float(worst["ratio_error"]),
            )
        )
    for quantity, (statement, expected) in POWERS.items():
        white = dataset.sel(quantity=quantity, autocorrelation=0.0)
        found.append(
            Claim(
                statement,
                PAPER,
                f"log-log slope in 1 − λ at ρ = 0, memories of {low:g} to {high:g} steps",
                "within",
                expected,
                SLOPE_TOLERANCE,
                float(white["slope"]),
                float(white["slope_error"]),
            )
        )
    return found

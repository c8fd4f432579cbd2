"""λ₁ of random GRUs and LSTMs against gain: three theories and the measurement."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import style
from paper_figures.claims import Claim

THEORIES: dict[str, tuple[str, Any, str]] = {
    "kept": (style.BLUE, "-", "theory, same weights at every step"),
    "fresh": (style.VERMILION, "--", "theory, fresh weights at every step"),
    "frozen": (style.GREEN, ":", "theory, same weights, gates stand still"),
}
CELLS = {"GRUCell": ("GRUCell", "update"), "LSTMCell": ("OptimizedLSTMCell", "forget")}
# Nats per step: over a hundred steps a gradient is off by a factor e.
TOLERANCE = 0.01
RING: dict[str, Any] = {
    "color": "0.3",
    "marker": "o",
    "linestyle": "",
    "markerfacecolor": "none",
    "markersize": 7,
}
CAPTION = (
    "Flax linen cells of width {width}, Gaussian recurrent kernels of standard deviation gain/√N "
    "in each gate;\nwhite Gaussian input adds noise of standard deviation {input_std:.2f} to each "
    "gate. Intervals: over networks drawn afresh."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell and bias; ring what theory says with the wrong sign."""
    cells, biases = dataset["cell"].to_numpy(), dataset["bias"].to_numpy()
    figure, grid = plt.subplots(
        len(cells),
        len(biases),
        figsize=(style.WIDTH, 1.4 + 2.0 * len(cells)),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    for row, cell in zip(grid, cells, strict=True):
        for axes, bias in zip(row, biases, strict=True):
            _panel(axes, dataset.sel(cell=cell, bias=bias))
            name, gate = CELLS[str(cell)]
            axes.set_title(f"{name}, {gate} bias {bias:g}")
        row[0].set_ylabel("λ₁ (nats per step)")
    for axes in grid[-1]:
        axes.set_xlabel("recurrent gain")
    measured = f"measured, {dataset.sizes['network']} networks, 95 % interval"
    handles = [
        Line2D([], [], color="black", marker="o", linestyle="", markersize=3.5, label=measured),
        *(
            Line2D([], [], color=colour, linestyle=line, linewidth=1.4, label=label)
            for colour, line, label in THEORIES.values()
        ),
        Line2D([], [], label="theory has the wrong sign", **RING),
    ]
    style.legend_below(figure, handles, style.caption(dataset, CAPTION), num_columns=2)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say how fast gradients grow or shrink where a theory has the wrong sign."""
    made = []
    for cell in dataset["cell"].to_numpy():
        one, (name, _) = dataset.sel(cell=cell), CELLS[str(cell)]
        mean, kept = one["mean_exponent"], one["rate"].sel(theory="kept")
        rate, error = _largest(abs(mean).where(mean * kept < 0), one["standard_error"])
        made.append(
            Claim(
                f"Theory with the same weights at every step has the right sign of λ₁ of Flax's "
                f"{name} wherever gradients grow or shrink by more than {TOLERANCE:g} per step",
                "theory",
                f"largest |λ₁| of {mean.size} points at which the sign is wrong, nats per step; 0 "
                "if it is nowhere",
                "at most",
                0,
                TOLERANCE,
                rate,
                error,
            )
        )
        fresh = one["rate"].sel(theory="fresh")
        rate, error = _largest(mean.where(fresh < 0), one["standard_error"])
        made.append(
            Claim(
                f"Theory with fresh weights at every step calls gradients of Flax's {name} "
                "vanishing where they explode",
                "this package, on theory after Chen et al. (2018), Gilboa et al. (2019)",
                f"largest λ₁ of {int((fresh < 0).sum())} points called vanishing, nats per step",
                "at least",
                TOLERANCE,
                0,
                rate,
                error,
                kind="finding",
            )
        )
    return made


def _largest(values, errors):
    """Return the largest of some values that are not NaN, and its error; 0 if there are none."""
    if values.isnull().all():
        return 0.0, np.nan
    largest = values.argmax(...)
    return float(values.isel(largest)), float(errors.isel(largest))


def _panel(axes, one):
    gain = one["gain"].to_numpy()
    for theory, (colour, line, _) in THEORIES.items():
        of_theory = one.sel(theory=theory)
        rate = of_theory["rate"].to_numpy()
        axes.plot(gain, rate, color=colour, linestyle=line, linewidth=1.4, zorder=2)
        wrong = of_theory["wrong"].to_numpy().astype(bool)
        axes.scatter(
            gain[wrong],
            rate[wrong],
            s=45,
            facecolors="none",
            edgecolors=colour,
            linewidths=1.1,
            zorder=4,
        )
    mean = one["mean_exponent"].to_numpy()
    low, high = one["interval"].transpose("end", "gain").to_numpy()
    axes.errorbar(
        gain,
        mean,
        yerr=np.stack([mean - low, high - mean]),
        fmt="o",
        color="black",
        markersize=2.5,
        markeredgewidth=0.8,
        elinewidth=0.8,
        capsize=2.5,
        zorder=3,
    )
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.margins(x=0.06)

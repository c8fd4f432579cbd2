"""λ₁ of random GRUs and LSTMs against gain: three theories and the measurement."""

import json
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.claims import Claim

# Okabe and Ito's colours, each with a line style of its own.
STYLES: dict[str, tuple[str, Any, str]] = {
    "kept": ("#0072B2", "-", "theory, same weights at every step"),
    "fresh": ("#D55E00", "--", "theory, fresh weights at every step"),
    "frozen": ("#009E73", ":", "theory, same weights, gates stand still"),
}
CELLS = {"GRUCell": ("GRUCell", "update"), "LSTMCell": ("OptimizedLSTMCell", "forget")}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell and bias; ring what theory says with the wrong sign."""
    configuration = json.loads(dataset.attrs["configuration"])
    cells, biases = dataset["cell"].to_numpy(), dataset["bias"].to_numpy()
    figure, grid = plt.subplots(
        len(cells),
        len(biases),
        figsize=(7.2, 1.4 + 2.0 * len(cells)),
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
    handles = [
        Line2D([], [], color="black", marker="o", linestyle="", markersize=3.5),
        *(
            Line2D([], [], color=colour, linestyle=style, linewidth=1.4)
            for colour, style, _ in STYLES.values()
        ),
        Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor="none", markersize=7),
    ]
    labels = [
        f"measured, {dataset.sizes['network']} networks, 95 % interval",
        *(label for _, _, label in STYLES.values()),
        "theory has the wrong sign",
    ]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        title=(
            f"Flax linen cells of width {configuration['width']}, Gaussian recurrent kernels of "
            "standard deviation gain/√N in each gate;\nwhite Gaussian input adds noise of standard "
            f"deviation {configuration['input_std']:.2f} to each gate. Intervals: over networks "
            "drawn afresh."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Count the points at which theory has the wrong sign."""
    low, high = dataset["interval"].isel(end=0), dataset["interval"].isel(end=1)
    explodes = low > 0
    made = []
    for cell in dataset["cell"].to_numpy():
        name, _ = CELLS[str(cell)]
        decided = int(((low > 0) | (high < 0)).sel(cell=cell).sum())
        wrong = dataset["wrong"].sel(cell=cell, theory="kept").astype(bool)
        made.append(
            Claim(
                f"Theory with the same weights at every step tells whether gradients of Flax's "
                f"{name} grow or shrink",
                "theory",
                f"points of wrong sign, of {decided} whose interval excludes zero",
                "at most",
                0,
                0,
                int(wrong.sum()),
            )
        )
    for cell in dataset["cell"].to_numpy():
        name, _ = CELLS[str(cell)]
        called_vanishing = dataset["rate"].sel(cell=cell, theory="fresh") < 0
        exploding = explodes.sel(cell=cell)
        made.append(
            Claim(
                f"Theory with fresh weights at every step calls gradients of Flax's {name} "
                "vanishing where they explode",
                "theory, after Chen et al. (2018), Gilboa et al. (2019)",
                f"points called vanishing, of {int(exploding.sum())} that explode",
                "at least",
                1,
                0,
                int((called_vanishing & exploding).sum()) if exploding.any() else np.nan,
            )
        )
    return made


def _panel(axes, one):
    gain = one["gain"].to_numpy()
    for theory, (colour, style, _) in STYLES.items():
        of_theory = one.sel(theory=theory)
        rate = of_theory["rate"].to_numpy()
        axes.plot(gain, rate, color=colour, linestyle=style, linewidth=1.4, zorder=2)
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

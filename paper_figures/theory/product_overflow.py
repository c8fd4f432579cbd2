"""The longest plain products of Gaussian matrices that floats can hold, against theory."""

import json
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from paper_figures import style
from paper_figures.claims import Claim

STYLES: dict[str, tuple[str, str, Any]] = {
    "float32": (style.BLUE, "o", "-"),
    "float64": (style.VERMILION, "s", "--"),
}
LIBRARY = style.GREEN
TOLERANCE = 0.03  # of T*
# Nats, at twice the length where float64 overflows.
LIBRARY_TOLERANCES = {"float32": 1e-2, "float64": 1e-9}
PAPER = "Newman 1986, set up as by Heinsen and Kozachkov 2025"


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the longest chains, with the library's beyond them, and their ratio to theory."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (chains, ratios) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.1), layout="constrained", width_ratios=(1.1, 1)
    )
    sizes = dataset["size"].to_numpy()
    for precision, (colour, marker, line) in STYLES.items():
        one = dataset.sel(precision=precision)
        chains.plot(sizes, one["expected"], color=colour, linestyle=line, linewidth=1)
        points = {
            "fmt": marker,
            "color": colour,
            "markersize": 4,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
            "elinewidth": 0.8,
            "zorder": 3,
        }
        chains.errorbar(sizes, one["average"], yerr=one["standard_error"], **points)
        ratios.errorbar(
            sizes * (0.97 if precision == "float32" else 1.03),
            one["average"] / one["expected"],
            yerr=one["standard_error"] / one["expected"],
            **points,
        )
        ratios.plot(sizes, 1 - 0.5 / one["expected"], color=colour, linestyle=line, linewidth=0.8)
    chains.plot(
        sizes,
        dataset["library_length"],
        color=LIBRARY,
        marker="^",
        linestyle="",
        markersize=5,
        markerfacecolor="white",
    )
    ratios.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.92", zorder=0)
    ratios.axhline(1, color="0.5", linewidth=0.6, zorder=1)
    chains.set(yscale="log", ylabel="length of the chain (factors)", title="longest finite product")
    ratios.set(ylabel="measured / T*", title="ratio to T*")
    for axes in (chains, ratios):
        axes.set(xscale="log", xlabel="size d of the matrices")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [str(size) for size in sizes])
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, linewidth=1, markersize=4)
        for colour, marker, line in STYLES.values()
    ]
    handles.append(
        Line2D([], [], color=LIBRARY, marker="^", linestyle="", markersize=5, markerfacecolor="w")
    )
    figure.legend(
        handles,
        [*(f"plain product, {precision}" for precision in STYLES), "library, checked there"],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        title=(
            f"N(0, 1) entries. Points: mean over {configuration['num_chains']} chains; bars: "
            "standard error. Lines, left: T* = log(largest float)/λ₁; right: T* − ½, for a chain\n"
            f"has a whole number of factors; grey: ±{100 * TOLERANCE:g} %. Triangles: log σ₁ by "
            "product_of, in both precisions, compared with a product that is rescaled\nafter each "
            f"factor; largest difference {_largest(dataset, 'float32')} nats in float32, "
            f"{_largest(dataset, 'float64')} in float64."
        ),
        title_fontsize=6.5,
    )
    return figure


def _largest(dataset, precision):
    return f"{float(dataset['library_error'].sel(precision=precision).max()):.0e}"


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check T* in both precisions, and the library beyond them."""
    configuration = json.loads(dataset.attrs["configuration"])
    sizes = dataset["size"].to_numpy()
    found = []
    for precision in STYLES:
        one = dataset.sel(precision=precision)
        ratio = one["average"] / one["expected"]
        worst = int(np.argmax(abs(ratio - 1).to_numpy()))
        found.append(
            Claim(
                f"Plain products in {precision} stay finite for log(largest float)/λ₁ factors.",
                PAPER,
                f"longest finite chain / T*, at the d of {sizes[0]} to {sizes[-1]} where it is "
                f"farthest from 1, mean over {configuration['num_chains']} chains",
                "within",
                1.0,
                TOLERANCE,
                float(ratio[worst]),
                float((one["standard_error"] / one["expected"])[worst]),
            )
        )
    for precision, tolerance in LIBRARY_TOLERANCES.items():
        found.append(
            Claim(
                f"The library's product in {precision} has no such limit.",
                "this library",
                f"largest error of log σ₁ at {configuration['beyond']:g} times float64's T*, nats",
                "at most",
                tolerance,
                0.0,
                # No maximum if one of those that were checked is not a number.
                float(
                    dataset["library_error"]
                    .sel(precision=precision)
                    .where(dataset["library_length"].notnull(), 0)
                    .max(skipna=False)
                ),
            )
        )
    return found

"""The longest plain products of Gaussian matrices that floats can hold, against theory."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.style import Look

LOOKS = {"float32": Look(style.BLUE, "o", "-"), "float64": Look(style.VERMILION, "s", "--")}
# Of T*. A chain has a whole number of factors, which costs half a factor: up to 1.5 % of the
# shortest one here.
TOLERANCE = 0.03
# Nats, at twice the length where float64 overflows.
LIBRARY_TOLERANCES = {"float32": 1e-2, "float64": 1e-9}
PAPER = "Newman 1986, set up as by Heinsen and Kozachkov 2025"
CAPTION = (
    "N(0, 1) entries. Points: mean over {num_chains} chains; bars: standard error. Lines, left: "
    "T* = log(largest float)/λ₁; right: T* − ½, for a chain\nhas a whole number of factors; grey: "
    "±{tolerance:g} %. Triangles: log σ₁ by product_of, in both precisions, beside a product "
    "that is rescaled\nafter each factor; largest difference {single:.0e} nats in float32, "
    "{double:.0e} in float64."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the longest chains, with the library's beyond them, and their ratio to theory."""
    figure, (chains, ratios) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.1), layout="constrained", width_ratios=(1.1, 1)
    )
    sizes = dataset["size"].to_numpy()
    for precision, apart in (("float32", 0.97), ("float64", 1.03)):
        look, one = LOOKS[precision], dataset.sel(precision=precision)
        expected = one["expected"]
        line: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": 1}
        points: dict[str, Any] = {
            "fmt": look.marker,
            "color": look.colour,
            "markersize": 4,
            "elinewidth": 0.8,
        }
        points |= {"markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 3}
        chains.plot(sizes, expected, **line)
        chains.errorbar(sizes, one["average"], yerr=one["standard_error"], **points)
        ratios.plot(sizes, 1 - 0.5 / expected, **line)
        error = one["standard_error"] / expected
        ratios.errorbar(apart * sizes, one["average"] / expected, yerr=error, **points)
    triangles: dict[str, Any] = {
        "color": style.GREEN,
        "marker": "^",
        "linestyle": "",
        "markersize": 5,
    }
    triangles |= {"markerfacecolor": "white"}
    chains.plot(sizes, dataset["library_length"], **triangles)
    ratios.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.92", zorder=0)
    ratios.axhline(1, color="0.5", linewidth=0.6, zorder=1)
    chains.set(yscale="log", ylabel="length of the chain (factors)", title="longest finite product")
    ratios.set(ylabel="measured / T*", title="ratio to T*")
    for axes in (chains, ratios):
        axes.set(xscale="log", xlabel="size d of the matrices")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [str(size) for size in sizes])
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line,
               linewidth=1, markersize=4, label=f"plain product, {precision}")
        for precision, look in LOOKS.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], label="library, checked there", **triangles))
    largest = dataset["library_error"].max("size")
    text = style.caption(
        dataset,
        CAPTION,
        tolerance=100 * TOLERANCE,
        single=float(largest.sel(precision="float32")),
        double=float(largest.sel(precision="float64")),
    )
    style.legend_below(figure, handles, text)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check T* in both precisions, and the library beyond them."""
    configuration = style.configuration(dataset)
    sizes = dataset["size"].to_numpy()
    found = []
    for precision in LOOKS:
        one = dataset.sel(precision=precision)
        ratio = (one["average"] / one["expected"]).to_numpy()
        worst = int(np.argmax(abs(ratio - 1)))
        found.append(
            Claim(
                f"Plain products in {precision} stay finite for log(largest float)/λ₁ factors.",
                PAPER,
                f"longest finite chain / T*, mean over chains, at d = {sizes[worst]}, the farthest "
                f"from 1 of d = {sizes[0]} to {sizes[-1]}",
                "within",
                1.0,
                TOLERANCE,
                float(ratio[worst]),
                float((one["standard_error"] / one["expected"])[worst]),
            )
        )
    # No maximum if one of those that were checked is not a number.
    checked = dataset["library_error"].where(dataset["library_length"].notnull(), 0)
    for precision, tolerance in LIBRARY_TOLERANCES.items():
        found.append(
            Claim(
                f"The library's product in {precision} has no such limit.",
                "this library",
                f"largest error of log σ₁ at {configuration['beyond']:g} times float64's T*, nats",
                "at most",
                tolerance,
                0.0,
                float(checked.sel(precision=precision).max(skipna=False)),
                kind="aim",
            )
        )
    return found

"""When gradients explode in linear networks that keep their Glorot weights, against width."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from paper_figures import style
from paper_figures.claims import Claim

SOURCE = "Bar, Seleznova, Alexander, Kutyniok and Giryes (2025)"
TOLERANCE = 0.1  # of the power
HIGHEST = 4.0  # nats that are drawn
LOOKS: dict[str, Any] = {
    "mean square": (style.BLUE, "o", "-"),
    "median": (style.VERMILION, "s", "--"),
}
CAPTION = (
    "{num_networks} linear networks h′ = W h of each width n, entries of W of variance 1/n "
    "(Glorot), the same at every step. Left: growth of the\nroot mean square of a random gradient, "
    "mean square over networks (lines) and median (dashed). Right: steps until it has grown by a\n"
    "factor of {factor:g}, with 95 % intervals over networks. Lines: powers fitted, "
    "{mean_square:.2f} ± {mean_error:.2f} for the mean square and {median:.2f} ± {median_error:.2f}"
    "\nfor the median (standard errors); dotted: √n."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw growth in units of √n for all widths, and the time of growth against the width."""
    configuration = style.configuration(dataset)
    figure, (curves, times) = plt.subplots(1, 2, figsize=(style.WIDTH, 3.4), layout="constrained")
    widths = dataset["width"].to_numpy()
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(widths)))
    handles = []
    for width, colour in zip(widths, shades, strict=True):
        one = dataset.sel(width=width)
        curves.plot(one["place"], one["mean_square"], color=colour, linewidth=1.2)
        median = one["growth"].median("network")
        curves.plot(one["place"], median, color=colour, linewidth=1, linestyle="--")
        handles.append(Line2D([], [], color=colour, linewidth=1.2, label=f"n = {width}"))
    level = float(np.log(configuration["factor"]))
    curves.axhline(level, color="0.5", linewidth=0.8, linestyle=":")
    curves.annotate(
        f"{configuration['factor']:g} times",
        (1, level),
        xycoords=curves.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(-2, 2),
        ha="right",
        fontsize=7,
    )
    curves.set(
        xlabel="steps / √n",
        ylabel="log growth of a gradient (nats)",
        xlim=(0, float(dataset["place"].max())),
        ylim=(-0.3, HIGHEST),
    )
    for average in LOOKS:
        handles.append(_times(times, dataset.sel(average=average), average))
    times.set(xscale="log", yscale="log", xlabel="width n", ylabel="steps until exploding")
    times.xaxis.set_minor_locator(NullLocator())
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(ScalarFormatter())
    times.yaxis.set_minor_locator(NullLocator())
    times.set_xticks(widths, [str(width) for width in widths])
    said = {"mean square": ("mean_square", "mean_error"), "median": ("median", "median_error")}
    powers = {}
    for average, names in said.items():
        one = dataset.sel(average=average)
        powers |= dict(zip(names, map(float, (one["power"], one["power_error"])), strict=True))
    style.legend_below(figure, handles, style.caption(dataset, CAPTION, **powers), num_columns=4)
    return figure


def _times(axes, one, average):
    """Draw the times of an average, the fitted power, and the square root; return a handle."""
    colour, marker, line = LOOKS[average]
    one = one.isel(width=np.isfinite(one["time_interval"]).all("end").to_numpy())
    width, time = one["width"].to_numpy(), one["average_time"].to_numpy()
    bars = abs(one["time_interval"] - one["average_time"]).to_numpy()
    if width.size:
        axes.errorbar(width, time, yerr=bars, fmt=marker, color=colour, markersize=4, zorder=3)
        middle, height = (float(np.exp(np.log(values).mean())) for values in (width, time))
        for power, look in (
            (float(one["power"]), {"color": colour, "linestyle": line}),
            (0.5, {"color": "0.5", "linestyle": ":"}),
        ):
            axes.plot(width, height * (width / middle) ** power, linewidth=1, **look)
    return Line2D(
        [], [], color=colour, marker=marker, linestyle=line, markersize=4, label=f"{average}, right"
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the powers of the width."""
    factor = style.configuration(dataset)["factor"]
    mean, median = (dataset.sel(average=average) for average in LOOKS)
    return [
        Claim(
            "Gradients in linear networks that keep their Glorot weights explode, in mean square "
            "over networks, after a number of steps that goes with the square root of the width",
            SOURCE,
            f"power of n = {int(dataset['width'][0])} to {int(dataset['width'][-1])} with which "
            f"the number of steps to a growth of {factor:g} goes",
            "within",
            0.5,
            TOLERANCE,
            float(mean["power"]),
            float(mean["power_error"]),
        ),
        Claim(
            "In the median over these networks, at these widths, that number rises more slowly "
            "than the square root of the width",
            "this package",
            f"power of n with which the median number of steps to a growth of {factor:g} goes",
            "at most",
            0.5,
            0,
            float(median["power"]),
            float(median["power_error"]),
            kind="finding",
        ),
    ]

"""How arms are drawn: a line for each network, over the loss of the baseline and the plateau."""

from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr
from matplotlib.axes import Axes

from paper_figures import style
from paper_figures.style import Look


class Arm(NamedTuple):
    """How an arm is drawn, and what it is called."""

    look: Look
    label: str


def draw_curves(axes: Axes, dataset: xr.Dataset, arms: Mapping[str, Arm]) -> None:
    """Draw smoothed losses, with the baseline and the plateau's stretch."""
    configuration = style.configuration(dataset)
    axes.axvspan(*configuration["plateau"], color="0.92", linewidth=0, zorder=0)
    draw_networks(axes, dataset["smoothed"], arms)
    baseline = float(dataset["baseline"])
    axes.axhline(baseline, color="0.6", linewidth=0.8, zorder=1, label="no memory, theory")
    axes.set(yscale="log", xlim=(0, configuration["num_updates"]), xlabel="updates")


def draw_networks(axes: Axes, values: xr.DataArray, arms: Mapping[str, Arm]) -> None:
    """Draw a line for each network of each arm, along the dimension that is left."""
    for arm, (look, label) in arms.items():
        lines = values.sel(arm=arm).transpose(..., "seed")
        drawn = axes.plot(
            lines[str(lines.dims[0])],
            lines,
            color=look.colour,
            linestyle=look.line,
            linewidth=1.1,
        )
        drawn[0].set_label(label)

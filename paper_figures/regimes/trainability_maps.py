"""What the maps of trainability share: skill as colour, depth scales as lines over it."""

import json
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from experiments.regimes.depth_scales import FRESH, GATE, KEPT, rank_correlation
from paper_figures.claims import Claim
from paper_figures.style import GREEN, PURPLE, VERMILION

# The lines, each with a style of its own, stand out from the colour map by a white edge.
SCALES: dict[str, tuple[str, Any, str]] = {
    FRESH: (VERMILION, "-", "ξ, theory with fresh weights at every step"),
    KEPT: (PURPLE, "--", "ξ, measured, weights kept"),
    GATE: (GREEN, ":", "time constant of the gate"),
}


def present(panels: dict, dataset: xr.Dataset) -> dict:
    """Keep the panels of the cells that are there."""
    return {cell: panel for cell, panel in panels.items() if cell in dataset["cell"]}


def draw_map(axes: Axes, one: xr.Dataset) -> QuadMesh:
    """Draw the mean skill of one cell over columns and horizons."""
    values, horizons = one["value"].to_numpy(), one["horizon"].to_numpy()
    x, y = edges(values), np.exp(edges(np.log(horizons)))
    skill = one["skill"].mean("seed").transpose("horizon", "column").to_numpy()
    mesh = axes.pcolormesh(x, y, skill, cmap="cividis", vmin=0, vmax=1)
    axes.set_yscale("log")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_yticks(horizons, labels=[str(horizon) for horizon in horizons])
    axes.minorticks_off()
    return mesh


def draw_scale(axes: Axes, one: xr.Dataset, scale: str, multiple: float, **options) -> None:
    """Draw a multiple of a depth scale as a line."""
    colour, line, _ = SCALES[scale]
    steps = multiple * one["depth_scale"].sel(scale=scale)
    style = {"color": colour, "linestyle": line, "linewidth": 1.6} | options
    edge = {"color": "white", "linestyle": "-", "linewidth": style["linewidth"] + 1.6}
    # No line lies under the edge of another.
    for level, look in enumerate((edge, style)):
        axes.plot(one["value"], steps, zorder=2 + level / 2, **look)


def said_multiple(one: xr.Dataset, scale: str) -> str:
    """Write a fitted multiple with its interval."""
    at = one.sel(scale=scale)
    low, high = at["multiple_interval"].to_numpy()
    return f"{float(at['multiple']):.2g} [{low:.2g}, {high:.2g}]"


def said_training(dataset: xr.Dataset) -> str:
    """Write what was trained, and on what, in two lines."""
    configuration = json.loads(dataset.attrs["configuration"])
    return (
        f"Delayed recall, width {configuration['width']}, Gaussian recurrent kernels, "
        f"{dataset.sizes['seed']} networks per point, {configuration['num_updates']} updates of "
        f"{configuration['batch_size']} sequences,\nclipped Adam at rate "
        f"{configuration['learning_rate']:g}."
    )


def beyond_the_horizon(
    one: xr.Dataset, scale: str, name: str, source: str, *, num_resamples: int = 400
) -> Claim:
    """Ask whether a depth scale of each column tells more than the horizon does by itself.

    Short horizons are learned more often than long ones, in whatever columns.
    """
    skill, steps = one["skill"].to_numpy(), one["depth_scale"].sel(scale=scale).to_numpy()
    horizons = one["horizon"].to_numpy().astype(float)

    def gain(columns, seeds):
        drawn = skill[columns][:, :, seeds]
        alone = rank_correlation(drawn, np.ones(len(drawn)), horizons)
        return rank_correlation(drawn, steps[columns], horizons) - alone

    generator = np.random.default_rng(0)
    num_columns, _, num_seeds = skill.shape
    drawn = [
        gain(
            generator.integers(0, num_columns, num_columns),
            generator.integers(0, num_seeds, num_seeds),
        )
        for _ in range(num_resamples)
    ]
    known = [value for value in drawn if not np.isnan(value)]
    symbol = "τ" if scale == GATE else "ξ"
    return Claim(
        f"The scale of its initialisation tells more of how well a {name} can be trained than the "
        "horizon by itself",
        source,
        f"Spearman correlation of mean skill with {symbol}/T minus that with 1/T",
        "at least",
        0.0,
        0.0,
        gain(np.arange(num_columns), np.arange(num_seeds)),
        float(np.std(known, ddof=1)) if len(known) > 1 else np.nan,
    )


def edges(centres: np.ndarray) -> np.ndarray:
    """Return the edges of cells around centres, halfway."""
    centres = np.asarray(centres, float)
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    ends = 2 * centres[[0, -1]] - middle[[0, -1]]
    return np.concatenate([ends[:1], middle, ends[1:]])

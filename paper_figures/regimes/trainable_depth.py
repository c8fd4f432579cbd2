"""Skill of plain and minimal networks over initialisation and horizon, with multiples of ξ."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.regimes.depth_scales import FRESH, KEPT
from experiments.regimes.trainable_depth import MINIMAL, PLAIN
from paper_figures.claims import Claim, standard_error
from paper_figures.regimes.trainability_maps import (
    SCALES,
    beyond_the_horizon,
    draw_map,
    draw_scale,
    present,
    said_multiple,
    said_training,
)
from paper_figures.style import BLUE, GREEN, WIDTH

PANELS = {
    PLAIN: ("linen SimpleCell", "σ_w of recurrent weights", BLUE, "o"),
    MINIMAL: ("minimalRNN", "mean bias μ_b of the gate", GREEN, "s"),
}
SOURCE = "Chen, Pennington and Schoenholz 2018"
RULE = 6.0  # Schoenholz et al. 2017: trainable up to about six depth scales
LINES = {1.0: 0.8, RULE: 1.6}  # multiples of ξ and the widths of their lines
FITTED: Any = "-."
LEAST_CORRELATION = 0.7


def draw(dataset: xr.Dataset) -> Figure:
    """Draw a map for each cell, and the skill of all points against T/ξ."""
    panels = present(PANELS, dataset)
    figure, axes = plt.subplots(
        1,
        len(panels) + 1,
        figsize=(WIDTH, 3.6),
        width_ratios=(1,) * len(panels) + (0.95,),
        layout="constrained",
    )
    *_, points = axes
    mesh = None
    for map_axes, (cell, (name, label, colour, marker)) in zip(axes, panels.items(), strict=False):
        one = dataset.sel(cell=cell)
        mesh = draw_map(map_axes, one)
        for multiple, width in LINES.items():
            draw_scale(map_axes, one, FRESH, multiple, linewidth=width)
        fitted = float(one["multiple"].sel(scale=FRESH))
        draw_scale(map_axes, one, FRESH, fitted, linestyle=FITTED)
        draw_scale(map_axes, one, KEPT, RULE)
        map_axes.set_xlabel(label)
        map_axes.set_title(name)
        ratio = one["horizon"] / one["depth_scale"].sel(scale=FRESH)
        skill = one["skill"].mean("seed").transpose(*ratio.dims)
        points.plot(
            ratio.to_numpy().ravel(),
            skill.to_numpy().ravel(),
            marker,
            color=colour,
            markersize=3.5,
            markerfacecolor="none",
            label=name,
        )
        points.axvline(fitted, color=colour, linewidth=1.1, linestyle=FITTED)
    axes[0].set_ylabel("horizon T (steps)")
    points.axvline(RULE, color="0.3", linestyle=":", linewidth=1.1)
    points.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    points.set_xscale("log")
    points.set_ylim(-0.15, 1.05)
    points.set_xlabel("T / ξ, theory with fresh weights")
    points.set_ylabel("mean held-out skill")
    points.set_title("all points of the maps")
    assert mesh is not None
    figure.colorbar(mesh, ax=axes[-2], label="skill", pad=0.02)
    handles = [
        *(
            Line2D([], [], color=SCALES[FRESH][0], linestyle=SCALES[FRESH][1], linewidth=width)
            for width in LINES.values()
        ),
        Line2D([], [], color=SCALES[FRESH][0], linestyle=FITTED, linewidth=1.6),
        Line2D([], [], color=SCALES[KEPT][0], linestyle=SCALES[KEPT][1], linewidth=1.6),
        Line2D([], [], color="0.3", linestyle=":", linewidth=1.1),
        *(
            Line2D(
                [],
                [],
                color=colour,
                linestyle=FITTED,
                linewidth=1.1,
                marker=marker,
                markersize=4,
                markerfacecolor="none",
            )
            for _, _, colour, marker in panels.values()
        ),
    ]
    labels = [
        *(f"{multiple:g} {SCALES[FRESH][2]}" for multiple in LINES),
        "k ξ, the same theory, k fitted",
        f"{RULE:g} {SCALES[KEPT][2]}",
        f"T = {RULE:g} ξ",
        *(
            f"{name}; fitted k = {said_multiple(dataset.sel(cell=cell), FRESH)}"
            for cell, (name, *_) in panels.items()
        ),
    ]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        title=(
            f"{said_training(dataset)} ξ = 1/(2|λ₁|). At T = k ξ half of the networks learn "
            "(skill above ½);\nbrackets: 95 % over columns and networks drawn again."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Correlate skill with ξ/T, compare the cells' bands, and ask for the factor of six."""
    made, panels = [], present(PANELS, dataset)
    for cell, (name, *_) in panels.items():
        for scale, said in ((FRESH, "in theory, fresh weights"), (KEPT, "measured, weights kept")):
            one = dataset.sel(cell=cell, scale=scale)
            made.append(
                Claim(
                    f"How well a {name} can be trained goes with its depth scale over the horizon",
                    SOURCE,
                    f"Spearman correlation of mean skill with ξ/T, ξ {said}, over "
                    f"{dataset.sizes['column'] * dataset.sizes['horizon']} points",
                    "at least",
                    LEAST_CORRELATION,
                    0,
                    float(one["correlation"]),
                    standard_error(*one["correlation_interval"].to_numpy().tolist()),
                )
            )
        made.append(beyond_the_horizon(dataset.sel(cell=cell), FRESH, name, SOURCE))
    made.append(
        Claim(
            "A minimalRNN can be trained over a wider band of horizons than a plain network",
            SOURCE,
            "extent of log T that networks learn, mean over the columns of the maps, minimalRNN "
            "minus SimpleCell (nats)",
            "at least",
            0,
            0,
            float(dataset["band_difference"]),
            standard_error(*dataset["band_difference_interval"].to_numpy().tolist()),
        )
    )
    for cell, (name, *_) in panels.items():
        one = dataset.sel(cell=cell, scale=FRESH)
        low, high = np.log(one["multiple_interval"].to_numpy())
        made.append(
            Claim(
                f"A {name} can be trained over about six depth scales",
                "Schoenholz et al. 2017",
                "log of k, where half of the networks learn at T = k ξ, ξ in theory; log 6 to "
                "within a factor of 2 in k",
                "within",
                float(np.log(RULE)),
                float(np.log(2)),
                float(np.log(one["multiple"])),
                standard_error(low, high),
            )
        )
    return made

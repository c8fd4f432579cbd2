"""Skill of GRUs and LSTMs over gate bias and horizon, with three scales of depth over it."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.regimes.depth_scales import FRESH, GATE, KEPT
from experiments.regimes.gate_bias_map import GRU, LSTM
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
from paper_figures.style import BLUE, ORANGE, WIDTH

PANELS = {
    GRU: ("linen GRUCell", "bias of the update gate", BLUE, "o"),
    LSTM: ("linen OptimizedLSTMCell", "bias of the forget gate", ORANGE, "s"),
}
SHORT = {FRESH: "ξ, fresh\nweights", KEPT: "ξ, weights\nkept", GATE: "gate's τ"}
LEAST_CORRELATION = 0.7


def draw(dataset: xr.Dataset) -> Figure:
    """Draw a map for each cell with its fitted lines, and how skill goes with each scale."""
    panels = present(PANELS, dataset)
    figure, axes = plt.subplots(
        1,
        len(panels) + 1,
        figsize=(WIDTH, 3.7),
        width_ratios=(1,) * len(panels) + (0.8,),
        layout="constrained",
    )
    *_, points = axes
    mesh = None
    for place, (cell, (name, label, colour, marker)) in enumerate(panels.items()):
        one = dataset.sel(cell=cell)
        mesh = draw_map(axes[place], one)
        for scale in SCALES:
            draw_scale(axes[place], one, scale, float(one["multiple"].sel(scale=scale)))
        axes[place].set_xlabel(label)
        axes[place].set_title(name)
        value = one["correlation"].sel(scale=list(SCALES)).to_numpy()
        low, high = one["correlation_interval"].sel(scale=list(SCALES)).to_numpy().T
        points.errorbar(
            np.arange(len(SCALES)) + 0.2 * (place - 0.5),
            value,
            # The middle of what is drawn again need not be where the value is.
            yerr=np.maximum([value - low, high - value], 0),
            fmt=marker,
            color=colour,
            markersize=5,
            capsize=2,
            label=name,
        )
    axes[0].set_ylabel("horizon T (steps)")
    points.axhline(LEAST_CORRELATION, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    points.set_xticks(range(len(SCALES)), [SHORT[scale] for scale in SCALES])
    points.set_xlim(-0.5, len(SCALES) - 0.5)
    points.set_ylabel("Spearman correlation\nof mean skill with scale/T")
    assert mesh is not None
    figure.colorbar(mesh, ax=axes[-2], label="mean held-out skill", pad=0.02)
    handles = [
        *(
            Line2D([], [], color=colour, linestyle=line, linewidth=1.6)
            for colour, line, _ in SCALES.values()
        ),
        *(
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5)
            for _, _, colour, marker in panels.values()
        ),
    ]
    labels = [
        *(
            f"k times {label}; k = "
            + ", ".join(
                f"{name.removeprefix('linen ').removeprefix('Optimized').removesuffix('Cell')} "
                f"{said_multiple(dataset.sel(cell=cell), scale)}"
                for cell, (name, *_) in panels.items()
            )
            for scale, (_, _, label) in SCALES.items()
        ),
        *(name for name, *_ in panels.values()),
    ]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=1,
        frameon=False,
        title=(
            f"{said_training(dataset)} ξ = 1/(2|λ₁|), τ = −1/ln σ(bias). At T = k times the scale "
            "half of the\nnetworks learn (skill above ½); brackets and bars: 95 % over biases and "
            "networks drawn again."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare both theories' scales, correlate skill with the gate's, and try a bias of one."""
    num_points = dataset.sizes["column"] * dataset.sizes["horizon"]
    made, panels = [], present(PANELS, dataset)
    for cell, (name, *_) in panels.items():
        one = dataset.sel(cell=cell)
        interval = one["correlation_gain_interval"].to_numpy()
        made.append(
            Claim(
                f"λ₁ with the weights that a {name} keeps tells at least as well how well networks "
                "can be trained as theory with fresh weights",
                "theory, after Gilboa et al. 2019",
                "Spearman correlation of mean skill with ξ/T, ξ measured with kept weights minus "
                f"ξ in theory with fresh ones, over {num_points} points",
                "at least",
                0,
                0,
                # Both scales put the points in one order: ranks cannot tell them apart.
                float(one["correlation_gain"].where(np.ptp(interval) > 0)),
                standard_error(*interval.tolist()),
            )
        )
    for cell, (name, *_) in panels.items():
        one = dataset.sel(cell=cell, scale=GATE)
        made.append(
            Claim(
                f"How well a {name} can be trained goes with its gate's time constant over the "
                "horizon",
                "Tallec and Ollivier 2018",
                f"Spearman correlation of mean skill with τ/T, over {num_points} points",
                "at least",
                LEAST_CORRELATION,
                0,
                float(one["correlation"]),
                standard_error(*one["correlation_interval"].to_numpy().tolist()),
            )
        )
        made.append(
            beyond_the_horizon(dataset.sel(cell=cell), GATE, name, "Tallec and Ollivier 2018")
        )
    gain, error = _gain_of_bias_one(dataset)
    num_seeds = dataset.sizes["seed"]
    made.append(
        Claim(
            "An LSTM is trained better with a forget bias of 1 than of 0",
            "Jozefowicz, Zaremba and Sutskever 2015",
            f"mean skill over all horizons, bias 1 minus bias 0, {num_seeds} networks each",
            "at least",
            0,
            0,
            gain,
            error,
        )
    )
    return made


def _gain_of_bias_one(dataset):
    """Return the mean gain over seeds and its standard error; NaN if the map lacks a bias."""
    biases = json.loads(dataset.attrs["configuration"])["biases"]
    if not {0.0, 1.0} <= set(biases) or LSTM not in dataset["cell"]:
        return np.nan, np.nan
    skill = dataset["skill"].sel(cell=LSTM).mean("horizon")
    gain = skill.isel(column=biases.index(1.0)) - skill.isel(column=biases.index(0.0))
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(gain.size))

"""Skill of four kinds of networks over initialisation and horizon, with depth scales over it."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.drawing import class_name
from experiments.regimes._depth_scales import FRESH, GATE, KEPT, SCALES
from experiments.regimes.trainability_map import GRU, LSTM, MINIMAL, PLAIN
from paper_figures import style
from paper_figures.claims import Claim, standard_error

COLUMNS = {
    PLAIN: "σ_w of the recurrent weights",
    MINIMAL: "bias of the gate",
    GRU: "bias of the update gate",
    LSTM: "bias of the forget gate",
}
# The lines, each with a style of its own, stand out from the colour map by a white edge.
LINES: dict[str, tuple[str, Any, str, str]] = {
    FRESH: (style.VERMILION, "-", "k times ξ, theory with fresh weights", "ξ fresh"),
    KEPT: (style.BLACK, "--", "k times ξ, measured, weights kept", "ξ kept"),
    GATE: (style.BLUE, (0, (1, 1)), "k times the gate's time constant τ", "gate's τ"),
}
RULE = 6.0  # Schoenholz et al. 2017: trainable up to about six depth scales
CHEN = "Chen, Pennington and Schoenholz 2018"
TALLEC = "Tallec and Ollivier 2018"
ALIKE = 0.1  # difference of rank correlations that does not matter
BEYOND = (
    "Over the horizons and columns of this map most networks of short tasks learn and most of long "
    "ones do not, whatever the column, so that the length of the task decides."
)
WIDER = "Both learn over as wide a band on average over the columns of these maps."


def draw(dataset: xr.Dataset) -> Figure:
    """Draw a map for each cell with its fitted lines, and how skill goes with each scale."""
    cells = dataset["cell"].to_numpy().tolist()
    num_rows = -(-len(cells) // 2)
    figure = plt.figure(figsize=(style.WIDTH, 2.6 * num_rows + 1.5), layout="constrained")
    grid = figure.add_gridspec(num_rows, 3, width_ratios=(1, 1, 0.85))
    mesh, maps = None, []
    for place, cell in enumerate(cells):
        axes = figure.add_subplot(grid[divmod(place, 2)])
        mesh = _draw_map(axes, dataset.sel(cell=cell))
        axes.set_xlabel(COLUMNS[cell])
        if place % 2 == 0:
            axes.set_ylabel("horizon T (steps)")
        maps.append(axes)
    ratios = figure.add_subplot(grid[0, 2])
    _draw_ratios(ratios, dataset)
    if num_rows > 1:
        _draw_correlations(figure.add_subplot(grid[1, 2]), dataset)
    assert mesh is not None
    figure.colorbar(
        mesh, ax=maps, label="mean held-out skill", location="bottom", shrink=0.5, pad=0.02
    )
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.6, label=label)
        for colour, line, label, _ in LINES.values()
    ] + [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", label=class_name(cell))
        for cell, look in style.CELLS.items()
        if cell in cells
    ]
    style.legend_below(
        figure,
        handles,
        style.caption(
            dataset,
            "Delayed recall, width {width}, Gaussian recurrent kernels, {n_seed} networks per "
            "point, {num_updates} updates of {batch_size} sequences, clipped Adam at rate "
            "{learning_rate:g}.\nξ = 1/(2|λ₁|), τ = −1/ln σ(bias). At T = k times the scale half "
            "of the networks learn (skill above ½). Bars: 95 % over columns and networks.",
        ),
        num_columns=2,
    )
    return figure


def _draw_map(axes, one):
    """Draw the mean skill of one cell over columns and horizons, and multiples of its scales."""
    values, horizons = one["value"].to_numpy(), one["horizon"].to_numpy()
    x, y = edges(values), np.exp(edges(np.log(horizons)))
    skill = one["skill"].mean("seed").transpose("horizon", "column").to_numpy()
    mesh = axes.pcolormesh(x, y, skill, cmap="cividis", vmin=0, vmax=1)
    said = []
    for scale, (colour, line, _, short) in LINES.items():
        multiple = float(one["multiple"].sel(scale=scale))
        if np.isnan(multiple):
            continue
        steps = multiple * one["depth_scale"].sel(scale=scale)
        # No line lies under the white edge of another.
        axes.plot(values, steps, color="white", linewidth=3.2, zorder=2)
        axes.plot(values, steps, color=colour, linestyle=line, linewidth=1.6, zorder=2.5)
        low, high = one["multiple_interval"].sel(scale=scale).to_numpy()
        said.append(f"{short}: {multiple:.2g} [{low:.2g}, {high:.2g}]")
    axes.set_title(class_name(str(one["cell"].item())), pad=24)
    axes.text(
        0.5,
        1.02,
        f"k for {', '.join(said[:2])}\n{', '.join(said[2:])}" if said else "",
        transform=axes.transAxes,
        ha="center",
        fontsize=6.5,
        linespacing=1.3,
    )
    axes.set_yscale("log")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_yticks(horizons, labels=[str(horizon) for horizon in horizons])
    axes.minorticks_off()
    return mesh


def edges(centres: np.ndarray) -> np.ndarray:
    """Return the edges of cells around centres, halfway."""
    centres = np.asarray(centres, float)
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    ends = 2 * centres[[0, -1]] - middle[[0, -1]]
    return np.concatenate([ends[:1], middle, ends[1:]])


def _draw_ratios(axes, dataset):
    """Draw the skill of all points of all maps against T/ξ."""
    ratio = dataset["horizon"] / dataset["depth_scale"].sel(scale=FRESH)
    skill = dataset["skill"].mean("seed").transpose(*ratio.dims)
    for cell in dataset["cell"].to_numpy():
        look = style.CELLS[cell]
        axes.plot(
            ratio.sel(cell=cell).to_numpy().ravel(),
            skill.sel(cell=cell).to_numpy().ravel(),
            look.marker,
            color=look.colour,
            markersize=3,
            alpha=0.8,
        )
    axes.axvline(RULE, color="0.3", linestyle=":", linewidth=1.1)
    axes.text(RULE * 1.15, 1.07, "T = 6 ξ", fontsize=7, color="0.3")
    axes.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_ylim(-0.15, 1.15)
    axes.set_xlabel("T / ξ, fresh weights")
    axes.set_ylabel("mean held-out skill")
    axes.set_title("all points of the maps")


def _draw_correlations(axes, dataset):
    """Draw how much more the scales of each cell tell of its success than the horizon does."""
    cells = dataset["cell"].to_numpy()
    for place, cell in enumerate(cells):
        look, one = style.CELLS[cell], dataset.sel(cell=cell)
        value = one["beyond"].to_numpy()
        low, high = one["beyond_interval"].to_numpy().T
        axes.errorbar(
            np.arange(len(SCALES)) + 0.16 * (place - (len(cells) - 1) / 2),
            value,
            # The middle of what is drawn again need not be where the value is.
            yerr=np.maximum([value - low, high - value], 0),
            fmt=look.marker,
            color=look.colour,
            markersize=4,
            capsize=1.5,
            elinewidth=1,
        )
    axes.axhline(0, color="0.3", linestyle=":", linewidth=1.1, zorder=0)
    axes.set_xticks(range(len(SCALES)), [LINES[scale][3] for scale in SCALES])
    axes.set_xlim(-0.5, len(SCALES) - 0.5)
    axes.set_ylabel("correlation of success with\nscale/T minus that with 1/T")
    axes.set_title("what scales tell of success")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Ask whether depth scales tell more than the horizon, how far they reach, and of a bias of 1.

    Claims about a cell that is not there are left out.
    """
    cells = dataset["cell"].to_numpy().tolist()
    num_points = dataset.sizes["column"] * dataset.sizes["horizon"]
    made = []
    for cell in cells:
        scale, symbol, source = (GATE, "τ", TALLEC) if cell in (GRU, LSTM) else (FRESH, "ξ", CHEN)
        value, error = _with_error(dataset.sel(cell=cell, scale=scale), "beyond")
        what = "time constant of its gate" if scale == GATE else "depth scale of theory"
        made.append(
            Claim(
                f"The {what} tells more of how long a task a {class_name(cell)} can be trained on "
                "than the task's length by itself",
                source,
                f"Spearman correlation of the share that learned with {symbol}/T minus that with "
                f"1/T, over {num_points} points",
                "at least",
                0,
                0,
                value,
                error,
                reason=BEYOND,
            )
        )
    for cell in cells:
        if cell in (GRU, LSTM):
            value, error = _with_error(dataset.sel(cell=cell), "kept_lead")
            made.append(
                Claim(
                    f"λ₁ with the weights that a {class_name(cell)} keeps tells as much of how "
                    "well networks can be trained as theory with fresh weights",
                    "this package",
                    "Spearman correlation of the share that learned with ξ/T, ξ measured with kept "
                    f"weights minus ξ in theory with fresh ones, over {num_points} points",
                    "within",
                    0,
                    ALIKE,
                    value,
                    error,
                    kind="finding",
                )
            )
    if {PLAIN, MINIMAL} <= set(cells):
        bands = dataset["band"].sel(cell=[PLAIN, MINIMAL]).to_numpy()
        ends = dataset["band_interval"].sel(cell=[PLAIN, MINIMAL]).to_numpy()
        errors = [standard_error(low, high) for low, high in ends]
        made.append(
            Claim(
                "A minimalRNN can be trained over a wider band of horizons than a plain network",
                CHEN,
                "extent of log T that networks learn, mean over the columns of the maps, "
                "minimalRNN minus SimpleCell (nats)",
                "at least",
                0,
                0,
                float(bands[1] - bands[0]),
                float(np.hypot(errors[0], errors[1])),
                reason=WIDER,
            )
        )
    made += [_rule(dataset.sel(cell=cell), cell) for cell in cells if cell in (PLAIN, MINIMAL)]
    made += [_reach(dataset.sel(cell=cell), cell) for cell in cells if cell in (GRU, LSTM)]
    if LSTM in cells:
        made.append(_bias_of_one(dataset.sel(cell=LSTM)))
    return made


def _rule(one, cell):
    return Claim(
        f"A {class_name(cell)} can be trained over about six depth scales",
        "Schoenholz et al. 2017",
        "log of k, where half of the networks learn at T = k ξ, ξ in theory; log 6 to within a "
        "factor of 2 in k",
        "within",
        float(np.log(RULE)),
        float(np.log(2)),
        *_log_multiple(one, FRESH),
    )


def _reach(one, cell):
    return Claim(
        f"A {class_name(cell)} learns tasks as long as the time constant of its gate",
        TALLEC,
        "log of k, where half of the networks learn at T = k τ",
        "at least",
        0,
        0,
        *_log_multiple(one, GATE),
    )


def _log_multiple(one, scale):
    """Return log k and its standard error."""
    at = one.sel(scale=scale)
    low, high = np.log(at["multiple_interval"].to_numpy())
    return float(np.log(at["multiple"])), standard_error(low, high)


def _bias_of_one(one):
    """Compare forget biases of 1 and 0, seed by seed; not measured if the map lacks one of them."""
    at = {
        bias: one["skill"].isel(column=np.flatnonzero(np.isclose(one["value"], bias)))
        for bias in (0, 1)
    }
    measured, error = np.nan, np.nan
    if all(skill.sizes["column"] for skill in at.values()):
        zero, first = (at[bias].isel(column=0).mean("horizon") for bias in (0, 1))
        measured = float((first - zero).mean())
        error = float((first - zero).std(ddof=1) / np.sqrt(one.sizes["seed"]))
    return Claim(
        "An LSTM is trained better with a forget bias of 1 than of 0",
        "Jozefowicz, Zaremba and Sutskever 2015",
        f"mean skill over all horizons, bias 1 minus bias 0, {one.sizes['seed']} networks each",
        "at least",
        0,
        0,
        measured,
        error,
    )


def _with_error(one, name):
    """Return a number and its standard error."""
    return float(one[name]), standard_error(*one[f"{name}_interval"].to_numpy().tolist())

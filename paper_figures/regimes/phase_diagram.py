"""Training success over recurrent gain and horizon, and the predicted boundaries over it."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jacobian_rnn as jrnn
from experiments.drawing import class_name
from experiments.protocol import NOISE_STD
from experiments.regimes.phase_diagram import rank_correlation
from jacobian_rnn import mean_field
from paper_figures import style
from paper_figures.claims import Claim, standard_error

BOUNDARIES = {"vanishing": (style.VERMILION, "solid"), "exploding": (style.VERMILION, "dashed")}
NO_GROWTH = (style.BLACK, "dotted")
THEORY = (style.BLACK, "dashdot")
# Four channels of noise meet an input kernel of variance 1/4 (LeCun), so each unit is driven with
# the variance of the noise.
INPUT_STD = NOISE_STD


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell."""
    thresholds = dict(
        zip(dataset["bound"].to_numpy().tolist(), dataset["threshold"].to_numpy(), strict=True)
    )
    cells = dataset["cell"].to_numpy().tolist()
    figure, grid = plt.subplots(
        1, len(cells), figsize=(style.WIDTH, 3.4), sharey=True, layout="constrained", squeeze=False
    )
    gains, horizons = dataset["gain"].to_numpy(), dataset["horizon"].to_numpy()
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).where(dataset["outcome"].notnull())
    success = learned.mean("seed")
    decides = {"vanishing": "log_growth", "exploding": "peak"}
    mesh = None
    for axes, cell in zip(grid[0], cells, strict=True):
        exponent = dataset["exponent"].sel(cell=cell).median("seed").transpose("horizon", "gain")
        mesh = axes.pcolormesh(
            _edges(gains),
            _edges(horizons),
            success.sel(cell=cell).transpose("horizon", "gain").to_numpy(),
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        for name, look in BOUNDARIES.items():
            growth = dataset[decides[name]].sel(cell=cell).median("sequence").median("seed")
            growth = growth.transpose("horizon", "gain")
            _draw_crossings(axes, gains, horizons, growth - thresholds[name], *look)
        _draw_crossings(axes, gains, horizons, exponent, *NO_GROWTH)
        if cell == "SimpleCell":
            critical = float(mean_field.critical_weight_std(input_std=INPUT_STD))
            axes.axvline(critical, color="white", linewidth=3.2)
            axes.axvline(critical, color=THEORY[0], linestyle=THEORY[1], linewidth=1.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*_edges(gains)[[0, -1]])
        axes.set_ylim(*_edges(horizons)[[0, -1]])
        axes.set_xticks(ticks := _round_gains(gains), labels=[f"{tick:g}" for tick in ticks])
        axes.set_yticks(horizons, labels=[str(horizon) for horizon in horizons])
        axes.minorticks_off()
        axes.set_title(class_name(cell))
        axes.set_xlabel("recurrent gain")
    grid[0, 0].set_ylabel("horizon (steps)")
    assert mesh is not None
    figure.colorbar(mesh, ax=list(grid[0]), label="fraction of networks that learned", pad=0.01)
    lines = {
        f"{'log growth' if name == 'vanishing' else 'its peak'} {thresholds[name]:+g} nats ({name} "
        "beyond)".replace("-", "−"): look
        for name, look in BOUNDARIES.items()
    } | {"measured λ₁ = 0": NO_GROWTH, "mean-field λ₁ = 0 (SimpleCell)": THEORY}
    style.legend_below(
        figure,
        [
            Line2D([], [], color=colour, linestyle=line, linewidth=1.6, label=label)  # pyright: ignore[reportArgumentType]
            for label, (colour, line) in lines.items()
        ],
        style.caption(
            dataset,
            "Delayed recall, width {width}, {n_seed} networks per point, {num_updates} updates of "
            "{batch_size} sequences, clipped Adam at rate {rates}. Lines: medians over networks.",
            rates=_rates(style.configuration(dataset)["learning_rates"]),
        ),
        num_columns=2,
    )
    return figure


def _rates(rates):
    said = " or ".join(f"{rate:g}" for rate in rates)
    return said + (", whichever validates best" if len(rates) > 1 else "")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Correlate success with how near the predicted growth is to zero, over all and each cell."""
    cells = dataset["cell"].to_numpy().tolist()
    found = {
        "all cells": rank_correlation(dataset),
        "all cells, among those of equal horizon": rank_correlation(dataset, at_equal_horizon=True),
        **{class_name(cell): rank_correlation(dataset.sel(cell=[cell])) for cell in cells},
    }
    return [
        Claim(
            f"Networks learn more often the nearer their predicted growth is to zero: {name}",
            "after Schoenholz et al. 2017",
            "Spearman correlation of success with −|log growth|, over "
            f"{correlation.num_networks} networks",
            "at least",
            0,
            0,
            correlation.value,
            standard_error(*correlation.interval),
        )
        for name, correlation in found.items()
    ]


def _draw_crossings(axes, gains, horizons, values, colour, look):
    """Draw where values cross zero between gains, a white line below to stand out."""
    values = np.asarray(values, float)
    if min(values.shape) < 2 or not (np.nanmin(values) < 0 < np.nanmax(values)):
        return
    # A growth of −inf has no place on a line between neighbours; far below zero it does not show.
    gains, horizons, values = _refined(gains, horizons, np.clip(values, -1e3, 1e3))
    finite = np.ma.masked_invalid(values)
    for width, shade, line in ((3.2, "white", "solid"), (1.6, colour, look)):
        axes.contour(
            gains, horizons, finite, levels=[0], colors=[shade], linewidths=width, linestyles=line
        )


def _refined(gains, horizons, values):
    """Interpolate linearly in the logarithms of the axes, on which the lines are seen."""
    times = 16

    def finer(centres):
        index = np.arange((len(centres) - 1) * times + 1) / times
        return index, np.exp(np.interp(index, np.arange(len(centres)), np.log(centres)))

    (column, gains), (row, horizons) = finer(gains), finer(horizons)
    along = [np.interp(column, np.arange(values.shape[1]), line) for line in values]
    refined = [np.interp(row, np.arange(values.shape[0]), line) for line in np.transpose(along)]
    return gains, horizons, np.transpose(refined)


def _edges(centres):
    """Return the edges of cells around centres, halfway in the logarithm."""
    logs = np.log(np.asarray(centres, float))
    if len(logs) == 1:
        return np.exp(logs[0] + np.array([-0.1, 0.1]))
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[[0, -1]] - middle[[0, -1]]
    return np.exp(np.concatenate([ends[:1], middle, ends[1:]]))


def _round_gains(gains):
    low, high = _edges(gains)[[0, -1]]
    return [tick for tick in (0.1, 0.3, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= tick <= high]

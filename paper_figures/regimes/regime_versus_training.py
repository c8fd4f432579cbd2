"""Predicted log growth against recurrent gain, and what training showed, for three cells."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from experiments.regimes.regime_versus_training import compare, settings_of
from jacobian_rnn import plotting
from paper_figures.claims import Claim, standard_error

ROWS = {
    "delayed_recall, adam": "delayed recall\nAdam, clipped",
    "delayed_recall, sgd": "delayed recall\nplain SGD",
    "sequential_digits, adam": "sequential digits\nAdam, clipped",
}
OPTIMIZERS = {"adam": "Adam with clipping", "sgd": "plain SGD"}
AIM = 0.9  # balanced accuracy
APART = 1.07  # networks of one gain are drawn at up to this factor to its left and right
CLASSES = {
    "SimpleCell": "linen SimpleCell",
    "GRUCell": "linen GRUCell",
    "LSTMCell": "linen OptimizedLSTMCell",
}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell and setting."""
    configuration = json.loads(dataset.attrs["configuration"])
    thresholds = jrnn.Thresholds(*dataset["threshold"].to_numpy().tolist())
    figure, grid = plt.subplots(
        len(ROWS), len(CLASSES), figsize=(7.2, 6.6), sharex="col", sharey=True, layout="constrained"
    )
    for row, (setting, title) in zip(grid, ROWS.items(), strict=True):
        for axes, cell in zip(row, CLASSES, strict=True):
            part = dataset.sel(setting=setting, cell=cell)
            curve = part[["candidate_gain", "candidate_log_growth"]].sortby("candidate_gain")
            axes.plot(
                curve.candidate_gain,
                curve.candidate_log_growth,
                color="0.6",
                linewidth=0.8,
                label="prediction at other gains",
                zorder=2,
            )
            part["apart"] = ("seed", np.geomspace(1 / APART, APART, part.sizes["seed"]))
            flat = part[["gain", "log_growth", "interval", "outcome", "apart"]].stack(
                network=("gain_index", "seed")
            )
            plotting.regime_against_gain(
                axes,
                (flat["gain"] * flat["apart"]).to_numpy(),
                flat["log_growth"].median("sequence").to_numpy(),
                flat["interval"].transpose("network", "end").to_numpy(),
                flat["outcome"].to_numpy(),
                thresholds=thresholds,
            )
        plotting.label_regimes(row[-1], thresholds=thresholds)
        horizon = int(dataset["horizon"].sel(setting=setting).max())
        row[0].set_ylabel(f"{title}\nlog growth over {horizon} steps (nats)")
    for axes, cell in zip(grid[0], CLASSES.values(), strict=True):
        axes.set_title(cell)
    for axes in grid.flat:
        axes.label_outer()
    for axes in grid[-1]:
        axes.set_xticks([0.3, 1, 3, 10], labels=["0.3", "1", "3", "10"])
        axes.minorticks_off()
    handles = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        title=(
            f"width {configuration['width']}, {dataset.sizes['seed']} networks per gain (drawn "
            f"apart), {configuration['num_updates']} updates; bars: central 90 % of "
            f"{configuration['num_sequences']} sequences"
        ),
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Score the predictions, beside simple rules, and ask whether a stable gradient is needed."""
    made = []
    for optimizer, name in OPTIMIZERS.items():
        agreement = compare(dataset, settings_of(dataset, optimizer))
        score = agreement.prediction
        rule, (lead, (low, high)) = min(agreement.margins.items(), key=lambda one: one[1][1][0])
        over = "a simple rule" if np.isnan(lead) else f"'{rule}', {lead:+.3f}"
        vanishing, stable, exploding = agreement.confusion
        learned = jrnn.Outcome.LEARNED - jrnn.Outcome.STUCK  # its column
        unstable = vanishing + exploding
        made += [
            Claim(
                f"The predicted regime tells which networks learn ({name})",
                "aim of this package",
                f"balanced accuracy over {score.num_networks} networks",
                "at least",
                AIM,
                0,
                score.balanced_accuracy,
                standard_error(*score.interval),
            ),
            Claim(
                f"The prediction beats every simple rule beyond its 95 % interval ({name})",
                "aim of this package",
                f"lower end of the interval of its lead over {over}, balanced accuracy",
                "at least",
                0,
                0,
                low,
                standard_error(low, high),
            ),
            Claim(
                f"Networks whose gradients vanish or explode do not learn ({name})",
                "folklore, after Bengio, Simard and Frasconi (1994)",
                f"fraction that learned of {unstable.sum()} predicted to vanish or explode",
                "at most",
                0.05,
                0,
                unstable[learned] / unstable.sum() if unstable.sum() else np.nan,
            ),
            Claim(
                f"Networks whose gradients are stable learn ({name})",
                "folklore",
                f"fraction that learned of {stable.sum()} predicted to be stable",
                "at least",
                0.5,
                0,
                stable[learned] / stable.sum() if stable.sum() else np.nan,
            ),
        ]
    return made

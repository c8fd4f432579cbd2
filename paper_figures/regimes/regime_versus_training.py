"""Predicted log growth against recurrent gain, and what training showed, for three cells.

The growth is the one that decides: the peak on the way back where the gradient explodes, and else
the growth over the horizon.
"""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from experiments.drawing import class_name
from experiments.regimes.comparison_scores import compare, score_forecasts, settings_of
from jacobian_rnn import plotting
from paper_figures import style
from paper_figures.claims import Claim, Kind, standard_error

ROWS = {
    "delayed_recall, adam": "delayed recall\nAdam, clipped",
    "delayed_recall, sgd": "delayed recall\nplain SGD",
    "sequential_digits, adam": "sequential digits\nAdam, clipped",
}
OPTIMIZERS = {"adam": "Adam with clipping", "sgd": "plain SGD"}
AIM = 0.9  # balanced accuracy
AREA_AIM = 0.95  # under the curve, of forecasts
RARE = 0.05  # the share of networks that "do not learn" leaves room for
STUCK = (
    "A gradient that survives does not suffice: most misses are networks with a stable gradient "
    "that are stuck after the updates they had."
)
UNCLIPPED = (
    "The forecast's model was fitted to clipped updates. Plain SGD moves exploding networks much "
    "further, and the model takes that for a faster training."
)
APART = 1.07  # networks of one gain are drawn at up to this factor to its left and right


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one panel per cell and setting."""
    thresholds = jrnn.Thresholds(*dataset["threshold"].to_numpy().tolist())
    cells = dataset["cell"].to_numpy().tolist()
    figure, grid = plt.subplots(
        len(ROWS),
        len(cells),
        figsize=(style.WIDTH, 6.8),
        sharex="col",
        sharey=True,
        layout="constrained",
    )
    for row, (setting, title) in zip(grid, ROWS.items(), strict=True):
        for axes, cell in zip(row, cells, strict=True):
            _panel(axes, dataset.sel(setting=setting, cell=cell), thresholds)
        horizon = int(dataset["horizon"].sel(setting=setting).max())
        row[0].set_ylabel(f"{title}\nlog growth over {horizon} steps,\nor its peak (nats)")
    for axes in grid[:, -1]:  # which share an axis, that has its limits now
        plotting.label_regimes(axes, thresholds=thresholds)
    for axes, cell in zip(grid[0], cells, strict=True):
        axes.set_title(class_name(cell))
    for axes in grid.flat:
        axes.label_outer()
    for axes in grid[-1]:
        axes.set_xticks([0.3, 1, 3, 10], labels=["0.3", "1", "3", "10"])
        axes.minorticks_off()
    style.legend_below(
        figure,
        [handle for axes in grid.flat for handle in axes.get_legend_handles_labels()[0]],
        style.caption(
            dataset,
            "Width {width}, {n_seed} networks per gain (drawn apart), {num_updates} updates; bars: "
            "central 90 % of {num_sequences} sequences.\nWhere gradients explode, the growth is "
            "its peak on the way back. Grey: learning is predicted.",
        ),
        num_columns=3,
    )
    return figure


def _panel(axes, part, thresholds):
    curve = part[["candidate_gain", "candidate_log_growth"]].sortby("candidate_gain")
    axes.plot(
        curve["candidate_gain"],
        curve["candidate_log_growth"],
        color="0.6",
        linewidth=0.8,
        label="prediction at other gains",
        zorder=2,
    )
    part["apart"] = ("seed", np.geomspace(1 / APART, APART, part.sizes["seed"]))
    flat = part[["gain", "deciding_growth", "interval", "outcome", "apart"]].stack(
        network=("gain_index", "seed")
    )
    plotting.regime_against_gain(
        axes,
        (flat["gain"] * flat["apart"]).to_numpy(),
        flat["deciding_growth"].median("sequence").to_numpy(),
        flat["interval"].transpose("network", "end").to_numpy(),
        flat["outcome"].to_numpy(),
        thresholds=thresholds,
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Score the predictions, beside simple rules, and ask whether a stable gradient is needed."""
    made = []
    for optimizer, name in OPTIMIZERS.items():
        forecast = score_forecasts(dataset, settings_of(dataset, optimizer))
        agreement = compare(dataset, settings_of(dataset, optimizer))
        score = agreement.prediction
        rule, (lead, interval) = min(agreement.margins.items(), key=lambda one: one[1][0])
        vanishing, stable, exploding = agreement.confusion
        made += [
            Claim(
                f"The predicted regime tells which networks learn ({name})",
                "this package",
                f"balanced accuracy over {score.num_networks} networks",
                "at least",
                AIM,
                0,
                score.balanced_accuracy,
                standard_error(*score.interval),
                kind="aim",
                reason=STUCK,
            ),
            Claim(
                f"The prediction is better than every simple rule ({name})",
                "this package",
                f"balanced accuracy minus that of the best rule, '{rule}'",
                "at least",
                0,
                0,
                lead,
                standard_error(*interval),
                kind="aim",
            ),
            Claim(
                f"The forecast of learning ranks networks by who learns ({name})",
                "this package",
                f"area under the curve over {forecast.num_networks} networks",
                "at least",
                AREA_AIM,
                0,
                forecast.value.area,
                standard_error(forecast.low.area, forecast.high.area),
                kind="aim",
                reason=UNCLIPPED,
            ),
            _share(
                f"Networks whose gradients vanish or explode do not learn ({name})",
                "Bengio, Simard and Frasconi 1994",
                "fraction that learned of {} predicted to vanish or explode",
                "at most",
                RARE,
                vanishing + exploding,
            ),
            _share(
                "A stable gradient does not suffice: most networks that have one do not learn "
                f"within their updates ({name})",
                "this package",
                "fraction that learned of {} predicted to be stable",
                "at most",
                0.5,
                stable,
                kind="finding",
            ),
        ]
    return made


def _share(statement, source, quantity, relation, expected, counts, *, kind: Kind = "reproduction"):
    """Make a claim about the fraction of networks that learned, with its binomial error."""
    total = counts.sum()
    learned = counts[jrnn.Outcome.LEARNED - jrnn.Outcome.STUCK]
    # Agresti and Coull's centre, so that no network or all of them leave an error.
    centre = (learned + 2) / (total + 4)
    return Claim(
        statement,
        source,
        quantity.format(total),
        relation,
        expected,
        0,
        learned / total if total else np.nan,
        float(np.sqrt(centre * (1 - centre) / (total + 4))),
        kind=kind,
    )

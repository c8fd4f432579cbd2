"""How good forecasts of learning are on what they were not fitted to, beside simple rules."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.regimes._forecasting import FORECAST, NUM_BINS, RULES
from paper_figures import style
from paper_figures.claims import Claim, standard_error

AIMS = {"area": 0.95, "balanced_accuracy": 0.90}
LEFT_OUT_AIM = 0.85
REASON = (
    "How hard a task is counts as much as how gradients fare, and is not measured. Even five other "
    "trainings of the same network give an area of no more than 0.95."
)
CALIBRATION_AIM = 0.05
SPLIT_LOOKS = {
    "shape": (style.BLACK, "o"),
    "cell": (style.PURPLE, "D"),
    "task": (style.ORANGE, "s"),
    "width": (style.GREEN, "^"),
}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw areas under the curve of all predictors, and how reliable the probabilities are."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.8), width_ratios=(1.5, 1), layout="constrained"
    )
    names = [FORECAST, *RULES]
    splits = dataset["split"].to_numpy().tolist()
    handles = []
    for number, split in enumerate(splits):
        at = dataset.sel(split=split, score="area", predictor=names)
        area, (low, high) = at["score_of"].to_numpy(), at["interval"].to_numpy()
        colour, marker = SPLIT_LOOKS[split]
        place = np.arange(len(names)) + 0.18 * (number - (len(splits) - 1) / 2)
        bars = left.errorbar(
            area,
            place,
            xerr=np.abs([area - low, high - area]),
            fmt=marker,
            color=colour,
            markersize=3,
            linewidth=0.8,
            label=f"{split} left out",
        )
        handles.append(bars)
        _draw_reliability(right, dataset.sel(split=split), colour, marker)
    ceiling = float(dataset["ceiling"].sel(ceiling_score="area"))
    label = "five other trainings of each network"
    handles.append(left.axvline(ceiling, color="0.3", linestyle=":", linewidth=1, label=label))
    left.axvline(0.5, color="0.7", linewidth=0.6, zorder=0)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("area under the curve, 0.5 by chance")
    left.set_title("who learns?")
    right.plot([0, 1], [0, 1], color="0.7", linewidth=0.6, zorder=0)
    right.set_xlabel("forecast probability of learning")
    right.set_ylabel("share that learned")
    right.set_aspect("equal")
    right.set_title("can probabilities be believed?")
    style.legend_below(
        figure,
        handles,
        style.caption(
            dataset,
            "{num} networks, four budgets each. Bars: 95 % over shapes of networks.",
            num=int(dataset["num_networks"]),
        ),
        num_columns=3,
    )
    return figure


def _draw_reliability(axes, at, colour, marker):
    there = np.isfinite(at["probability"].to_numpy())
    probability = at["probability"].to_numpy()[there]
    learned = at["learned"].to_numpy()[there].astype(float)
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    full = counts >= NUM_BINS
    means = [np.bincount(bins, each, minlength=NUM_BINS)[full] for each in (probability, learned)]
    axes.plot(*(each / counts[full] for each in means), marker=marker, color=colour, markersize=3,
              linewidth=0.8)  # fmt: skip


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare the scores with what this package asks of itself."""
    made = []
    for split in dataset["split"].to_numpy().tolist():
        at = dataset.sel(split=split)
        for name, aim in AIMS.items():
            made.append(_aim(at, split, name, "at least", aim))
        made.append(_aim(at, split, "calibration_error", "at most", CALIBRATION_AIM))
        rules = at["score_of"].sel(predictor=list(RULES), score="area")
        best = str(rules["predictor"][int(np.argmax(rules.to_numpy()))].item())
        low, high = at["lead"].sel(predictor=best, score="area").to_numpy().tolist()
        forecast = float(at["score_of"].sel(predictor=FORECAST, score="area"))
        made.append(
            Claim(
                f"With a {split} left out, the forecast beats every simple rule",
                "this package",
                f"area under the curve beyond that of the best rule, {best}",
                "at least",
                0.0,
                0.0,
                forecast - float(rules.max()),
                standard_error(low, high),
                kind="aim",
            )
        )
    slope, error = (np.log(10) * dataset["slope"].to_numpy()).tolist()
    made.append(
        Claim(
            "A gradient of relative size e^-x needs e^2x sequences to stand out of noise",
            "theory",
            "nats by which ten times the data move the lower threshold",
            "within",
            -np.log(10) / 2,
            0.3,
            slope,
            error,
        )
    )
    for split in ("cell", "task"):
        if split in dataset["split"]:
            scores = dataset.sel(split=split, score="balanced_accuracy")[f"{split}_score"]
            worst = scores[split][int(np.argmin(scores.to_numpy()))].item()
            made.append(
                Claim(
                    f"Every {split} that is left out is forecast well",
                    "this package",
                    f"balanced accuracy of the worst, {worst}",
                    "at least",
                    LEFT_OUT_AIM,
                    0.0,
                    float(scores.min()),
                    kind="aim",
                    reason=REASON,
                )
            )
    return made


def _aim(at, split, name, relation, aim):
    low, high = at["interval"].sel(predictor=FORECAST, score=name).to_numpy().tolist()
    return Claim(
        f"With a {split} left out, forecasts are good enough to act on",
        "this package",
        name.replace("_", " "),
        relation,
        aim,
        0.0,
        float(at["score_of"].sel(predictor=FORECAST, score=name)),
        standard_error(low, high),
        kind="aim",
        reason=REASON,
    )

"""How good the shipped forecast is on recurrences of today, which it has never seen."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.regimes._forecasting import FORECAST
from experiments.regimes._state_tracking import LARGEST_RATES, LONGER
from experiments.regimes._unseen_scores import RULES
from paper_figures import style
from paper_figures.claims import Claim, Relation, standard_error

AREA_AIM = 0.85
AIMS: dict[str, tuple[Relation, float, str]] = {
    "area": (
        "at least",
        AREA_AIM,
        "The shipped forecast ranks networks of cells that it has never seen by who learns",
    ),
    "calibration_error": (
        "at most",
        0.05,
        "Its probabilities can be believed for cells that it has never seen",
    ),
}
TOO_HIGH = 0.1
SHORT_CUT = 0.2  # skill that short cuts give at most, here on steps where they give nothing
SOLVED = 0.9
EIGENVALUES = {
    "positive": ("in [0, 1]", style.ORANGE, "s"),
    "signed": ("in [−1, 1]", style.BLUE, "o"),
}
POOLED = "all together"


def draw(dataset: xr.Dataset) -> Figure:
    """Draw areas by cell and task, the reliability of probabilities, and skills on parity."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(style.WIDTH, 4.4), width_ratios=(1.25, 1.25, 0.8), layout="constrained"
    )
    _draw_areas(left, dataset)
    _draw_reliability(middle, dataset)
    handles = _draw_parity(right, dataset)
    style.legend_below(
        figure,
        handles,
        style.caption(
            dataset,
            "{num} networks, {budgets} budgets each. Percentages: share that learned. Bars: 95 % "
            "over shapes of networks.",
            num=int(dataset["num_networks"]),
            budgets=len(np.unique(dataset["num_updates"])),
        ),
    )
    return figure


def _draw_areas(axes, dataset):
    at = dataset.sel(score="area")
    pooled = at.sel(predictor=FORECAST)
    rows = [(POOLED, pooled["score_of"], pooled["interval"], dataset["learned"].mean(), 0.0)]
    place = 0.0
    for kind in ("cell", "task"):
        place += 0.5
        for one in dataset[kind].to_numpy().tolist():
            place += 1
            here = at.sel({kind: one})
            named = (here[f"{kind}_{name}"] for name in ("score", "interval", "share"))
            rows.append((one.replace("_", " "), *named, place))
    for name, area, interval, share, where in rows:
        value, (low, high) = float(area), interval.to_numpy()
        colour = style.BLACK if name == POOLED else style.BLUE
        marker = "D" if name == POOLED else "o"
        if np.isfinite(value):
            axes.plot([low, high], [where, where], color=colour, linewidth=1.1)
            axes.plot(value, where, marker, color=colour, markersize=4)
        else:
            said = " all learned" if share else " none learned"
            axes.text(0.5, where, said, va="center", size=6, color=style.GREY)
        axes.text(1.04, where, f"{float(share):.0%}", va="center", size=6.5, clip_on=False)
    axes.set_yticks([row[-1] for row in rows], [row[0] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.axvline(0.5, color="0.7", linewidth=0.7, zorder=0)
    axes.axvline(AREA_AIM, color="0.3", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel("area under the curve\n(0.5 by chance, aim dotted)")
    axes.set_title("who learns?")


def _draw_reliability(axes, dataset):
    there = dataset.isel(bin=np.flatnonzero(dataset["bin_count"].to_numpy()))
    forecast, share = there["bin_forecast"].to_numpy(), there["bin_share"].to_numpy()
    low, high = there["bin_interval"].to_numpy()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.7, zorder=0)
    axes.vlines(forecast, low, high, color=style.BLUE, linewidth=1.1)
    axes.plot(forecast, share, "o-", color=style.BLUE, markersize=4, linewidth=0.8)
    for x, top, count in zip(forecast, high, there["bin_count"].to_numpy(), strict=True):
        axes.text(x, min(top + 0.02, 1.03), str(int(count)), ha="center", size=6, color=style.GREY)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.08)
    axes.set_xlabel("forecast probability of learning\n(numbers: trainings)")
    axes.set_ylabel("share that learned")
    axes.set_title("can probabilities be believed?")


def _draw_parity(axes, dataset):
    handles = []
    names = {"parity_skill": "as in\ntraining", "parity_longer_skill": f"{LONGER} times\nas long"}
    for kind in dataset["eigenvalues"].to_numpy().tolist():
        label, colour, marker = EIGENVALUES[kind]
        skills = np.stack(
            [dataset[name].sel(eigenvalues=kind).to_numpy().ravel() for name in names]
        )
        shift = 0.12 * (list(LARGEST_RATES).index(kind) * 2 - 1)
        spread = np.linspace(-0.06, 0.06, skills.shape[1])
        places = np.arange(len(names))[:, None] + shift + spread[None]
        handles += axes.plot(
            places.ravel(),
            skills.ravel(),
            marker,
            color=colour,
            markersize=4,
            alpha=0.75,
            label=f"eigenvalues {label}",
        )
    axes.axhline(0, color="0.7", linewidth=0.7, zorder=0)
    axes.set_xticks(range(len(names)), names.values())
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(-0.15, 1.08)
    axes.set_ylabel("skill at parity, 0 by chance")
    axes.set_title("Gated DeltaNet")
    return handles


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare scores on unseen cells with this package's aims, and skills on parity with theory."""
    at = dataset.sel(predictor=FORECAST)
    num = int(dataset["num_networks"])
    where = f"{num} networks of {dataset.sizes['cell']} cells on {dataset.sizes['task']} tasks"
    made = []
    for name, (relation, aim, statement) in AIMS.items():
        low, high = at["interval"].sel(score=name).to_numpy().tolist()
        made.append(
            Claim(
                statement,
                "this package",
                f"{name.replace('_', ' ')} over {where}",
                relation,
                aim,
                0.0,
                float(at["score_of"].sel(score=name)),
                standard_error(low, high),
                kind="aim",
                reason=_reason(dataset),
            )
        )
    rules = dataset["score_of"].sel(predictor=list(RULES), score="area")
    best = str(rules["predictor"][int(np.argmax(rules.to_numpy()))].item())
    low, high = dataset["lead"].sel(predictor=best, score="area").to_numpy().tolist()
    made.append(
        Claim(
            "On cells that it has never seen the shipped forecast beats every simple rule",
            "this package",
            f"area under the curve beyond that of the best rule, {best}",
            "at least",
            0.0,
            0.0,
            float(at["score_of"].sel(score="area") - rules.max()),
            standard_error(low, high),
            kind="aim",
        )
    )
    return made + _of_copying(dataset) + _of_parity(dataset)


def _reason(dataset):
    """Say on which task probabilities are most off, and how good they are on a task they know."""
    names = dataset["task"].to_numpy().tolist()
    off, known = (
        dataset[name].sel(statistic="value").to_numpy()
        for name in ("task_excess", "known_task_excess")
    )
    worst = int(np.argmax(np.abs(off)))
    said = f"Mean probabilities are off by {off[worst]:+.2f} on {_plain(names[worst])}"
    if np.isfinite(known).any():
        best = int(np.nanargmin(np.abs(np.where(np.isfinite(known), off, np.nan))))
        area = float(dataset["task_score"].sel(task=names[best], score="area"))
        said += f" and by {off[best]:+.2f} on {_plain(names[best])}, where the area is {area:.2f}"
    return f"{said}. How hard a task is is not measured."


def _plain(task):
    return task.replace("_", " ")


def _of_copying(dataset):
    """Say where probabilities are too high, and that this is so of cells that are known, too."""
    made = []
    for name, whose in {
        "task_excess": "cells that it has never seen",
        "known_task_excess": "the cells that it was fitted to",
    }.items():
        if "copying_memory" not in dataset["task"]:
            continue
        value, error = dataset[name].sel(task="copying_memory").to_numpy().tolist()
        made.append(
            Claim(
                f"On copying the probabilities of the shipped forecast are too high for {whose}",
                "this package",
                "mean probability minus the share that learned",
                "at least",
                TOO_HIGH,
                0.0,
                value,
                error,
                kind="finding",
            )
        )
    return made


def _of_parity(dataset):
    """Say who learns parity. Trainings of one network differ in learning rate alone."""
    statements: dict[str, tuple[str, Relation, float]] = {
        "positive": (
            "A delta rule with eigenvalues in [0, 1] does not learn parity beyond short cuts",
            "at most",
            SHORT_CUT,
        ),
        "signed": ("A delta rule with eigenvalues in [−1, 1] learns parity", "at least", SOLVED),
    }
    made = []
    for kind in dataset["eigenvalues"].to_numpy().tolist():
        statement, relation, bound = statements[kind]
        each = dataset["parity_longer_skill"].sel(eigenvalues=kind)
        skill = each.mean("learning_rate").to_numpy()
        made.append(
            Claim(
                statement,
                "Grazzi et al. 2025",
                f"skill on sequences {LONGER} times as long as in training, mean over "
                f"{skill.size} networks and {dataset.sizes['learning_rate']} learning rates",
                relation,
                bound,
                0.0,
                float(skill.mean()),
                float(skill.std(ddof=1) / np.sqrt(skill.size)),
            )
        )
    return made

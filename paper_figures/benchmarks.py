"""Accuracy and speed: error against time, ratios to references, and growth with size."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from paper_figures.claims import Claim

# Okabe and Ito's colours; each method also has its own marker.
METHODS = {
    "naive product, SVD": ("#000000", "x"),
    "rescaled product, SVD": ("#E69F00", "+"),
    "diagonal of one QR pass": ("#56B4E9", "s"),
    "product_of, one pass": ("#009E73", "o"),
    "product_of, with its error": ("#D55E00", "^"),
}
SCAN, OURS, OTHERS, PRODUCT = "#56B4E9", "#0072B2", "#E69F00", "#009E73"
LINES = {"scan": (SCAN, "s"), "lyapunov": (OURS, "o"), "product": (PRODUCT, "^")}
GROWTH = {  # what a case of W4 changes: (size, label of the axis)
    "width": ("n", "states n = k"),
    "length": ("num_steps", "steps T (n=32, k=4)"),
    "batch": ("batch", "sequences (n=32, k=4)"),
}
WORST = 1e5  # nats; where what overflowed is drawn
LYAPAX, SPECTRUM = "lyapax, jitted", "lyapunov_spectrum, auto, jitted"
CHEAP = "What is measured costs little beside what it is measured on"
RIGHT = "All digits of singular values are right, or are said to be lost"
FASTER = "Exponents take less time than those of lyapax"
WHY_NOT = "To push the state and four tangents alone takes a third of a step"
NINE = "Nine gradients are pulled back for each sequence, and a loss has one"
# Group, name of the rows, case or "" for all, quantity, most that a median time may be over that of
# the reference, and why it is more. Of several rows the worst counts.
RATIOS = (
    ("W1", "product_of, one pass", "", "time of one pass of the product over that of a scan of QR, "
     "n = 64, T = 1000", 2.0, ""),
    ("verdict", "predict_regime, probes", "GRUCell", "time of a verdict on GRUs over that of the "
     "gradient of a loss, worst size", 2.5, NINE),
    ("verdict", "predict_regime, probes", "LSTMCell", "time of a verdict on LSTMs over that of the "
     "gradient of a loss, worst size", 2.5, NINE),
    ("sweep", "experiment in chunks", "", "time of an experiment over that of a loop by hand, "
     "compilation included", 1.1, ""),
)  # fmt: skip


def draw(dataset: xr.Dataset) -> Figure:
    """Draw error against time per step, ratios with their quartiles, and time against size."""
    rows = dataset.to_dataframe()
    rows = rows[rows["note"] == ""]
    rows = rows.assign(step_microseconds=1e6 * rows["seconds"] / rows["num_steps"] / rows["batch"])
    own = (rows["ratio_low"] == 1) & (rows["ratio_high"] == 1)
    compared = rows[rows["group"].isin(["W1", "W3", "floor", "verdict"]) & ~own]
    height = max(6.4, 1.0 + 0.15 * (len(compared) + 2 * len(set(compared["group"]))))
    figure = plt.figure(figsize=(9.5, height), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))
    (top,), (bottom,) = left.subfigures(2, 1, squeeze=False, height_ratios=(1.7, 1))
    _draw_errors(top, rows[rows["group"] == "accuracy"], dataset.attrs["dtype"])
    _draw_growth(bottom, rows[rows["group"].str.startswith("W4")])
    _draw_ratios(right.subplots(), compared)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare errors, times and memory with what this package wants of itself.

    What was not run has no claim.
    """
    rows = dataset.to_dataframe()
    rows = rows[rows["note"] == ""]
    made = _claims_of_errors(rows)
    for group, name, case, quantity, limit, reason in RATIOS:
        of_group = rows[(rows["group"] == group) & (rows["name"] == name)]
        found = of_group[of_group["case"].str.startswith(case)]
        if len(found):
            worst = found.loc[found["ratio"].idxmax()]
            error = _error_of(worst)
            made.append(
                _aim(CHEAP, quantity, "at most", limit, worst["ratio"], reason, error=error)
            )
    return made + _claims_of_peers(rows) + _claims_of_workers(rows) + _claims_of_memory(rows)


def _aim(statement, quantity, relation, expected, measured, reason="", *, error=np.nan):
    return Claim(
        statement=statement,
        source="this package",
        quantity=quantity,
        relation=relation,
        expected=expected,
        tolerance=0.0,
        measured=float(measured),
        uncertainty=float(error),
        kind="aim",
        reason=reason,
    )


def _error_of(row):
    """Return the standard error of a median ratio, from the quartiles of its rounds."""
    spread = (row["ratio_high"] - row["ratio_low"]) / 1.349
    return 1.2533 * spread / np.sqrt(row["num_rounds"]) if row["num_rounds"] > 1 else np.nan


def _claims_of_errors(rows):
    ours = rows[(rows["group"] == "accuracy") & (rows["name"] == "product_of, with its error")]
    leading = rows[(rows["group"] == "leading") & np.isfinite(rows["error"])]
    made = []
    if len(ours):
        known = ours[ours["own_error"] < 1e-2]
        share = (known["own_error"] / known["error"].clip(lower=np.finfo(float).tiny)).min()
        largest = "largest error where the estimate is below 0.01, nats"
        made.append(_aim(RIGHT, largest, "at most", 1e-9, known["error"].max()))
        made.append(_aim(RIGHT, "smallest estimate over error", "at least", 0.1, share))
    if len(leading):
        quantity = "largest difference from the exact product, nats"
        worst = leading["error"].max()
        made.append(_aim("The leading ones need no matrices", quantity, "at most", 1e-8, worst))
    return made


def _claims_of_peers(rows):
    """Compare the time of lyapax with that of the package."""
    made = []
    for k, limit in ((4, 2.5), (32, 1.8)):
        both: Any = rows[(rows["group"] == "W3") & (rows["k"] == k)].set_index("name")
        if LYAPAX not in both.index:
            continue
        theirs, ours = both.loc[LYAPAX], both.loc[SPECTRUM]
        ratio = theirs["ratio"] / ours["ratio"]
        error = ratio * np.hypot(*(_error_of(one) / one["ratio"] for one in (theirs, ours)))
        quantity = f"time of {LYAPAX}, over that of {SPECTRUM}, N = 32, k = {k}"
        made.append(_aim(FASTER, quantity, "at least", limit, ratio, WHY_NOT, error=error))
    return made


def _claims_of_workers(rows):
    two = rows[(rows["group"] == "sweep") & (rows["name"] == "two workers")].to_dict("records")
    quantity = (
        "throughput of two workers over that of one on one core, start and compilation included"
    )
    return [
        _aim(
            "Two workers are nearly twice as fast as one",
            quantity,
            "at least",
            1.7,
            1 / one["ratio"],
            "Both start, import JAX and compile by themselves",
            error=_error_of(one) / one["ratio"] ** 2,
        )
        for one in two
    ]


def _claims_of_memory(rows):
    profiles = rows[(rows["group"] == "profile") & (rows["name"] == "backward_profile")]
    if len(profiles) < 2:
        return []
    shortest, longest = profiles.sort_values("num_steps").iloc[[0, -1]].to_dict("records")
    quantity = (
        f"memory that XLA plans for a profile over {longest['num_steps']} steps over that for "
        f"{shortest['num_steps']}, inputs and results apart"
    )
    ratio = longest["megabytes"] / shortest["megabytes"]
    reason = f"It is {longest['megabytes']:.2g} MB, most of it a few numbers for every lag"
    return [_aim("Memory does not grow with the sequence", quantity, "at most", 1.5, ratio, reason)]


def _draw_errors(figure, rows, dtype):
    """Draw every method on every chain; the letters beside the markers tell the chains."""
    axes = figure.subplots()
    letters = dict(zip(rows["case"].unique(), "ABCDEFGH", strict=False))
    for row in rows.itertuples():
        colour, marker = METHODS[row.name]
        place = row.step_microseconds, min(row.error, WORST)
        axes.plot(*place, marker, color=colour, markersize=5, markerfacecolor="none")
        axes.annotate(
            letters[row.case],
            place,
            xytext=(4, -6 if ord(letters[row.case]) % 2 else 2),  # neighbours apart
            textcoords="offset points",
            fontsize=6.5,
            color=colour,
        )
    axes.axhline(WORST, color="0.8", linewidth=0.6, zorder=0)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="time per step (µs)",
        ylabel="largest error of a log singular value (nats)",
        title=f"(a) {dtype}; on the grey line: lost to overflow or underflow",
    )
    methods = [
        Line2D([], [], marker=marker, color=colour, linestyle="", markerfacecolor="none")
        for colour, marker in METHODS.values()
    ]
    ranges = rows.drop_duplicates("case").set_index("case")["log_range"]
    chains = [
        Line2D(
            [], [], marker=rf"$\mathrm{{{letter}}}$", color="0.2", linestyle="", markeredgewidth=0
        )
        for letter in letters.values()
    ]
    labels = [f"{case}: {ranges[case]:.0f} nats" for case in letters]
    style = {"frameon": False, "fontsize": 6.5}
    figure.legend(methods, list(METHODS), loc="outside upper center", ncols=3, **style)
    figure.legend(chains, labels, loc="outside lower center", ncols=2, **style)


def _draw_ratios(axes, rows):
    """Draw ratios from the top down, a heading above the rows of each workload."""
    labels, position = [], 0.0
    several = rows["group"].isin(["W1", "W3"])  # ways to do the same
    headings = rows["group"].where(~several, rows["group"] + ", " + rows["case"])
    for heading, part in rows.groupby(headings, sort=False):
        labels.append((position, heading, "bold"))
        for row in part.itertuples():
            position += 1
            ours = row.name.startswith(("lyapunov", "predict", "product"))
            axes.errorbar(
                row.ratio,
                position,
                xerr=[[row.ratio - row.ratio_low], [row.ratio_high - row.ratio]],
                fmt="o" if ours else "s",
                color=OURS if ours else OTHERS,
                markersize=4,
                linewidth=1.2,
            )
            labels.append((position, _label_of(row), "normal"))
        position += 1.5
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks([place for place, _, _ in labels], [text for _, text, _ in labels], fontsize=6)
    for tick, (_, _, weight) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight(weight)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(position, -1)
    axes.set_xlabel("time / time of the reference; bars: 25 to 75 %")
    axes.set_title(
        "(b) against a scan of QR at each step;\n"
        "floor: the cell's own step;\n"
        "verdict: the gradient of a loss"
    )


def _label_of(row):
    """Say what the heading above a row leaves open."""
    if row.group == "floor":
        return f"{row.case}, k={row.k}"
    if row.group == "verdict":
        return f"{row.case}, {row.name.removeprefix('predict_regime, ')}"
    return row.name


def _draw_growth(figure, rows):
    """Draw time per step and sequence against n, T and the number of sequences."""
    panels = figure.subplots(1, len(GROWTH))
    for axes, (case, (size, label)) in zip(panels, GROWTH.items(), strict=True):
        for name, one in rows[rows["case"] == case].groupby("name", sort=False):
            colour, marker = LINES[name.split("_")[0].split()[0]]
            axes.plot(
                one[size], one["step_microseconds"], color=colour, marker=marker, markersize=4
            )
        axes.set(xscale="log", yscale="log", xlabel=label)
        sizes = rows[rows["case"] == case][size].unique()
        axes.set_xticks(sizes, [_short(size) for size in sizes])
        axes.minorticks_off()
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("time per step and\nsequence (µs)")
    panels[0].set_title("(c) growth")
    handles = [Line2D([], [], color=c, marker=m, markersize=4) for c, m in LINES.values()]
    names = ["scan of QR", "lyapunov_spectrum(_of)", "product_of, one pass"]
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5)


def _short(size):
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if size >= unit:
            return f"{size / unit:g}{letter}"
    return str(size)

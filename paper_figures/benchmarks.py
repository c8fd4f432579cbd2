"""Accuracy and speed: error against time, ratios to references, and growth with size."""

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

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


def draw(dataset: xr.Dataset) -> Figure:
    """Draw error against time per step, ratios with their quartiles, and time against size."""
    rows = dataset.to_dataframe()
    rows = rows[rows["note"] == ""]
    rows = rows.assign(step_microseconds=1e6 * rows["seconds"] / rows["num_steps"] / rows["batch"])
    own = (rows["ratio_low"] == 1) & (rows["ratio_high"] == 1)
    compared = rows[rows["group"].isin(["W1", "W3", "floor", "verdict"]) & ~own]
    height = max(6.4, 1.0 + 0.15 * (len(compared) + 2 * len(set(compared["case"]))))
    figure = plt.figure(figsize=(9.5, height), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))
    (top,), (bottom,) = left.subfigures(2, 1, squeeze=False, height_ratios=(1.7, 1))
    _draw_errors(top, rows[rows["group"] == "accuracy"], dataset.attrs["dtype"])
    _draw_growth(bottom, rows[rows["group"].str.startswith("W4")])
    _draw_ratios(right.subplots(), compared)
    return figure


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
    for (group, case), part in rows.groupby(["group", "case"], sort=False):
        labels.append((position, f"{group}, {case}", "bold"))
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
            name = f"{row.name}, k={row.k}" if group == "floor" else row.name
            labels.append((position, name, "normal"))
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

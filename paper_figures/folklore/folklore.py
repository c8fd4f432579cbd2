"""What is told about vanishing and exploding gradients, each statement beside its measurement."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.folklore._verdicts import (
    FAITHFUL,
    NO_SLOPE,
    SEVERAL,
    profile_scores,
)
from paper_figures import style
from paper_figures.folklore._claims import CHECK, claims

__all__ = ["claims", "draw"]

SMALL, TITLE = 6.5, 7.2  # points, of what is written inside and above panels
LINE_WIDTH = 50  # characters that fit above a panel
PLAIN_CELL, LSTM = style.CELLS["SimpleCell"], style.CELLS["LSTMCell"]
# Of statement g: without a treatment, and with each.
INITIALISATIONS = {
    "SimpleCell": PLAIN_CELL,
    "LSTM": style.PLAIN,
    "LSTM, forget bias 1": style.Look(LSTM.colour, "o", "-"),
    "LSTM, chrono biases": style.Look(LSTM.colour, "D", "--"),
    "LSTM, large gain": style.Look(LSTM.colour, "P", ":"),
}
LEAST_APART = 0.09  # labels of panel g, as a fraction of its height
CAPTION = """\
Points: mean over networks drawn afresh; bars: standard error over them. Width {width}, \
{num_networks} networks per point, white input of standard deviation {input_std:g}, tanh and W \
with entries of variance gain²/N unless said otherwise. (a) ● layers with weights of their own, \
□ a recurrent network; lines have slope λ₁, measured apart. (c) {num_rule_networks} networks of \
each kind, gains {rule_gains[0]:g} to {rule_gains[1]:g}; bars: binomial; W of gated cells: the \
candidate's. (d) Median over networks. (e) Recall of a symbol, {num_updates} \
updates, {num_seeds} networks per gain, clipped; dotted, as in (g): below it the library predicts \
that nothing is learned. (f) Gradient descent over {delay} steps, a point for each network. (g) \
Flax's default initialisation but for what is named; large gain: {large_gain:g}. (h) Growth of \
random gradients over {horizon} steps in every network of (a) and (g): {num_probes} of them pulled \
back, against all singular values of the product of step Jacobians."""


def draw(dataset: xr.Dataset) -> Figure:
    """Draw a panel for each statement, above it the statement and, bold, the verdict; and a check.

    The check lays the backward profile beside the exact product.
    """
    figure, grid = plt.subplots(4, 2, figsize=(style.WIDTH, 10.2), layout="constrained")
    panels = (_depth, _factor, _rules, _differences, _recall, _updates, _memory, _profile)
    for panel, axes in zip(panels, grid.flat, strict=True):
        panel(axes, dataset)
    for statement, axes in zip(dataset["statement"].to_numpy(), grid.flat, strict=False):
        one = dataset.sel(statement=statement)
        _entitle(axes, f"({statement}) “{one['text'].values}”", str(one["verdict"].values))
    value = dataset["finding_value"]
    within = float(value.sel(finding="profile within three errors"))
    verdict = f"{within:.1%} of networks within {SEVERAL} sampling errors"
    _entitle(grid.flat[-1], f"(h) Check: {CHECK}", verdict)
    text = textwrap.fill(style.caption(dataset, CAPTION), 142)
    style.legend_below(figure, [], text)
    return figure


def _entitle(axes, told, verdict):
    verdict = textwrap.fill(verdict, LINE_WIDTH)
    axes.set_title(verdict, loc="left", fontsize=TITLE, fontweight="bold")
    axes.annotate(
        textwrap.fill(told, LINE_WIDTH),
        (0, 1),
        xytext=(0, 7 + 1.25 * TITLE * len(verdict.splitlines())),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=TITLE,
        style="italic",
    )


def _shade(number, count):
    """Return the colour of one of several gains, darker to lighter."""
    return plt.get_cmap("cividis")(0.7 * number / max(count - 1, 1))


def _depth(axes, dataset):
    """Draw log gradient norms of three gains, with lines of slope λ₁; all slopes in the inset."""
    exponent = dataset["chain_exponent"].mean("network")
    critical = int(np.abs(exponent.mean("chain").to_numpy()).argmin())
    shown = sorted({0, critical, dataset.sizes["gain"] - 1})
    last = int(dataset["depth"][-1])
    depths = np.linspace(0, last, 11).astype(int)
    inset = axes.inset_axes((0.17, 0.25, 0.25, 0.25))
    for number, gain in enumerate(shown):
        colour = _shade(number, len(shown))
        for chain, (marker, face, line) in enumerate((("o", colour, "-"), ("s", "white", "--"))):
            of_chain = dataset["chain_log_gradient"].isel(gain=gain, chain=chain, depth=depths)
            mean, bar = _mean_and_error(of_chain)
            _points(axes, depths, mean, bar, marker, colour, face)
            fit = mean[-1] + float(exponent.isel(gain=gain, chain=chain)) * (depths - last)
            axes.plot(depths, fit, color=colour, linestyle=line, linewidth=0.9, zorder=1)
        middle = float(dataset["chain_log_gradient"].isel(gain=gain, depth=-1).mean())
        label = f"gain {float(dataset['gain'][gain]):g}"
        axes.text(1.05 * last, middle, label, color=colour, va="center", fontsize=SMALL)
    for chain, (marker, face) in enumerate((("o", "0.2"), ("s", "white"))):
        slope, bar = _mean_and_error(dataset["chain_slope"].isel(chain=chain))
        rates, across = _mean_and_error(dataset["chain_exponent"].isel(chain=chain))
        _points(inset, rates, slope, bar, marker, "0.2", face, across)
    inset.axline((0, 0), slope=1, color="0.6", linewidth=0.7, zorder=0)
    inset.tick_params(labelsize=SMALL, pad=1.5, length=2)
    inset.set_xlabel("λ₁, all gains", fontsize=SMALL, labelpad=1)
    inset.set_ylabel("slope", fontsize=SMALL, labelpad=1)
    axes.set(xlabel="depth n (layers or steps)", ylabel="log gradient norm (nats)")
    axes.set(xlim=(-0.02 * last, 1.25 * last), xticks=np.linspace(0, last, 5))
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.45 * (high - low), high)


def _factor(axes, dataset):
    """Draw the rate of W alone and λ₁ against the gain."""
    gain = dataset["gain"].to_numpy()
    exponent = dataset["chain_exponent"].sel(chain="recurrent")
    for values, label, look in (
        (dataset["weight_rate"], "W alone: log spectral radius", style.PLAIN),
        (exponent, "true Jacobians, W and φ′: λ₁", PLAIN_CELL),
    ):
        mean, bar = _mean_and_error(values)
        axes.plot(gain, mean, color=look.colour, linestyle=look.line, linewidth=0.9, zorder=1)
        _points(axes, gain, mean, bar, look.marker, look.colour, look.colour, label=label)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set(xlabel="recurrent gain", ylabel="rate (nats per step)")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL)


def _rules(axes, dataset):
    """Draw how often each rule is right, for each kind of network."""
    grows = dataset["rule_exponent"] > 0
    right = (dataset["rule_size"] > 1) == grows
    kinds, count = dataset["kind"].to_numpy(), dataset.sizes["rule_network"]
    share = grows.mean("rule_network").to_numpy()
    for place, most in enumerate(np.maximum(share, 1 - share)):
        label = "guess of the majority" if place == 0 else None
        axes.hlines(most, place - 0.4, place + 0.4, color="0.6", linewidth=1.2, label=label)
    faces = ("black", "white", "0.6")
    for number, rule in enumerate(dataset["rule"].to_numpy()):
        fraction = right.sel(rule=rule).mean("rule_network").to_numpy()
        bar = np.sqrt(fraction * (1 - fraction) / count)
        places = np.arange(len(kinds)) + 0.22 * (number - 1)
        marker = style.MARKERS[number]
        _points(axes, places, fraction, bar, marker, "black", faces[number], label=f"{rule} > 1")
    names = [str(kind).replace(", ", "\n") for kind in kinds]
    axes.set_xticks(range(len(kinds)), names, fontsize=SMALL)
    axes.set(xlim=(-0.5, len(kinds) - 0.5), ylim=(0, 1.45))
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_ylabel("right sign of λ₁ (fraction)", y=0.35)
    axes.legend(loc="upper center", ncols=2, frameon=False, fontsize=SMALL, columnspacing=1)


def _differences(axes, dataset):
    """Draw the error of finite differences against the step size."""
    error = dataset["difference_error"].median("network")
    steps = dataset["step_size"].to_numpy()
    for number, gain in enumerate(dataset["difference_gain"].to_numpy()):
        name = ("stable", "chaotic")[number]
        for lag, line in ((0, "--"), (-1, "-")):
            one = error.isel(difference_gain=number, lag=lag)
            label = f"gain {gain:g} ({name}), lag {int(one['lag'])}"
            axes.loglog(
                steps, one, color=_shade(number, 2), linestyle=line, linewidth=1.1, label=label
            )
    axes.axhline(FAITHFUL, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.annotate("a tenth", (3e-9, FAITHFUL), va="bottom", fontsize=SMALL, color="0.4")
    axes.set(xlabel="change of the input, ε", ylabel="relative error")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-9), max(high, 1e8))
    axes.legend(loc="upper right", frameon=False, fontsize=SMALL)


def _recall(axes, dataset):
    """Draw skill against the gradient's growth over the lag, a point for each network."""
    names = {"sgd": "gradient descent", "adam": "Adam"}
    for optimizer, marker in zip(dataset["optimizer"].to_numpy(), ("o", "^"), strict=False):
        for place, colour in enumerate(("0.6", "black")):
            one = dataset.sel(optimizer=optimizer).isel(recall_lag=place)
            axes.plot(
                one["recall_log_growth"].to_numpy().ravel(),
                one["recall_skill"].to_numpy().ravel(),
                marker,
                color=colour,
                markerfacecolor=colour if marker == "o" else "none",
                markersize=3.2,
                markeredgewidth=0.8,
                label=f"{names[str(optimizer)]}, lag {int(one['recall_lag'])}",
            )
    axes.axvline(NO_SLOPE, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xlabel="log growth over the lag, before training (nats)", ylim=(-0.15, 1.1))
    axes.set_ylabel("skill after training")
    axes.legend(loc="center left", frameon=False, fontsize=SMALL, bbox_to_anchor=(0.03, 0.5))


def _updates(axes, dataset):
    """Draw the largest update of each network, without and with clipping."""
    num_gains, ticks = dataset.sizes["update_gain"], []
    offsets = np.linspace(-0.25, 0.25, dataset.sizes["seed"])
    for clip, name in enumerate(dataset["clip"].to_numpy()):
        places = np.arange(num_gains) + clip * (num_gains + 0.4)
        ticks += places.tolist()
        for gain, place in enumerate(places):
            one = dataset.isel(update_gain=gain, clip=clip)
            for outcome, look in style.OUTCOMES.items():
                chosen = one["update_outcome"].to_numpy() == outcome
                largest = one["update_largest"].to_numpy()[chosen]
                axes.plot(
                    place + offsets[chosen], largest, look.marker, color=look.colour, markersize=3.2
                )
        axes.text(
            places.mean(),
            0.99,
            str(name),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=SMALL,
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)
    axes.set_xticks(ticks, [f"{gain:g}" for gain in dataset["update_gain"].to_numpy()] * 2)
    axes.set(xlabel="recurrent gain", ylabel="largest update norm")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=3.2)
        for look in style.OUTCOMES.values()
    ]
    labels = [outcome.name.lower() for outcome in style.OUTCOMES]
    axes.legend(handles, labels, loc="center right", frameon=False, fontsize=SMALL)


def _memory(axes, dataset):
    """Draw log gradient norms by lag, for each initialisation."""
    last = int(dataset["depth"][-1])
    lags = np.linspace(0, last, 9).astype(int)
    labels = []
    for kind, look in INITIALISATIONS.items():
        of_kind = dataset["memory_log_gradient"].sel(initialisation=kind)
        mean = of_kind.mean("network")
        axes.plot(mean["depth"], mean, color=look.colour, linestyle=look.line, linewidth=0.9)
        mean, bar = _mean_and_error(of_kind.isel(depth=lags))
        _points(axes, lags, mean, bar, look.marker, look.colour, look.colour)
        labels.append((float(mean[-1]), kind.replace("LSTM, ", ""), look.colour))
    axes.axhline(NO_SLOPE, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xlabel="lag (steps)", ylabel="log gradient norm (nats)")
    axes.set(xlim=(-0.02 * last, 1.42 * last), xticks=np.linspace(0, last, 5))
    low, high = axes.get_ylim()
    below = -np.inf
    for height, label, colour in sorted(labels):
        below = max(height, below + LEAST_APART * (high - low))
        axes.text(1.04 * last, below, label, color=colour, fontsize=SMALL, va="center")


def _profile(axes, dataset):
    """Draw how far the backward profile is off the exact product, a point for each network."""
    lstms = [kind for kind in INITIALISATIONS if kind != "SimpleCell"]
    for label, name, part, look in (
        ("feed-forward", "chain", {"chain": "feed-forward"}, style.CELLS["linear"]),
        ("SimpleCell", "chain", {"chain": "recurrent"}, PLAIN_CELL),
        (None, "memory", {"initialisation": "SimpleCell"}, PLAIN_CELL),
        ("LSTM", "memory", {"initialisation": lstms}, LSTM),
    ):
        exact, scores = (
            values.sel(part).isel(compared_lag=-1).to_numpy().ravel()
            for values in (dataset[f"{name}_exact"], profile_scores(dataset, name))
        )
        axes.plot(
            exact,
            scores,
            look.marker,
            color=look.colour,
            markerfacecolor="none",
            markersize=3.2,
            markeredgewidth=0.8,
            label=label,
        )
    axes.axhspan(-SEVERAL, SEVERAL, color="0.94", zorder=0)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    low, high = axes.get_ylim()
    axes.set(xlabel="exact log growth over the horizon (nats)", ylim=(low, high + 2))
    axes.set_ylabel("profile − exact\n(sampling errors)")
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=SMALL, columnspacing=1)


def _mean_and_error(values):
    mean = values.mean("network").to_numpy()
    return mean, values.std("network", ddof=1).to_numpy() / np.sqrt(values.sizes["network"])


def _points(axes, x, y, bar, marker, colour, face, across=None, label=None):
    axes.errorbar(
        x,
        y,
        yerr=bar,
        xerr=across,
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=3,
        markeredgewidth=0.7,
        elinewidth=0.8,
        label=label,
        zorder=2,
    )

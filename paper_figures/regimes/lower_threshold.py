"""What sets the growth below which networks do not learn, one thing varied at a time."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.regimes.threshold_effects import (
    BATCH,
    EPSILON,
    LAW,
    NOISE,
    OTHER,
    PRECISION,
    RATE,
    SGD,
    SGD_UPDATES,
    UPDATES,
)
from jacobian_rnn.plotting.marks import line
from paper_figures import style
from paper_figures.claims import Claim, standard_error

PANELS = {
    UPDATES: "updates of Adam",
    SGD: "updates of SGD",
    BATCH: "sequences per update",
    EPSILON: "Adam's ε",
    NOISE: "noise of the inputs",
    PRECISION: "precision",
}
USUAL = {BATCH: "usual_batch", EPSILON: "usual_epsilon", NOISE: "usual_noise"}
OTHERS = {BATCH: "batch_sizes", NOISE: "noises"}
LIVI = "theory, after Livi (2025)"
NEAR = 0.3  # nats per decade
SLIGHT = 3.0  # nats: a limit of precision would lie at ln 2⁻²⁴ = −16.6 in float32
IN_TIME = "on the smallest budgets there is no time to learn at any growth"
REASONS = {
    UPDATES: "Probably because Adam moves every parameter by about its learning rate in an update, "
    f"however small the gradient is; and {IN_TIME}",
    SGD_UPDATES: f"At least in part because {IN_TIME}",
    BATCH: "Probably because the noise of small batches moves weights, and networks learn from "
    "there",
}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw both thresholds over each thing that is varied, for each learning rate."""
    config = style.configuration(dataset)
    figure, grid = plt.subplots(2, 3, figsize=(style.WIDTH, 5.2), sharey=True, layout="constrained")
    for axes, (factor, label) in zip(grid.flat, PANELS.items(), strict=True):
        rates = config["sgd_rates"] if factor == SGD else config["learning_rates"]
        for place, rate in enumerate(rates):
            look = line(place + (len(config["learning_rates"]) if factor == SGD else 0))
            x, points = _points(dataset, config, factor, rate)
            if factor == PRECISION:
                x = x + 0.08 * (place - (len(rates) - 1) / 2)
            for bound, fill in (("lower", look.colour), ("upper", "white")):
                _draw_line(axes, x, points.sel(bound=bound), look, fill)
            if factor in (UPDATES, SGD):
                _draw_law(axes, x, points.sel(bound="lower"))
        axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        axes.set_xlabel(label)
        if factor == PRECISION:
            axes.set_xticks([0, 1], ["float32", "float64"])
            axes.set_xlim(-0.5, 1.5)
        else:
            axes.set_xscale("log")
        if factor in (BATCH, NOISE):
            values = sorted({config[USUAL[factor]], *config[OTHERS[factor]]})
            axes.set_xticks(values, labels=[f"{value:g}" for value in values])
            axes.minorticks_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("log growth at which\nhalf learn (nats)")
    style.legend_below(figure, _legend(config), _text(dataset), num_columns=4)
    return figure


def _points(dataset, config, factor, rate):
    """Return what is varied, and the thresholds of each value of it."""
    named = dataset.assign_coords(setting=np.arange(dataset.sizes["setting"]))

    def of(which):
        return named.isel(
            setting=np.flatnonzero(
                (named["factor"] == which).to_numpy()
                & np.isclose(named["learning_rate"].to_numpy(), rate)
            )
        )

    if factor in (UPDATES, SGD):
        one = of(factor).isel(setting=0)
        return one["budget"].to_numpy(), one.rename(budget="level")
    both = xr.concat([of(UPDATES), of(factor)], "setting", data_vars="all")
    both = both.sel(budget=config["usual_updates"])
    x = both["value"].to_numpy().astype(float)
    x[0] = 0 if factor == PRECISION else config[USUAL[factor]]
    order = np.argsort(x)
    return x[order], both.isel(setting=order).rename(setting="level")


def _draw_line(axes, x, points, look, fill):
    """Draw thresholds with their intervals; those beyond all networks point away."""
    value = points["threshold"].to_numpy()
    reached = points["reached"].to_numpy().astype(bool)
    low, high = points["threshold_interval"].transpose("end", "level").to_numpy()
    bars = np.maximum([value - low, high - value], 0)
    axes.errorbar(
        x[reached],
        value[reached],
        yerr=bars[:, reached],
        color=look.colour,
        linestyle=look.style,
        marker=look.marker,
        markersize=4,
        markerfacecolor=fill,
        elinewidth=0.8,
        capsize=1.5,
        linewidth=1,
    )
    for sign, marker in ((-1, "v"), (1, "^")):
        beyond = ~reached & (np.sign(value) == sign)
        axes.plot(
            x[beyond],
            value[beyond],
            marker,
            color=look.colour,
            markersize=5,
            markerfacecolor="none",
        )


def _draw_law(axes, x, points):
    """Draw what the noise of gradients alone would give, from the first threshold on."""
    (places,) = np.nonzero(points["reached"].to_numpy())
    if len(places) > 1:
        start = places[0]
        decades = np.log10(x[start:] / x[start])
        value = float(points["threshold"][start]) + LAW * decades
        axes.plot(x[start:], value, color="0.35", linestyle=(0, (1, 1)), linewidth=1, zorder=0)


def _legend(config):
    handles = []
    for place, rate in enumerate((*config["learning_rates"], *config["sgd_rates"])):
        look = line(place)
        kind = "Adam" if place < len(config["learning_rates"]) else "SGD"
        handles.append(
            Line2D(
                [], [], color=look.colour, marker=look.marker, linestyle=look.style,
                markersize=4, label=f"{kind}, rate {rate:g}",
            )
        )  # fmt: skip
    law = f"{LAW:.2f} nats per decade".replace("-", "−")
    handles.append(Line2D([], [], color="0.35", linestyle=(0, (1, 1)), label=law))
    handles.append(
        Line2D([], [], color="0.35", marker="v", linestyle="", fillstyle="none", label="or beyond")
    )
    return handles


def _text(dataset):
    return style.caption(
        dataset,
        "SimpleCell, width {width}, delayed recall over {delay} steps, {num_networks} networks of "
        "gains {gains[0]:g} to {gains[1]:g}. As usual: {usual_updates} updates of {usual_batch} "
        "sequences,\nnoise {usual_noise:g}, ε = {usual_epsilon:g}, gradients clipped at "
        "{clip_norm:g}. Filled: lower threshold, open: upper one; networks between them learn. "
        "Bars: 95 % over networks.",
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Test the law of 1.15 nats per decade of data, and say what moves the lower threshold."""
    config = style.configuration(dataset)
    made = []
    for factor, what in (
        (UPDATES, "updates of Adam"),
        (SGD_UPDATES, "updates of SGD"),
        (BATCH, "sequences per update of Adam"),
    ):
        rates = config["sgd_rates" if factor == SGD_UPDATES else "learning_rates"]
        made += [
            Claim(
                "The lower threshold of learning falls by ½ ln 10 nats per decade of data",
                LIVI,
                f"nats per decade of {what} at rate {rate:g}",
                "within",
                LAW,
                NEAR,
                *_moved(dataset, factor, rate),
                reason=REASONS[factor],
            )
            for rate in rates
        ]
    for rate in config["learning_rates"]:
        made += [
            Claim(
                "The lower threshold is about the same in float64 as in float32",
                "this package",
                f"nats, float64 minus float32, at rate {rate:g}",
                "within",
                0,
                SLIGHT,
                *_moved(dataset, PRECISION, rate),
                kind="finding",
            ),
            Claim(
                "The lower threshold hardly depends on Adam's epsilon",
                "this package",
                f"nats per decade of epsilon, at rate {rate:g}",
                "within",
                0,
                NEAR,
                *_moved(dataset, EPSILON, rate),
                kind="finding",
            ),
            Claim(
                "The lower threshold rises with the noise of the inputs",
                "this package",
                f"nats per decade of their standard deviation, at rate {rate:g}",
                "at least",
                0,
                0,
                *_moved(dataset, NOISE, rate),
                kind="finding",
            ),
        ]
    made.append(
        Claim(
            "With Adam's largest learning rate, the lower threshold rises with the batch size",
            "this package",
            "nats per decade of sequences per update",
            "at least",
            0,
            0,
            *_moved(dataset, BATCH, max(config["learning_rates"])),
            kind="finding",
        )
    )
    made.append(
        Claim(
            "The lower threshold falls as Adam's learning rate grows",
            "this package",
            "nats per decade of the learning rate",
            "at most",
            0,
            0,
            *_moved(dataset, RATE, np.nan),
            kind="finding",
        )
    )
    made.append(
        Claim(
            "The lower threshold of SGD lies above that of Adam",
            "this package",
            "nats, SGD minus Adam, each at its best learning rate",
            "at least",
            0,
            0,
            *_moved(dataset, OTHER, np.nan),
            kind="finding",
        )
    )
    return made


def _moved(dataset, factor, rate, bound="lower"):
    """Return how far something moves a threshold, and the standard error."""
    rates = dataset["effect_rate"].to_numpy()
    same = np.isnan(rates) if np.isnan(rate) else np.isclose(rates, rate)
    (place,) = np.flatnonzero((dataset["effect_factor"].to_numpy() == factor) & same)
    at = dataset.isel(effect=place).sel(bound=bound)
    low, high = at["moved_interval"].to_numpy().tolist()
    if np.isnan(low):  # too few networks to say
        return np.nan, np.nan
    return round(float(at["moved"]), 12) + 0.0, standard_error(low, high)  # no −0

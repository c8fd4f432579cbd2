"""What is told about vanishing and exploding gradients, each statement beside its measurement."""

import json
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jacobian_rnn import THRESHOLDS
from paper_figures.claims import Claim
from paper_figures.style import BLUE, COLOURS, GREEN, LINES, MARKERS, PURPLE, VERMILION, WIDTH

SMALL, TITLE = 6.5, 7.2  # points, of what is written inside and above panels
LINE_WIDTH = 52  # characters that fit above a panel
OUTCOMES = {-1: ("stuck", VERMILION, "s"), 0: ("learned", GREEN, "o"), 1: ("diverged", PURPLE, "X")}
LEAST_APART = 0.085  # labels of panel g, as a fraction of its height


def draw(dataset: xr.Dataset) -> Figure:
    """Draw a panel for each statement: above it the statement and, bold, the verdict."""
    configuration = json.loads(dataset.attrs["configuration"])
    panels = (_depth, _factor, _rules, _differences, _slope, _updates, _memory)
    figure, grid = plt.subplots(4, 2, figsize=(WIDTH, 9.8), layout="constrained")
    for statement, axes, panel in zip(
        dataset["statement"].to_numpy(), grid.flat[:-1], panels, strict=True
    ):
        one = dataset.sel(statement=statement)
        verdict = textwrap.fill(str(one["verdict"].values), LINE_WIDTH)
        axes.set_title(verdict, loc="left", fontsize=TITLE, fontweight="bold")
        axes.annotate(
            textwrap.fill(f"({statement}) “{one['text'].values}”", LINE_WIDTH),
            (0, 1),
            xytext=(0, 7 + 1.25 * TITLE * len(verdict.splitlines())),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=TITLE,
            style="italic",
        )
        panel(axes, dataset)
    grid.flat[-1].set_axis_off()
    grid.flat[-1].text(0, 1.2, _caption(configuration), va="top", fontsize=SMALL, linespacing=1.35)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """List what the folklore says, and what was measured."""
    configuration = json.loads(dataset.attrs["configuration"])
    delay, horizon = configuration["delay"], configuration["horizon"]
    near = configuration["short_lag"]
    longest = max(configuration["lags"])
    pascanu = "Pascanu, Mikolov and Bengio (2013)"

    def claim(letter, quantity, relation, expected, tolerance, name, source="folklore"):
        known = letter in dataset["statement"]
        found = dataset.sel(finding=name)
        return Claim(
            statement=str(dataset["text"].sel(statement=letter).values) if known else letter,
            source=source,
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            measured=float(found["finding_value"]),
            uncertainty=float(found["finding_error"]),
        )

    return [
        claim("a", "slope of the log gradient norm with depth, as a multiple of λ₁",
              "within", 1.0, 0.05, "slope ratio"),
        claim("b", "rate of W alone minus λ₁ where they differ most (nats per step)",
              "within", 0.0, 0.05, "factor excess"),
        *(
            claim("c", f"fraction of random networks that grow if the {rule} exceeds 1 and shrink "
                  "if not", "at least", 0.9, 0.0, f"rule right, {rule}")
            for rule in dataset["rule"].to_numpy()
        ),
        claim("where the norm of W is below 1, gradients vanish",
              "fraction of such SimpleCells with λ₁ < 0",
              "at least", 1.0, 0.0, "small norm that vanishes", pascanu),
        claim("a nilpotent W (spectral radius 0) can make gradients grow: here they double",
              "growth of the gradient (nats per step)",
              "within", float(np.log(2)), 1e-9, "nilpotent rate", pascanu),
        claim("c", "λ₁ of saturated networks of large weights (nats per step)",
              "at least", 0.0, 0.0, "saturated exponent"),
        claim("d", "relative error of a finite difference at the best step size, worst lag",
              "at most", 0.0, 1e-3, "best error"),
        claim("d", f"the same in a chaotic network through {longest} steps, step size 0.01",
              "at most", 0.0, 0.1, "coarse error"),
        claim("e", f"skill at recall over {delay} steps of networks without slope",
              "at most", 0.0, 0.1, "skill far, zero slope, gradient descent"),
        *(
            claim("e", "fraction of them that Adam teaches it all the same", "at most", 0.0, 0.0,
                  "learned far, zero slope, Adam")
            for optimizer in dataset["optimizer"].to_numpy()
            if optimizer == "Adam"
        ),
        claim("e", f"skill of the same networks at recall over {near} steps",
              "at most", 0.0, 0.1, "skill near, zero slope, gradient descent"),
        claim("f", "largest update where gradients explode, as a multiple of that where not",
              "at least", 10.0, 0.0, "update ratio"),
        claim("f", "fraction of exploding networks that diverge without clipping",
              "at least", 0.5, 0.0, "diverged, no clipping"),
        claim("clipping the norm of the gradient rescues networks that explode",
              "fraction learned with clipping minus without, at the gain where it helps most",
              "at least", 0.5, 0.0, "most rescued", pascanu),
        claim("clipping the norm of the gradient rescues networks that explode",
              "fraction learned with clipping at the largest gain",
              "at least", 0.5, 0.0, "learned, clipped", pascanu),
        claim("g", f"log growth over {horizon} steps of default LSTMs (nats)",
              "at least", THRESHOLDS.vanishing, 0.0, "log growth, LSTM"),
        claim("g", "λ₁ of default LSTMs minus that of default SimpleCells (nats per step)",
              "at least", 0.0, 0.0, "LSTM minus SimpleCell"),
        claim("g", f"log growth over {horizon} steps of LSTMs with chrono biases (nats)",
              "at least", THRESHOLDS.vanishing, 0.0, "log growth, LSTM, chrono biases",
              "Tallec and Ollivier (2018)"),
        claim("g", "λ₁ of LSTMs with large gain (nats per step)",
              "at least", 0.0, 0.0, "exponent, LSTM, large gain"),
    ]  # fmt: skip


def _depth(axes, dataset):
    """Draw log gradient norms of three gains, with lines of slope λ₁; all slopes in the inset."""
    exponent = dataset["depth_exponent"].mean("network")
    critical = int(np.abs(exponent.mean("chain").to_numpy()).argmin())
    shown = sorted({0, critical, dataset.sizes["gain"] - 1})
    last = int(dataset["depth"][-1])
    depths = np.linspace(0, last, 11).astype(int)
    inset = axes.inset_axes((0.14, 0.15, 0.25, 0.28))
    for gain, colour in zip(shown, COLOURS, strict=False):
        for chain, (marker, face) in enumerate((("o", colour), ("s", "white"))):
            of_chain = dataset["depth_log_gradient"].isel(gain=gain, chain=chain, depth=depths)
            mean, bar = _mean_and_error(of_chain)
            end = mean[-1]
            _points(axes, depths, mean, bar, marker, colour, face)
            rate = float(exponent.isel(gain=gain, chain=chain))
            style = "-" if chain == 0 else "--"
            axes.plot(
                depths,
                end + rate * (depths - last),
                color=colour,
                linestyle=style,
                linewidth=0.9,
                zorder=1,
            )
        middle = float(dataset["depth_log_gradient"].isel(gain=gain, depth=-1).mean())
        label = f"gain {float(dataset['gain'][gain]):g}"
        axes.text(1.05 * last, middle, label, color=colour, va="center", fontsize=SMALL)
    for chain, (marker, face) in enumerate((("o", "0.2"), ("s", "white"))):
        slope, bar = _mean_and_error(dataset["depth_slope"].isel(chain=chain))
        rates, across = _mean_and_error(dataset["depth_exponent"].isel(chain=chain))
        _points(inset, rates, slope, bar, marker, "0.2", face, across)
    inset.axline((0, 0), slope=1, color="0.6", linewidth=0.7, zorder=0)
    inset.tick_params(labelsize=5.5, pad=1.5, length=2)
    inset.set_xlabel("λ₁", fontsize=SMALL, labelpad=1)
    inset.set_ylabel("slope", fontsize=SMALL, labelpad=1)
    axes.set(xlabel="depth n (layers or steps)", ylabel="log gradient norm (nats)")
    axes.set_xlim(-0.02 * last, 1.25 * last)
    axes.set_xticks(np.linspace(0, last, 5))
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.25 * (high - low), high)


def _factor(axes, dataset):
    """Draw the rate of W alone and λ₁ against the gain."""
    gain = dataset["gain"].to_numpy()
    for name, label, colour, marker, style in (
        ("factor_alone", "W alone: log spectral radius", VERMILION, "s", "--"),
        ("factor_exponent", "true Jacobians, W and φ′: λ₁", BLUE, "o", "-"),
    ):
        mean, bar = _mean_and_error(dataset[name])
        axes.plot(gain, mean, color=colour, linestyle=style, linewidth=0.9, zorder=1)
        _points(axes, gain, mean, bar, marker, colour, colour, label=label)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set(xlabel="recurrent gain", ylabel="rate (nats per step)")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL)


def _rules(axes, dataset):
    """Draw how often each rule is right, for each kind of network."""
    grows = dataset["rule_exponent"] > 0
    right = (dataset["rule_size"] > 1) == grows
    count = dataset.sizes["rule_network"]
    kinds = dataset["kind"].to_numpy()
    share = grows.mean("rule_network").to_numpy()
    for place, most in enumerate(np.maximum(share, 1 - share)):
        label = "guess of the majority" if place == 0 else None
        axes.hlines(most, place - 0.4, place + 0.4, color="0.6", linewidth=1.2, label=label)
    for number, rule in enumerate(dataset["rule"].to_numpy()):
        fraction = right.sel(rule=rule).mean("rule_network").to_numpy()
        bar = np.sqrt(fraction * (1 - fraction) / count)
        places = np.arange(len(kinds)) + 0.22 * (number - 1)
        colour, marker = COLOURS[number], MARKERS[number]
        _points(axes, places, fraction, bar, marker, colour, colour, label=f"{rule} > 1")
    names = [str(kind).replace(", ", "\n") for kind in kinds]
    axes.set_xticks(range(len(kinds)), names, fontsize=SMALL)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_ylim(0, 1.45)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_ylabel("right sign of λ₁ (fraction)", y=0.35)
    axes.legend(loc="upper center", ncols=2, frameon=False, fontsize=SMALL, columnspacing=1)


def _differences(axes, dataset):
    """Draw the error of finite differences against the step size."""
    error = dataset["difference_error"].median("network")
    steps = dataset["step_size"].to_numpy()
    for number, name in enumerate(("stable", "chaotic")):
        for lag, style in ((0, "--"), (-1, "-")):
            one = error.isel(difference_gain=0 if number == 0 else -1, lag=lag)
            label = f"{name}, lag {int(one['lag'])}"
            axes.loglog(
                steps, one, color=COLOURS[number], linestyle=style, linewidth=1.1, label=label
            )
    axes.axhline(0.1, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xlabel="change of the input, ε", ylabel="relative error")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-9), max(high, 1e7))
    axes.legend(loc="upper right", frameon=False, fontsize=SMALL)


def _slope(axes, dataset):
    """Draw skill against the gradient's growth over the lag, a point for each network."""
    for number, optimizer in enumerate(dataset["optimizer"].to_numpy()):
        for place, (marker, filled) in enumerate((("o", True), ("s", False))):
            one = dataset.sel(optimizer=optimizer).isel(recall_lag=place)
            axes.plot(
                one["slope_log_growth"].to_numpy().ravel(),
                one["slope_skill"].to_numpy().ravel(),
                marker,
                color=COLOURS[number],
                markerfacecolor=COLOURS[number] if filled else "none",
                markersize=3,
                markeredgewidth=0.8,
                label=f"{str(optimizer).split()[-1]}, lag {int(one['recall_lag'])}",
            )
    axes.axvline(THRESHOLDS.vanishing, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.set(
        xlabel="log growth over the lag, before training (nats)", ylabel="skill after training"
    )
    axes.set_ylim(-0.15, 1.1)
    axes.legend(loc="center left", frameon=False, fontsize=SMALL, bbox_to_anchor=(0.07, 0.55))


def _updates(axes, dataset):
    """Draw the largest update of each network, without and with clipping."""
    largest = dataset["update_norm"].max("update", skipna=False)
    num_gains, num_seeds = dataset.sizes["update_gain"], dataset.sizes["seed"]
    offsets = np.linspace(-0.25, 0.25, num_seeds)
    ticks, names = [], []
    for clip in range(dataset.sizes["clip"]):
        for gain in range(num_gains):
            place = gain + clip * (num_gains + 0.4)
            one = {"update_gain": gain, "clip": clip}
            outcome = dataset["update_outcome"].isel(one).to_numpy()
            for code, (_, colour, marker) in OUTCOMES.items():
                chosen = outcome == code
                axes.plot(
                    place + offsets[chosen],
                    largest.isel(one).to_numpy()[chosen],
                    marker,
                    color=colour,
                    markersize=3.2,
                )
            ticks.append(place)
            names.append(f"{float(dataset['update_gain'][gain]):g}")
        middle = clip * (num_gains + 0.4) + (num_gains - 1) / 2
        axes.text(
            middle,
            0.99,
            str(dataset["clip"].to_numpy()[clip]),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=SMALL,
        )
    for label, colour, marker in OUTCOMES.values():
        axes.plot([], [], marker, color=colour, markersize=3.2, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)
    axes.set_xticks(ticks, names)
    axes.set(xlabel="recurrent gain", ylabel="largest update norm")
    axes.legend(loc="center right", frameon=False, fontsize=SMALL)


def _memory(axes, dataset):
    """Draw log gradient norms by lag, for each initialisation."""
    last = int(dataset["memory_lag"][-1])
    lags = np.linspace(0, last, 9).astype(int)
    labels = []
    for number, kind in enumerate(dataset["initialisation"].to_numpy()):
        of_kind = dataset["memory_log_gradient"].sel(initialisation=kind)
        colour, marker = COLOURS[number], MARKERS[number]
        axes.plot(
            of_kind["memory_lag"],
            of_kind.mean("network"),
            color=colour,
            linestyle=LINES[number],
            linewidth=0.9,
        )
        mean, bar = _mean_and_error(of_kind.isel(memory_lag=lags))
        _points(axes, lags, mean, bar, marker, colour, colour)
        labels.append((float(mean[-1]), str(kind).replace("LSTM, ", ""), colour))
    axes.axhline(THRESHOLDS.vanishing, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xlabel="lag (steps)", ylabel="log gradient norm (nats)")
    axes.set_xlim(-0.02 * last, 1.42 * last)
    axes.set_xticks(np.linspace(0, last, 5))
    low, high = axes.get_ylim()
    below = -np.inf
    for height, label, colour in sorted(labels):
        below = max(height, below + LEAST_APART * (high - low))
        axes.text(1.04 * last, below, label, color=colour, fontsize=SMALL, va="center")


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


def _caption(options):
    gains, delay = options["difference_gains"], options["delay"]
    return "\n".join(
        textwrap.fill(line, 66)
        for line in (
            "Points: mean over networks drawn afresh; bars: standard error over them. "
            f"Width {options['width']}, {options['num_networks']} networks per point, white input "
            f"of standard deviation {options['input_std']:g}, tanh and W with entries of variance "
            "gain²/N unless said otherwise.",
            "(a) ● layers with weights of their own, □ a recurrent network; lines have slope λ₁, "
            "measured apart. Inset: fitted slope against λ₁ (nats per step) at all gains.",
            f"(c) {options['num_rule_networks']} networks of each kind, gains "
            f"{options['rule_gains'][0]:g} to {options['rule_gains'][1]:g}; bars: binomial; W of "
            "gated cells: the candidate's.",
            f"(d) Median over networks; gain {gains[0]:g} is stable, {gains[1]:g} chaotic. Dotted: "
            "a tenth.",
            f"(e) Recall of a symbol, {options['num_updates']} updates, width "
            f"{options['train_width']}, {options['num_seeds']} networks per gain, clipped. "
            "Dotted, as in (g): below it the library predicts that nothing is learned.",
            f"(f) Gradient descent over {delay} steps, a point for each network.",
            f"(g) Flax cells, default initialisation but for what is named; large gain: "
            f"{options['large_gain']:g}.",
        )
    )

"""How many networks learn by default and at criticality, and what was predicted of them."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.initialization.critical_initialization import BY_BIAS, BY_GAIN, DEFAULT
from paper_figures.claims import Claim, standard_error

# Okabe and Ito's colours, each with a marker of its own.
STYLES = {
    DEFAULT: ("#000000", "o", "Flax's default"),
    BY_GAIN: ("#D55E00", "s", "gain at which λ₁ = 0"),
    BY_BIAS: ("#0072B2", "^", "keeping gate's bias at which λ₁ = −1/horizon"),
}
CLASSES = {
    "SimpleCell": "SimpleCell",
    "GRUCell": "GRUCell",
    "LSTMCell": "OptimizedLSTMCell",
}
APART = 0.22  # of arms of one cell
LOWEST = -100.0  # nats; lower log growths are drawn here
LINEAR = 5.0  # nats; the axis of log growths is linear up to here on both sides of zero


def draw(dataset: xr.Dataset) -> Figure:
    """Draw success rates with intervals; then skill against predicted log growth."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (success, skill) = plt.subplots(
        1, 2, figsize=(7.2, 3.5), width_ratios=(1, 1.25), layout="constrained"
    )
    cells = [cell for cell in CLASSES if cell in dataset["cell"].to_numpy()]
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        _success(success, one, cells.index(one["cell"].item()))
    _skill(skill, dataset, cells)
    success.set_xticks(range(len(cells)), [CLASSES[cell] for cell in cells])
    success.set_xlim(-0.5, len(cells) - 0.5)
    success.set_ylim(-0.04, 1.04)
    success.set_ylabel("fraction of networks that learned")
    success.set_title("training")
    horizon = int(dataset["horizon"])
    skill.set_xlabel(f"predicted log growth over {horizon} steps, untrained (nats)")
    skill.set_ylabel("held-out skill after training")
    skill.set_title("prediction and training, one point per network")
    arms = dict.fromkeys(dataset["arm"].to_numpy().tolist())
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5)
        for colour, marker, _ in (STYLES[arm] for arm in arms)
    ]
    rates = configuration["adam_rates"]
    best = ", whichever validates best" if len(rates) > 1 else ""
    figure.legend(
        handles,
        [STYLES[arm][2] for arm in arms],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        title=(
            f"Flax linen cells of width {configuration['width']}, delayed recall over {horizon} "
            f"steps, {dataset.sizes['seed']} networks per point on the left, 95 % intervals "
            f"(Wilson).\n{configuration['num_updates']} updates of {configuration['batch_size']} "
            f"sequences, clipped Adam at rate {' or '.join(f'{rate:g}' for rate in rates)}{best}. "
            "Grey: predicted to learn."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Ask of each way to initialise whether it learns: by default none, at criticality most."""
    horizon, num_seeds = int(dataset["horizon"]), dataset.sizes["seed"]
    made = []
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        name, arm = CLASSES[one["cell"].item()], one["arm"].item()
        by_default = arm == DEFAULT
        how = "by default" if by_default else f"at its {arm}"
        made.append(
            Claim(
                f"Flax's {name}, initialised {how}, {'cannot' if by_default else 'can'} learn to "
                f"remember for {horizon} steps",
                "theory" if not by_default else "predicted before training",
                f"fraction of {num_seeds} networks that learned",
                "at most" if by_default else "at least",
                0.0 if by_default else 0.5,
                0,
                float(one["success_rate"]),
                standard_error(*one["success_interval"].to_numpy().tolist()),
            )
        )
    return made


def _success(axes, one, place):
    colour, marker, _ = STYLES[one["arm"].item()]
    x = place + APART * (list(STYLES).index(one["arm"].item()) - 1)
    rate, (low, high) = float(one["success_rate"]), one["success_interval"].to_numpy()
    axes.errorbar(
        x,
        rate,
        # Rounding can put an interval's end past the rate of 0 or 1.
        yerr=np.maximum([[rate - low], [high - rate]], 0),
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=1.2,
        capsize=2,
        clip_on=False,
    )


def _skill(axes, dataset, cells):
    vanishing, exploding = dataset["threshold"].to_numpy()
    axes.axvspan(vanishing, exploding, color="0.92", zorder=0, linewidth=0)
    axes.axhline(0.5, color="0.35", linewidth=0.8, linestyle="--", zorder=1)
    axes.text(0.01, 0.51, "learned", transform=axes.get_yaxis_transform(), fontsize=7, color="0.35")
    fills = dict(zip(cells, ("full", "left", "none"), strict=False))
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        colour, marker, _ = STYLES[one["arm"].item()]
        axes.plot(
            np.maximum(one["log_growth"].median("sequence"), LOWEST),
            one["test_skill"],
            color=colour,
            marker=marker,
            fillstyle=fills[one["cell"].item()],
            linestyle="",
            markersize=5,
            markeredgewidth=0.9,
            alpha=0.85,
            zorder=2,
        )
    for cell, fill in fills.items():
        label = CLASSES[cell]
        axes.plot([], [], "o", color="0.3", fillstyle=fill, markersize=5, label=label)
    axes.set_ylim(-0.2, 1.05)
    # Linear where the networks crowd, logarithmic beyond.
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    axes.set_xticks([-100, -30, -10, -5, 0, 5, 10], [-100, -30, -10, -5, 0, 5, 10])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper left", handletextpad=0.2)

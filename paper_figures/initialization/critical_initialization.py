"""How many networks learn by default and at criticality, and what was predicted of them."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.drawing import class_name
from experiments.initialization.critical_initialization import BY_BIAS, BY_GAIN, DEFAULT
from paper_figures import style
from paper_figures.claims import Claim, standard_error
from paper_figures.style import Look

# By arm; cells are places on the left, and filled, half filled and open markers on the right.
ARMS = {
    DEFAULT: (style.PLAIN, "Flax's default"),
    BY_GAIN: (Look(style.VERMILION, "^", "-"), "gain at which λ₁ = 0"),
    BY_BIAS: (Look(style.BLUE, "o", "-"), "keeping gate's bias at which λ₁ = −1/horizon"),
}
FILLS = ("full", "left", "none")
RARE, MOST = 0.1, 0.5  # shares that "cannot learn" leaves room for, and that "can learn" asks for
APART = 0.22  # of arms of one cell
LOWEST = -100.0  # nats; lower log growths are drawn here
LINEAR = 5.0  # nats; the axis of log growths is linear up to here on both sides of zero


def draw(dataset: xr.Dataset) -> Figure:
    """Draw success rates with intervals; then skill against predicted log growth."""
    figure, (success, skill) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.6), width_ratios=(1, 1.25), layout="constrained"
    )
    cells = list(dict.fromkeys(dataset["cell"].to_numpy().tolist()))
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        _success(success, one, cells.index(one["cell"].item()))
    _skill(skill, dataset, cells)
    names = [class_name(cell).replace(" ", "\n") for cell in cells]
    success.set_xticks(range(len(cells)), names)
    success.set_xlim(-0.5, len(cells) - 0.5)
    success.set_ylim(-0.04, 1.04)
    success.set_ylabel("fraction of networks that learned")
    success.set_title("training")
    skill.set_xlabel(
        style.caption(dataset, "predicted log growth over {recall_delay} steps, untrained (nats)")
    )
    skill.set_ylabel("held-out skill after training")
    skill.set_title("prediction and training, one point per network")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", label=label)
        for look, label in ARMS.values()
    ]
    rates = style.configuration(dataset)["learning_rates"]
    style.legend_below(
        figure,
        handles,
        style.caption(
            dataset,
            "Width {width}, delayed recall over {recall_delay} steps, {n_seed} networks per point "
            "on the left, 95 % intervals (Wilson).\n{num_updates} updates of {batch_size} "
            "sequences, clipped Adam at rate {rates}. Grey band: predicted to learn.",
            rates=" or ".join(f"{rate:g}" for rate in rates)
            + (", whichever validates best" if len(rates) > 1 else ""),
        ),
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Ask of each way to initialise whether it learns: by default none, at criticality most."""
    horizon, num_seeds = int(dataset["horizon"]), dataset.sizes["seed"]
    made = []
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        name, arm = class_name(one["cell"].item()), one["arm"].item()
        by_default = arm == DEFAULT
        growth = float(one["log_growth"].median())
        made.append(
            Claim(
                f"{name}, initialised {'by default' if by_default else f'at its {arm}'}, "
                f"{'cannot' if by_default else 'can'} learn to remember for {horizon} steps",
                "after Schoenholz et al. 2017",
                f"fraction of {num_seeds} networks that learned",
                "at most" if by_default else "at least",
                RARE if by_default else MOST,
                0,
                float(one["success_rate"]),
                standard_error(*one["success_interval"].to_numpy().tolist()),
                reason=""
                if by_default
                else "A gradient that survives (median log growth "
                f"{growth:+.1f} nats) does not suffice to learn within the updates given.",
            )
        )
    return made


def _success(axes, one, place):
    arm = one["arm"].item()
    look, _ = ARMS[arm]
    x = place + APART * (list(ARMS).index(arm) - 1)
    rate, (low, high) = float(one["success_rate"]), one["success_interval"].to_numpy()
    axes.errorbar(
        x,
        rate,
        # Rounding can put an interval's end past the rate of 0 or 1.
        yerr=np.maximum([[rate - low], [high - rate]], 0),
        fmt=look.marker,
        color=look.colour,
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
    fills = dict(zip(cells, FILLS, strict=False))
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        look, _ = ARMS[one["arm"].item()]
        axes.plot(
            np.maximum(one["log_growth"].median("sequence"), LOWEST),
            one["test_skill"],
            color=look.colour,
            marker=look.marker,
            fillstyle=fills[one["cell"].item()],
            linestyle="",
            markersize=5,
            markeredgewidth=0.9,
            alpha=0.85,
            zorder=2,
        )
    for cell, fill in fills.items():
        label = class_name(cell)
        axes.plot([], [], "o", color="0.3", fillstyle=fill, markersize=5, label=label)
    axes.set_ylim(-0.2, 1.05)
    # Linear where the networks crowd, logarithmic beyond.
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    axes.set_xticks([-100, -30, -10, -5, 0, 5, 10], [-100, -30, -10, -5, 0, 5, 10])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper left", handletextpad=0.2)

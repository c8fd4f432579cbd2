"""How many networks learn by default and at criticality, and what was predicted of them."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.drawing import class_name
from experiments.initialization.critical_initialization import (
    BY_BIAS,
    BY_GAIN,
    DEFAULT,
    wilson,
)
from paper_figures import style
from paper_figures.claims import Claim, standard_error

# A cell has its marker, and its colour where it is treated.
ARMS = {
    DEFAULT: ("full", "Flax's default"),
    BY_GAIN: ("full", "gain at which λ₁ = 0"),
    BY_BIAS: ("none", "keeping gate's bias at which λ₁ = −1/horizon"),
}
RARE, MOST = 0.1, 0.5  # shares that "do not learn" leaves room for, and that "can learn" asks for
SOURCE = "after Schoenholz et al. 2017"
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
        Line2D(
            [],
            [],
            color=style.PLAIN.colour if arm == DEFAULT else style.BLACK,
            marker="o",
            fillstyle=fill,  # pyright: ignore[reportArgumentType]
            linestyle="",
            label=label,
        )
        for arm, (fill, label) in ARMS.items()
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
    """Ask whether networks learn: by default hardly any, at criticality most."""
    horizon, num_seeds = int(dataset["horizon"]), dataset.sizes["seed"]
    by_default = dataset["num_learned"].to_numpy()[dataset["arm"].to_numpy() == DEFAULT]
    total = num_seeds * by_default.size
    low, high = wilson(by_default.sum(), total).tolist()
    made = [
        Claim(
            f"Flax's default networks do not learn to remember for {horizon} steps",
            SOURCE,
            f"fraction of {total} networks of {by_default.size} cells that learned",
            "at most",
            RARE,
            0,
            float(by_default.sum() / total),
            standard_error(low, high),
        )
    ]
    for condition in np.flatnonzero(dataset["arm"].to_numpy() != DEFAULT):
        one = dataset.isel(condition=condition)
        made.append(
            Claim(
                f"{class_name(one['cell'].item())}, initialised at its {one['arm'].item()}, can "
                f"learn to remember for {horizon} steps",
                SOURCE,
                f"fraction of {num_seeds} networks that learned",
                "at least",
                MOST,
                0,
                float(one["success_rate"]),
                standard_error(*one["success_interval"].to_numpy().tolist()),
                reason="A gradient that survives (median log growth "
                f"{float(one['log_growth'].median()):+.1f} nats) does not suffice to learn within "
                "the updates given.",
            )
        )
    return made


def _look(one):
    """Return how the networks of a condition are drawn."""
    look, arm = style.CELLS[one["cell"].item()], one["arm"].item()
    return {
        "color": style.PLAIN.colour if arm == DEFAULT else look.colour,
        "marker": look.marker,
        "fillstyle": ARMS[arm][0],
        "linestyle": "",
        "markersize": 5,
        "zorder": 2,
    }


def _success(axes, one, place):
    x = place + APART * (list(ARMS).index(one["arm"].item()) - 1)
    rate, (low, high) = float(one["success_rate"]), one["success_interval"].to_numpy()
    axes.errorbar(
        x,
        rate,
        # Rounding can put an interval's end past the rate of 0 or 1.
        yerr=np.maximum([[rate - low], [high - rate]], 0),
        elinewidth=1.2,
        capsize=2,
        clip_on=False,
        **_look(one),
    )


def _skill(axes, dataset, cells):
    vanishing, exploding = dataset["threshold"].to_numpy()
    axes.axvspan(vanishing, exploding, color="0.92", zorder=0, linewidth=0)
    axes.axhline(0.5, color="0.35", linewidth=0.8, linestyle="--", zorder=1)
    axes.text(0.01, 0.51, "learned", transform=axes.get_yaxis_transform(), fontsize=7, color="0.35")
    for condition in range(dataset.sizes["condition"]):
        one = dataset.isel(condition=condition)
        growth = np.maximum(one["log_growth"].median("sequence"), LOWEST)
        axes.plot(growth, one["test_skill"], alpha=0.85, **_look(one))
    for cell in cells:
        look = style.CELLS[cell]
        axes.plot([], [], look.marker, color=look.colour, markersize=5, label=class_name(cell))
    axes.set_ylim(-0.2, 1.05)
    # Linear where the networks crowd, logarithmic beyond.
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    axes.set_xticks([-100, -30, -10, -5, 0, 5, 10], ["−100", "−30", "−10", "−5", "0", "5", "10"])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper left", handletextpad=0.2)

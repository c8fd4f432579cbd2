"""Learning, exponents and norms of gradients, with two terms in the loss and without."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.training._arms import mean_and_error
from experiments.training.gradient_penalties import FLOSSED, KEPT, PLAIN, TRAINED
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.training._curves import Arm, draw_networks

ARMS = {
    PLAIN: Arm(style.PLAIN, "loss alone"),
    FLOSSED: Arm(style.CELLS["SimpleCell"], "with flossing (Engelken 2023)"),
    KEPT: Arm(style.Look(style.BLACK, "o", "-"), "with Pascanu's regulariser (2013)"),
}
SOURCES = {FLOSSED: "Engelken 2023", KEPT: "Pascanu, Mikolov and Bengio 2013"}
RATIO = 0.5
MORE = 0.1  # of the skill


def draw(dataset: xr.Dataset) -> Figure:
    """Draw skill against updates, and what each term makes small before and after training."""
    figure, panels = plt.subplots(
        len(dataset["task"]), 3, figsize=(style.WIDTH, 5.2), layout="constrained"
    )
    k = style.configuration(dataset)["num_exponents"]
    for task, (learning, exponents, norms) in zip(dataset["task"].to_numpy(), panels, strict=True):
        one = dataset.sel(task=task)
        draw_networks(learning, one["skill"], ARMS)
        learning.set(ylim=(-0.1, 1.05), xlim=(0, float(one["record"][-1])), xlabel="updates")
        learning.set(ylabel="skill on held-out sequences")
        learning.set_title(f"{task}, horizon {int(one['horizon'])} steps")
        _draw_pairs(exponents, one, "rms_exponent")
        exponents.set_ylabel(f"rms of λ₁ … λ{style.lowered(k)} (nats per step)")
        _draw_pairs(norms, one, "deviation")
        norms.set_ylabel("rms of ‖gᵀJ‖ / ‖g‖ − 1")
    style.legend_below(figure, panels[0, 0].get_legend_handles_labels()[0], _text(dataset))
    return figure


def _draw_pairs(axes: Axes, dataset: xr.Dataset, name: str) -> None:
    """Draw a line for each network from before training to after it."""
    for place, (arm, (look, _)) in enumerate(ARMS.items()):
        one = dataset.sel(arm=arm)
        axes.plot(
            np.array([0, 1]) + 0.03 * (place - 1),
            [one[name], one[name + TRAINED]],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            linewidth=0.9,
            markersize=3,
        )
    axes.set_xticks([0, 1], ["before training", "after"])
    axes.set(xlim=(-0.3, 1.3), ylim=(0, None))


def _text(dataset):
    return style.caption(
        dataset,
        "Tanh networks of width {width}, {n_seed} drawn for each task with orthogonal recurrent "
        "kernels of gain {gain:g},\ntrained in three ways on the same sequences of {num_steps} "
        "steps. Clipped Adam, rate {learning_rate:g}, {batch_size} sequences per update.\n"
        "Flossing: {flossing_weight:g} times the sum of {num_exponents} squared exponents along "
        "one sequence of each batch. Pascanu's regulariser: weight {norm_weight:g};\n"
        "g = ∂loss/∂state. One line for each network. Log growth of a gradient over a sequence "
        "before training, median: {growth} nats.",
        growth=" and ".join(
            f"{float(dataset['log_growth'].sel(task=task).median()):+.0f}"
            for task in dataset["task"].to_numpy()
        ),
    ).replace(" -", " −")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say whether each term does what it is for, and whether that helps."""
    found = []
    for task in map(str, dataset["task"].to_numpy()):
        one = dataset.sel(task=task)
        plain = one.sel(arm=PLAIN)
        for arm, term, statement, name, quantity in (
            (
                FLOSSED,
                "squared exponents in the loss",
                "Squared Lyapunov exponents in the loss keep exponents near zero in training",
                "rms_exponent",
                "root mean square of the first exponents after training, with flossing to without",
            ),
            (
                KEPT,
                "Pascanu's term in the loss",
                "Pascanu's term in the loss makes steps keep the norm of the gradient",
                "deviation",
                "root mean square deviation from keeping it after training, with the term to "
                "without",
            ),
        ):
            treated = one.sel(arm=arm)
            found.append(
                Claim(
                    f"{statement} ({task}).",
                    SOURCES[arm],
                    quantity,
                    "at most",
                    RATIO,
                    0.0,
                    *mean_and_error(treated[name + TRAINED] / plain[name + TRAINED]),
                )
            )
            gain = (treated["skill"] - plain["skill"]).isel(record=-1)
            found.append(
                Claim(
                    f"Networks whose gradients vanish learn more with {term} ({task}).",
                    SOURCES[arm],
                    "skill on held-out sequences after training, with the term minus without",
                    "at least",
                    MORE,
                    0.0,
                    *mean_and_error(gain),
                )
            )
    return found

"""The wall in the error of one recurrent unit, and what clipping the gradient is worth."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.training._arms import mean_and_error
from experiments.training.error_wall import CLIPPED, MOST_ERRORS, PLAIN
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.training._curves import Arm

ARMS = {
    CLIPPED: Arm(style.CELLS["SimpleCell"], "clipped"),
    PLAIN: Arm(style.PLAIN, "plain"),
}
SOURCE = "Pascanu et al. 2013"
HEIGHT = 1000  # times the median over the plane
MORE = 0.1  # of all trainings
APART = 0.4  # of methods, in steps of the sequence


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the error over the plane, derivatives across the wall, and success by length."""
    figure, (plane, cut, success) = plt.subplots(
        1, 3, figsize=(style.WIDTH, 3.3), width_ratios=(1.35, 1, 1), layout="constrained"
    )
    _plane(figure, plane, dataset)
    _cut(cut, dataset)
    _success(success, dataset)
    rates = style.configuration(dataset)["learning_rates"]
    text = style.caption(
        dataset,
        "Left: squared error of one unit x' = w σ(x) + b after {num_steps} steps, start "
        "{initial_state:g}, target σ(x) = {target:g}; dashed: theory, the bias at which\nthe start "
        "is an unstable fixed point. Middle: exact derivatives along the dotted line on the left; "
        "dotted: {height} times their medians\nover the plane. Right: tanh networks of width "
        "{width} trained by gradient descent, {n_seed} per point, best of learning rates {rates};\n"
        "bars: 95 % intervals (Wilson). Learned: at least 99 % right answers to held-out "
        "sequences. Clipped: to a gradient norm of {clip_norm:g}.",
        height=HEIGHT,
        rates=", ".join(f"{rate:g}" for rate in rates),
    )
    style.legend_below(figure, success.get_legend_handles_labels()[0], text)
    return figure


def _plane(figure, axes, dataset):
    image = axes.pcolormesh(
        dataset["weight"],
        dataset["bias"],
        dataset["loss"].transpose("bias", "weight"),
        cmap="cividis",
        rasterized=True,
    )
    figure.colorbar(image, ax=axes, location="right", label="error")
    axes.plot(
        dataset["weight"], dataset["wall"], color=style.VERMILION, linestyle="--", linewidth=1
    )
    line_weight = style.configuration(dataset)["line_weight"]
    axes.axvline(line_weight, color="white", linestyle=":", linewidth=1)
    axes.set(title="error surface", xlabel="w", ylabel="b")


def _cut(axes, dataset):
    for name, line, above in (("curvature", "-.", -10), ("gradient", "-", 8)):
        values = dataset[f"{name}_across"]
        axes.plot(dataset["offset"], values, color="black", linestyle=line, linewidth=1.2)
        height = HEIGHT * float(dataset[name].median())
        axes.axhline(height, color="0.45", linestyle=":", linewidth=1)
        axes.annotate(
            name,
            (0, float(values.sel(offset=0))),
            xytext=(0, above),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axes.set_xscale("symlog", linthresh=1e-7, linscale=0.6)
    axes.set_xticks([-1e-2, -1e-5, 0, 1e-5, 1e-2], ["−10⁻²", "", "0", "", "10⁻²"])
    axes.minorticks_off()
    axes.set(yscale="log", xlabel="distance to the wall in b", ylabel="|gradient|, |curvature|")
    axes.set_title("across the wall")


def _success(axes, dataset):
    for place, (method, (look, label)) in enumerate(ARMS.items()):
        one = dataset.sel({"method": method})
        rate = one["success"].to_numpy()
        low, high = one["interval"].to_numpy().T
        axes.errorbar(
            one["length"] + APART * (2 * place - 1),
            rate,
            # Rounding can put an interval's end past the rate of 0 or 1.
            yerr=np.maximum([rate - low, high - rate], 0),
            fmt=look.marker,
            linestyle=look.line,
            color=look.colour,
            markersize=4.5,
            linewidth=1,
            elinewidth=1,
            capsize=2,
            clip_on=False,
            label=label,
        )
    lengths = dataset["length"].to_numpy()
    axes.set_xticks(lengths)
    axes.set(ylim=(-0.03, 1.03), xlim=(min(lengths) - 4, max(lengths) + 4))
    axes.set(xlabel="length (steps)", ylabel="fraction that learned", title="temporal order task")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say how high the wall is, and what clipping brings."""
    heights = [
        Claim(
            f"The {name} explodes at a wall of the error surface.",
            SOURCE,
            f"largest {words} across the wall, in units of its median over the plane",
            "at least",
            HEIGHT,
            0.0,
            float(dataset[f"{name}_across"].max() / dataset[name].median()),
        )
        for name, words in (("gradient", "norm of the gradient"), ("curvature", "curvature"))
    ]
    return [
        *heights,
        Claim(
            "The wall is where the initial state is an unstable fixed point: each of the T steps "
            "multiplies a gradient by w σ'(x₀).",
            "theory",
            "log growth of the product of the step Jacobians on the wall (nats)",
            "within",
            float(dataset["log_growth_on_wall"]),
            1e-3,
            float(dataset["log_growth_across"].sel(offset=0)),
        ),
        Claim(
            "With clipping, gradient descent learns at more lengths, each at its best learning "
            "rate.",
            SOURCE,
            "fraction of networks that learned, clipped minus plain, over all lengths",
            "at least",
            MORE,
            0.0,
            *mean_and_error(_brought(dataset, best=True)),
        ),
        Claim(
            "Clipping lets gradient descent learn at the largest learning rate.",
            "this package",
            f"the same at the largest rate, {float(dataset['learning_rate'].max()):g}",
            "at least",
            MORE,
            0.0,
            *mean_and_error(_brought(dataset).isel(learning_rate=-1)),
            kind="finding",
        ),
        Claim(
            "At the smallest learning rate clipping brings nothing.",
            "this package",
            f"the same at the smallest rate, {float(dataset['learning_rate'].min()):g}",
            "at most",
            0.0,
            MORE,
            *mean_and_error(_brought(dataset).isel(learning_rate=0)),
            kind="finding",
        ),
    ]


def _brought(dataset, *, best=False):
    """Return how often each seed learned clipped, minus plain: the fraction of all lengths."""
    learned = (dataset["accuracy"] >= 1 - MOST_ERRORS).astype(float)
    if best:
        learned = learned.isel(learning_rate=dataset["success_by_rate"].argmax("learning_rate"))
    of_method = {method: learned.sel({"method": method}).mean("length") for method in ARMS}
    return of_method[CLIPPED] - of_method[PLAIN]

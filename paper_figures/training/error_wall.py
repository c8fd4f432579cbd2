"""The wall in the error of one recurrent unit, and what clipping the gradient is worth."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.training.error_wall import CLIPPED, PLAIN
from paper_figures.claims import Claim
from paper_figures.style import BLUE, GREEN, PURPLE, VERMILION, WIDTH

STYLES = {
    CLIPPED: (BLUE, "-", "o", "clipped"),
    PLAIN: (VERMILION, "--", "s", "plain"),
}
SOURCE = "Pascanu et al. 2013"
HEIGHT = 1000  # times the median over the plane
APART = 0.4  # of methods, in steps of the sequence


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the error over the plane, derivatives across the wall, and success by length."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (plane, cut, success) = plt.subplots(
        1, 3, figsize=(WIDTH, 3.3), width_ratios=(1.35, 1, 1), layout="constrained"
    )
    _plane(figure, plane, dataset, configuration)
    _cut(cut, dataset)
    _success(success, dataset)
    rates = ", ".join(f"{rate:g}" for rate in configuration["learning_rates"])
    figure.legend(
        *success.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(STYLES),
        frameon=False,
        title=(
            "Left: squared error of one unit x' = w σ(x) + b after "
            f"{configuration['num_steps']} steps, start {configuration['initial_state']:g}, "
            f"target σ(x) = {configuration['target']:g}; dashed: theory, the bias at which\nthe "
            "start is an unstable fixed point. Middle: exact derivatives along the dotted line on "
            f"the left; dotted: {HEIGHT} times their medians\nover the plane. Right: tanh "
            f"networks of width {configuration['width']} trained by gradient descent, "
            f"{dataset.sizes['seed']} per point, best of learning rates {rates};\n"
            "bars: 95 % intervals (Wilson). Learned: at "
            "least 99 % right answers to held-out sequences. Clipped: to a gradient norm of "
            f"{configuration['clip_norm']:g}."
        ),
        title_fontsize=7,
    )
    return figure


def _plane(figure, axes, dataset, configuration):
    image = axes.pcolormesh(
        dataset["weight"],
        dataset["bias"],
        dataset["loss"].transpose("bias", "weight"),
        cmap="cividis",
        rasterized=True,
    )
    figure.colorbar(image, ax=axes, location="right", label="error")
    axes.plot(dataset["weight"], dataset["wall"], color=VERMILION, linestyle="--", linewidth=1)
    axes.axvline(configuration["line_weight"], color="white", linestyle=":", linewidth=1)
    axes.set_title("error surface")
    axes.set_xlabel("w")
    axes.set_ylabel("b")


def _cut(axes, dataset):
    for name, colour, line, above in (
        ("curvature", PURPLE, "-.", -10),
        ("gradient", GREEN, "-", 8),
    ):
        values = dataset[f"{name}_across"]
        axes.plot(dataset["offset"], values, color=colour, linestyle=line, linewidth=1.2)
        axes.axhline(
            HEIGHT * float(dataset[name].median()), color=colour, linestyle=":", linewidth=1
        )
        axes.annotate(
            name,
            (0, float(values.sel(offset=0))),
            xytext=(0, above),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=colour,
        )
    axes.set_xscale("symlog", linthresh=1e-7, linscale=0.6)
    axes.set_xticks([-1e-2, -1e-5, 0, 1e-5, 1e-2], ["−10⁻²", "", "0", "", "10⁻²"])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("distance to the wall in b")
    axes.set_ylabel("|gradient|, |curvature|")
    axes.set_title("across the wall")


def _success(axes, dataset):
    for place, (method, (colour, line, marker, label)) in enumerate(STYLES.items()):
        one = dataset.sel({"method": method})
        rate = one["success"].to_numpy()
        low, high = one["interval"].to_numpy().T
        axes.errorbar(
            one["length"] + APART * (2 * place - 1),
            rate,
            # Rounding can put an interval's end past the rate of 0 or 1.
            yerr=np.maximum([rate - low, high - rate], 0),
            fmt=marker,
            linestyle=line,
            color=colour,
            markersize=4.5,
            linewidth=1,
            elinewidth=1,
            capsize=2,
            clip_on=False,
            label=label,
        )
    axes.set_ylim(-0.03, 1.03)
    lengths = dataset["length"].to_numpy()
    axes.set_xticks(lengths)
    axes.set_xlim(min(lengths) - 4, max(lengths) + 4)
    axes.set_xlabel("length (steps)")
    axes.set_ylabel("fraction that learned")
    axes.set_title("temporal order task")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say how high the wall is, and whether clipping helps at every length."""
    found = []
    for name, words in (("gradient", "norm of the gradient"), ("curvature", "curvature")):
        median = float(dataset[name].median())
        found.append(
            Claim(
                f"The {name} explodes at a wall of the error surface.",
                SOURCE,
                f"largest {words} across the wall, in units of its median over the plane",
                "at least",
                float(HEIGHT),
                0.0,
                float(dataset[f"{name}_across"].max()) / median,
            )
        )
    found.append(
        Claim(
            "The wall is where the initial state is an unstable fixed point: each of the T steps "
            "multiplies a gradient by w σ'(x₀).",
            "theory",
            "log growth of the product of the step Jacobians on the wall (nats)",
            "within",
            float(dataset["log_growth_on_wall"]),
            1e-3,
            float(dataset["log_growth_across"].sel(offset=0)),
        )
    )
    return [
        *found,
        Claim(
            "With clipping, gradient descent learns at least as often at every length, each at its "
            "best learning rate.",
            SOURCE,
            "fraction of networks that learned, clipped minus plain, at the length where this is "
            "least of those at which any did",
            "at least",
            0.0,
            0.0,
            *_least_difference(dataset["success"], dataset.sizes["seed"]),
        ),
        Claim(
            "With clipping, gradient descent learns at least as often at every length and every "
            "learning rate.",
            "folklore",
            "the same, at the length and learning rate where it is least",
            "at least",
            0.0,
            0.0,
            *_least_difference(dataset["success_by_rate"], dataset.sizes["seed"]),
        ),
    ]


def _least_difference(success, num_seeds):
    """Return the least of clipped minus plain, and its standard error; NaN where none learned."""
    clipped, plain = (success.sel({"method": method}).to_numpy().ravel() for method in STYLES)
    any_learned = (clipped > 0) | (plain > 0)
    if not any_learned.any():
        return np.nan, np.nan
    clipped, plain = clipped[any_learned], plain[any_learned]
    least = int(np.argmin(clipped - plain))
    variance = sum(one[least] * (1 - one[least]) for one in (clipped, plain)) / num_seeds
    return float(clipped[least] - plain[least]), float(np.sqrt(variance))

"""Lyapunov spectra, condition numbers and accuracy of networks that were flossed or not."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.training.chrono_initialization import mean_and_error
from experiments.training.gradient_flossing import FLOSSED, UNFLOSSED
from paper_figures.claims import Claim
from paper_figures.style import BLUE, VERMILION, WIDTH

STYLES = {
    UNFLOSSED: (VERMILION, "--", "s", "as drawn"),
    FLOSSED: (BLUE, "-", "o", "flossed before training"),
}
SOURCE = "Engelken 2023"
PAPER_WIDTH = 80
RMS_RATIO = 0.25
LOG_RATIO = 10.0  # nats
MORE = 0.05


def draw(dataset: xr.Dataset) -> Figure:
    """Draw exponents before and after flossing, condition numbers in both phases, and accuracy."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.6), layout="constrained")
    (spectrum, flossing), (training, learning) = panels
    k = configuration["num_exponents"]
    _draw_spectra(spectrum, dataset["exponents_before"].isel(flossing=-1))
    spectrum.axvline(k + 0.5, color="0.2", linewidth=0.9, linestyle=":")
    spectrum.set_title(f"Lyapunov spectrum; flossed: the first {k}")
    _draw_networks(flossing, dataset["log_condition_before"], "flossing")
    flossing.set_xlabel("flossing updates")
    flossing.set_title("flossing, before training")
    _draw_networks(training, dataset["log_condition"], "record")
    training.set_xlabel("training updates")
    training.set_title("training")
    for axes in (flossing, training):
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"log σ₁ − log σ{_lowered(k)}, {int(dataset['horizon'])} steps (nats)")
    _draw_networks(learning, 0.5 + 0.5 * dataset["skill"], "record")
    learning.axhline(0.5, color="0.2", linewidth=0.9, linestyle=":", label="guessing")
    learning.set_ylim(0.45, 1.02)
    learning.set_xlabel("training updates")
    learning.set_ylabel("accuracy on held-out sequences")
    learning.set_title(f"delayed XOR, d = {configuration['delay']} steps")
    handles, labels = learning.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=_caption(dataset, configuration),
        title_fontsize=7,
    )
    return figure


def _draw_spectra(axes: Axes, exponents: xr.DataArray) -> None:
    index = 1 + np.arange(exponents.sizes["exponent"])
    for arm, (colour, line, marker, _) in STYLES.items():
        one = exponents.sel(arm=arm)
        axes.fill_between(
            index, one.min("seed"), one.max("seed"), color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(index, one.mean("seed"), line, color=colour, marker=marker, markersize=3)
    axes.axhline(0, color="0.2", linewidth=0.9, linestyle=":")
    axes.set_xlabel("index i")
    axes.set_ylabel("λᵢ (nats per step)")


def _draw_networks(axes: Axes, values: xr.DataArray, dim: str) -> None:
    for arm, (colour, line, _, label) in STYLES.items():
        for seed in range(values.sizes["seed"]):
            axes.plot(
                values[dim],
                values.sel(arm=arm).isel(seed=seed),
                color=colour,
                linestyle=line,
                linewidth=1.1,
                label=None if seed else label,
            )
    axes.set_xlim(0, float(values[dim][-1]))


def _caption(dataset, configuration):
    width, k = configuration["width"], configuration["num_exponents"]
    counted = configuration["flossing_steps"] - configuration["num_warmup"]
    final = (0.5 + 0.5 * dataset["skill"].isel(record=-1)).mean("seed")
    whole = dataset["whole_log_condition"].isel(record=0).median("seed")
    smaller = (
        ""
        if width == PAPER_WIDTH
        else "Smaller than in the paper, where 80 units have 75 exponents flossed and sequences "
        "have 300 steps. "
    )
    return (
        f"Tanh networks of width {width}, {dataset.sizes['seed']} drawn, each trained flossed and "
        f"as drawn on the same sequences of {configuration['num_steps']} steps;\nclipped Adam, "
        f"rate {configuration['learning_rate']:g}. Flossing: Adam, rate "
        f"{configuration['flossing_rate']:g}, on the sum of {k} squared exponents along {counted} "
        f"steps of random bits.\nProducts: over the horizon, 2d; in all {width} directions log σ₁ "
        f"− log σ{_lowered(width)} before training is {float(whole.sel(arm=UNFLOSSED)):.0f} nats "
        f"as drawn, {float(whole.sel(arm=FLOSSED)):.0f} flossed (median).\nSpectrum: mean of "
        f"networks and their range. Accuracy at the end: flossed "
        f"{float(final.sel(arm=FLOSSED)):.2f}, as drawn {float(final.sel(arm=UNFLOSSED)):.2f} "
        f"(mean).\n{smaller}The paper also flosses within training."
    )


def _lowered(number):
    """Write a number as an index."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say whether flossing does what it is for, and whether it helps training."""
    configuration = json.loads(dataset.attrs["configuration"])
    k, num_updates = configuration["num_exponents"], configuration["num_updates"]
    flossed, drawn = (dataset.sel(arm=arm) for arm in (FLOSSED, UNFLOSSED))
    squares = flossed["exponents_before"].isel(exponent=slice(k)) ** 2
    rms = squares.mean("exponent") ** 0.5
    gap = drawn["log_condition"] - flossed["log_condition"]
    ahead = drawn["crossing"].fillna(num_updates) - flossed["crossing"].fillna(num_updates)
    accuracy = 0.5 * (flossed["skill"] - drawn["skill"]).isel(record=-1)
    return [
        Claim(
            "Gradient descent on their squares moves Lyapunov exponents to zero.",
            SOURCE,
            f"root mean square of the first {k} exponents, after flossing to before",
            "at most",
            RMS_RATIO,
            0.0,
            *mean_and_error(rms.isel(flossing=-1) / rms.isel(flossing=0)),
        ),
        Claim(
            "In as many directions as are flossed, products of Jacobians are better conditioned.",
            SOURCE,
            f"log ratio of condition numbers σ₁/σ_{k} over the horizon before training, as drawn "
            "to flossed (nats)",
            "at least",
            LOG_RATIO,
            0.0,
            *mean_and_error(gap.isel(record=0)),
        ),
        Claim(
            "They still are after training.",
            SOURCE,
            f"log ratio of condition numbers σ₁/σ_{k} over the horizon after training, as drawn "
            "to flossed (nats)",
            "at least",
            0.0,
            0.0,
            *mean_and_error(gap.isel(record=-1)),
        ),
        Claim(
            "Flossed networks learn earlier.",
            SOURCE,
            "updates until half the loss of guessing, as drawn minus flossed (networks that never "
            "get there count as the last update)",
            "at least",
            1.0,
            0.0,
            *mean_and_error(ahead),
        ),
        Claim(
            "Flossed networks learn more in the same number of updates.",
            SOURCE,
            "accuracy on held-out sequences after training, flossed minus as drawn",
            "at least",
            MORE,
            0.0,
            *mean_and_error(accuracy),
        ),
    ]

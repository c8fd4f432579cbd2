"""Learning curves of LSTMs on the adding problem, by the initial biases of their gates."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.training.chrono_initialization import BIAS_ONE, CHRONO, mean_and_error
from paper_figures.claims import Claim
from paper_figures.style import BLUE, VERMILION, WIDTH

STYLES = {
    CHRONO: (BLUE, "-", "o", "chrono"),
    BIAS_ONE: (VERMILION, "--", "s", "forget bias 1"),
}
SOURCE = "Tallec and Ollivier 2018"
PLATEAU_TOLERANCE = 0.005


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the loss of every network against updates, and when each left the baseline."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (curves, crossings) = plt.subplots(
        1, 2, figsize=(WIDTH, 3.3), width_ratios=(1.9, 1), layout="constrained"
    )
    draw_curves(curves, dataset, STYLES)
    curves.set_ylabel("mean squared error")
    curves.set_title(f"adding problem over {configuration['num_steps']} steps")
    for place, (arm, (colour, _, marker, _)) in enumerate(STYLES.items()):
        one = dataset.sel(arm=arm)
        apart = 0.08 * (np.arange(one.sizes["seed"]) - (one.sizes["seed"] - 1) / 2)
        left = one["crossing"].fillna(configuration["num_updates"])
        never = one["crossing"].isnull().to_numpy()
        for seed, x in enumerate(place + apart):
            crossings.plot(
                x,
                left[seed],
                "^" if never[seed] else marker,
                color=colour,
                markerfacecolor="white" if never[seed] else colour,
                markersize=5,
                clip_on=False,
            )
    crossings.set_xticks(range(len(STYLES)), [label for *_, label in STYLES.values()])
    crossings.set_xlim(-0.5, len(STYLES) - 0.5)
    crossings.set_ylim(0, configuration["num_updates"])
    crossings.set_ylabel("updates until half the baseline's loss")
    crossings.set_title("one point per network")
    gains = [float(dataset["log_growth"].sel(arm=arm).median()) for arm in STYLES]
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=(
            f"LSTMs (Flax OptimizedLSTMCell) of width {configuration['width']}, "
            f"{dataset.sizes['seed']} networks per initialisation; clipped Adam, rate "
            f"{configuration['learning_rate']:g}, {configuration['batch_size']} sequences per "
            f"update.\nLoss: mean over {configuration['window']} updates. Open triangles: never "
            "within the training shown. Log growth of a gradient over a sequence\nbefore training, "
            f"median: chrono (T_max = {configuration['max_lag']}) {gains[0]:+.1f} nats, forget "
            f"bias 1 {gains[1]:+.1f} nats. Grey: stretch whose mean is the plateau."
        ),
        title_fontsize=7,
    )
    return figure


def draw_curves(axes: Axes, dataset: xr.Dataset, styles: dict) -> None:
    """Draw smoothed losses, a line per network, with the baseline and the plateau's stretch."""
    configuration = json.loads(dataset.attrs["configuration"])
    axes.axvspan(*configuration["plateau"], color="0.92", linewidth=0, zorder=0)
    for arm, (colour, line, _, label) in styles.items():
        if arm not in dataset["arm"].to_numpy():
            continue
        smoothed = dataset["smoothed"].sel(arm=arm)
        for seed in range(smoothed.sizes["seed"]):
            axes.plot(
                smoothed["update"],
                smoothed.isel(seed=seed),
                color=colour,
                linestyle=line,
                linewidth=1.1,
                label=None if seed else label,
            )
    baseline = float(dataset["baseline"])
    axes.axhline(baseline, color="0.2", linewidth=0.9, linestyle=":", label="no memory, theory")
    axes.set_yscale("log")
    axes.set_xlim(0, configuration["num_updates"])
    axes.set_xlabel("updates")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say whether chrono networks are earlier, and where the others wait."""
    num_updates = json.loads(dataset.attrs["configuration"])["num_updates"]
    chrono, slow = (dataset.sel(arm=arm) for arm in (CHRONO, BIAS_ONE))
    # One that never leaves does so no earlier than the end.
    ahead, ahead_error = mean_and_error(slow["crossing"].fillna(num_updates) - chrono["crossing"])
    plateau, plateau_error = mean_and_error(slow["plateau"])
    gain, gain_error = mean_and_error(chrono["log_growth"] - slow["log_growth"])
    return [
        Claim(
            "With chrono initialisation an LSTM learns the adding problem earlier.",
            SOURCE,
            "updates until half the baseline's loss, forget bias 1 minus chrono, at least "
            "(networks that never get there count as the last update)",
            "at least",
            1.0,
            0.0,
            ahead,
            ahead_error,
        ),
        Claim(
            "The slow network waits at the loss of always answering 1, which is 1/6.",
            SOURCE,
            "mean loss with forget bias 1 on the plateau",
            "within",
            float(dataset["baseline"]),
            PLATEAU_TOLERANCE,
            plateau,
            plateau_error,
        ),
        Claim(
            "Before training, gradients survive better with chrono initialisation.",
            "theory",
            "log growth of a gradient over a sequence, chrono minus forget bias 1 (nats)",
            "at least",
            0.0,
            0.0,
            gain,
            gain_error,
        ),
    ]

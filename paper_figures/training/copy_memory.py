"""Learning curves on the copying memory problem: orthogonal networks, LSTMs, and the baseline."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.training.chrono_initialization import mean_and_error
from experiments.training.copy_memory import LINEAR, LSTM, TANH
from paper_figures.claims import Claim
from paper_figures.style import BLUE, GREEN, VERMILION, WIDTH
from paper_figures.training.chrono_initialization import draw_curves

STYLES = {
    LSTM: (VERMILION, "--", "s", "LSTM, forget bias 1"),
    TANH: (GREEN, "-.", "^", "orthogonal, tanh"),
    LINEAR: (BLUE, "-", "o", "orthogonal, linear"),
}
PLATEAU_TOLERANCE = 0.02


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the loss of every network against updates; then final loss against initial growth."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, (curves, gains) = plt.subplots(
        1, 2, figsize=(WIDTH, 3.3), width_ratios=(1.6, 1), layout="constrained"
    )
    draw_curves(curves, dataset, STYLES)
    curves.set_ylabel("cross entropy (nats per step)")
    delay = configuration["num_steps"]
    curves.set_title(f"copying memory, delay {delay}, baseline 10 ln 8/{delay + 20}")
    for arm, (colour, _, marker, _) in STYLES.items():
        if arm in dataset["arm"].to_numpy():
            one = dataset.sel(arm=arm)
            ratio = one["test_loss"] / one["baseline"]
            gains.plot(one["log_growth"], ratio, marker, color=colour, markersize=5, clip_on=False)
    gains.axhline(1, color="0.2", linewidth=0.9, linestyle=":")
    gains.set_yscale("log")
    gains.set_xlabel(f"log growth over {delay + 20} steps, untrained (nats)")
    gains.set_ylabel("held-out loss / baseline, trained")
    gains.set_title("one point per network")
    gains.margins(x=0.12, y=0.12)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=(
            f"Networks of width {configuration['width']}, {dataset.sizes['seed']} of each kind; "
            f"clipped Adam, rate {configuration['learning_rate']:g}, "
            f"{configuration['batch_size']} sequences per update. Loss: mean over "
            f"{configuration['window']} updates.\nGrey: stretch whose mean is the plateau. "
            "Right: log root-mean-square growth of a gradient over a whole sequence, from step "
            "Jacobians."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say where LSTMs wait, and whether linear orthogonal networks get below and ahead."""
    lstm, linear = (dataset.sel(arm=arm) for arm in (LSTM, LINEAR))
    return [
        Claim(
            "At first an LSTM remembers nothing: it waits at the loss 10 ln 8/(T + 20).",
            "Arjovsky et al. 2016",
            "mean loss of the LSTM on the plateau, in units of that loss",
            "within",
            1.0,
            PLATEAU_TOLERANCE,
            *mean_and_error(lstm["plateau"] / lstm["baseline"]),
        ),
        Claim(
            "A linear network with an orthogonal recurrent kernel gets below that loss.",
            "Henaff et al. 2016",
            "held-out loss after training, in units of that loss",
            "at most",
            1.0 - PLATEAU_TOLERANCE,
            0.0,
            *mean_and_error(linear["test_loss"] / linear["baseline"]),
        ),
        Claim(
            "After the same training the orthogonal network is ahead of the LSTM.",
            "Arjovsky et al. 2016",
            "log ratio of held-out losses, LSTM to linear orthogonal network (nats)",
            "at least",
            0.0,
            0.0,
            *mean_and_error(np.log(lstm["test_loss"] / linear["test_loss"])),
        ),
    ]

"""Learning curves on the copying memory problem: orthogonal networks, LSTMs, and the baseline."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.training._arms import mean_and_error
from experiments.training.copy_memory import LINEAR, LSTM, TANH
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.training._curves import Arm, draw_curves

ARMS = {
    LSTM: Arm(style.CELLS["LSTMCell"], "LSTM, forget bias 1"),
    TANH: Arm(style.CELLS["SimpleCell"], "orthogonal, tanh"),
    LINEAR: Arm(style.CELLS["linear"], "orthogonal, linear"),
}
# Of the baseline. One of ten symbols that is remembered lowers the loss by 10 %.
PLATEAU_TOLERANCE = 0.02


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the loss of every network against updates; then final loss against initial growth."""
    figure, (curves, growths) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.3), width_ratios=(1.6, 1), layout="constrained"
    )
    draw_curves(curves, dataset, ARMS)
    curves.set_ylabel("cross entropy (nats per step)")
    length = style.configuration(dataset)["num_steps"] + 20
    title = "copying memory, delay {num_steps}, baseline 10 ln 8/{length}"
    curves.set_title(style.caption(dataset, title, length=length))
    for arm, (look, _) in ARMS.items():
        one = dataset.sel(arm=arm)
        growths.plot(
            one["log_growth"],
            one["test_loss"] / one["baseline"],
            look.marker,
            color=look.colour,
            markersize=5,
            clip_on=False,
        )
    growths.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    growths.set(yscale="log", xlabel="log growth, untrained (nats)")
    growths.set_ylabel("held-out loss / baseline, trained")
    growths.set_title("one point per network")
    growths.margins(x=0.12, y=0.12)
    text = style.caption(
        dataset,
        "Networks of width {width}, {n_seed} of each kind. Clipped Adam, rate {learning_rate:g}, "
        "{batch_size} sequences per update. Loss: mean over {window} updates.\nShaded: stretch "
        "whose mean is the plateau. Right: log root-mean-square growth of a gradient over a whole "
        "sequence, from step Jacobians.",
    )
    style.legend_below(figure, curves.get_legend_handles_labels()[0], text)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say where LSTMs and tanh networks wait, and whether linear ones get below and ahead."""
    lstm, tanh, linear = (dataset.sel(arm=arm) for arm in (LSTM, TANH, LINEAR))
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
            "Henaff et al. 2016",
            "log ratio of held-out losses, LSTM to linear orthogonal network (nats)",
            "at least",
            0.0,
            0.0,
            *mean_and_error(np.log(lstm["test_loss"] / linear["test_loss"])),
        ),
        Claim(
            "An orthogonal kernel alone is no help: with tanh, a network remembers nothing after "
            "the same training.",
            "this package",
            "held-out loss of the tanh network after training, in units of that loss",
            "within",
            1.0,
            PLATEAU_TOLERANCE,
            *mean_and_error(tanh["test_loss"] / tanh["baseline"]),
            kind="finding",
        ),
    ]

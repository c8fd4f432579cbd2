"""Learning curves of LSTMs on the adding problem, by the initial biases of their gates."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.training._arms import mean_and_error
from experiments.training.chrono_initialization import BIAS_ONE, CHRONO
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.training._curves import Arm, draw_curves

ARMS = {
    CHRONO: Arm(style.CELLS["LSTMCell"], "chrono"),
    BIAS_ONE: Arm(style.PLAIN, "forget bias 1"),
}
SOURCE = "Tallec and Ollivier 2018"
# 3 % of the baseline, 1/6. A network that uses one of the two numbers has half of it.
PLATEAU_TOLERANCE = 0.005


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the loss of every network against updates, and when each left the baseline."""
    num_updates = style.configuration(dataset)["num_updates"]
    figure, (curves, crossings) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.3), width_ratios=(1.9, 1), layout="constrained"
    )
    draw_curves(curves, dataset, ARMS)
    curves.set_ylabel("mean squared error")
    curves.set_title(style.caption(dataset, "adding problem over {num_steps} steps"))
    for place, (arm, (look, _)) in enumerate(ARMS.items()):
        crossing = dataset["crossing"].sel(arm=arm).to_numpy()
        apart = 0.08 * (np.arange(crossing.size) - (crossing.size - 1) / 2)
        for x, y in zip(place + apart, crossing, strict=True):
            crossings.plot(
                x,
                num_updates if np.isnan(y) else y,
                look.marker,
                color=look.colour,
                markerfacecolor="white" if np.isnan(y) else look.colour,
                markersize=5,
                clip_on=False,
            )
    crossings.set_xticks(range(len(ARMS)), [label for _, label in ARMS.values()])
    crossings.set(xlim=(-0.5, len(ARMS) - 0.5), ylim=(0, num_updates))
    crossings.set_ylabel("updates until half the baseline's loss")
    crossings.set_title("one point per network")
    chrono, slow = (float(dataset["log_growth"].sel(arm=arm).median()) for arm in ARMS)
    text = style.caption(
        dataset,
        "LSTMs (Flax OptimizedLSTMCell) of width {width}, {n_seed} networks per initialisation. "
        "Clipped Adam, rate {learning_rate:g}, {batch_size} sequences per update.\n"
        "Loss: mean over {window} updates. Shaded: stretch whose mean is the plateau. Open: never "
        "within the training shown. Log growth of a\ngradient over a sequence before training, "
        "median: {chrono:+.1f} nats for chrono (T_max = {max_lag}), {slow:+.1f} nats for forget "
        "bias 1.",
        chrono=chrono,
        slow=slow,
    ).replace(" -", " −")
    style.legend_below(figure, curves.get_legend_handles_labels()[0], text)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say whether chrono networks are earlier, and where the others wait."""
    chrono, slow = (dataset.sel(arm=arm) for arm in (CHRONO, BIAS_ONE))
    # One that never leaves does so no earlier than the end.
    crossing = dataset["crossing"].fillna(style.configuration(dataset)["num_updates"])
    return [
        Claim(
            "With chrono initialisation an LSTM learns the adding problem earlier.",
            SOURCE,
            "updates until half the baseline's loss, forget bias 1 minus chrono (networks that "
            "never get there count as the last update)",
            "at least",
            1.0,
            0.0,
            *mean_and_error(crossing.sel(arm=BIAS_ONE) - crossing.sel(arm=CHRONO)),
        ),
        Claim(
            "The slow network waits at the loss of always answering 1, which is 1/6.",
            SOURCE,
            "mean loss with forget bias 1 on the plateau",
            "within",
            float(dataset["baseline"]),
            PLATEAU_TOLERANCE,
            *mean_and_error(slow["plateau"]),
        ),
        Claim(
            "Before training, gradients survive better with chrono initialisation.",
            "theory",
            "log growth of a gradient over a sequence, chrono minus forget bias 1 (nats)",
            "at least",
            0.0,
            0.0,
            *mean_and_error(chrono["log_growth"] - slow["log_growth"]),
        ),
    ]

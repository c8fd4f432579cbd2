"""Share of networks that learned over delay and learning rate, and the power law of its edge."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jacobian_rnn as jrnn
from paper_figures import style
from paper_figures.claims import Claim, standard_error

KURTKAYA = "Kurtkaya et al. 2025"
THEIRS, THEIR_ERROR = -2.72, 0.07
NEAR = 0.15
WHY = (
    "Their cue and answer last longer, their loss is a squared error at every step, their delays "
    "reach 80 steps and their networks have 100 units"
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the map at the last budget with both power laws, and the exponent over the budget."""
    figure, (axes, small) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.4), width_ratios=(2.2, 1), layout="constrained"
    )
    last = dataset.isel(budget=-1)
    delays, rates = dataset["delay"].to_numpy(), dataset["learning_rate"].to_numpy()
    share = (last["outcome"] == jrnn.Outcome.LEARNED).mean("network")
    mesh = axes.pcolormesh(
        _edges(delays),
        _edges(rates),
        share.transpose("learning_rate", "delay").to_numpy(),
        cmap="cividis",
        vmin=0,
        vmax=1,
    )
    value = last["critical_rate"].to_numpy()
    low, high = last["critical_rate_interval"].transpose("end", "delay").to_numpy()
    for colour, width, size in (("white", 3, 7), (style.VERMILION, 1.2, 4)):
        axes.errorbar(
            delays,
            value,
            yerr=np.maximum([value - low, high - value], 0),
            fmt="o",
            color=colour,
            markersize=size,
            elinewidth=width,
        )
    fitted = float(last["prefactor"]) * delays ** float(last["exponent"])
    middle = np.exp(np.mean(np.log(delays)))
    level = float(last["prefactor"]) * middle ** float(last["exponent"])
    theirs = level * (delays / middle) ** THEIRS
    laws = {
        f"fitted: delay^({float(last['exponent']):.2f})": (fitted, style.VERMILION, "-"),
        f"{KURTKAYA}: delay^({THEIRS:.2f})": (theirs, style.BLACK, "--"),
    }
    laws = {label.replace("-", "−"): look for label, look in laws.items()}
    for line, colour, look in laws.values():
        axes.plot(delays, line, color="white", linewidth=3.2)
        axes.plot(delays, line, color=colour, linestyle=look, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*_edges(delays)[[0, -1]])
    axes.set_ylim(*_edges(rates)[[0, -1]])
    axes.set_xticks(delays, labels=[str(delay) for delay in delays])
    axes.minorticks_off()
    axes.set_xlabel("delay (steps)")
    axes.set_ylabel("learning rate of SGD")
    figure.colorbar(mesh, ax=axes, label="share of networks that learned", pad=0.01)
    budgets, power = dataset["budget"].to_numpy(), dataset["exponent"].to_numpy()
    low, high = dataset["exponent_interval"].transpose("end", "budget").to_numpy()
    small.errorbar(
        budgets,
        power,
        yerr=np.maximum([power - low, high - power], 0),
        fmt="o",
        color=style.VERMILION,
        capsize=2,
    )
    small.axhspan(
        THEIRS - 1.96 * THEIR_ERROR, THEIRS + 1.96 * THEIR_ERROR, color="0.85", linewidth=0
    )
    small.axhline(THEIRS, color="black", linestyle="--", linewidth=1.2)
    small.set_xscale("log")
    small.set_xticks(budgets, labels=[str(budget) for budget in budgets])
    small.minorticks_off()
    small.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)
    small.set_xlabel("updates")
    small.set_ylabel("power of the delay")
    style.legend_below(
        figure,
        [
            Line2D([], [], color=colour, linestyle=look, linewidth=1.6, label=label)
            for label, (_, colour, look) in laws.items()
        ],
        style.caption(
            dataset,
            "Delayed recall of two cues, leaky tanh networks of {width} units, {num_networks} for "
            "each delay and rate, SGD with momentum {momentum:g}, {budget} updates\nof "
            "{batch_size} sequences on the left. Points: half of the networks learn. Bars and "
            "grey: 95 %.",
            budget=budgets[-1],
        ),
        num_columns=2,
    )
    return figure


def _edges(centres):
    """Return the edges of cells around centres, halfway in the logarithm."""
    logs = np.log(np.asarray(centres, float))
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[[0, -1]] - middle[[0, -1]]
    return np.exp(np.concatenate([ends[:1], middle, ends[1:]]))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare the power of the delay with the published one, and say that it is below zero."""
    last = dataset.isel(budget=-1)
    error = standard_error(*last["exponent_interval"].to_numpy().tolist())
    power = float(last["exponent"]) if np.isfinite(error) else np.nan  # too few networks to say
    return [
        Claim(
            "The largest learning rate with which tanh networks learn falls as the delay grows",
            KURTKAYA,
            "power of the delay",
            "at most",
            0,
            0,
            power,
            error,
        ),
        Claim(
            "The largest learning rate with which tanh networks learn goes with the delay to the "
            "power of −2.72",
            KURTKAYA,
            "power of the delay, on a task, a loss and networks that differ from theirs",
            "within",
            THEIRS,
            NEAR,
            power,
            float(np.hypot(error, THEIR_ERROR)),
            reason=WHY,
        ),
    ]

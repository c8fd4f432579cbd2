"""Pictures of results: each function takes arrays and a matplotlib Axes, and returns the Axes."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float, Int

from jacobian_rnn.regimes import THRESHOLDS, Outcome, Regime, Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyArray = Array | np.ndarray
# Colours that colour-blind readers tell apart (Okabe and Ito 2008), and a marker for each.
OUTCOME_STYLE = {
    Outcome.LEARNED: ("#0072B2", "o"),
    Outcome.STUCK: ("#E69F00", "s"),
    Outcome.DIVERGED: ("#CC3311", "^"),
}


def regime_against_gain(
    axes: "Axes",
    gain: Float[AnyArray, " networks"],
    log_gain: Float[AnyArray, " networks"],
    interval: Float[AnyArray, "networks 2"],
    outcome: Int[AnyArray, " networks"],
    *,
    thresholds: Thresholds = THRESHOLDS,
) -> "Axes":
    """Plot the predicted log gain of networks against their recurrent gain, coloured by outcome.

    The band between the thresholds is where learning is predicted; networks for which training
    disagrees with that are ringed. A log gain of −inf (a saturated network whose derivatives are
    exactly zero) sits on the lower edge; one whose digits are lost (NaN) is not drawn.

    Args:
        axes: where to draw; the gain axis becomes logarithmic.
        gain: recurrent gain, `(networks,)`.
        log_gain: median predicted log gain over the horizon, nats, `(networks,)`.
        interval: its interval over sequences, nats, `(networks, 2)`.
        outcome: values of `Outcome`, `(networks,)`.
        thresholds: nats.

    Returns:
        The axes.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> _, axes = plt.subplots()
        >>> gains, log_gains = np.array([0.5, 1.0]), np.array([-30.0, 0.0])
        >>> intervals = np.stack([log_gains - 1, log_gains + 1], axis=1)
        >>> regime_against_gain(axes, gains, log_gains, intervals, np.array([-1, 0])) is axes
        True
        >>> plt.close()
    """
    gain, log_gain = np.asarray(gain), np.asarray(log_gain)
    interval, outcome = np.asarray(interval), np.asarray(outcome)
    inside = (log_gain >= thresholds.vanishing) & (log_gain <= thresholds.exploding)
    finite = interval[np.isfinite(interval)]
    limits = (min(-45.0, *(finite - 3)), max(35.0, *(finite + 3))) if finite.size else (-45.0, 35.0)
    log_gain, interval = np.clip(log_gain, *limits), np.clip(interval, *limits)
    axes.axhspan(thresholds.vanishing, thresholds.exploding, color="0.92", zorder=0, linewidth=0)
    for bound in thresholds:
        axes.axhline(bound, color="0.35", linewidth=0.8, linestyle="--", zorder=1)
    for kind, (colour, marker) in OUTCOME_STYLE.items():
        these = outcome == kind
        if not these.any():
            continue
        below, above = log_gain - interval[:, 0], interval[:, 1] - log_gain
        axes.errorbar(
            gain[these],
            log_gain[these],
            yerr=np.maximum(np.stack([below[these], above[these]]), 0),
            fmt=marker,
            color=colour,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1,
            label=kind.name.lower(),
            zorder=3,
        )
    wrong = inside != (outcome == Outcome.LEARNED)
    axes.scatter(
        gain[wrong],
        log_gain[wrong],
        s=75,
        facecolors="none",
        edgecolors="black",
        linewidths=0.9,
        label="prediction and training disagree",
        zorder=4,
    )
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    return axes


def label_regimes(axes: "Axes", *, thresholds: Thresholds = THRESHOLDS) -> "Axes":
    """Write the names of the three regimes at the right edge of a log-gain axis.

    Args:
        axes: an axes whose vertical axis is a log gain in nats.
        thresholds: nats.

    Returns:
        The axes.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> _, axes = plt.subplots()
        >>> _ = axes.set_ylim(-40, 30)
        >>> len(label_regimes(axes).texts)
        3
        >>> plt.close()
    """
    low, high = axes.get_ylim()
    edges = [low, thresholds.vanishing, thresholds.exploding, high]
    for regime, below, above in zip(Regime, edges[:-1], edges[1:], strict=True):
        axes.annotate(
            regime.name.lower(),
            (1.02, (below + above) / 2),
            xycoords=("axes fraction", "data"),
            rotation=90,
            va="center",
            ha="left",
            fontsize="small",
            color="0.35",
        )
    return axes

"""Pictures of predicted regimes, and of what training showed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float, Int

from jacobian_rnn.checks import check_shape, check_type, refuse
from jacobian_rnn.plotting.marks import (
    BLACK,
    BLUE,
    EDGE,
    ORANGE,
    VERMILION,
    check_axes,
    check_result,
    mark_edge,
)
from jacobian_rnn.regimes.observation import Outcome
from jacobian_rnn.regimes.prediction import RegimePrediction
from jacobian_rnn.regimes.score import Agreement
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Regime, Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyArray = Array | np.ndarray
# A colour and a marker for each.
OUTCOME_STYLE = {
    Outcome.LEARNED: (BLUE, "o"),
    Outcome.STUCK: (ORANGE, "s"),
    Outcome.DIVERGED: (VERMILION, "^"),
}
OUTER_BAND = 15.0  # nats that are drawn at least beyond the thresholds
NARROW = 0.15  # of the axis: a band in which its name has to lie flat


def regime_against_gain(
    axes: "Axes",
    gain: Float[AnyArray, " networks"],
    log_growth: Float[AnyArray, " networks"],
    interval: Float[AnyArray, "networks 2"],
    outcome: Int[AnyArray, " networks"],
    *,
    thresholds: Thresholds = THRESHOLDS,
) -> "Axes":
    """Plot the predicted log growth of networks against their recurrent gain, coloured by outcome.

    The growth is the one that decides, as in `RegimePrediction.deciding_growth`: the peak where the
    gradient explodes, and else the growth over the horizon. The band between the thresholds is then
    where learning is predicted. Networks for which training
    disagrees with that are ringed. A log growth of −inf (a saturated network whose derivatives are
    exactly zero) is a triangle on the lower edge, one of +inf on the upper. One whose digits are
    lost (NaN) is not drawn.

    Args:
        axes: where to draw. The gain axis becomes logarithmic.
        gain: recurrent gain, `(networks,)`.
        log_growth: median over sequences of the growth that decides, nats, `(networks,)`.
        interval: its interval over sequences, nats, `(networks, 2)`.
        outcome: values of `Outcome`, `(networks,)`.
        thresholds: nats.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes.
        ValueError: shapes that do not fit, gains that are not positive, outcomes that are none.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> _, axes = plt.subplots()
        >>> gains, log_growths = np.array([0.5, 1.0]), np.array([-30.0, 0.0])
        >>> intervals = np.stack([log_growths - 1, log_growths + 1], axis=1)
        >>> regime_against_gain(axes, gains, log_growths, intervals, np.array([-1, 0])) is axes
        True
        >>> plt.close()
    """
    check_axes(axes)
    gain, log_growth = np.asarray(gain), np.asarray(log_growth)
    interval, outcome = np.asarray(interval), np.asarray(outcome)
    check_shape("gain", gain.shape, ("networks",))
    check_shape("log_growth", log_growth.shape, gain.shape, "one for each gain")
    check_shape("interval", interval.shape, (gain.size, 2), "one for each gain")
    check_shape("outcome", outcome.shape, gain.shape, "one for each gain")
    if not (gain > 0).all():
        refuse("gain", gain.tolist(), "positive numbers", "their axis is logarithmic")
    if not np.isin(outcome, list(Outcome)).all():
        refuse("outcome", np.unique(outcome).tolist(), "-1, 0 and 1 alone")
    inside = (log_growth >= thresholds.vanishing) & (log_growth <= thresholds.exploding)
    finite = np.concatenate([log_growth, *interval])
    finite = finite[np.isfinite(finite)]
    limits = (min(-45.0, *(finite - 3)), max(35.0, *(finite + 3))) if finite.size else (-45.0, 35.0)
    interval = np.clip(interval, *limits)
    below, above = log_growth - interval[:, 0], interval[:, 1] - log_growth
    stable_band(axes, thresholds)
    for kind, (colour, marker) in OUTCOME_STYLE.items():
        these = (outcome == kind) & np.isfinite(log_growth)
        if these.any():
            axes.errorbar(
                gain[these],
                log_growth[these],
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
        for end, name in ((-np.inf, "−∞"), (np.inf, "+∞")):
            mark_edge(
                axes,
                gain[(outcome == kind) & (log_growth == end)],
                f"{kind.name.lower()}, log growth {name}",
                upper=end > 0,
                colour=colour,
            )
    wrong = inside != (outcome == Outcome.LEARNED)
    low, high = limits
    margin = EDGE * (high - low)
    edges = np.where(log_growth < 0, low + margin, high - margin)
    axes.scatter(
        gain[wrong],
        np.where(np.isinf(log_growth), edges, log_growth)[wrong],
        s=75,
        facecolors="none",
        edgecolors="black",
        linewidths=0.9,
        label="prediction and training disagree",
        zorder=4,
    )
    axes.set_xscale("log")
    axes.set(xlabel="recurrent gain", ylabel="predicted log growth (nats)", ylim=limits)
    return axes


def predicted_regimes(
    axes: "Axes", predictions: RegimePrediction | Mapping[str, RegimePrediction]
) -> "Axes":
    """Plot the log growth of every sequence, in nats, with median and interval, over the regimes.

    The growth is the one that decided: the peak at any lag where the gradient explodes, and else
    the growth over the horizon. Grey is the band in which learning is predicted. Thick bars are the
    central 90 % of sequences,
    diamonds medians. Triangles on the lower edge are log growths of −inf. Sequences whose digits
    are lost are counted below their network.

    Args:
        axes: where to draw.
        predictions: one prediction, or several by name, with the same thresholds.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no prediction.
        ValueError: no predictions, batches of them, or thresholds that differ.

    Example:
        >>> import jax, jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from flax import linen as nn
        >>> from jacobian_rnn import from_linen, predict_regime
        >>> xs, carry = jax.random.normal(jax.random.key(0), (8, 60, 3)), jnp.zeros(16)
        >>> def predicted(cell):
        ...     network = from_linen(cell, cell.init(jax.random.key(1), carry, xs[0, 0]))
        ...     return predict_regime(network, carry, xs, horizon=50)
        >>> both = {"SimpleCell": predicted(nn.SimpleCell(16)), "GRU": predicted(nn.GRUCell(16))}
        >>> _, axes = plt.subplots()
        >>> predicted_regimes(axes, both).get_ylabel()
        'log growth over 50 steps (nats)'
        >>> plt.close()
    """
    check_axes(axes)
    named = {"": predictions} if isinstance(predictions, RegimePrediction) else predictions
    check_type("predictions", named, Mapping, "a RegimePrediction, or {name: RegimePrediction}")
    if not named:
        refuse("predictions", "none", "at least one")
    for name, one in named.items():
        check_result(f"predictions[{name!r}]", one, RegimePrediction, "regime", 0)
    bounds = {tuple(np.asarray(one.thresholds, float).tolist()) for one in named.values()}
    if len(bounds) > 1:
        refuse("predictions", f"thresholds {sorted(bounds)}", "the same for all")
    thresholds = Thresholds(*bounds.pop())
    every = np.concatenate([np.asarray(one.deciding_growth, float) for one in named.values()])
    every = every[np.isfinite(every)]
    low, high = min([thresholds[0], *every]), max([thresholds[1], *every])
    beyond = max(OUTER_BAND, NARROW * (high - low))
    stable_band(axes, thresholds)
    labels = []
    for place, (name, one) in enumerate(named.items()):
        log_growths = np.asarray(one.deciding_growth, float)
        apart = place + np.linspace(-0.25, 0.25, log_growths.size)
        first = place == 0
        axes.plot(
            apart,
            np.where(np.isfinite(log_growths), log_growths, np.nan),
            "o",
            color=BLUE,
            markersize=2.5,
            alpha=0.6,
            label="sequences" if first else None,
            zorder=2,
        )
        mark_edge(axes, apart[np.isneginf(log_growths)], "log growth −∞", colour=BLUE)
        # Where the median is −∞ the triangles say it.
        if np.isfinite(
            median := np.nanmedian(log_growths) if (~np.isnan(log_growths)).any() else np.nan
        ):
            ends = np.clip(np.asarray(one.interval, float), low - 2 * beyond, None)
            axes.plot([place, place], ends, color=BLACK, linewidth=2.2, zorder=3)
            axes.plot(
                place,
                median,
                "D",
                color=BLACK,
                markerfacecolor="white",
                markersize=5,
                label="median and central 90 %" if first else None,
                zorder=4,
            )
        lost = int(np.isnan(log_growths).sum())
        notes = [name, *([f"digits lost: {lost} of {log_growths.size}"] if lost else [])]
        labels.append("\n".join(note for note in notes if note) or f"{log_growths.size} sequences")
    horizons = sorted({int(one.horizon) for one in named.values()})
    over = f"{horizons[0]} steps" if len(horizons) == 1 else "the horizon"
    if any(int(one.regime) == Regime.EXPLODING for one in named.values()):
        over += ", or its peak if exploding"
    axes.set_xticks(range(len(labels)), labels)
    axes.set(
        xlim=(-0.6, len(labels) - 0.4),
        ylim=(low - beyond, high + beyond),
        ylabel=f"log growth over {over} (nats)",
    )
    return label_regimes(axes, thresholds=thresholds)


def confusion_matrix(axes: "Axes", agreement: Agreement) -> "Axes":
    """Draw how many networks of each predicted regime had each outcome.

    A darker cell holds a larger share of the networks predicted so. Where prediction and training
    agree (stable and learned, or neither) cells are framed.

    Args:
        axes: where to draw.
        agreement: what `score_regimes` returns.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no agreement.

    Example:
        >>> import jax, matplotlib.pyplot as plt, numpy as np
        >>> from jacobian_rnn import score_regimes
        >>> result = score_regimes(
        ...     np.array([-1, -1, 0, 0]),
        ...     np.array([-1, -1, 0, 1]),
        ...     groups=np.arange(4),
        ...     borderline=np.zeros(4, bool),
        ...     rules={},
        ...     key=jax.random.key(0),
        ... )
        >>> _, axes = plt.subplots()
        >>> [text.get_text() for text in confusion_matrix(axes, result).texts]
        ['2', '0', '0', '0', '1', '1', '0', '0', '0']
        >>> plt.close()
    """
    from matplotlib.patches import Rectangle

    check_axes(axes)
    check_result("agreement", agreement, Agreement, "confusion", 2)
    counts = np.asarray(agreement.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, regime in enumerate(Regime):
        for column, outcome in enumerate(Outcome):
            agrees = (regime == Regime.STABLE) == (outcome == Outcome.LEARNED)
            shade = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade)
            if agrees:
                axes.add_patch(
                    Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=shade)
                )
    axes.set_xticks(range(3), [outcome.name.lower() for outcome in Outcome])
    axes.set_yticks(range(3), [regime.name.lower() for regime in Regime])
    axes.tick_params(length=0)
    axes.set(
        xlabel="observed (networks)",
        ylabel="predicted",
        title=f"balanced accuracy {agreement.prediction.balanced_accuracy:.2f} "
        "[{:.2f}, {:.2f}]".format(*agreement.prediction.interval),
    )
    return axes


def label_regimes(axes: "Axes", *, thresholds: Thresholds = THRESHOLDS) -> "Axes":
    """Write the names of the three regimes at the right edge of an axis of log growth.

    Args:
        axes: an axes whose vertical axis is a log growth in nats.
        thresholds: nats.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> _, axes = plt.subplots()
        >>> _ = axes.set_ylim(-40, 30)
        >>> len(label_regimes(axes).texts)
        3
        >>> plt.close()
    """
    check_axes(axes)
    low, high = axes.get_ylim()
    edges = [low, thresholds.vanishing, thresholds.exploding, high]
    narrow = np.diff(edges).min() < NARROW * (high - low)
    for regime, below, above in zip(Regime, edges[:-1], edges[1:], strict=True):
        axes.annotate(
            regime.name.lower(),
            (1.02, (below + above) / 2),
            xycoords=("axes fraction", "data"),
            rotation=0 if narrow else 90,
            va="center",
            ha="left",
            fontsize="small",
            color="0.35",
        )
    return axes


def stable_band(axes: "Axes", thresholds: Thresholds) -> None:
    """Draw the band of log growths in which learning is predicted."""
    axes.axhspan(thresholds.vanishing, thresholds.exploding, color="0.92", zorder=0, linewidth=0)
    for bound in thresholds:
        axes.axhline(bound, color="0.35", linewidth=0.8, linestyle="--", zorder=1)

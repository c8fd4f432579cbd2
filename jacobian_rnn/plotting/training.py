"""Pictures of the record of training."""

from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.checks import check_at_least, check_count, check_type, refuse
from jacobian_rnn.plotting.marks import (
    BLUE,
    LINES,
    SEQUENCE,
    VERMILION,
    check_axes,
    check_result,
    choose,
    mark_edge,
)
from jacobian_rnn.training.records import Records, TrainingHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_loss(axes: "Axes", history: TrainingHistory, *, window: int = 1) -> "Axes":
    """Plot the training loss of each update, with the loss of the trivial baseline.

    A triangle on the upper edge marks the first update of a stretch whose loss is not finite. One
    on the lower edge marks the first of a stretch in which what is drawn is zero or less.

    Args:
        axes: where to draw. The axis of losses becomes logarithmic.
        history: of training one network, from `training.train`.
        window: number of updates over which the loss is averaged, drawn at the last of them.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no history.
        ValueError: a batch of histories, or a window that is not between 1 and all updates.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> from jacobian_rnn.training import TrainingHistory
        >>> blank = dict.fromkeys(TrainingHistory._fields, np.zeros(0))
        >>> record = blank | {"loss": np.geomspace(2, 0.1, 50), "baseline_loss": 1.4}
        >>> _, axes = plt.subplots()
        >>> _ = training_loss(axes, TrainingHistory(**record))
        >>> axes.get_legend_handles_labels()[1]
        ['training', 'trivial baseline']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("history", history, TrainingHistory, "loss", 1)
    loss = np.asarray(history.loss, float)
    check_count("window", window, 1, loss.size, "it averages over updates, which are so many")
    means = np.lib.stride_tricks.sliding_window_view(loss, window).mean(axis=1)
    updates = np.arange(window, loss.size + 1)
    finite = np.isfinite(means)
    over = f", mean of {window} updates" if window > 1 else ""
    axes.plot(
        updates,
        np.where(finite & (means > 0), means, np.nan),
        color=BLUE,
        linewidth=1,
        label=f"training{over}",
        zorder=2,
    )
    axes.axhline(
        float(history.baseline_loss),
        color="0.2",
        linewidth=0.9,
        linestyle=":",
        label="trivial baseline",
        zorder=1,
    )
    first = _starts(~np.isfinite(loss)) + 1
    mark_edge(axes, first, "not finite from here", upper=True, colour=VERMILION)
    mark_edge(axes, updates[_starts(finite & (means <= 0))], "zero or less from here", colour=BLUE)
    axes.set(yscale="log", xlabel="updates", ylabel="loss (units of the task)")
    return axes


def gradient_norms_by_lag(axes: "Axes", history: TrainingHistory, *, most: int = 5) -> "Axes":
    """Plot log norms of the gradient at each lag, in nats, a line for each of several records.

    What is drawn is log ‖∂loss/∂states[T − lag]‖ by plain backpropagation, the root mean square
    over a batch. A triangle on the lower edge marks the first lag at which it underflows to zero,
    one on the upper edge the first at which it is not finite.

    Args:
        axes: where to draw.
        history: of training one network, from `training.train` with `gradients_by_lag=True`.
        most: number of records drawn at most, evenly among them, the first and the last included.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no history.
        ValueError: a batch of histories, or none to draw.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> from jacobian_rnn.training import Records, TrainingHistory
        >>> blank = dict.fromkeys(Records._fields, np.zeros(0))
        >>> norms = np.array([[1.0, 0.1, 0.01], [1.0, 0.9, 0.8]])
        >>> records = blank | {"gradient_norm_by_lag": norms, "num_updates": np.array([0, 100])}
        >>> history = dict.fromkeys(TrainingHistory._fields, np.zeros(0))
        >>> history |= {"records": Records(**records)}
        >>> _, axes = plt.subplots()
        >>> _ = gradient_norms_by_lag(axes, TrainingHistory(**history))
        >>> axes.get_legend_handles_labels()[1]
        ['before training', 'after 100 updates']
        >>> plt.close()
    """
    from matplotlib import colormaps

    check_axes(axes)
    check_type("history", history, TrainingHistory, "one TrainingHistory")
    records = history.records
    check_result("history.records", records, Records, "gradient_norm_by_lag", 2)
    check_at_least(1, most=most)
    norms = np.asarray(records.gradient_norm_by_lag, float)
    updates = np.asarray(records.num_updates)
    if not len(norms):
        advice = "train with gradients_by_lag=True"
        refuse("history.records", "no gradients by lag", "some to draw", advice)
    lags = np.arange(norms.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(np.isfinite(norms) & (norms > 0), np.log(norms), np.nan)
    shown = choose(len(norms), most)
    # Not to the end of the map, which is light on a white page.
    colours = colormaps[SEQUENCE](np.linspace(0, 0.75, len(shown)))
    zero, broken = norms == 0, ~np.isfinite(norms)
    for number, (record, colour) in enumerate(zip(shown, colours, strict=True)):
        done = int(updates[record])
        axes.plot(
            lags,
            logs[record],
            color=colour,
            linestyle=LINES[number % len(LINES)],
            linewidth=1.3,
            label=f"after {done} updates" if done else "before training",
            zorder=2,
        )
    for what, label, upper in ((zero, "underflow to 0", False), (broken, "not finite", True)):
        firsts = [np.argmax(what[record]) for record in shown if what[record].any()]
        mark_edge(axes, np.unique(firsts), f"{label} from here", upper=upper)
    axes.set(xlabel="lag (steps)", ylabel="log gradient norm (nats)")
    return axes


def _starts(which):
    """Return where each stretch of True begins."""
    return np.flatnonzero(which & ~np.concatenate([[False], which[:-1]]))

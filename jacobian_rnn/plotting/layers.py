"""Pictures of a model's recurrent layers."""

from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.checks import check_type
from jacobian_rnn.diagnosis.credit_by_lag import CreditByLag
from jacobian_rnn.diagnosis.result import Diagnosis
from jacobian_rnn.plotting.marks import (
    BLUE,
    SKY_BLUE,
    check_axes,
    check_result,
    line,
    mark_edge,
)
from jacobian_rnn.plotting.regimes import label_regimes, stable_band
from jacobian_rnn.regimes.thresholds import Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEYOND = 6.0  # nats that are drawn at least beyond the thresholds


def growth_by_lag(axes: "Axes", diagnosis: Diagnosis) -> "Axes":
    """Plot how a gradient grows on its way back, in nats, against the lag, for each layer.

    Curves are medians over sequences. Grey is the band in which networks learn. A triangle on the
    lower edge marks the lag from which nothing is left of a gradient.

    Args:
        axes: where to draw.
        diagnosis: what `diagnose` returns.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no diagnosis.

    Example:
        >>> import jax, matplotlib.pyplot as plt
        >>> from flax import nnx
        >>> from jacobian_rnn import diagnose
        >>> layer = nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0)))
        >>> batch = jax.random.normal(jax.random.key(0), (4, 60, 3))
        >>> _, axes = plt.subplots()
        >>> growth_by_lag(axes, diagnose(layer, batch)).get_ylabel()
        'log growth of a gradient (nats)'
        >>> plt.close()
    """
    check_axes(axes)
    check_type("diagnosis", diagnosis, Diagnosis, "a Diagnosis", "as diagnose returns it")
    thresholds = Thresholds(*np.asarray(diagnosis.layers[0].prediction.thresholds, float).tolist())
    every = [0.0]
    for number, layer in enumerate(diagnosis.layers):
        style, growth = line(number), layer.growth
        lags = np.arange(1, len(growth) + 1)
        shown = np.where(np.isfinite(growth), growth, np.nan)
        axes.plot(lags, shown, color=style.colour, linestyle=style.style, label=layer.name)
        every += growth[np.isfinite(growth)].tolist()
        if np.isneginf(growth).any():
            lost = lags[np.isneginf(growth)][:1]
            label = f"{layer.name}: nothing is left"
            mark_edge(axes, lost, label, colour=style.colour)
    low, high = min(thresholds[0], *every) - BEYOND, max(thresholds[1], *every) + BEYOND
    stable_band(axes, thresholds)
    axes.set(
        xlabel="lag (steps back from the end)",
        ylabel="log growth of a gradient (nats)",
        ylim=(low, high),
    )
    return label_regimes(axes, thresholds=thresholds)


def credit_by_lag(axes: "Axes", credit: CreditByLag) -> "Axes":
    """Plot the share of every lag in ∂loss/∂θ of a layer, in nats, against the lag.

    The share is the mean over sequences; its noise is the standard error of that mean. Where the
    share is no higher than its noise, the lag teaches nothing that sequences agree on.

    Args:
        axes: where to draw.
        credit: of one layer of a `Diagnosis`.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no shares.

    Example:
        >>> import jax.numpy as jnp, jax, matplotlib.pyplot as plt
        >>> from flax import nnx
        >>> from jacobian_rnn import diagnose
        >>> layer = nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0)))
        >>> batch = jax.random.normal(jax.random.key(0), (4, 60, 3))
        >>> diagnosis = diagnose(layer, batch, loss=lambda outputs: jnp.mean(outputs**2))
        >>> _, axes = plt.subplots()
        >>> axes = credit_by_lag(axes, diagnosis.layers[0].credit)
        >>> axes.get_legend_handles_labels()[1]
        ['share of the lag', 'its noise']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("credit", credit, CreditByLag, "log_norms", 1)
    lags = np.arange(len(credit.log_norms))
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = credit.log_norms - np.log(credit.signal_to_noise)
    for values, colour, style, label in (
        (credit.log_norms, BLUE, "-", "share of the lag"),
        (noise, SKY_BLUE, "--", "its noise"),
    ):
        shown = np.where(np.isfinite(values), values, np.nan)
        axes.plot(lags, shown, color=colour, linestyle=style, label=label)
    axes.set(xlabel="lag (steps before the end)", ylabel="log norm in ∂loss/∂θ (nats)")
    axes.legend(fontsize="small")
    return axes

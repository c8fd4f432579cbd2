"""Pictures of a model's recurrent layers."""

from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.checks import check_type
from jacobian_rnn.diagnosis.result import Diagnosis
from jacobian_rnn.plotting.marks import check_axes, line, mark_edge
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

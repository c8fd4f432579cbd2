"""Changes of a layer that bring its gradients through, each applied and measured again.

A change is a gain on the recurrent weights, or the bias of the gate that keeps the state. Its value
is searched on the inputs that the layer received, until over the horizon a factor of 1/e is left of
a gradient. Then the changed layer is measured with more gradients than the layer was.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.cells.known_cells import class_of, describe, layout_of, weights_of
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.diagnosis.systems import first_sequences, predict, system_of
from jacobian_rnn.initialization.rate_search import BOUNDS, CHANGES
from jacobian_rnn.regimes.prediction import RegimePrediction
from jacobian_rnn.regimes.quantiles import quantile
from jacobian_rnn.regimes.thresholds import Regime, Thresholds

TARGET = -1.0  # nats: what is left of a gradient over the horizon
CLOSE = 0.2  # nats from the target: near enough
NUM_SEQUENCES = 4  # on which a value is searched, with fewer probes than a verdict has
NUM_PROBES = 4
NUM_PROBES_AFTER = 64  # with which what is told was measured: a verdict needs fewer
GRID_SIZE = 9
NUM_HALVINGS = 8
CODE = {
    "gain": "jrnn.with_gain(network, {:.4g}{})",
    "forget_bias": 'jrnn.with_gate_bias(network, "forget", {:.4g}{})',
}


class Advice(NamedTuple):
    """A change of a layer, and what it does.

    Attributes:
        change: "gain" or "forget_bias".
        value: the factor on the recurrent weights, or the bias of the gate that keeps the state.
        code: the call that applies it.
        before: the prediction for the layer as it is.
        after: the prediction for the changed layer, on the same recorded inputs.
    """

    change: str
    value: float
    code: str
    before: RegimePrediction
    after: RegimePrediction

    def __str__(self) -> str:
        """Say what to change, and what it does."""
        return f"{in_words(self)}. {self.code}"


def in_words(advice: Advice) -> str:
    """Say what to change, and what it does, in a sentence."""
    steps, rates = int(advice.before.horizon), (advice.before.exponent, advice.after.exponent)
    what = {
        "gain": f"Multiply the recurrent weights by {advice.value:.3g}",
        "forget_bias": f"Set the bias of the gate that keeps the state to {advice.value:.2f}",
    }[advice.change]
    before, after = map(power, map(median_growth, (advice.before, advice.after)))
    if int(advice.before.regime) == Regime.EXPLODING:
        old, new = (
            power(float(quantile(jnp.asarray(one.peak_of_output), 0.5)))
            for one in (advice.before, advice.after)
        )
        said = (
            f"{what}: a gradient is multiplied by at most {new} on its way in place of {old}, and "
            f"over {steps} steps by {after}"
        )
    else:
        said = (
            f"{what}: over {steps} steps a gradient is multiplied by {after} in place of {before}"
        )
    if all(map(math.isfinite, map(float, rates))):
        old, new = map(float, rates)
        said += f", with a rate of {new:+.4f} in place of {old:+.4f} per step"
        if old <= 0 < new:
            said += " (above zero: gradients grow over sequences that are long enough)"
    return said


def median_growth(prediction: RegimePrediction) -> float:
    """Return the median log growth over the horizon, nats, of the sequences that have one."""
    growths = jnp.asarray(prediction.log_growth_of_output)
    return float(quantile(growths, 0.5)) if not jnp.isnan(growths).all() else math.nan


def power(log: float) -> str:
    """Write a factor by its logarithm."""
    return "0" if log == -math.inf else f"e^{log:.1f}"


def changes_of(layer: RecordedLayer, prediction: RegimePrediction) -> tuple[str, ...]:
    """Return the changes that may help a layer; none where it is stable or its cell not known."""
    layout = layout_of(class_of(layer.recurrence))
    stable = int(prediction.regime) == Regime.STABLE
    if layout is None or bool(prediction.undetermined) or stable:
        return ()
    return ("forget_bias", "gain") if layout.keeps else ("gain",)


def advise(
    layer: RecordedLayer,
    before: RegimePrediction,
    changes: Sequence[str],
    thresholds: Thresholds,
    **options: Any,
) -> tuple[Advice, ...]:
    """Search changes that make a layer stable, apply each, and measure again.

    Args:
        layer: with its recorded inputs.
        before: the prediction for it.
        changes: those to search, of `changes_of`.
        thresholds: of the regimes, nats.
        options: of `predict_regime`.

    Returns:
        Those that make it stable, the one nearest to the target first.
    """
    horizon, found = int(before.horizon), []
    place = "" if layer.place is None else f", layer={layer.place}"
    for change in changes:

        def changed(value, change=change):
            return layer._replace(recurrence=CHANGES[change](layer.recurrence, value))

        def growth(value, changed=changed):
            few = first_sequences(system_of(changed(value)), NUM_SEQUENCES)
            return median_growth(predict(few, horizon, **options | {"num_probes": NUM_PROBES}))

        value = _search(growth, change, _value_now(layer, change))
        if value is None:
            continue
        value = float(f"{value:.4g}")  # as the code is told, it was measured
        many = options | {"num_probes": NUM_PROBES_AFTER}
        after = predict(system_of(changed(value)), horizon, thresholds=thresholds, **many)
        if not bool(after.undetermined) and int(after.regime) == Regime.STABLE:
            found.append(Advice(change, value, CODE[change].format(value, place), before, after))
    return tuple(sorted(found, key=lambda one: abs(median_growth(one.after) - TARGET)))


def _search(growth: Callable[[float], float], change: str, now: float) -> float | None:
    """Find the value nearest to the one now at which the growth meets the target.

    Where none does, it is the one of the grid that comes nearest to it.
    """
    low, high = BOUNDS[change]
    space = np.geomspace if change == "gain" else np.linspace
    grid = [float(value) for value in space(low, high, GRID_SIZE)]
    excess = [growth(value) - TARGET for value in grid]
    brackets = [
        (*ends, *values)
        for ends, values in zip(pairwise(grid), pairwise(excess), strict=True)
        if min(values) < 0 <= max(values)
    ]
    if not brackets:
        known = [i for i, one in enumerate(excess) if math.isfinite(one)]
        return grid[min(known, key=lambda i: abs(excess[i]))] if known else None

    def middle(one, other):
        return math.sqrt(one * other) if change == "gain" else (one + other) / 2

    def distance(bracket):
        at = middle(*bracket[:2])
        return abs(math.log(at / now)) if change == "gain" else abs(at - now)

    low, high, at_low, _ = min(brackets, key=distance)
    for _ in range(NUM_HALVINGS):
        value = middle(low, high)
        now_excess = growth(value) - TARGET
        if abs(now_excess) < CLOSE:
            return value
        if (now_excess < 0) == (at_low < 0):
            low = value
        else:
            high = value
    return middle(low, high)


def _value_now(layer: RecordedLayer, change: str) -> float:
    """Return the value that the layer has: a gain of 1, or the mean of its biases."""
    if change == "gain":
        return 1.0
    layout, _ = describe(layer.recurrence)
    biases = weights_of(layer.recurrence).biases[layout.gates.index(layout.keeps)]
    return float(np.mean(np.asarray(biases)))

"""How far the gates and units of a layer are saturated along its own trajectory.

A logistic gate or a tanh unit passes a gradient in proportion to its slope. Where it is saturated
the slope is near zero, whatever the weights behind it are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from jacobian_rnn.cells.known_cells import class_of, layout_of
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.jacobians.rough_functions import evaluate

LITTLE = 0.1  # of the largest slope: a unit with less is saturated
# The slope at a value, as a share of the largest slope of the function.
SLOPES: dict[str, Callable[[Array], Array]] = {
    "logistic": lambda value: 4 * value * (1 - value),
    "tanh": lambda value: 1 - value**2,
}
TANH_NAMES = ("candidate", "unit")  # of mean-field theory; all others are gates
SHOWN = "cell state, as shown"  # its tanh, behind the gates of an LSTM


class Saturation(NamedTuple):
    """How far one gate, or one kind of unit, is saturated.

    Attributes:
        name: of the gate, such as "forget"; of the function where the cell is not known.
        function: "logistic" or "tanh".
        mean: of its values, over units, steps and sequences.
        share: of units and steps at which the slope is below a tenth of its largest value, 0 to 1.
    """

    name: str
    function: str
    mean: float
    share: float


def saturation_of(layer: RecordedLayer) -> tuple[Saturation, ...]:
    """Measure the saturation of every logistic and tanh function in a step of a layer.

    The functions are found in the trace of the step, so a cell need not be known. What a cell
    computes with other functions, or within a loop of its own, is not seen.
    """
    recurrence = layer.recurrence
    carry, xs = jax.tree.map(jnp.asarray, (layer.carry, layer.xs))
    functions: list[str] = []

    def trace(params, carry, x):
        new, found = _take_step(recurrence.step, params, carry, x)
        functions.extend(name for name, _ in found)
        return new

    first_carry, first_x = jax.tree.map(lambda leaf: leaf[0], carry), _first_input(xs)
    jax.eval_shape(trace, recurrence.params, first_carry, first_x)
    if not functions:
        return ()
    lengths = jnp.asarray(layer.seq_lengths, jnp.int32)
    sums = np.asarray(_sums(recurrence.step, recurrence.params, carry, xs, lengths), float)
    means = sums / float(np.sum(layer.seq_lengths))
    names = _names(recurrence, functions)
    return tuple(
        Saturation(name, function, float(mean), float(share))
        for name, function, (mean, share) in zip(names, functions, means, strict=True)
    )


@partial(jax.jit, static_argnames="step")
def _sums(step, params, carry, xs, lengths):
    """Sum the mean value and the saturated share of each function over steps, `(functions, 2)`."""

    def of_sequence(carry, xs, length):
        def one_step(carry, inputs):
            number, x = inputs
            new, found = _take_step(step, params, carry, x)
            rows = [
                jnp.stack(
                    [jnp.mean(value), jnp.mean(SLOPES[name](value) < LITTLE, dtype=value.dtype)]
                )
                for name, value in found
            ]
            active = number < length
            new = jax.tree.map(lambda now, before: jnp.where(active, now, before), new, carry)
            return new, jnp.where(active, jnp.stack(rows), 0)

        numbers = jnp.arange(jax.tree.leaves(xs)[0].shape[0], dtype=jnp.int32)
        return jnp.sum(lax.scan(one_step, carry, (numbers, xs))[1], axis=0)

    return jnp.sum(jax.vmap(of_sequence)(carry, xs, lengths), axis=0)


def _take_step(step: Callable, params: PyTree, carry: PyTree, x: PyTree) -> tuple[PyTree, list]:
    """Take a step, and return the new carry and the values of every logistic and tanh in it."""
    found: list[tuple[str, Array]] = []

    def see(name, value):
        if name in SLOPES:
            found.append((name, value))
        return value

    leaves = evaluate(step, (params, carry, x), see)
    return jax.tree.unflatten(jax.tree.structure(carry), leaves), found


def _first_input(xs: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0, 0], xs)


def _names(recurrence: Recurrence, functions: list[str]) -> list[str]:
    """Name the functions as the gates of the cell, where it is known and has as many."""
    layout: Any = layout_of(class_of(recurrence))
    if layout is not None:
        known = {
            "logistic": [name for name in layout.theory if name not in TANH_NAMES],
            "tanh": [name for name in layout.theory if name in TANH_NAMES],
        }
        if layout.gates == "ifgo":
            known["tanh"].append(SHOWN)
        if all(functions.count(function) == len(names) for function, names in known.items()):
            return [known[function].pop(0) for function in functions]
    names, seen = [], dict.fromkeys(SLOPES, 0)
    for function in functions:
        seen[function] += 1
        several = functions.count(function) > 1
        names.append(f"{function} {seen[function]}" if several else function)
    return names

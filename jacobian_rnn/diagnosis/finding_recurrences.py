"""The layers of a `Recurrence`, or of a `Network` with a readout, and what each receives."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from jacobian_rnn.cells.known_cells import kind_of
from jacobian_rnn.cells.padding import check_lengths
from jacobian_rnn.cells.recurrence import Recurrence, zero_carry
from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.precision import in_full_precision
from jacobian_rnn.diagnosis.recorded_layers import (
    Gradients,
    RecordedLayer,
    Sequences,
    check_sequences,
)
from jacobian_rnn.training.network import Network


def record_recurrence(
    model: Recurrence | Network,
    xs: PyTree,
    *,
    carry: PyTree = None,
    seq_lengths: Sequence[int] | np.ndarray | None = None,
    loss: Callable[[Array], Array] | None = None,
) -> tuple[RecordedLayer, ...]:
    """Run a recurrence on a batch `(B, T, ...)`, and record what each of its layers receives."""
    recurrence = model.recurrence if isinstance(model, Network) else model
    xs = jax.tree.map(np.asarray, xs)
    num_sequences, num_steps = _check_batch(xs)
    lengths = np.full(num_sequences, num_steps)
    if seq_lengths is not None:
        lengths = check_lengths(list(seq_lengths), num_sequences, num_steps)
    start = zero_carry(recurrence) if carry is None else carry
    layers = layers_of(recurrence)
    starts = start if len(layers) > 1 else (start,)
    names = [f"layer {number + 1}" if len(layers) > 1 else "layer" for number in range(len(layers))]
    whole = RecordedLayer("layer", "", recurrence, start, xs, lengths)
    whole = in_full_precision(whole._replace(carry=jax.tree.map(jnp.asarray, start)))
    params = whole.recurrence.params if len(layers) > 1 else (whole.recurrence.params,)
    starts = whole.carry if len(layers) > 1 else (whole.carry,)
    # What stands behind an end may be anything, and a step must not meet it.
    steps = np.minimum(np.arange(num_steps), lengths[:, None] - 1)
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.arange(len(leaf))[:, None], steps], xs)

    def run(added: Any) -> tuple[list, Array]:
        received, x = [], inputs
        for layer, own, start, more in zip(layers, params, starts, added, strict=True):
            received.append(x)
            x = _outputs(layer, own, start, x)
            x = x if more is None else x + more
        return received, x

    received, outputs = run([None] * len(layers))
    gradients: list[Any] = [None] * len(layers)
    if loss is not None:

        def total(added):
            _, shown = run(added)
            if isinstance(model, Network):
                shown = shown @ model.kernel + model.bias
            return loss(shown)

        zeros = [
            jnp.zeros(jax.eval_shape(_outputs, layer, own, start, x).shape, outputs.dtype)
            for layer, own, start, x in zip(layers, params, starts, received, strict=True)
        ]
        shown = [*received[1:], outputs]
        gradients = [
            Gradients(np.asarray(one), np.asarray(gradient), None)
            for one, gradient in zip(shown, jax.grad(total)(zeros), strict=True)
        ]
    recorded = []
    for name, layer, own, start, x, gradient in zip(
        names, layers, params, starts, received, gradients, strict=True
    ):
        carries = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (num_sequences, *leaf.shape)), start
        )
        x = jax.tree.map(np.asarray, x)
        sequences, notes = check_sequences(name, Sequences(x, carries, lengths))
        layer = Recurrence(layer.step, own, layer.jacobian, layer.output, layer.unit_jacobians)
        units = " × ".join(map(str, np.shape(jax.tree.leaves(start)[-1])))
        one = RecordedLayer(
            name,
            f"{kind_of(layer)} of {units} units",
            layer,
            sequences.carry,
            sequences.xs,
            lengths,
        )
        recorded.append(one._replace(gradients=gradient, notes=whole.notes + notes))
    return tuple(recorded)


def layers_of(recurrence: Recurrence) -> tuple[Recurrence, ...]:
    """Return the layers of a stack, lowest first, or the recurrence itself."""
    step: Any = recurrence.step
    if not hasattr(step, "steps"):
        return (recurrence,)
    nothing = (None,) * len(step.steps)
    forms = getattr(recurrence.jacobian, "layers", nothing)
    of_units = getattr(recurrence.unit_jacobians, "layers", nothing)
    parts = zip(step.steps, recurrence.params, forms, step.outputs, of_units, strict=True)
    return tuple(inner for part in parts for inner in layers_of(Recurrence(*part)))


def outputs_of(recurrence: Recurrence, xs: PyTree) -> Array:
    """Return what a recurrence that starts from zeros shows at every step, `(B, T, ...)`."""
    return _outputs(recurrence, recurrence.params, zero_carry(recurrence), xs)


def _outputs(layer: Recurrence, params: PyTree, start: PyTree, xs: PyTree) -> Array:
    """Return what a layer shows at every step of every sequence, `(B, T, ...)`."""

    def of_sequence(xs):
        def step(carry, x):
            carry = layer.step(params, carry, x)
            return carry, layer.output(carry)

        return lax.scan(step, start, xs)[1]

    return jax.vmap(of_sequence)(xs)


def _check_batch(xs: PyTree) -> tuple[int, int]:
    leaves = jax.tree.leaves(xs)
    shapes = {np.shape(leaf)[:2] for leaf in leaves}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        received = ", ".join(str(np.shape(leaf)) for leaf in leaves) or "no array"
        refuse("batch", received, "sequences (batch, time, inputs) of one shape")
    return next(iter(shapes))

"""The layers of a `Recurrence`, or of a `Network` with a readout, and what each receives."""

from collections.abc import Callable, Sequence
from functools import partial
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
    check_loss_of,
    check_sequences,
)
from jacobian_rnn.jacobians.step_arguments import JOIN, check_step
from jacobian_rnn.training.network import Network, read_out


def record_recurrence(
    model: Recurrence | Network,
    xs: PyTree,
    *,
    carry: PyTree = None,
    seq_lengths: Sequence[int] | np.ndarray | None = None,
    loss: Callable[[Array], Array] | None = None,
) -> tuple[RecordedLayer, ...]:
    """Run a recurrence on a batch `(B, T, ...)`, and record what each of its layers receives."""
    network = model if isinstance(model, Network) else None
    recurrence = model.recurrence if isinstance(model, Network) else model
    xs = jax.tree.map(np.asarray, xs)
    num_sequences, num_steps = _check_batch(xs)
    lengths = np.full(num_sequences, num_steps)
    if seq_lengths is not None:
        lengths = check_lengths(np.asarray(seq_lengths).tolist(), num_sequences, num_steps)
    start = jax.tree.map(jnp.asarray, zero_carry(recurrence) if carry is None else carry)
    whole = in_full_precision(RecordedLayer("layer", "", recurrence, start, xs, lengths))
    check_step(
        whole.recurrence,
        whole.carry,
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), whole.xs),
    )
    layers = layers_of(whole.recurrence)
    starts = whole.carry if len(layers) > 1 else (whole.carry,)
    # What stands behind an end may be anything, and a step must not meet it.
    steps = np.minimum(np.arange(num_steps), lengths[:, None] - 1)
    rows = np.arange(num_sequences)[:, None]
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows, steps], whole.xs)

    def run(added: Any) -> list:
        """Return what each layer receives, and what the highest one shows."""
        received = [inputs]
        for layer, start, more in zip(layers, starts, added, strict=True):
            outputs = _outputs(layer, start, received[-1])
            received.append(outputs if more is None else outputs + more)
        return received

    *received, outputs = run([None] * len(layers))
    gradients: list[Gradients | None] = [None] * len(layers)
    if loss is not None:

        def output_of_model(shown):
            return shown if network is None else jax.vmap(partial(read_out, network))(shown)

        check_loss_of(loss, output_of_model(outputs))
        returned = [*received[1:], outputs]
        slopes = jax.grad(lambda added: loss(output_of_model(run(added)[-1])))(
            [jnp.zeros_like(one) for one in returned]
        )
        gradients = [
            Gradients(np.asarray(one), np.asarray(slope), None)
            for one, slope in zip(returned, slopes, strict=True)
        ]
    recorded = []
    for number, (layer, start, x) in enumerate(zip(layers, starts, received, strict=True)):
        name = f"layer {number}" if len(layers) > 1 else "layer"
        carries = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (num_sequences, *leaf.shape)), start
        )
        found = Sequences(jax.tree.map(np.asarray, x), carries, lengths)
        sequences, notes = check_sequences(name, found)
        units = " × ".join(map(str, np.shape(jax.tree.leaves(start)[-1])))
        # linen's class for the equations of every LSTM that is loaded from a file
        name_of_cell = {"OptimizedLSTMCell": "LSTM"}.get(kind_of(layer), kind_of(layer))
        kind = f"{name_of_cell} of {units} units"
        xs, carry, lengths, _ = sequences
        one = RecordedLayer(name, kind, layer, carry, xs, lengths, gradients[number])
        flat = len(layers) == len(getattr(recurrence.step, "steps", ()))  # no stack of stacks
        place = number if flat else None
        recorded.append(one._replace(notes=whole.notes + notes, place=place))
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
    return _outputs(recurrence, zero_carry(recurrence), xs)


def _outputs(recurrence: Recurrence, start: PyTree, xs: PyTree) -> Array:
    def of_sequence(xs):
        def step(carry, x):
            carry = recurrence.step(recurrence.params, carry, x)
            return carry, recurrence.output(carry)

        return lax.scan(step, start, xs)[1]

    return jax.vmap(of_sequence)(xs)


def _check_batch(xs: PyTree) -> tuple[int, int]:
    leaves = jax.tree.leaves(xs)
    shapes = {np.shape(leaf)[:2] for leaf in leaves}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        received = ", ".join(str(np.shape(leaf)) for leaf in leaves) or "no array"
        advice = JOIN if isinstance(xs, list) else ""
        refuse("batch", received, "sequences (batch, time, inputs) of one shape", advice)
    return next(iter(shapes))

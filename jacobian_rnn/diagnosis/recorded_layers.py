"""What a recurrent layer of a model received, in one form for all frameworks.

The layer is a `Recurrence`. Its inputs stand in the order in which its cell met them: a layer that
runs backwards has them turned round, and padding is behind the end of each sequence.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_finite, refuse
from jacobian_rnn.jacobians.step_arguments import input_width

END_NOT_SEEN = (
    "The model waits where a sequence is padded, and whether its last step is padding is not seen "
    "by the cell: that step counts where the one before it does. Give the batch one step more of "
    "padding to be sure."
)
ONE_SEQUENCE = "a batch of at least 2: the spread over sequences is what the verdict is judged by"


class WrongInputsError(ValueError):
    """A layer that a model calls with inputs of another size than it was built for."""


class NonfiniteInputsError(ValueError):
    """A layer that receives NaN or infinity."""


class RecordedLayer(NamedTuple):
    """A recurrent layer, and what it received when the model ran. B sequences of up to T steps.

    Attributes:
        name: where it is in the model, such as "encoder/rnn". A layer that was called several
            times, or that runs backwards, says so in its name.
        kind: its cell and size, such as "GRUCell of 64 units".
        recurrence: the system.
        carry: the carry that each sequence began with, `(B, ...)` each.
        xs: the inputs, `(B, T, ...)` each, in the order in which the cell met them.
        seq_lengths: number of steps of each sequence, int `(B,)`. What stands behind is padding.
        gradients: what the layer returned, and ∂loss/∂(it); None without a loss, or where that is
            not known.
        notes: what a reader has to know, sentences.
        place: its number in a stack of recurrences, 0 for the lowest; None if it is in no stack.
        network: for a layer of a file, the code that loads the network which advice changes.
    """

    name: str
    kind: str
    recurrence: Recurrence
    carry: PyTree
    xs: PyTree
    seq_lengths: np.ndarray
    gradients: "Gradients | None" = None
    notes: tuple[str, ...] = ()
    place: int | None = None
    network: str = ""


class Gradients(NamedTuple):
    """What a layer returned, and ∂loss/∂(it), in the order of the inputs.

    Attributes:
        returned: outputs, `(B, T, ...)`.
        outputs: ∂loss/∂outputs, `(B, T, ...)`.
        last_carry: ∂loss/∂carry behind the last step, `(B, ...)` each; None if the layer did not
            return it.
    """

    returned: np.ndarray
    outputs: np.ndarray
    last_carry: PyTree


class Call(NamedTuple):
    """One call of a layer, as the model made it.

    Attributes:
        inputs: with batch axes and a time axis, in the order of the layer.
        carry: initial carry, `(*batch, ...)` each.
        seq_lengths: `(*batch,)`, or None where no sequence is padded.
        num_feature_axes: number of axes of one input.
        time_major: whether time is the first axis, and not the one behind the batch.
        reverse: whether the layer runs from the end to the start.
        keep_order: whether a layer that runs backwards turns its outputs round again.
    """

    inputs: Any
    carry: PyTree
    seq_lengths: Any
    num_feature_axes: int
    time_major: bool
    reverse: bool
    keep_order: bool = False

    @property
    def num_batch_axes(self) -> int:
        """Number of axes before the time axis, once time stands behind the batch."""
        return np.ndim(self.inputs) - self.num_feature_axes - 1


class Sequences(NamedTuple):
    """Inputs as the cell met them.

    Attributes:
        xs: `(B, T, ...)`.
        carry: that each sequence began with, `(B, ...)`.
        seq_lengths: `(B,)`.
        ends_are_known: False where a sequence may be one step shorter than it is said to be.
    """

    xs: PyTree
    carry: PyTree
    seq_lengths: np.ndarray
    ends_are_known: bool = True


def sequences_of(call: Call) -> Sequences:
    """Bring what a layer received into one form: (batch, time, ...), in the order of the cell."""
    xs = flatten_batch(call, call.inputs)
    num_sequences, num_steps = xs.shape[:2]
    lengths = np.full(num_sequences, num_steps)
    if call.seq_lengths is not None:
        lengths = np.minimum(np.asarray(call.seq_lengths).reshape(num_sequences), num_steps)
    carry = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(num_sequences, *leaf.shape[call.num_batch_axes :]),
        call.carry,
    )
    return Sequences(turn_round(xs, lengths) if call.reverse else xs, carry, lengths)


def flatten_batch(call: Call, array: Any) -> np.ndarray:
    """Return an array with a time axis as `(B, T, ...)`."""
    array, num_batch = np.asarray(array), call.num_batch_axes
    if call.time_major:
        array = np.moveaxis(array, 0, num_batch)
    return array.reshape(-1, *array.shape[num_batch:])


def turn_round(xs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Turn each sequence `(B, T, ...)` round in time, and leave its padding behind it."""
    steps = np.arange(xs.shape[1])
    source = lengths[:, None] - 1 - steps
    source = np.where(source >= 0, source, steps)
    return np.stack([one[order] for one, order in zip(xs, source, strict=True)])


def gradients_of(call: Call, result: Any, gradients: Any) -> Gradients:
    """Bring what a layer returned, and the gradients, into the order in which the cell met them.

    Args:
        call: of the layer.
        result: outputs, or (last carry, outputs).
        gradients: for the result, of the same structure.
    """
    lengths = sequences_of(call).seq_lengths
    has_carry = isinstance(result, tuple)

    def in_order(outputs):
        array = flatten_batch(call, outputs)
        return turn_round(array, lengths) if call.reverse and call.keep_order else array

    last = None
    if has_carry:
        num_batch = call.num_batch_axes
        last = jax.tree.map(
            lambda leaf: np.asarray(leaf).reshape(len(lengths), *leaf.shape[num_batch:]),
            gradients[0],
        )
        result, gradients = result[1], gradients[1]
    return Gradients(in_order(result), in_order(gradients), last)


def check_loss_of(loss: Callable[[Any], Any], output: Any) -> None:
    """Raise a ValueError unless a loss of what the model returns is one number."""
    shape = np.shape(loss(output))
    if shape:
        advice = "take its mean"
        refuse(
            "loss", f"one that returns shape {shape}", "a function that returns a number", advice
        )


def check_sequences(name: str, sequences: Sequences) -> tuple[Sequences, tuple[str, ...]]:
    """Leave out sequences without a step, and raise for too few, or for numbers not finite.

    Returns:
        The sequences that are left, and what a reader has to know of them, sentences.
    """
    lengths = sequences.seq_lengths
    kept = lengths > 0
    notes = () if sequences.ends_are_known else (END_NOT_SEEN,)
    if not kept.all():
        notes += (f"{np.sum(~kept)} of {lengths.size} sequences have no step, and are left out.",)
        xs, carry = jax.tree.map(lambda leaf: leaf[kept], (sequences.xs, sequences.carry))
        sequences = sequences._replace(xs=xs, carry=carry, seq_lengths=lengths[kept])
        lengths = lengths[kept]
    if lengths.size < 2:
        received = f"{lengths.size} sequence{'s' * (lengths.size != 1)} for the layer {name!r}"
        refuse("batch", received, ONE_SEQUENCE)
    for path, leaf in jax.tree_util.tree_leaves_with_path(sequences.xs):
        if not np.issubdtype(leaf.dtype, np.inexact) and leaf.dtype.kind != "V":
            continue
        bad = ~np.isfinite(leaf.astype(np.float32)).reshape(*leaf.shape[:2], -1).all(axis=2)
        bad &= np.arange(leaf.shape[1]) < lengths[:, None]
        if bad.any():
            step = int(np.argmax(bad.any(axis=0)))
            which = jax.tree_util.keystr(path)
            received = (
                f"NaN or infinity{f' in {which}' if which else ''}, first at step {step} in "
                f"{int(bad.any(axis=1).sum())} of {lengths.size} sequences"
            )
            advice = "what stands before the layer makes them: look at its weights"
            inputs = f"the inputs of layer {name!r}"
            refuse(inputs, received, "finite numbers", advice, error=NonfiniteInputsError)
    return sequences, notes


@contextlib.contextmanager
def blame_batch(name: str, batch: Any) -> Iterator[None]:
    """Raise a ValueError for the batch where a layer receives NaN and the batch itself holds it."""
    try:
        yield
    except NonfiniteInputsError as error:
        advice = f"only padding may hold them, and here {error}"
        check_finite(name, jax.tree.map(np.asarray, batch), advice.partition(", expected")[0])
        raise


def check_width(layer: str, inputs: Any, recurrence: Callable[[], Recurrence]) -> None:
    """Raise for a call that failed because inputs have another size than a known cell takes."""
    width = None
    with contextlib.suppress(ValueError, TypeError):  # a cell that is no recurrence has no width
        width = input_width(recurrence())
    if width is not None and np.shape(inputs)[-1:] != (width,):
        received = f"inputs of shape {np.shape(inputs)}"
        expected = f"{width} numbers at every step, for which it was built"
        advice = "look at the last axis of the batch"
        refuse(f"layer {layer!r}", received, expected, advice, error=WrongInputsError)


def number_calls(layers: Sequence[RecordedLayer]) -> tuple[RecordedLayer, ...]:
    """Number the calls of layers that were called several times, in their names."""
    names = [layer.name for layer in layers]
    seen: dict[str, int] = {}
    numbered = []
    for layer in layers:
        count = names.count(layer.name)
        seen[layer.name] = seen.get(layer.name, 0) + 1
        if count > 1:
            name = f"{layer.name} (call {seen[layer.name]} of {count})"
            layer = layer._replace(name=name)
        numbered.append(layer)
    return tuple(numbered)


def describe_kind(cell_class: type, carry: PyTree) -> str:
    """Name a cell and its size, as "GRUCell of 64 units"."""
    units = jax.tree.leaves(carry)[-1].shape[1:]
    size = " × ".join(map(str, units))
    return f"{cell_class.__name__} of {size} units"


def hand_out(keep: Callable[[Any], None], arrays: PyTree) -> None:
    """Keep the values of arrays, now, or when what is being traced here runs with values."""
    if is_traced(arrays):
        jax.debug.callback(keep, arrays)
    else:
        keep(arrays)


def is_traced(tree: PyTree) -> bool:
    """Say whether a tree holds an array without a value."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def run_model(call: Callable[[], Any]) -> Any:
    """Run a model with all loops and compiled parts unrolled, so that every value can be seen."""
    try:
        with jax.disable_jit():
            result = call()
            jax.effects_barrier()
            return result
    except WrongInputsError:
        raise
    except Exception as error:
        msg = (
            f"model: failed when it was called with the batch: {type(error).__name__}: {error} "
            "Expected a model that is called as model(batch): where it is called otherwise, pass "
            "call=lambda model, batch: ..."
        )
        raise ValueError(msg) from error

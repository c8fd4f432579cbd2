"""Which array of its carry a cell of one's own shows, as what it returns tells."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jacobian_rnn.cells.recurrence import Recurrence, guess_of_output
from jacobian_rnn.diagnosis.recorded_layers import Sequences

NUM_STEPS = 3  # that are looked at: after one, two arrays may still be zeros
NONE_SHOWN = (
    "What the cell returns is none of the arrays of its carry. The verdict is on a gradient of the "
    "last one."
)


@dataclasses.dataclass(frozen=True)
class ArrayOf:
    """Shows one array of a carry."""

    index: int

    def __call__(self, carry: PyTree) -> Array:
        """Return it."""
        return jax.tree.leaves(carry)[self.index]


def with_shown_output(
    recurrence: Recurrence,
    cell: Callable[[PyTree, PyTree], tuple[PyTree, Any]],
    sequences: Sequences,
) -> tuple[Recurrence, tuple[str, ...]]:
    """Name the output of a recurrence where only its cell knows it.

    Args:
        recurrence: of a Flax cell.
        cell: the same, called as `cell(carry, x) -> (carry, output)`.
        sequences: what the cell received. The first steps of the first sequence are looked at.

    Returns:
        The recurrence, which shows the array that the cell returns; and a note where it returns
        none of them.
    """
    xs, carry = (jax.tree.map(lambda leaf: leaf[0], one) for one in sequences[:2])
    if guess_of_output(recurrence.step, recurrence.output, carry) is None:
        return recurrence, ()
    num_arrays = len(jax.tree.leaves(carry))
    shown = set(range(num_arrays))
    for step in range(min(NUM_STEPS, int(sequences.seq_lengths[0]))):
        x = jax.tree.map(lambda leaf, step=step: leaf[step], xs)
        recurrence.step(recurrence.params, carry, x)  # which explains what it refuses
        carry, output = cell(carry, x)
        arrays = list(map(np.asarray, jax.tree.leaves(carry)))
        shown = {i for i in shown if np.array_equal(arrays[i], np.asarray(output))}
    named = dataclasses.replace(recurrence, output=ArrayOf(max(shown, default=num_arrays - 1)))
    return named, () if shown else (NONE_SHOWN,)

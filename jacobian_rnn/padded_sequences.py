"""Sequences of different lengths in one batch: a network waits where a sequence is padded.

Padding at the end is turned into padding at the start, where the network waits in its initial
carry. All sequences then end together, and what looks back from the end needs no lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from jacobian_rnn.cells import Recurrence


def waiting(recurrence: Recurrence) -> Recurrence:
    """Return the same system with inputs `(x, active)`, which waits where it is not active.

    A step that waits keeps the carry, and its Jacobian is the identity.

    Args:
        recurrence: the system.

    Raises:
        TypeError: not a `Recurrence`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacobian_rnn import Recurrence, jacobian_product
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> xs, active = ending_together(jnp.ones((1, 5, 1)), [3])
        >>> system = waiting(Recurrence(decay, jnp.array(0.5)))
        >>> product = jacobian_product(system, jnp.zeros(1), (xs[0], active[0]))
        >>> print(product.singular_values())
        [0.125]
    """
    if not isinstance(recurrence, Recurrence):
        msg = f"recurrence: received {type(recurrence).__name__}, expected a Recurrence"
        raise TypeError(msg)
    jacobian = recurrence.jacobian and WaitingJacobian(recurrence.jacobian)
    step = WaitingStep(recurrence.step)
    return Recurrence(step, recurrence.params, jacobian, recurrence.output)


def ending_together(
    xs: PyTree, seq_lengths: Sequence[int] | Int[Array, " sequences"]
) -> tuple[PyTree, Bool[Array, "sequences steps"]]:
    """Move the padding of a batch of sequences from their ends to their starts.

    Args:
        xs: `(B, T, ...)`, the first `seq_lengths[i]` steps of sequence i are real.
        seq_lengths: B numbers from 1 to T, concrete.

    Returns:
        xs: the same with real steps last.
        active: `(B, T)`, False where a sequence is padded.

    Raises:
        ValueError: lengths beyond the data, or not one for each sequence.
        TypeError: lengths that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> xs, active = ending_together(jnp.array([[1, 2, 0], [3, 4, 5]]), [2, 3])
        >>> print(xs, active[0])
        [[0 1 2]
         [3 4 5]] [False  True  True]
    """
    num_sequences, num_steps = jax.tree.leaves(xs)[0].shape[:2]
    lengths = check_lengths(seq_lengths, num_sequences, num_steps)
    shifts = jnp.asarray(num_steps - lengths)
    roll = jax.vmap(lambda x, shift: jnp.roll(x, shift, axis=0))
    active = jnp.arange(num_steps) >= shifts[:, None]
    return jax.tree.map(lambda x: roll(x, shifts), xs), active


def check_lengths(
    seq_lengths: Sequence[int] | Array, num_sequences: int, num_steps: int
) -> np.ndarray:
    """Check the lengths of padded sequences; return them as an array."""
    lengths = np.asarray(seq_lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        msg = f"seq_lengths: received {lengths.dtype}, expected integers: numbers of steps"
        raise TypeError(msg)
    if lengths.shape != (num_sequences,):
        msg = (
            f"seq_lengths: received shape {lengths.shape} for {num_sequences} sequences, expected "
            f"({num_sequences},): one length each"
        )
        raise ValueError(msg)
    if lengths.min() < 1 or lengths.max() > num_steps:
        bad = int(np.argmax((lengths < 1) | (lengths > num_steps)))
        msg = (
            f"seq_lengths[{bad}]: received {lengths[bad]} for sequences of {num_steps} steps, "
            f"expected 1 to {num_steps}"
        )
        raise ValueError(msg)
    return lengths.astype(np.int64)


@dataclass(frozen=True)
class WaitingStep:
    """A step that keeps the carry where it is not active; equal for equal steps."""

    step: Callable

    def __call__(self, params, carry, inputs):
        """Return the new carry, or the old one."""
        x, active = inputs
        new = self.step(params, carry, x)
        return jax.tree.map(lambda now, before: jnp.where(active, now, before), new, carry)


@dataclass(frozen=True)
class WaitingJacobian:
    """The Jacobian of a step that may wait; equal for equal Jacobians."""

    jacobian: Callable

    def __call__(self, params, carry, inputs):
        """Return ∂state'/∂state."""
        x, active = inputs
        jacobian = self.jacobian(params, carry, x)
        return jnp.where(active, jacobian, jnp.eye(jacobian.shape[0], dtype=jacobian.dtype))

"""Sequences of different lengths in one batch: a network waits where a sequence is padded.

Padding moves from the end to the start, where the network waits in its initial carry. Then all
sequences end together, and a function that looks back from the end needs no lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PyTree

from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.recurrence import Recurrence, check_recurrence, zero_carry
from jacobian_rnn.cells.row_blocks import RowBlocks
from jacobian_rnn.checks import refuse


def with_padding(recurrence: Recurrence) -> Recurrence:
    """Return the same system with inputs `(x, active)`. It waits where it is not active.

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
        >>> xs, active = align_ends(jnp.ones((1, 5, 1)), [3])
        >>> system = with_padding(Recurrence(decay, jnp.array(0.5)))
        >>> product = jacobian_product(system, jnp.zeros(1), (xs[0], active[0]))
        >>> print(product.singular_values())
        [0.125]
    """
    check_recurrence(recurrence)
    jacobian = recurrence.jacobian and WaitingJacobian(recurrence.jacobian)
    step = WaitingStep(recurrence.step)
    of_units: Any = recurrence.unit_jacobians and WaitingUnitJacobians(recurrence.unit_jacobians)
    return Recurrence(step, recurrence.params, jacobian, recurrence.output, of_units)


def align_ends(
    xs: PyTree, seq_lengths: Sequence[int] | Int[Array, " sequences"]
) -> tuple[PyTree, Bool[Array, "sequences steps"]]:
    """Move the padding of a batch of sequences from their ends to their starts.

    Args:
        xs: `(B, T, ...)`. The first `seq_lengths[i]` steps of sequence i are real.
        seq_lengths: B numbers from 1 to T, not traced.

    Returns:
        xs: the same data with real steps last. Padding repeats the first real step.
        active: `(B, T)`, False where a sequence is padded.

    Raises:
        ValueError: arrays that differ in (B, T), lengths out of range, or not one per sequence.
        TypeError: lengths that are not integers, or traced.

    Example:
        >>> import jax.numpy as jnp
        >>> xs, active = align_ends(jnp.array([[1, 2, 0], [3, 4, 5]]), [2, 3])
        >>> print(xs, active[0])
        [[1 1 2]
         [3 4 5]] [False  True  True]
    """
    xs = jax.tree.map(jnp.asarray, xs)
    shapes = {x.shape[:2] for x in jax.tree.leaves(xs)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        refuse("xs", sorted(shapes), "arrays of one shape (batch, time, ...)")
    ((num_sequences, num_steps),) = shapes
    shifts = num_steps - check_lengths(seq_lengths, num_sequences, num_steps)
    # A network that waits sees its first real input, because no other value is sure to be safe.
    source = jnp.asarray(np.maximum(np.arange(num_steps) - shifts[:, None], 0))
    active = jnp.arange(num_steps)[None] >= jnp.asarray(shifts)[:, None]
    return jax.tree.map(lambda x: jax.vmap(lambda one, i: one[i])(x, source), xs), active


def check_lengths(
    seq_lengths: Sequence[int] | Array, num_sequences: int, num_steps: int
) -> np.ndarray:
    """Return the lengths of padded sequences as an array, or raise if they do not fit."""
    if isinstance(seq_lengths, Tracer):
        advice = "give a list or a numpy array, which jit does not trace"
        refuse("seq_lengths", "a traced array", "numbers", advice, error=TypeError)
    lengths = np.asarray(seq_lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        refuse("seq_lengths", lengths.dtype, "integers", "numbers of steps", error=TypeError)
    if lengths.shape != (num_sequences,):
        received = f"shape {lengths.shape} for {num_sequences} sequences"
        refuse("seq_lengths", received, f"({num_sequences},)", "one length each")
    if lengths.min() < 1 or lengths.max() > num_steps:
        bad = int(np.argmax((lengths < 1) | (lengths > num_steps)))
        received = f"{lengths[bad]} for sequences of {num_steps} steps"
        refuse(f"seq_lengths[{bad}]", received, f"1 to {num_steps}")
    return lengths.astype(np.int64)


def check_finite_within(name: str, xs: PyTree, seq_lengths: Sequence[int] | Array) -> None:
    """Raise a ValueError for NaN or inf within the lengths of padded sequences `(B, T, ...)`.

    Padding may hold anything.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        finite = np.isfinite(np.asarray(leaf)).reshape(*leaf.shape[:2], -1).all(axis=2)
        within = np.arange(leaf.shape[1]) < np.asarray(seq_lengths)[:, None]
        bad = np.argwhere(within & ~finite)
        if len(bad):
            where = name + jax.tree_util.keystr(path)
            sequence, step = map(int, bad[0])
            received = f"NaN or inf in sequence {sequence} at step {step}"
            expected = (
                f"finite numbers within its length of {int(np.asarray(seq_lengths)[sequence])}"
            )
            refuse(where, received, expected, "only padding may hold them")


@dataclass(frozen=True)
class WaitingStep:
    """A step that keeps the carry where it is not active. Equal steps give equal ones."""

    step: Callable

    @property
    def num_feature_axes(self):
        """Return how many axes a carry has without batch, or None if unknown."""
        return getattr(self.step, "num_feature_axes", None)

    @property
    def num_carry_axes(self):
        """Return how many axes the largest array of a carry has without batch."""
        return getattr(self.step, "num_carry_axes", self.num_feature_axes)

    @property
    def shows_last_array(self):
        """Return whether the last array of a carry is known to be its output."""
        return getattr(self.step, "shows_last_array", False)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return jax.eval_shape(lambda params: zero_carry(Recurrence(self.step, params)), params)

    def __call__(self, params, carry, inputs):
        """Return the new carry, or the old one where the step is not active."""
        x, active = inputs
        new = self.step(params, carry, x)
        return jax.tree.map(lambda now, before: jnp.where(active, now, before), new, carry)


@dataclass(frozen=True)
class WaitingJacobian:
    """The Jacobian of a step that may wait. Equal Jacobians give equal ones."""

    jacobian: Callable

    def __call__(self, params, carry, inputs):
        """Return ∂state'/∂state."""
        x, active = inputs
        jacobian = self.jacobian(params, carry, x)
        return jnp.where(active, jacobian, jnp.eye(jacobian.shape[0], dtype=jacobian.dtype))


@dataclass(frozen=True)
class WaitingUnitJacobians:
    """The blocks of the Jacobian of a step that may wait. Equal blocks have equal ones."""

    blocks: Callable

    def __call__(self, params, carry, inputs):
        """Return the Jacobian of every unit for itself."""
        x, active = inputs

        def of_layer(declared):
            return jax.tree.map(
                lambda now, waiting: jnp.where(active, now, waiting), declared, _identity(declared)
            )

        layers = self.blocks(params, carry, x)
        return tuple(map(of_layer, layers)) if isinstance(layers, tuple) else of_layer(layers)


def _identity(declared):
    """Return the identity, declared as the Jacobian of a layer is."""
    if isinstance(declared, BorderedIdentity):
        return BorderedIdentity(kept=1, column=0, own=1)
    if isinstance(declared, RowBlocks):
        return RowBlocks(
            jnp.eye(len(declared.block), dtype=declared.block.dtype), declared.num_rows
        )
    return jnp.eye(len(declared), dtype=declared.dtype)[..., None]

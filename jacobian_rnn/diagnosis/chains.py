"""Calls of one cell, step by step, put together to sequences.

A model that calls a cell in a loop of its own shows single steps. Two belong together where the
second begins with the carry that the first returned. A sequence whose carry stays as it was has
waited: its step was padding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.recorded_layers import Sequences


class Step(NamedTuple):
    """One call of a cell: the carry, the input, and the carry that it returned.

    Each has batch axes first, `(*batch, ...)`.
    """

    carry: PyTree
    x: PyTree
    new_carry: PyTree


def chains_of(name: str, steps: Sequence[Step], num_feature_axes: int | None) -> list[Sequences]:
    """Put steps together to batches of sequences, one for each time that the loop began anew.

    Args:
        name: of the cell, for errors.
        steps: in the order of the calls.
        num_feature_axes: number of axes of a carry without batch; None if the cell does not say,
            and then there is one.

    Raises:
        ValueError: the model changes a carry between two steps.
    """
    rank = 1 if num_feature_axes is None else num_feature_axes
    steps = [_flatten(step, rank) for step in steps]
    runs: list[list[tuple[Step, np.ndarray]]] = []
    for step in steps:
        num_sequences = len(jax.tree.leaves(step.carry)[0])
        active = np.ones(num_sequences, bool)
        if runs and _same_shapes(runs[-1][-1][0], step):
            before, _ = runs[-1][-1]
            goes_on = _equal(before.new_carry, step.carry)
            waited = _equal(before.carry, step.carry) & ~goes_on
            # A loop of one step that begins anew with the same carry looks like one that waits.
            begins_anew = not goes_on.any() and len(runs[-1]) == 1
            if (goes_on | waited).all() and not begins_anew:
                # Whether the last step counted is known only now.
                runs[-1][-1] = (before, ~waited)
                runs[-1].append((step, active))
                continue
            # One step alone that begins elsewhere than the next is no sequence.
            alone = len(runs[-1]) == 1 and not _equal(before.carry, step.carry).all()
            if goes_on.any() or alone:
                changed = int(np.sum(~(goes_on | waited)))
                received = f"a model that changes the carry of {changed} of {num_sequences} "
                received += "sequences between two steps of this cell"
                advice = "put the change into the cell, so that it is part of the step"
                refuse(f"layer {name!r}", received, "a carry that the cell alone changes", advice)
        runs.append([(step, active)])
    return [_joined(run) for run in runs]


def together(batches: Sequence[Sequences]) -> list[Sequences]:
    """Make one batch of sequences that came one at a time, and leave whole batches as they are."""
    alone = len(batches) > 1 and all(one.seq_lengths.size == 1 for one in batches)
    return [_as_batch(batches)] if alone else list(batches)


def _as_batch(sequences):
    """Make a batch of single sequences, padded at their ends."""
    lengths = np.concatenate([one.seq_lengths for one in sequences])
    longest = max(jax.tree.leaves(one.xs)[0].shape[1] for one in sequences)

    def pad(leaf):
        return np.pad(leaf, [(0, 0), (0, longest - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2))

    xs = jax.tree.map(
        lambda *leaves: np.concatenate([*map(pad, leaves)]), *[s.xs for s in sequences]
    )
    carry = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[s.carry for s in sequences])
    return Sequences(xs, carry, lengths, all(s.ends_are_known for s in sequences))


def _joined(run: list[tuple[Step, np.ndarray]]) -> Sequences:
    """Stack the steps of one run, and leave out those in which a sequence waited."""
    active = np.stack([counted for _, counted in run], axis=1)
    # What became of the last step is not seen. It counts where the one before it did.
    is_padded = not active.all()
    active[:, -1] = active[:, max(len(run) - 2, 0)]
    xs = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *[step.x for step, _ in run])
    # A stable sort of "waits" brings the steps that count to the front, in their order.
    order = np.argsort(~active, axis=1, kind="stable")
    xs = jax.tree.map(
        lambda leaf: np.stack([one[places] for one, places in zip(leaf, order, strict=True)]), xs
    )
    return Sequences(xs, run[0][0].carry, active.sum(axis=1), ends_are_known=not is_padded)


def _flatten(step: Step, rank: int) -> Step:
    """Make one batch axis out of all of them. A step without any becomes a batch of one."""
    first: Any = jax.tree.leaves(step.carry)[0]
    num_batch = max(np.ndim(first) - rank, 0)
    size = int(np.prod(np.shape(first)[:num_batch]))

    def flatten(leaf):
        return np.asarray(leaf).reshape(size, *np.shape(leaf)[num_batch:])

    return jax.tree.map(flatten, step)


def _same_shapes(one: Step, other: Step) -> bool:
    return [np.shape(a) for a in jax.tree.leaves(one)] == [
        np.shape(a) for a in jax.tree.leaves(other)
    ]


def _equal(one: PyTree, other: PyTree) -> np.ndarray:
    """Say for each sequence whether two carries are the same, `(B,)`."""
    same = [
        ((a == b) | ((a != a) & (b != b))).reshape(len(a), -1).all(axis=1)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return np.logical_and.reduce(same)

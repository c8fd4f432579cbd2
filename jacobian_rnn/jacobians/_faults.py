"""Which mistake makes Jacobians what they are, where they are not those of a step."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations, product
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jacobian_rnn.linalg.rounding import CAUTION, PERTURBATION

MOST_ARRAYS = 8  # of a carry, of which every subset is tried as what a closed form leaves out
FAULTS = {
    "backward rule": "the derivative that JAX takes is not that of the step's values",
    "missing state": "a part of the carry is left out",
    "transposed": "rows and columns have changed places: rows are new states, columns old ones",
    "reversed order": "the order in time is reversed: [0] is the first step, later ones multiply "
    "from the left",
    "wrong values": "it is not the derivative of the step",
}
VARIANTS_OF_STEPS = {
    "transposed": lambda steps: steps.swapaxes(1, 2),
    "reversed order": lambda steps: steps[::-1],
}
VARIANTS_OF_PRODUCT = {
    "reversed order": lambda steps: steps[::-1],
    "transposed": lambda steps: steps[::-1].swapaxes(1, 2),
}


class Found(NamedTuple):
    """A fault, or none, with the place where the difference is largest."""

    fault: str
    detail: str
    excess: float
    place: tuple[int, int, int] = (-1, -1, -1)
    received: float = math.nan
    expected: float = math.nan


def compare(received: np.ndarray, expected: np.ndarray, allowed: float | np.ndarray) -> Found:
    """Compare matrices of one shape, each with a largest difference that is allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(received - expected)
        excess = np.where(difference == 0, 0, difference / allowed)
    excess = np.where(np.isfinite(received), excess, np.inf)
    step, row, column = map(int, np.unravel_index(np.argmax(excess), excess.shape))
    at = step, row, column
    fault = "none" if excess[at] <= 1 else "wrong values"
    return Found(fault, "", float(excess[at]), at, float(received[at]), float(expected[at]))


def sizes_of(matrices: np.ndarray) -> np.ndarray:
    """Return the largest entry of each matrix, `(T, 1, 1)`."""
    return np.max(np.abs(matrices), axis=(1, 2), keepdims=True)


def judge(
    declared: np.ndarray,
    *,
    truth: np.ndarray,
    names: "Names",
    tolerance: float,
    least: float,
    make: Callable[[np.ndarray], np.ndarray],
    variants: Mapping[str, Callable[[np.ndarray], np.ndarray]],
) -> Found:
    """Say whether Jacobians, or what is made of them, are right, and which mistake explains them.

    Args:
        declared: `(T, m, m)`, or `(1, m, m)` for a product.
        truth: step Jacobians `(T, n, n)`.
        names: of the entries of the state.
        tolerance: relative to the largest entry of a matrix. What rounding of step Jacobians to
            their dtype makes of it is allowed beside.
        least: a difference that is allowed whatever the size.
        make: what makes of the true step Jacobians what is declared.
        variants: mistakes, by name, as they change the step Jacobians.
    """
    rounded = _rounded(truth)

    def against(steps, rounded_steps):
        made = make(steps)
        if made.shape != declared.shape:
            return Found("missing state", "", math.inf)
        rounding = CAUTION * sizes_of(make(rounded_steps) - made)
        return compare(declared, made, tolerance * sizes_of(made) + rounding + least)

    def is_made_by(change):
        return against(change(truth), change(rounded)).excess <= 1

    found = against(truth, rounded)
    if found.excess <= 1:
        return found._replace(place=(-1, -1, -1))
    n, m = truth.shape[-1], declared.shape[-1]
    if m == n:
        for fault, change in variants.items():
            if is_made_by(change):
                return found._replace(fault=fault)
    for detail, change in _left_out(names, n):
        if is_made_by(change):
            return found._replace(fault="missing state", detail=detail)
    if m != n:
        return found._replace(detail=f"({m}, {m}) where the state has {n} entries")
    return found._replace(detail=arrays_at(found.place, names))


def _rounded(steps):
    noise = np.random.default_rng(0).uniform(-1, 1, steps.shape)
    return steps.astype(float) * (1 + PERTURBATION * float(np.finfo(steps.dtype).eps) * noise)


def _left_out(names, n):
    """List what can be forgotten of the carry, in words, and as it changes step Jacobians."""
    for arrays in names.subsets():
        gone = names.entries(arrays)
        kept = np.setdiff1d(np.arange(n), gone)
        detail = f"{' and '.join(arrays)} left out, {len(gone)} of {n} entries"

        def smaller(steps, kept=kept):
            return steps[:, kept][:, :, kept]

        yield detail, smaller
        yield detail, partial(_without, rows=gone, columns=np.arange(n), other=gone)
        said = f"how the new state depends on old {' and '.join(arrays)} is left out"
        yield said, partial(_without, rows=np.arange(n), columns=gone)
    for new, old in product(names.arrays, repeat=2) if len(names.arrays) > 1 else ():
        said = f"how new {new} depends on old {old} is left out"
        yield said, partial(_without, rows=names.entries((new,)), columns=names.entries((old,)))


def _without(steps, rows, columns, other=()):
    """Set a block of all step Jacobians to zero, and further columns whole."""
    steps = steps.copy()
    steps[:, np.asarray(rows)[:, None], columns] = 0
    steps[:, :, list(other)] = 0
    return steps


def arrays_at(place, names) -> str:
    _, row, column = place
    return f"derivative of new {names.of(row)} with respect to old {names.of(column)}"


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of the arrays of a carry, and the entries of the state that each of them has."""

    arrays: Mapping[str, tuple[int, tuple[int, ...]]]

    def of(self, entry: int) -> str:
        """Return the name of an entry of the state, as `carry[1][3]`."""
        for name, (first, shape) in self.arrays.items():
            if first <= entry < first + math.prod(shape):
                index = np.unravel_index(entry - first, shape) if shape else ()
                return name + (f"[{', '.join(str(int(i)) for i in index)}]" if shape else "")
        raise IndexError(entry)

    def entries(self, names: tuple[str, ...]) -> np.ndarray:
        """Return which entries of the state belong to the arrays."""
        parts = [self.arrays[name] for name in names]
        return np.concatenate([first + np.arange(math.prod(shape)) for first, shape in parts])

    def subsets(self) -> list[tuple[str, ...]]:
        """List what could be left out, the smallest first."""
        arrays = list(self.arrays)[:MOST_ARRAYS]
        return [part for size in range(1, len(arrays)) for part in combinations(arrays, size)]


def names_of(carry: PyTree) -> Names:
    arrays, first = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        arrays["carry" + jax.tree_util.keystr(path)] = (first, leaf.shape)
        first += leaf.size
    return Names(arrays)


def dense_product(steps: np.ndarray) -> np.ndarray:
    whole = np.eye(steps.shape[-1])
    for step in steps:
        whole = step @ whole
    return whole[None]

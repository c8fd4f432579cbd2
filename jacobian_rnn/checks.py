"""Checks of systems, sequences, matrices and counts, made before anything runs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells import Recurrence, has_batch_axis

OVERFLOW_ADVICE = "a diverged training run, or overflow when it was made?"
START_ADVICE = (
    "a start value that is not finite has no derivative; a running maximum that starts at -inf "
    "can start at 0 instead, with a normaliser of 1"
)


def check_system(
    recurrence: Recurrence, carry: PyTree, xs: PyTree, num_steps: int | None
) -> tuple[PyTree, PyTree, int]:
    """Check a system, its carry and its inputs before anything runs; return them with T.

    Raises:
        ValueError: structures, shapes or time axes that do not fit, or concrete values that are
            not finite.
        TypeError: not a `Recurrence`, or float dtypes that differ.
    """
    if not isinstance(recurrence, Recurrence):
        msg = (
            f"recurrence: received {type(recurrence).__name__}, expected a Recurrence: convert a "
            "cell with from_linen(cell, variables) or from_nnx(cell), or wrap a function with "
            "Recurrence(step, params)"
        )
        raise TypeError(msg)
    for path, leaf in jax.tree_util.tree_leaves_with_path(recurrence.params):
        if not hasattr(leaf, "dtype"):
            msg = (
                f"params{jax.tree_util.keystr(path)}: received a {type(leaf).__name__}, expected "
                "arrays: wrap it in jnp.asarray"
            )
            raise TypeError(msg)
    carry, xs = jax.tree.map(jnp.asarray, (carry, xs))
    steps = _num_steps(xs, num_steps)
    named = {"params": recurrence.params, "carry": carry, "xs": xs}
    _check_dtypes(named)
    check_finite("params", recurrence.params)
    check_finite("carry", carry, START_ADVICE)
    check_finite("xs", xs)
    one_input = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    _check_step(recurrence, carry, one_input)
    return carry, xs, steps


def check_jacobians(jacobians: Float[Array, "steps n n"]) -> Float[Array, "steps n n"]:
    """Check given matrices, one per step, before anything runs.

    Raises:
        ValueError: not of shape `(T, n, n)`, or concrete values that are not finite.
        TypeError: not real floating-point numbers.
    """
    jacobians = jnp.asarray(jacobians)
    if jacobians.ndim != 3 or jacobians.shape[1] != jacobians.shape[2] or jacobians.shape[1] == 0:
        msg = (
            f"jacobians: received shape {jacobians.shape}, expected (time, n, n): one square "
            "matrix per step, earliest first, no batch axis (use jax.vmap)"
        )
        raise ValueError(msg)
    if not jnp.issubdtype(jacobians.dtype, jnp.floating):
        msg = f"jacobians: received {jacobians.dtype}, expected real floating-point numbers"
        raise TypeError(msg)
    check_finite("jacobians", jacobians)
    return jacobians


def check_lags(lags: Sequence[int], lowest: int, highest: int) -> np.ndarray:
    """Check numbers of steps; return them as an array.

    Raises:
        ValueError: one out of range.
        TypeError: not a sequence of at least one integer.
    """
    array = np.asarray(lags)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        msg = f"lags: received {lags!r}, expected a sequence of Python ints, at least one"
        raise TypeError(msg)
    if highest < lowest:
        msg = f"lags: received {lags!r}, but the sequence is too short for any: give a longer one"
        raise ValueError(msg)
    if array.min() < lowest or array.max() > highest:
        msg = f"lags: received {lags!r}, expected numbers of steps from {lowest} to {highest}"
        raise ValueError(msg)
    return array.astype(np.int32)


def check_count(name: str, count: object) -> None:
    """Raise a TypeError where a count of something is not an integer."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        msg = f"{name}: received {count!r}, expected a Python int"
        raise TypeError(msg)


def check_precision(dtype: Any) -> None:
    """Raise a TypeError where a float type has too few digits for growth over many steps."""
    if dtype not in (jnp.float32, jnp.float64):
        msg = f"dtype: received {dtype}, expected float32 or float64: growth needs their digits"
        raise TypeError(msg)


def check_finite(name: str, tree: PyTree, advice: str = OVERFLOW_ADVICE) -> None:
    """Raise a ValueError where a concrete float array holds NaN or inf; traced values pass."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        # numpy, because jax.numpy would trace a constant that a caller's jit closes over. A finite
        # sum says it for all in one pass, and without a warning where it overflows.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.sum(np.asarray(leaf))):
                continue
        finite = np.isfinite(np.asarray(leaf))
        if not finite.all():
            where = name + jax.tree_util.keystr(path)
            bad = int(np.sum(~finite))
            msg = (
                f"{where}: received {bad} of {leaf.size} values that are NaN or infinite, expected "
                f"finite numbers: {advice}"
            )
            raise ValueError(msg)


def check_loss(loss: Any, states: jax.ShapeDtypeStruct) -> None:
    """Raise a TypeError for what is no function of all states that returns a real scalar."""
    received = type(loss).__name__
    if callable(loss):
        value = jax.eval_shape(loss, states)
        if getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, jnp.floating):
            return
        received = f"one that returns {_shapes(value)}"
    msg = (
        f"loss: received {received}, expected a function of the states (T + 1, n) that returns a "
        "real scalar, such as lambda states: states[-1].sum()"
    )
    raise TypeError(msg)


def _num_steps(xs: PyTree, num_steps: int | None) -> int:
    leaves = jax.tree.leaves(xs)
    if num_steps is not None:
        check_count("num_steps", num_steps)
    if any(x.ndim == 0 for x in leaves):
        msg = "xs: received a scalar, expected one sequence, time first: (time, inputs)"
        raise ValueError(msg)
    lengths = {int(x.shape[0]) for x in leaves}
    if len(lengths) > 1:
        msg = f"xs: received arrays of different lengths {sorted(lengths)}, expected one time axis"
        raise ValueError(msg)
    if not lengths:
        if num_steps is None or num_steps < 0:
            msg = f"num_steps: received {num_steps} with xs=None, expected how many steps to take"
            raise ValueError(msg)
        return num_steps
    (length,) = lengths
    if num_steps is not None and num_steps != length:
        msg = f"num_steps: received {num_steps} with xs of {length} steps: give one of the two"
        raise ValueError(msg)
    return length


def _check_dtypes(named):
    dtypes: dict[Any, str] = {}
    for name, tree in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                msg = (
                    f"{name}{jax.tree_util.keystr(path)}: received {leaf.dtype}, expected real "
                    "numbers: hold a complex state as a pair of reals"
                )
                raise TypeError(msg)
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                dtypes.setdefault(leaf.dtype, name + jax.tree_util.keystr(path))
    if len(dtypes) > 1:
        found = ", ".join(f"{where} is {dtype}" for dtype, where in dtypes.items())
        msg = (
            f"dtypes: received {found}, expected one float dtype: cast with "
            "jax.tree.map(lambda a: a.astype(dtype), tree); float64 also needs "
            'jax.config.update("jax_enable_x64", True), and Flax cells param_dtype (nnx.SimpleCell '
            "dtype too)"
        )
        raise TypeError(msg)


def _check_step(recurrence, carry, x):
    if not jax.tree.leaves(carry):
        msg = "carry: received no arrays, expected the initial state of the recurrence"
        raise ValueError(msg)
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(carry)):
        msg = f"carry: received {_shapes(carry)}, expected floating-point arrays"
        raise TypeError(msg)
    if has_batch_axis(recurrence.step, carry):
        msg = (
            f"carry: received {_shapes(carry)}, with a batch axis, expected the carry of one "
            "sequence: use jax.vmap over sequences"
        )
        raise ValueError(msg)
    try:
        new = jax.eval_shape(recurrence.step, recurrence.params, carry, x)
    except Exception as error:
        msg = (
            f"step: failed for carry {_shapes(carry)} and one input {_shapes(x)}: {error} Expected "
            "an unbatched carry and xs of shape (time, inputs), as the cell was built for; batch "
            "with jax.vmap"
        )
        raise ValueError(msg) from error
    if _shapes(new) != _shapes(carry):
        msg = (
            f"step: turned carry {_shapes(carry)} into {_shapes(new)} for one input {_shapes(x)}, "
            "expected the same structure, shapes and dtype. A batch axis in xs or carry? Time is "
            "the first axis and there is no batch axis: use jax.vmap. Another dtype? Give the cell "
            "the dtype of its parameters"
        )
        raise ValueError(msg)


def _shapes(tree):
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree))

"""Whether a step takes a carry and an input, and which of them does not fit where it does not."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jacobian_rnn.cells.known_cells import class_of, layout_of, weights_of
from jacobian_rnn.cells.recurrence import (
    ImpureStepError,
    Recurrence,
    has_batch_axis,
    zero_carry,
)
from jacobian_rnn.checks import list_shapes, refuse

JOIN = "join the arrays of a list with jnp.stack"


def check_step(recurrence: Recurrence, carry: PyTree, x: PyTree) -> None:
    """Raise a ValueError unless a step takes a carry and one input, and returns such a carry."""
    if has_batch_axis(recurrence.step, carry):
        received = f"{list_shapes(carry)}, with a batch axis"
        refuse("carry", received, "the carry of one sequence", "use jax.vmap over sequences")
    step: Any = recurrence.step
    if hasattr(step, "check_outputs") and len(carry) == len(step.steps):  # a stack
        step.check_outputs(carry)
    try:
        new = jax.eval_shape(recurrence.step, recurrence.params, carry, x)
    except ImpureStepError:
        raise
    except Exception as error:
        _refuse_what_does_not_fit(recurrence, carry, x)
        msg = (
            f"step: failed for carry {list_shapes(carry)} and one input {list_shapes(x)}: {error} "
            "Expected an unbatched carry and xs of shape (time, inputs), as the cell was built "
            "for; batch with jax.vmap"
        )
        raise ValueError(msg) from error
    if list_shapes(new) != list_shapes(carry):
        _refuse_what_does_not_fit(recurrence, carry, x)
        msg = (
            f"step: turned carry {list_shapes(carry)} into {list_shapes(new)} for one input "
            f"{list_shapes(x)}, expected the same structure, shapes and dtype. A batch axis in xs "
            "or carry? Time is the first axis and there is no batch axis: use jax.vmap. Another "
            "dtype? Give the cell the dtype of its parameters"
        )
        raise ValueError(msg)


def takes(recurrence: Recurrence, carry: PyTree, x: PyTree) -> bool:
    """Say whether a step takes a carry and an input, and returns such a carry."""
    try:
        new = jax.eval_shape(recurrence.step, recurrence.params, carry, x)
    except Exception:
        return False
    return jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, carry)


def carry_like(recurrence: Recurrence) -> PyTree:
    """Return the shapes of a carry, or None where the parameters do not tell them."""
    # Parameters that do not fit the step may fail in any way.
    with contextlib.suppress(Exception):
        return jax.eval_shape(zero_carry, recurrence)
    return None


def input_width(recurrence: Recurrence) -> int | None:
    """Return the size of the inputs of a known cell, or of the lowest layer; None of another."""
    step: Any = recurrence.step
    if hasattr(step, "steps"):  # only the step of a stack has them
        return input_width(Recurrence(step.steps[0], recurrence.params[0]))
    with contextlib.suppress(Exception):
        if layout_of(class_of(recurrence)) is not None:
            kernel = weights_of(recurrence).inputs[0]
            return kernel.shape[0] if kernel.ndim == 2 else None
    return None


def _refuse_what_does_not_fit(recurrence: Recurrence, carry: PyTree, x: PyTree) -> None:
    """Say whether it is the carry or the input, where another one is found that a step takes."""
    like, wanted = carry_like(recurrence), _input_like(recurrence, carry, x)
    if like is not None:
        dtype = jax.tree.leaves(carry)[0].dtype
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), like)
        given, expected = (str(jax.tree.map(jnp.shape, tree)) for tree in (carry, like))
        if given != expected and any(takes(recurrence, like, one) for one in (x, wanted)):
            refuse("carry", given, expected, "as zero_carry(recurrence) makes it")
    if wanted is x or not takes(recurrence, carry, wanted):
        return
    if isinstance(x, list):
        refuse("xs", f"a list of {len(x)} arrays", "one array", JOIN)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        advice = "embed tokens first, as the model does, and cast other numbers"
        refuse("xs", f"{x.dtype} tokens", f"real numbers, {wanted.size} a step", advice)
    if x.shape != wanted.shape:
        advice = "the cell was built for inputs of this size"
        refuse("xs", f"{x.size} inputs a step", f"{wanted.size}", advice)


def _input_like(recurrence: Recurrence, carry: PyTree, x: PyTree) -> Any:
    """Return the shape of an input as a known cell takes it, or the input itself."""
    width = input_width(recurrence)
    is_array = hasattr(x, "shape") and x.ndim <= 1
    if width is None or not (is_array or isinstance(x, list)):
        return x
    return jax.ShapeDtypeStruct((width,), jax.tree.leaves(carry)[0].dtype)

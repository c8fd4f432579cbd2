"""Recurrences: a Flax cell, or any function, as `step(params, carry, x) -> carry`.

Everything else in the package works on a `Recurrence` and on its state. The state is the whole
carry, ravelled into one vector. An LSTM of width N has 2N states, `c` then `h`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jacobian_rnn.checks import check_type, refuse


def last_array(carry: PyTree) -> Array:
    """Return the last array of a carry, which is h of a plain cell and h of an LSTM's (c, h)."""
    return jax.tree.leaves(carry)[-1]


def whole_carry(carry: PyTree) -> Array:
    """Return all arrays of a carry, one after the other."""
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


def flat_matrix(carry: Array) -> Array:
    """Return a carry that is a matrix as one vector, row after row."""
    return carry.reshape(*carry.shape[:-2], -1)


MOST_LISTED = 8  # shapes of parameters that a recurrence names

# Outputs that are the end of the ravelled carry, or all of it.
ENDS = (last_array, whole_carry, flat_matrix)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrent system carry' = step(params, carry, x), with parameters as its only leaves.

    It is a pytree, and `jit`, `vmap` and `grad` act on its `params`. The functions are static and
    should compare by value, as module-level functions and callable frozen dataclasses do. Two
    systems whose functions are equal share one compiled program.

    Attributes:
        step: `step(params, carry, x) -> carry`, pure. The carry keeps its structure, shapes and
            dtype.
        params: any pytree of arrays.
        jacobian: `jacobian(params, carry, x) -> (n, n)`, ∂state'/∂state with rows as outputs, in
            the order of the ravelled carry. With None, JAX differentiates the step.
        unit_jacobians: `unit_jacobians(params, carry, x) -> (c, c, N)`, for a state of c arrays of
            N units in which each unit sees itself alone. `[a, b, u]` is the derivative of unit u of
            new array a with respect to unit u of array b. With c = 1 the Jacobian is diagonal.
            Products and spectra then cost O(n) a step. None where units see each other. Where all
            rows of a matrix have one Jacobian, as in a delta rule, it gives `RowBlocks`, and where
            one more state is seen by all of a memory, as in an mLSTM, `BorderedIdentity`. Layers on
            top of each other give a tuple of these, lowest layer first. Their units may also see
            the layers below, new and old. Then spectra cost O(n) a step, and products do not.
            At their first steps both kinds of declared Jacobian are compared with the derivative of
            the step.
        output: `output(carry) -> array`, what the next layer or the readout sees. By default it is
            the last array of the carry, which is h for the (c, h) of Flax's LSTMs. Other libraries
            have h first. So where a function has several arrays in its carry, `stack` and
            `training` ask for a name, as `output=lambda carry: carry[0]`.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> recurrence = Recurrence(decay, jnp.array(0.5))
        >>> print(recurrence.step(recurrence.params, jnp.ones(2), jnp.zeros(2)))
        [0.5 0.5]
        >>> recurrence
        Recurrence(decay, 1 parameters: ())
    """

    step: Callable[[Any, Any, Any], Any] = dataclasses.field(metadata={"static": True})
    params: PyTree
    jacobian: Callable[[Any, Any, Any], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    output: Callable[[Any], Array] = dataclasses.field(
        default=last_array, metadata={"static": True}
    )
    unit_jacobians: Callable[[Any, Any, Any], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def __repr__(self) -> str:
        """Name the step, and the number and the shapes of the parameters."""
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        # What JAX puts into a tree for a moment may have no shape.
        sizes = [getattr(leaf, "shape", ()) for _, leaf in leaves]
        shapes = [
            f"{jax.tree_util.keystr(path)} {size}".strip()
            for (path, _), size in zip(leaves, sizes, strict=True)
        ]
        listed = ", ".join(shapes[:MOST_LISTED]) + (", ..." if len(shapes) > MOST_LISTED else "")
        num = sum(map(math.prod, sizes))
        return f"Recurrence({name_of_step(self.step)}, {num} parameters: {listed})"


def name_of_step(step: Any) -> str:
    """Name a step: by its function, by the cell in it, or else by its class."""
    return getattr(step, "__name__", type(getattr(step, "cell", step)).__name__)


class ImpureStepError(ValueError):
    """A step that changes more than its carry, so that it is not the same at every call."""


def check_recurrence(recurrence: object) -> None:
    """Raise a TypeError for an object that is not a `Recurrence`."""
    advice = (
        "convert a cell with from_linen(cell, variables) or from_nnx(cell), or wrap a function "
        "with Recurrence(step, params)"
    )
    check_type("recurrence", recurrence, Recurrence, "a Recurrence", advice)


def guess_of_output(step: Any, output: Any, carry: PyTree) -> tuple[str, str, str] | None:
    """Return what was received, what is expected and what to do where nobody named the output.

    It is None where somebody did, or where there is no choice.
    """
    step = getattr(step, "step", step)  # of one that waits where a sequence is padded
    if hasattr(step, "steps") and hasattr(output, "output"):  # a stack shows its highest layer
        return guess_of_output(step.steps[-1], output.output, carry[-1])
    is_known = output is not last_array or getattr(step, "shows_last_array", False)
    if is_known or len(jax.tree.leaves(carry)) == 1:
        return None
    names = [
        f"carry{jax.tree_util.keystr(path)}"
        for path, _ in jax.tree_util.tree_leaves_with_path(carry)
    ]
    received = f"none for a carry of {len(names)} arrays, {' and '.join(names)}"
    advice = (
        "name it, as in Recurrence(step, params, output=lambda carry: carry[0]), or in "
        "dataclasses.replace(recurrence, output=lambda carry: carry[-1]) of a recurrence that is "
        "there already, before it is stacked"
    )
    return received, "the array that the next layer or the readout sees", advice


def check_output(step: Any, output: Any, carry: PyTree) -> None:
    """Raise a ValueError where a readout or the next layer would see a guess."""
    guess = guess_of_output(step, output, carry)
    if guess is not None:
        refuse("output", *guess)


def zero_carry(recurrence: Recurrence) -> PyTree:
    """Return a carry of zeros, the usual start, in the dtype of the parameters.

    Args:
        recurrence: a cell of this package, or a result of `from_linen`, `from_nnx` or `stack`.

    Raises:
        ValueError: a step that does not say what its carry looks like, such as a plain function
            or a ConvLSTMCell, whose carry depends on the image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from jacobian_rnn import from_linen
        >>> cell = nn.LSTMCell(2)
        >>> variables = cell.init(jax.random.key(0), (jnp.zeros(2), jnp.zeros(2)), jnp.ones(3))
        >>> print(zero_carry(from_linen(cell, variables)))
        (Array([0., 0.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    step: Any = getattr(recurrence, "step", recurrence)
    if hasattr(step, "steps"):  # only the step of a stack has them
        layers = zip(step.steps, recurrence.params, strict=True)
        return tuple(zero_carry(Recurrence(one, params)) for one, params in layers)
    carry_like = getattr(step, "carry_like", None)
    is_of_images = hasattr(step, "cell_of") and step.num_feature_axes != 1
    if carry_like is None or is_of_images:
        received = (
            f"one of {name_of_step(step)}(params, carry, x), whose carry its parameters do not tell"
        )
        expected = "a cell of vectors or a stack of them"
        advice = "make the carry by hand, and give it, as in diagnose(..., carry=...)"
        refuse("recurrence", received, expected, advice)
    dtype = jax.tree.leaves(recurrence.params)[0].dtype
    like = jax.eval_shape(carry_like, recurrence.params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), like)


def has_batch_axis(step: Any, carry: PyTree) -> bool:
    """Say whether a carry has more axes than it should have. Unknown counts as False.

    These are `num_carry_axes` of a step with matrices in its carry, and else `num_feature_axes`.
    """
    if hasattr(step, "steps"):  # only the step of a stack has them
        return any(map(has_batch_axis, step.steps, carry))
    rank = getattr(step, "num_carry_axes", getattr(step, "num_feature_axes", None))
    return rank is not None and any(leaf.ndim > rank for leaf in jax.tree.leaves(carry))

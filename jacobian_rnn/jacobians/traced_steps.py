"""What the trace of a step shows before it runs: its digits, and how it can be differentiated."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from jacobian_rnn.checks import refuse

if TYPE_CHECKING:
    from jacobian_rnn.jacobians.system import System

# These are for float32 products at a device's default precision. TF32 has 10 bits behind the point.
EPS_OF_DEFAULT_PRODUCTS = {"gpu": 2.0**-10, "tpu": 2.0**-7}


def rounding_of_step(
    step: Callable[[Array, PyTree], Array], state: Array | jax.ShapeDtypeStruct, x: PyTree
) -> float:
    """Find the relative rounding of the coarsest arithmetic in one step.

    The step is traced, and each intermediate array is checked for its dtype and precision.

    Args:
        step: `step(state, x) -> state`.
        state: an array, or its shape and dtype.
        x: the input of one step, or its shapes and dtypes, or None.

    Returns:
        eps of the state's dtype, or of a coarser one that the step uses.

    Example:
        >>> import jax.numpy as jnp
        >>> def coarse(state, x):
        ...     return jnp.tanh(state.astype(jnp.bfloat16)).astype(state.dtype)
        >>> rounding_of_step(coarse, jnp.ones(2), None)
        0.0078125
    """
    jaxpr = jax.make_jaxpr(step)(state, x)
    return max(float(jnp.finfo(state.dtype).eps), *map(_eps_of, _equations(jaxpr.jaxpr)), 0.0)


def refuse_coarse_step(system: "System") -> None:
    """Raise a TypeError where a step computes in fewer bits than its state has.

    Its Jacobian has as few digits, or none. For example, the slope 1 − h² of a saturated unit is a
    difference of two rounded numbers. No error bar can be measured from such a step alone.
    """
    dtype = system.state.dtype
    state = jax.ShapeDtypeStruct((system.num_states,), dtype)
    rounding = rounding_of_step(system.step, state, system.one_input)
    if rounding > float(jnp.finfo(dtype).eps):
        advice = (
            "growth would be wrong without a sign of it. Give a Flax cell dtype=None, which "
            "computes with the same weights in full"
        )
        received = f"one that computes with {-math.log10(rounding):.1f} decimal digits"
        refuse("step", received, f"those of its state, {dtype}", advice, error=TypeError)


def has_forward_mode(function: Callable[..., Any], *args: PyTree) -> bool:
    """Say whether a function can be differentiated in forward mode for its first argument.

    With a `custom_vjp` it has only reverse mode.
    """
    first, *rest = args

    def differential(point, tangent, *rest):
        return jax.jvp(lambda point: function(point, *rest), (point,), (tangent,))

    jaxpr = jax.make_jaxpr(differential)(first, first, *rest)
    # This primitive stands for a missing derivative, and it raises when it is computed.
    return all(equation.primitive.name != "custom_lin" for equation in _equations(jaxpr.jaxpr))


def has_reverse_mode(function: Callable[..., Any], *args: PyTree) -> bool:
    """Say whether a function can be differentiated in reverse mode for its first argument.

    A `lax.while_loop` has only forward mode.
    """
    first, *rest = args

    def pull(point, *rest):
        value, differential = jax.vjp(lambda point: function(point, *rest), point)
        return differential(value)

    try:
        jax.eval_shape(pull, first, *rest)
    except ValueError as error:
        # JAX has no other sign of it than the words of its error.
        if "Reverse-mode differentiation does not work" in str(error):
            return False
        raise
    return True


def derivative_of(function: Callable, argnums: int = 0) -> Callable[..., Array]:
    """Differentiate in forward mode, or in reverse mode where a `custom_vjp` allows no other.

    Raises:
        ValueError: a function with neither.
    """

    def derivative(*args):
        forward = has_forward_mode(function, *args)
        if not (forward or has_reverse_mode(function, *args)):
            received = "one with a custom_vjp and a while loop, which has no derivative"
            advice = "give the Recurrence a `jacobian`, or make the loop a lax.scan"
            refuse("step", received, "one that JAX can differentiate", advice)
        return (jax.jacfwd if forward else jax.jacrev)(function, argnums=argnums)(*args)

    return derivative


def pull_back(function: Callable[[Any], Array], point: PyTree, cotangent: Array) -> PyTree:
    """Pull a cotangent of the value of a function back to the point."""
    return jax.vjp(function, point)[1](cotangent)[0]


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _eps_of(equation):
    """Return the largest eps of the results of one operation, 0 where none of them are floats."""
    dtypes = [out.aval.dtype for out in equation.outvars if hasattr(out.aval, "dtype")]
    eps = [float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    if equation.primitive.name == "reduce_precision":
        eps.append(2.0 ** -equation.params["mantissa_bits"])
    if jnp.float32 in dtypes and "precision" in equation.params:
        precision = equation.params["precision"]
        operands = precision if isinstance(precision, tuple) else (precision,)
        if any(one in (None, lax.Precision.DEFAULT) for one in operands):
            eps.append(EPS_OF_DEFAULT_PRODUCTS.get(jax.default_backend(), 0.0))
    return max(eps, default=0.0)

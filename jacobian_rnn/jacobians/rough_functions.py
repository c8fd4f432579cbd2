"""A step again, with results of its functions changed in their last digits.

A saturated unit has h = 1 − 10⁻¹¹ and the slope 1 − h², a difference of two rounded numbers. No
change of the state shows how few digits it has. A change of h by one rounding, between the function
and its slope, does.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.linalg.rounding import rounding_noise

# Of these no library promises the last digit. Sums and products are rounded correctly, and what
# they lose shows in other ways.
ROUNDED = frozenset(
    {"tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "pow", "rsqrt", "sqrt", "cbrt"}
    | {"erf", "erfc", "erf_inv", "lgamma", "digamma", "sin", "cos", "tan", "sinh", "cosh"}
    | {"asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh"}
)
INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"})


def rough(
    function: Callable[..., Any],
    number: Int[Array, ""],
    roundings: float | Float[Array, ""] = 1,
) -> Callable[..., Any]:
    """Return a function whose transcendental results are changed in their last digits.

    Each is changed by a half to one of so many roundings. A smaller change would be rounded away,
    and a unit that is saturated to h = 1 would show the slope 0 without an error.

    Args:
        function: of arrays. The result is one array.
        number: of the draw. Another number changes them otherwise.
        roundings: 0 changes nothing.
    """

    @functools.cache
    def factors(shape, dtype):
        noise = rounding_noise(number, shape, dtype)
        return 1 + roundings * jnp.finfo(dtype).eps * (noise + jnp.sign(noise)) / 2

    def change(name, value):
        if name not in ROUNDED or not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return value * factors(value.shape, jnp.finfo(value.dtype).dtype).astype(value.dtype)

    def changed(*args: PyTree) -> Array:
        (result,) = evaluate(function, args, change)
        return result

    return changed


def evaluate(
    function: Callable[..., Any], args: Sequence[PyTree], change: Callable[[str, Array], Array]
) -> list[Array]:
    """Evaluate a function operation by operation, and let each result be seen and changed.

    Args:
        function: of arrays.
        args: its arguments.
        change: `change(name, value) -> value`, called with the name of each primitive operation and
            each of its results. Loops and branches are one operation.

    Returns:
        The arrays that the function returns.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), change)


def _evaluate(jaxpr, consts, args, change):
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(variable):
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        values, name = [read(variable) for variable in equation.invars], equation.primitive.name
        inner = equation.params.get("jaxpr")
        if name in INLINED and inner is not None:
            out = _evaluate(
                getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values, change
            )
        else:
            params = equation.primitive.get_bind_params(equation.params)
            # Older releases of JAX split the functions off.
            functions, params = params if isinstance(params, tuple) else ((), params)
            out = equation.primitive.bind(*functions, *values, **params)
            out = out if equation.primitive.multiple_results else [out]
            out = [change(name, value) for value in out]
        known.update(zip(equation.outvars, out, strict=True))
    return [read(variable) for variable in jaxpr.outvars]

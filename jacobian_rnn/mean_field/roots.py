"""Roots of monotone functions, with the derivative that the equation implies."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def increasing_root(
    function: Callable[[Any], Any],
    lower: Float[Array, ""] | float,
    upper: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Find where a function crosses zero from below, between two points.

    Bisection goes to the last digit. One Newton step follows, whose derivative is that of the
    implicit function, also in parameters that `function` closes over.

    Args:
        function: of a scalar, negative at `lower` and positive at `upper`. Where it is not, the
            end that is nearest to a crossing comes out, so compare the result with the ends.
        lower: lower end of the search.
        upper: upper end.

    Returns:
        The root, a scalar.
    """
    lower, upper = (lax.stop_gradient(jnp.asarray(end)) for end in (lower, upper))
    num_halvings = 2 * jnp.finfo(lower.dtype).nmant

    def halve(_, ends):
        lower, upper = ends
        middle = (lower + upper) / 2
        below = function(middle) < 0
        return jnp.where(below, middle, lower), jnp.where(below, upper, middle)

    lower, upper = lax.fori_loop(0, num_halvings, halve, (lower, upper))
    root = lax.stop_gradient((lower + upper) / 2)
    slope = lax.stop_gradient(jax.grad(function)(root))
    safe = jnp.isfinite(slope) & (slope > 0)
    # The value of this step is rounding, its derivative is −(∂f/∂θ) / (∂f/∂x).
    residual = function(root)
    step = (residual - lax.stop_gradient(residual)) / jnp.where(safe, slope, 1)
    return root - jnp.where(safe, step, 0)

"""Slopes of functions that act on each unit alone, with all their digits.

A saturated tanh has h = 1 − 10⁻¹¹, and of its slope the difference 1 − h² has only five digits. The
same slope as the product 4 σ(2a) σ(−2a) has all of them, and so have its own derivatives. In the
same way the slope of σ is σ(a) σ(−a).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sigmoid_slope(pre: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return σ'(a) = e / (1 + e)², e = exp(−|a|)."""
    return jax.nn.sigmoid(pre) * jax.nn.sigmoid(-pre)


def tanh_slope(pre: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return tanh'(a) = 4e / (1 + e)², e = exp(−2|a|)."""
    return 4 * sigmoid_slope(2 * pre)


SLOPES = {jnp.tanh: tanh_slope, jax.nn.sigmoid: sigmoid_slope}


def with_slope(
    function: Callable[[Array], Array], pre: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the values and the slopes of a function that acts on each unit alone."""
    if function in SLOPES:
        return function(pre), SLOPES[function](pre)
    return jax.jvp(function, (pre,), (jnp.ones_like(pre),))

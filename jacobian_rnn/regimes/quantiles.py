"""Quantiles of values of which some may be unknown or infinite."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def quantile(values: Float[Array, " n"], level: float) -> Float[Array, ""]:
    """Return a quantile of the values that are not NaN, which may be infinite.

    It is interpolated, as numpy does it; next to an infinite value the outer neighbour is taken.
    """
    method = "lower" if level <= 0.5 else "higher"
    interpolated = jnp.nanquantile(values, level)
    outer = jnp.nanquantile(values, level, method=method)
    return jnp.where(jnp.isfinite(interpolated), interpolated, outer)

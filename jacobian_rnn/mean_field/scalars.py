"""Checks of the numbers that theory takes, before any computation; known ones on the host."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


def checked_scales(**scales: Float[Array, ""] | float) -> list[Float[Array, ""]]:
    """Return scalars in one float dtype; a negative or infinite one is a ValueError, NaN if traced.

    Raises:
        TypeError: no number.
        ValueError: an array; a number that is negative or not finite.
    """
    for name, scale in scales.items():
        check_scalar(name, scale)
        if not isinstance(scale, Tracer) and not (np.isfinite(scale) and scale >= 0):
            msg = f"{name}: received {scale}, expected a finite number, zero or above"
            raise ValueError(msg)
    dtype = jnp.result_type(float, *(scale for scale in scales.values()))
    checked = [jnp.asarray(scale, dtype) for scale in scales.values()]
    return [
        jnp.where(jnp.isfinite(scale) & (scale >= 0), scale, jnp.nan)
        if isinstance(scale, Tracer)
        else scale
        for scale in checked
    ]


def check_scalar(name: str, number: Any) -> None:
    """Raise TypeError for what is no real number, ValueError for an array; traced ones are told."""
    if not isinstance(number, Tracer) and np.asarray(number).dtype.kind not in "fiuV":
        msg = f"{name}: received {number!r}, expected a number"
        raise TypeError(msg)
    if jnp.ndim(number) != 0:
        msg = f"{name}: received shape {jnp.shape(number)}, expected a scalar; use jax.vmap"
        raise ValueError(msg)

"""Rounding: measured where it matters by changing last digits at random, and kept in long sums."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

PERTURBATION = 4  # roundings of an entry, in units of eps
CAUTION = 5  # perturbed runs differ by a fraction of the error now and then


def rounding_factors(
    number: Int[Array, ""],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    roundings: float = PERTURBATION,
) -> Float[Array, "..."]:
    """Draw factors within so many roundings of 1, another array of them for each number."""
    return 1 + roundings * jnp.finfo(dtype).eps * rounding_noise(number, shape, dtype)


def rounding_noise(
    number: Int[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype
) -> Float[Array, "..."]:
    """Draw numbers between −1 and 1, another array of them for each number.

    A hash of number and position (the finaliser of a 32-bit murmur hash) serves. `jax.random` takes
    twenty times as long, and that is longer than the rest of a step.
    """
    bits = lax.iota(jnp.uint32, math.prod(shape))
    bits = bits + jnp.uint32(0x9E3779B9) * number.astype(jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    noise = (bits ^ (bits >> 16)).astype(jnp.float32) * 2.0**-31 - 1
    return noise.reshape(shape).astype(dtype)


def compensated_sum(
    total: Float[Array, " n"], rounding: Float[Array, " n"], term: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Add a term to a sum, and what rounding loses to `rounding` (Neumaier 1974).

    The sum of both is the result. −inf stays −inf.
    """
    new = total + term
    lost = jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, jnp.where(jnp.isfinite(new), rounding + lost, 0)

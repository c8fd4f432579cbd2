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
    roundings: float | Float[Array, "..."] = PERTURBATION,
) -> Float[Array, "..."]:
    """Draw factors within so many roundings of 1, another array of them for each number.

    The product of two odd hashes serves, one of the position and one of the number. Inside a loop
    the first is the same at every step, so XLA computes it once. `jax.random` takes twenty times as
    long, and that is longer than the rest of a step.
    """
    places = _hash(lax.iota(jnp.uint32, math.prod(shape))) | 1
    # The complement is no position, so that numbers and positions are not hashed alike.
    bits = places * (_hash(~number.astype(jnp.uint32)) | 1)
    noise = lax.bitcast_convert_type(bits, jnp.int32).astype(jnp.float32) * 2.0**-31
    amplitude = roundings * jnp.finfo(dtype).eps
    return 1 + amplitude * noise.reshape(shape).astype(dtype)


def _hash(bits):
    """Mix bits by the finaliser of a 32-bit murmur hash."""
    bits = bits + jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return bits ^ (bits >> 16)


def compensated_sum(
    total: Float[Array, " n"], rounding: Float[Array, " n"], term: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Add a term to a sum, and what rounding loses to `rounding` (Neumaier 1974).

    The sum of both is the result. −inf stays −inf.
    """
    new = total + term
    lost = jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, jnp.where(jnp.isfinite(new), rounding + lost, 0)

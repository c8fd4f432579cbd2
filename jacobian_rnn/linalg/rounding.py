"""Rounding: measured where it matters by changing last digits at random, and kept in long sums."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

PERTURBATION = 4  # roundings of an entry, in units of eps
CAUTION = 5  # perturbed runs differ by a fraction of the error now and then


def rounding_factors(
    number: Int[Array, ""],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    roundings: float | Float[Array, "..."] = PERTURBATION,
) -> Float[Array, "..."]:
    """Draw factors within so many roundings of 1, another array of them for each number."""
    return 1 + roundings * jnp.finfo(dtype).eps * rounding_noise(number, shape, dtype)


def rounding_noise(
    number: Int[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype
) -> Float[Array, "..."]:
    """Draw numbers between −1 and 1, another array of them for each number.

    Mixed bits of each position, times the number, serve. Inside a loop the bits are the same at
    every step, so XLA computes them once. `jax.random` takes twenty times as long, and that is
    longer than the rest of a step. Draws for consecutive numbers are no more random than the
    multiples of a number. Where many follow each other, give numbers that are `mixed`.
    """
    positions = mixed(lax.iota(jnp.int32, math.prod(shape)))
    # Odd factors keep all bits.
    bits = (2 * positions + 1) * (2 * number + 1)
    return (bits.astype(jnp.float32) * 2.0**-31).reshape(shape).astype(dtype)


def mixed(numbers: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return a 32-bit number for each number, as if drawn at random: the finaliser of murmur 3."""
    bits = numbers.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return (bits ^ (bits >> 16)).astype(jnp.int32)


def least_error(
    log_values: Float[Array, "*any"], num_roundings: Num[Array, "*steps"]
) -> Float[Array, "*any"]:
    """Return the error of logarithms, nats, that rounding explains by itself.

    So many roundings of the numbers add up like a random walk, and each logarithm is rounded too.
    An exact zero has none.
    """
    finite = jnp.where(jnp.isfinite(log_values), log_values, 0)
    walk = jnp.sqrt(num_roundings.astype(finite.dtype))
    least = jnp.finfo(finite.dtype).eps * jnp.maximum(walk, jnp.abs(finite))
    return jnp.where(jnp.isneginf(log_values), 0, least)


def compensated_sum(
    total: Float[Array, " n"], rounding: Float[Array, " n"], term: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Add a term to a sum, and what rounding loses to `rounding` (Neumaier 1974).

    The sum of both is the result. −inf stays −inf.
    """
    new = total + term
    lost = jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, jnp.where(jnp.isfinite(new), rounding + lost, 0)

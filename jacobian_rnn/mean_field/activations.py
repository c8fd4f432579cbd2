"""Gaussian averages of activation functions, in closed form where there is one.

They are E φ², E φ'^2 and E φ'^4 over x ~ N(0, q). A kernel's variance comes in from outside.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_choice
from jacobian_rnn.mean_field.quadrature import known_average

Activation = Literal["tanh", "erf", "relu", "linear"]


class Moments(NamedTuple):
    """Averages over pre-activations of variance q.

    Attributes:
        square: E φ².
        slope_square: E φ'^2.
        slope_fourth: E φ'^4.
    """

    square: Float[Array, ""]
    slope_square: Float[Array, ""]
    slope_fourth: Float[Array, ""]


def check_activation(activation: str) -> None:
    """Raise ValueError for a function that the theory does not know."""
    check_choice("activation", activation, get_args(Activation))


def value(activation: Activation, x: Array) -> Array:
    """Return φ(x)."""
    functions = {"tanh": jnp.tanh, "erf": lax.erf, "relu": lambda x: jnp.maximum(x, 0)}
    return functions.get(activation, lambda x: x)(x)


def log_slope_square(activation: Activation, x: Array) -> Array:
    """Return log φ'(x)², −inf where the slope is zero."""
    match activation:
        case "tanh":
            return 4 * (jnp.log(2.0).astype(x.dtype) - jnp.logaddexp(x, -x))
        case "erf":
            return jnp.log(4 / jnp.pi).astype(x.dtype) - 2 * x**2
        case "relu":
            return jnp.where(x > 0, 0.0, -jnp.inf).astype(x.dtype)
        case _:
            return jnp.zeros_like(x)


def moments(activation: Activation, variance: Float[Array, ""]) -> Moments:
    """Compute the averages over x ~ N(0, `variance`).

    References:
        C. Williams, "Computation with infinite neural networks", Neural Computation 10 (1998), for
        erf.
        Y. Cho and L. Saul, "Kernel methods for deep learning", NIPS 2009, for ReLU.
    """
    q = jnp.asarray(variance)
    match activation:
        case "tanh":
            return Moments(
                known_average(lambda x: jnp.tanh(x) ** 2, q),
                known_average(lambda x: jnp.exp(log_slope_square("tanh", x)), q),
                known_average(lambda x: jnp.exp(2 * log_slope_square("tanh", x)), q),
            )
        case "erf":
            return Moments(
                2 / jnp.pi * jnp.arcsin(2 * q / (1 + 2 * q)),
                4 / jnp.pi / jnp.sqrt(1 + 4 * q),
                16 / jnp.pi**2 / jnp.sqrt(1 + 8 * q),
            )
        case "relu":
            half = jnp.full_like(q, 0.5)
            return Moments(q / 2, half, half)
        case _:
            return Moments(q, jnp.ones_like(q), jnp.ones_like(q))

"""The map of p steps under a constant input, its Jacobian, and how far it moves a state."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.traced_steps import derivative_of
from jacobian_rnn.linalg.graded_svd import matmul


def input_of(system: System) -> Any:
    """Return the constant input, which is that of the system's only step."""
    return jax.tree.map(lambda leaf: leaf[0], system.xs)


def orbit(system: System, state: Float[Array, " n"], period: int) -> Float[Array, "steps n"]:
    """Return a state and its images, `(period + 1, n)`."""
    x = input_of(system)

    def one(state, _):
        return system.step(state, x), state

    last, states = lax.scan(one, state, length=period)
    return jnp.concatenate([states, last[None]])


def return_jacobian(system: System, state: Float[Array, " n"], period: int) -> Float[Array, "n n"]:
    """Return the Jacobian of `period` steps, from closed forms where there are any."""
    x = input_of(system)
    if period == 1:
        return system.jacobian(state, x)

    def one(carried, _):
        state, product = carried
        return (system.step(state, x), matmul(system.jacobian(state, x), product)), None

    start = (state, jnp.eye(system.num_states, dtype=state.dtype))
    return lax.scan(one, start, length=period)[0][1]


def size_of_factors(system: System, state: Float[Array, " n"], period: int) -> Float[Array, ""]:
    """Return p ∏ ‖J_i‖ over the p steps, of which rounding is a share in their product."""
    x = input_of(system)

    def one(carried, _):
        state, size = carried
        norm = jnp.linalg.norm(system.jacobian(state, x))
        return (system.step(state, x), size * norm), None

    start = (state, jnp.asarray(period, state.dtype))
    return lax.scan(one, start, length=period)[0][1]


def return_input_jacobian(
    system: System, state: Float[Array, " n"], period: int
) -> Float[Array, "n inputs"]:
    """Return the derivative of `period` steps with respect to the constant input, ravelled."""
    x = input_of(system)
    flat, unravel = ravel_pytree(x)
    if flat.size == 0:
        return jnp.zeros((system.num_states, 0), state.dtype)

    def of_step(state):
        if system.has_parts:
            return system.input_jacobian(state, x)
        return derivative_of(lambda flat, state: system.step(state, unravel(flat)))(flat, state)

    def one(carried, _):
        state, derivative = carried
        pushed = matmul(system.jacobian(state, x), derivative) + of_step(state)
        return (system.step(state, x), pushed), None

    start = (state, jnp.zeros((system.num_states, flat.size), state.dtype))
    return lax.scan(one, start, length=period)[0][1]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def displacement(system: System, state: Float[Array, " n"], period: int) -> Float[Array, " n"]:
    """Return how far `period` steps move a state, which is zero at a fixed point.

    Its derivative is for the state alone, and comes from the closed form of the Jacobian. A solver
    that differentiates it makes no other one.
    """
    return orbit(system, state, period)[-1] - state


@displacement.defjvp
def _displacement_jvp(period, primals, tangents):
    system, state = primals
    pushed = matmul(return_jacobian(system, state, period), tangents[1][:, None])[:, 0]
    return displacement(system, state, period), pushed - tangents[1]

"""From one start to a state that moves least: Levenberg and Marquardt's method, then Newton's."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.phase_space._return_map import displacement, return_jacobian

MOST_NEWTON_STEPS = 32


class Descent(NamedTuple):
    """What Levenberg and Marquardt's method goes on from.

    Attributes:
        state: h, `(n,)`.
        moved: F(h) − h, `(n,)`.
        damping: what is added to the squared singular values of the slope, scalar.
        raise_by: factor on the damping after the next step that fails, scalar.
        num_idle: steps in a row that gained next to nothing, int32 scalar.
        num_steps: int32 scalar.
    """

    state: Float[Array, " n"]
    moved: Float[Array, " n"]
    damping: Float[Array, ""]
    raise_by: Float[Array, ""]
    num_idle: Int[Array, ""]
    num_steps: Int[Array, ""]


def minimize(
    system: System, start: Float[Array, " n"], period: int, max_iterations: int
) -> tuple[Float[Array, " n"], Bool[Array, ""], Int[Array, ""]]:
    """Search from one start for a state that p steps move least.

    Levenberg and Marquardt's method minimises ½‖F(h) − h‖², with Nielsen's (1999) damping. It stops
    at a speed or a step below rounding, and after two steps in a row that lower the sum of squares
    by less than its share √eps. Near a zero, also a degenerate one, each step lowers it by far
    more. As the slope of F(h) − h has no unit, all of it is the same in any unit of the state.
    Newton's method follows.

    Returns:
        The state, whether the search stopped by itself, and the number of steps of the first
        method.
    """
    eps = jnp.finfo(start.dtype).eps

    def is_at_rest(state, moved):
        size = jnp.maximum(jnp.linalg.norm(state), jnp.linalg.norm(start))
        return jnp.linalg.norm(moved) <= eps * size

    def is_open(now):
        stops = (now.num_idle >= 2) | is_at_rest(now.state, now.moved)
        return (now.num_steps < max_iterations) & jnp.all(jnp.isfinite(now.moved)) & ~stops

    one, none = jnp.ones((), start.dtype), jnp.int32(0)
    first = Descent(start, displacement(system, start, period), one, 2 * one, none, none)
    last = lax.while_loop(is_open, partial(_descend, system, period), first)
    state, moved = _polish(system, last.state, last.moved, period, max_iterations)
    return state, (last.num_idle >= 2) | is_at_rest(state, moved), last.num_steps


def _descend(system, period, now):
    """Try one step of Levenberg and Marquardt's method."""
    eps, identity = jnp.finfo(now.state.dtype).eps, _identity(now.state)
    slope = return_jacobian(system, now.state, period) - identity
    # Normal equations have half of the digits. That is enough for a step, whose sum of squares is
    # compared with the last one, and they are several times as fast as a QR of 2n rows.
    gram = matmul(slope.T, slope)
    damping = jnp.maximum(now.damping, eps * jnp.max(jnp.diagonal(gram)))
    downhill = -matmul(now.moved[None], slope)[0]
    step = cho_solve(cho_factor(gram + damping * identity), downhill)
    state = now.state + step
    moved = displacement(system, state, period)

    # These are shares of the sum of squares. NaN, which rounding makes of a matrix that is nearly
    # singular, is no gain.
    speed = jnp.linalg.norm(now.moved)
    gain = 1 - (jnp.linalg.norm(moved) / speed) ** 2
    expected = jnp.dot(step / speed, (damping * step + downhill) / speed)
    is_better = gain > 0
    is_short = jnp.linalg.norm(step) <= eps * jnp.linalg.norm(now.state)
    is_idle = is_better & (gain <= jnp.sqrt(eps))
    lower_by = jnp.clip(1 - (2 * gain / expected - 1) ** 3, 1 / 3, 2)
    return Descent(
        state=jnp.where(is_better, state, now.state),
        moved=jnp.where(is_better, moved, now.moved),
        damping=damping * jnp.where(is_better, lower_by, now.raise_by),
        raise_by=jnp.where(is_better, 2, 2 * now.raise_by),
        num_idle=jnp.where(is_short, 2, jnp.where(is_idle, now.num_idle + 1, 0)).astype(jnp.int32),
        num_steps=now.num_steps + 1,
    )


def _polish(system, state, moved, period, most_steps):
    """Take Newton steps to a zero of F(h) − h, as long as each of them halves the speed.

    At a zero of order q a step leaves (1 − 1/q)^q of the speed, which is below 1/e.
    """
    smallest_slope = jnp.finfo(state.dtype).eps ** 0.75

    def is_open(now):
        _, moved, halved, num_steps = now
        return halved & (num_steps < min(most_steps, MOST_NEWTON_STEPS)) & jnp.any(moved != 0)

    def newton(now):
        state, moved, _, num_steps = now
        slope = return_jacobian(system, state, period) - _identity(state)
        step = jnp.linalg.solve(slope, moved)
        new = state - step, displacement(system, state - step, period)
        speed = jnp.linalg.norm(moved)
        # A singular slope gives NaN, which is not lower. One that is singular but for rounding
        # would throw a state far along the line on which all are fixed.
        halved = jnp.linalg.norm(new[1]) < speed / 2
        halved &= jnp.linalg.norm(step) * smallest_slope < speed
        new = jax.tree.map(partial(jnp.where, halved), new, (state, moved))
        return *new, halved, num_steps + 1

    return lax.while_loop(is_open, newton, (state, moved, jnp.bool_(True), jnp.int32(0)))[:2]


def _identity(state):
    return jnp.eye(len(state), dtype=state.dtype)

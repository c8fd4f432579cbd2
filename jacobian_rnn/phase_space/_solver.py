"""From one start to a state that moves least: Levenberg and Marquardt's method, then Newton's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.phase_space._return_map import displacement, return_jacobian

MOST_NEWTON_STEPS = 32


def import_optimistix() -> Any:
    """Import what minimises, and the linear solvers that it is given.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import lineax
        import optimistix
    except ModuleNotFoundError as error:
        msg = "fixed_points needs optimistix: pip install 'jacobian_rnn[analysis]'"
        raise ModuleNotFoundError(msg) from error
    return optimistix, lineax


def minimize(
    system: System,
    start: Float[Array, " n"],
    size: Float[Array, ""],
    period: int,
    max_iterations: int,
) -> tuple[Float[Array, " n"], Bool[Array, ""], Int[Array, ""]]:
    """Search from one start for a state that p steps move least.

    Levenberg and Marquardt's method minimises ½‖F(h) − h‖², both in units of `size`, until a step
    changes them by √eps. The damping has no unit, so the search is the same in any unit of the
    state. Newton's method follows. It goes on where the first one stops early, as it does at a
    degenerate zero.

    Returns:
        The state, whether the first method stopped by itself, and its number of steps.
    """
    optimistix, lineax = import_optimistix()
    dtype, tolerance = start.dtype, float(jnp.finfo(start.dtype).eps) ** 0.5
    # The solver's own numbers are of JAX's default dtype, and it takes no others.
    solver_dtype = jnp.result_type(float)

    def moved(scaled, _):
        return (displacement(system, scaled.astype(dtype) * size, period) / size).astype(
            solver_dtype
        )

    # Normal equations have half of the digits. That is enough for a step, whose sum of squares is
    # compared with the last one, and they are several times as fast as a QR of 2n rows.
    solver = optimistix.LevenbergMarquardt(
        tolerance, tolerance, linear_solver=lineax.Normal(lineax.Cholesky())
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solution = optimistix.least_squares(
            moved,
            solver,
            (start / size).astype(solver_dtype),
            max_steps=max_iterations,
            throw=False,
        )
    converged = solution.result == optimistix.RESULTS.successful
    num_iterations = jnp.asarray(solution.stats["num_steps"], jnp.int32)
    state = solution.value.astype(dtype) * size
    return _polish(system, state, period, max_iterations), converged, num_iterations


def _polish(system, state, period, most_steps):
    """Take Newton steps to a zero of F(h) − h, as long as each of them halves the speed.

    At a zero of order q a step leaves (1 − 1/q)^q of the speed, which is below 1/e. Where 1 − J is
    nearly singular, the shortest step takes the place of Newton's, which would throw a state far
    along a line on which all are fixed.
    """
    identity, eps = jnp.eye(len(state), dtype=state.dtype), jnp.finfo(state.dtype).eps
    most_steps = min(most_steps, MOST_NEWTON_STEPS)

    def newton(solve, longest, now):
        state, moved, _, _, num_steps = now
        step = solve(return_jacobian(system, state, period) - identity, moved)
        new = state - step, displacement(system, state - step, period)
        speed = jnp.linalg.norm(moved)
        # A singular slope gives NaN, which is neither short nor a half.
        is_short = jnp.linalg.norm(step) < longest * speed
        halved = is_short & (jnp.linalg.norm(new[1]) < speed / 2)
        new = jax.tree.map(partial(jnp.where, halved), new, (state, moved))
        return *new, halved, is_short, num_steps + 1

    def is_open(now):
        _, moved, goes_on, _, num_steps = now
        return goes_on & (num_steps < most_steps) & jnp.any(moved != 0)

    def shortest(slope, moved):
        return jnp.linalg.lstsq(slope, moved, rcond=float(8 * len(moved) * eps))[0]

    yes = jnp.bool_(True)
    start = state, displacement(system, state, period), yes, yes, jnp.int32(0)
    state, moved, _, was_short, num_steps = lax.while_loop(
        is_open, partial(newton, jnp.linalg.solve, eps**-0.5), start
    )
    start = state, moved, ~was_short, yes, num_steps
    return lax.while_loop(is_open, partial(newton, shortest, jnp.inf), start)[0]

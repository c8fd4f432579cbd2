"""Search for fixed points, slow points and cycles of a recurrence under a constant input."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import (
    check_at_least,
    check_choice,
    check_number,
    check_precision,
    refuse,
)
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.graded_svd import row_norms
from jacobian_rnn.phase_space._report import report
from jacobian_rnn.phase_space._return_map import displacement, orbit, return_jacobian
from jacobian_rnn.phase_space.starts import bind_states

Kind = Literal["any", "fixed", "slow"]
NUM_POLISHING_STEPS = 4


class FixedPoints(NamedTuple):
    """What a search found from each of k starts.

    Attributes:
        states: where each search ended, `(k, n)`. They have a derivative where they are fixed.
        residuals: ½‖F(h) − h‖² there, squared units of the state, `(k,)`, where F is the map of one
            step, or of `period` steps.
        speeds: ‖F(h) − h‖ there, units of the state per application of F, `(k,)`.
        is_fixed: speeds of at most `fixed_speed`, `(k,)`.
        is_slow: speeds above that and of at most `slow_speed`, `(k,)`.
        is_outlier: states that are not finite, or farther from the centre of the starts than
            `outlier_scale` times the largest of three lengths: the mean distance of a start from
            it, that of zero, and the median distance of what was found, `(k,)`.
        converged: whether the solver stopped by itself, `(k,)`.
        num_iterations: of the solver, int32 `(k,)`.
        periods: the least number of steps after which the state returns, int32 `(k,)`. It is 1 at a
            fixed point, also where cycles are searched for.
        same_as: the start that found the same point with the lowest speed, int32 `(k,)`. It is the
            start itself where it found it best, and where it found neither a fixed nor a slow
            point.
        num_starts: number of starts that found this point, int32 `(k,)`. It is 0 for duplicates,
            and for starts that found neither a fixed nor a slow point.
        fixed_speed: the tolerance, scalar.
        slow_speed: the tolerance, scalar.
        same_within: distance below which two points are the same, scalar.
    """

    states: Float[Array, "starts n"]
    residuals: Float[Array, " starts"]
    speeds: Float[Array, " starts"]
    is_fixed: Bool[Array, " starts"]
    is_slow: Bool[Array, " starts"]
    is_outlier: Bool[Array, " starts"]
    converged: Bool[Array, " starts"]
    num_iterations: Int[Array, " starts"]
    periods: Int[Array, " starts"]
    same_as: Int[Array, " starts"]
    num_starts: Int[Array, " starts"]
    fixed_speed: Float[Array, ""]
    slow_speed: Float[Array, ""]
    same_within: Float[Array, ""]

    def distinct(self, kind: Kind = "any") -> "FixedPoints":
        """Return each point of a kind once, without outliers, the slowest first.

        The kind is "fixed", "slow" (and not fixed) or "any" of the two. The number of points is not
        known before the search has run, so this cannot be traced.

        Raises:
            ValueError: another kind, or a batch of searches.
        """
        check_choice("kind", kind, get_args(Kind))
        if self.speeds.ndim != 1:
            refuse("points", "a batch of searches", "one", "index it with jax.tree.map")
        is_kind = {"fixed": self.is_fixed, "slow": self.is_slow}.get(kind, self.num_starts > 0)
        rows = np.flatnonzero(np.asarray((self.num_starts > 0) & ~self.is_outlier & is_kind))
        rows = rows[np.argsort(np.asarray(self.speeds)[rows], kind="stable")]
        shared = {"fixed_speed", "slow_speed", "same_within"}
        return FixedPoints(
            **{
                name: field if name in shared else field[rows]
                for name, field in self._asdict().items()
            }
        )

    def __str__(self) -> str:
        """List the distinct points, with the tolerances that told them apart."""
        if self.speeds.ndim != 1:
            return f"{len(self.speeds)} searches: index one with jax.tree.map(lambda a: a[i], ...)"
        return "\n".join(report(self, self.distinct()))


def fixed_points(
    recurrence: Recurrence,
    states: PyTree,
    x: PyTree,
    *,
    period: int = 1,
    max_iterations: int = 200,
    fixed_speed: Float[Array, ""] | float | None = None,
    slow_speed: Float[Array, ""] | float = 0.01,
    same_within: Float[Array, ""] | float = 1e-3,
    outlier_scale: Float[Array, ""] | float = 10.0,
    num_at_once: int = 16,
) -> FixedPoints:
    """Search for fixed points and slow points under a constant input, from many starts.

    From each start, Levenberg and Marquardt's method minimises ½‖F(h) − h‖², with the closed form
    of the Jacobian where there is one. A few steps of Newton's method follow, each of them kept
    where it lowers the speed. A *fixed point* does not move. A *slow point* is a state near which
    the network lingers: the sum of squares has a minimum there that is not zero, or a valley.
    Tolerances on the speed tell the two apart, and `print` shows them. Points that are nearer to
    each other than `same_within` count as one.

    With `period=p` F is the map of p steps, and what is found are cycles. The least period of
    each is in the result. Two states of one cycle are the same point.

    Args:
        recurrence: the system.
        states: where to start, `(starts, n)`, such as rows of `trajectory` or of `draw_states`.
            Carries with a first axis of starts do, too.
        x: the constant input, that of one step, or None for a system without input.
        period: number of steps p of the map, at least 1. Static.
        max_iterations: most iterations of the solver for each start. Static.
        fixed_speed: the largest speed of a fixed point, eps^¾ of the dtype by default, which is
            1.8e-12 in float64 and 6.4e-6 in float32.
        slow_speed: the largest speed of a slow point.
        same_within: distance within which two points are the same.
        outlier_scale: distance from the centre of the starts beyond which a point is an outlier, in
            units that `FixedPoints.is_outlier` tells.
        num_at_once: starts that are solved side by side. All of them wait for the slowest. Static.

    Returns:
        One row for each start. `.distinct()` has one row for each point.

    Raises:
        ValueError: counts below one, tolerances that are not positive, a slow speed below the fixed
            one, shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a step that computes in fewer bits than its state
            has.
        ModuleNotFoundError: optimistix is not installed.

    Cost: each iteration takes p Jacobians and O(n³). Memory holds `num_at_once` matrices. It works
    under `jit` and `vmap`. The derivative of a fixed point with respect to parameters and input is
    that of the implicit function, (1 − J)⁻¹ ∂F/∂θ, and NaN where 1 − J is singular, as on a line of
    fixed points. States that are not fixed have none. A search finds what its starts lead to, and
    no search can say that it found all.

    References:
        D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in
        high-dimensional recurrent neural networks", Neural Computation 25 (2013).
        M. D. Golub and D. Sussillo, "FixedPointFinder: a Tensorflow toolbox for identifying and
        characterizing fixed points in recurrent neural networks", JOSS 3 (2018).

    Example:
        >>> import jax.numpy as jnp
        >>> def doublewell(params, carry, x):
        ...     return jnp.tanh(params * carry + x)
        >>> system = Recurrence(doublewell, jnp.array(2.0))
        >>> found = fixed_points(system, jnp.linspace(-1, 1, 9)[:, None], jnp.zeros(1))
        >>> print(jnp.sort(found.distinct("fixed").states[:, 0]).round(4) + 0.0)
        [-0.9575  0.      0.9575]
    """
    system, rows = bind_states(recurrence, states, x)
    check_precision(rows.dtype)
    check_at_least(1, period=period, max_iterations=max_iterations, num_at_once=num_at_once)
    fixed_speed = _fixed_speed(rows.dtype) if fixed_speed is None else fixed_speed
    tolerances = {
        "fixed_speed": fixed_speed,
        "slow_speed": slow_speed,
        "same_within": same_within,
        "outlier_scale": outlier_scale,
    }
    for name, value in tolerances.items():
        check_number(name, value, above=0)
    if not isinstance(fixed_speed, Tracer):
        check_number("slow_speed", slow_speed, least=float(fixed_speed), advice="fixed_speed")
    _import_optimistix()
    tolerances = {name: jnp.asarray(value, rows.dtype) for name, value in tolerances.items()}
    return _search(system, rows, tolerances, period, max_iterations, num_at_once)


def _fixed_speed(dtype) -> float:
    """Return the largest speed of a fixed point where nobody gave one."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def _import_optimistix() -> Any:
    try:
        import lineax
        import optimistix
    except ModuleNotFoundError as error:
        msg = "fixed_points needs optimistix: pip install 'jacobian_rnn[analysis]'"
        raise ModuleNotFoundError(msg) from error
    return optimistix, lineax


@partial(jax.jit, static_argnames=("period", "max_iterations", "num_at_once"))
def _search(system, starts, tolerances, period, max_iterations, num_at_once):
    refuse_coarse_step(system)
    # The derivative comes from the implicit function below, and not from the iterations.
    still, starts = lax.stop_gradient((system, starts))

    def solve(start):
        state, converged, num_iterations = _minimize(still, start, period, max_iterations)
        return _polish(still, state, period), converged, num_iterations

    found, converged, num_iterations = lax.map(
        solve, starts, batch_size=min(num_at_once, len(starts))
    )
    orbits = lax.map(lambda state: orbit(still, state, period), found)
    speeds = row_norms(orbits[:, -1] - found)
    is_fixed = speeds <= tolerances["fixed_speed"]
    is_slow = ~is_fixed & (speeds <= tolerances["slow_speed"])
    same_as, num_starts = _merge(
        orbits[:, :-1], speeds, is_fixed | is_slow, tolerances["same_within"]
    )
    gaps = jnp.linalg.norm(orbits[:, 1:] - found[:, None], axis=-1)
    # A state returns as well as the whole cycle does.
    returns = gaps <= 10 * jnp.maximum(speeds, tolerances["fixed_speed"])[:, None]
    divisors = jnp.asarray([period % steps == 0 for steps in range(1, period + 1)])
    return FixedPoints(
        states=jax.vmap(_with_derivative, in_axes=(None, 0, 0, None))(
            system, found, is_fixed, period
        ),
        residuals=speeds**2 / 2,
        speeds=speeds,
        is_fixed=is_fixed,
        is_slow=is_slow,
        is_outlier=_is_outlier(starts, found, is_fixed | is_slow, tolerances["outlier_scale"]),
        converged=converged,
        num_iterations=num_iterations,
        periods=(1 + jnp.argmax((returns & divisors[None]).at[:, -1].set(True), axis=1)).astype(
            jnp.int32
        ),
        same_as=same_as,
        num_starts=num_starts,
        fixed_speed=tolerances["fixed_speed"],
        slow_speed=tolerances["slow_speed"],
        same_within=tolerances["same_within"],
    )


def _is_outlier(starts, found, counts, outlier_scale):
    """Say which states are far from the centre of the starts, as `FixedPoints.is_outlier` tells."""
    centre = jnp.mean(starts, axis=0)
    distances = row_norms(found - centre[None])
    # Starts may be closer to each other than to what they find.
    typical = jnp.nanmedian(jnp.where(counts, distances, jnp.nan))
    spread = jnp.mean(row_norms(starts - centre[None]))
    scale = jnp.fmax(jnp.maximum(spread, jnp.linalg.norm(centre)), typical)  # NaN: nothing found
    return ~(distances <= jnp.where(scale > 0, outlier_scale * scale, jnp.inf))


def _minimize(system, start, period, max_iterations):
    """Minimise ½‖F(h) − h‖² from one start."""
    optimistix, lineax = _import_optimistix()
    dtype, tolerance = start.dtype, float(jnp.finfo(start.dtype).eps) ** 0.5
    # The solver's own numbers are of JAX's default dtype, and it takes no others.
    solver_dtype = jnp.result_type(float)
    # Normal equations have half of the digits. That is enough for a step, whose sum of squares is
    # compared with the last one, and they are several times as fast as a QR of 2n rows.
    solver = optimistix.LevenbergMarquardt(
        tolerance, tolerance, linear_solver=lineax.Normal(lineax.Cholesky())
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solution = optimistix.least_squares(
            lambda state, _: displacement(system, state.astype(dtype), period).astype(solver_dtype),
            solver,
            start.astype(solver_dtype),
            max_steps=max_iterations,
            throw=False,
        )
    converged = solution.result == optimistix.RESULTS.successful
    num_iterations = jnp.asarray(solution.stats["num_steps"], jnp.int32)
    return solution.value.astype(dtype), converged, num_iterations


def _polish(system, state, period):
    """Take Newton steps to a zero of F(h) − h, as long as they lower the speed."""
    identity, limits = jnp.eye(system.num_states, dtype=state.dtype), jnp.finfo(state.dtype)

    def one(_, carried):
        state, moved = carried
        slope = return_jacobian(system, state, period) - identity
        step = jnp.linalg.solve(slope, moved)
        new = state - step
        new_moved = displacement(system, new, period)
        # A singular slope gives NaN, which is not lower. One that is singular but for rounding
        # would throw a state far along the line on which all are fixed.
        lower = jnp.linalg.norm(new_moved) < jnp.linalg.norm(moved)
        lower &= jnp.linalg.norm(step) * jnp.sqrt(limits.eps) < jnp.linalg.norm(moved)
        return jax.tree.map(partial(jnp.where, lower), (new, new_moved), carried)

    start = (state, displacement(system, state, period))
    return lax.fori_loop(0, NUM_POLISHING_STEPS, one, start)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _with_derivative(system, state, is_fixed, period):
    """Give a fixed point the derivatives of the implicit function, and leave its value alone."""
    del system, is_fixed, period
    return state


@_with_derivative.defjvp
def _derivative(period, primals, tangents):
    system, state, is_fixed = primals
    # As the rule calls what it is the rule of, higher derivatives are right, too.
    state = _with_derivative(system, state, is_fixed, period)

    def returned(system):
        return orbit(system, state, period)[-1]

    _, moved = jax.jvp(returned, (system,), (tangents[0],))
    identity = jnp.eye(len(state), dtype=state.dtype)
    slope = identity - return_jacobian(system, state, period)
    # Others have no derivative, and a slope of one lets zeros pass.
    slope = jnp.where(is_fixed, slope, identity)
    return state, jnp.where(is_fixed, jnp.linalg.solve(slope, moved), 0)


def _merge(orbits, speeds, counts, same_within):
    """Let points join the slowest one that is near to them, and count how many did."""
    num_points = len(speeds)
    order = jnp.argsort(jnp.where(counts, speeds, jnp.inf))
    numbers = jnp.arange(num_points, dtype=jnp.int32)

    def join(place, same_as):
        this = order[place]
        # Any state of a cycle stands for it.
        gaps = jnp.linalg.norm(orbits[this][:, None] - orbits[None, :, 0], axis=-1)
        near = (jnp.min(gaps, axis=0) <= same_within) & (same_as == numbers) & counts
        near &= jnp.zeros(num_points, bool).at[order].set(numbers < place)
        first = jnp.argmin(jnp.where(near, speeds, jnp.inf)).astype(jnp.int32)
        joins = counts[this] & jnp.any(near)
        return same_as.at[this].set(jnp.where(joins, first, this.astype(jnp.int32)))

    same_as = lax.fori_loop(0, num_points, join, numbers)
    return same_as, jnp.zeros_like(numbers).at[same_as].add(counts.astype(jnp.int32))

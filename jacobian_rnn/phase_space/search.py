"""Search for fixed points, slow points and cycles of a recurrence under a constant input."""

from functools import partial
from typing import Literal, NamedTuple, get_args

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
from jacobian_rnn.phase_space._return_map import orbit, return_jacobian
from jacobian_rnn.phase_space._solver import import_optimistix, minimize
from jacobian_rnn.phase_space.starts import bind_states

Kind = Literal["any", "fixed", "slow"]


class FixedPoints(NamedTuple):
    """What a search found from each of k starts.

    Attributes:
        states: where each search ended, `(k, n)`. They have a derivative where they are fixed.
        residuals: ½‖F(h) − h‖² there, squared units of the state, `(k,)`, where F is the map of one
            step, or of `period` steps.
        speeds: ‖F(h) − h‖ there, units of the state per application of F, `(k,)`.
        sizes: by which speeds and distances are measured, units of the state, `(k,)`: the larger of
            ‖h‖ and the median norm of the starts.
        is_fixed: speeds of at most `fixed_speed` sizes, or of at most what rounding makes of a
            state at rest, eps ‖1 − J‖ sizes, where that is more and below `slow_speed` sizes,
            `(k,)`.
        is_slow: other speeds of at most `slow_speed` sizes, `(k,)`.
        is_degenerate: fixed points where 1 − J is singular to the accuracy of the point, `(k,)`.
            There may be several points within the tolerances, a line of them, or none.
        is_outlier: states that are not finite, or farther from the centre of the starts than
            `outlier_scale` times the largest of three lengths: the mean distance of a start from
            it, that of zero, and the median distance of what was found, `(k,)`.
        converged: whether the search stopped by itself, `(k,)`.
        num_iterations: steps of the first method, int32 `(k,)`.
        periods: the least number of steps after which the state returns, int32 `(k,)`. It is 1 at a
            fixed point, also where cycles are searched for.
        same_as: the start that found the same point with the lowest speed, int32 `(k,)`. It is the
            start itself where it found it best, and where it found neither a fixed nor a slow
            point.
        num_starts: number of starts that found this point, int32 `(k,)`. It is 0 for duplicates,
            and for starts that found neither a fixed nor a slow point.
        fixed_speed: the tolerance, sizes per application of F, scalar.
        slow_speed: the tolerance, sizes per application of F, scalar.
        same_within: distance below which two points are the same, sizes, scalar.
    """

    states: Float[Array, "starts n"]
    residuals: Float[Array, " starts"]
    speeds: Float[Array, " starts"]
    sizes: Float[Array, " starts"]
    is_fixed: Bool[Array, " starts"]
    is_slow: Bool[Array, " starts"]
    is_degenerate: Bool[Array, " starts"]
    is_outlier: Bool[Array, " starts"]
    converged: Bool[Array, " starts"]
    num_iterations: Int[Array, " starts"]
    periods: Int[Array, " starts"]
    same_as: Int[Array, " starts"]
    num_starts: Int[Array, " starts"]
    fixed_speed: Float[Array, ""]
    slow_speed: Float[Array, ""]
    same_within: Float[Array, ""]

    @property
    def relative_speeds(self) -> Float[Array, " starts"]:
        """The speeds over the sizes, `(k,)`, which are compared with the tolerances."""
        return self.speeds / jnp.where(self.sizes > 0, self.sizes, 1)

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
    num_at_once: int = 4,
) -> FixedPoints:
    """Search for fixed points and slow points under a constant input, from many starts.

    From each start, Levenberg and Marquardt's method minimises ½‖F(h) − h‖², with the closed form
    of the Jacobian where there is one. Newton's method follows, as long as its steps halve the
    speed. A *fixed point* does not move. A *slow point* is a state near which the network lingers:
    the sum of squares has a minimum there that is not zero, or a valley. Tolerances on the speed
    tell the two apart, and `print` shows them. Points that are nearer to each other than
    `same_within` count as one. All three are relative to the size of the state, which is the larger
    of ‖h‖ and the median norm of the starts: a network in other units has the same points.

    A fixed point is *degenerate* where 1 − J is singular, as on a line of fixed points or where two
    of them meet. Both methods approach it by a constant factor a step. It is told by
    s² ≤ 2 max(speed, eps size)/size for s = 1/‖(1 − J)⁻¹‖, a lower bound of the least singular
    value. Above that, Newton and Kantorovich's theorem has exactly one fixed point nearby, if F
    curves by at most one over the size.

    With `period=p` F is the map of p steps, and what is found are cycles. The least period of
    each is in the result. Two states of one cycle are the same point.

    Args:
        recurrence: the system.
        states: where to start, `(starts, n)`, such as rows of `trajectory` or of `draw_states`.
            Carries with a first axis of starts do, too.
        x: the constant input, that of one step, or None for a system without input.
        period: number of steps p of the map, at least 1. Static.
        max_iterations: most steps of either method for each start, 32 of Newton's. Static.
        fixed_speed: the largest speed of a fixed point, in sizes of the state, eps^¾ of the dtype
            by default, which is 1.8e-12 in float64 and 6.4e-6 in float32. Where F expands so much
            that rounding moves a state at rest by more, eps ‖1 − J‖, that counts instead.
        slow_speed: the largest speed of a slow point, in sizes of the state.
        same_within: distance within which two points are the same, in sizes of the state.
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
    import_optimistix()
    tolerances = {name: jnp.asarray(value, rows.dtype) for name, value in tolerances.items()}
    return _search(system, rows, tolerances, period, max_iterations, num_at_once)


def _fixed_speed(dtype) -> float:
    """Return the largest speed of a fixed point where nobody gave one."""
    return float(jnp.finfo(dtype).eps) ** 0.75


@partial(jax.jit, static_argnames=("period", "max_iterations", "num_at_once"))
def _search(system, starts, tolerances, period, max_iterations, num_at_once):
    refuse_coarse_step(system)
    # The derivative comes from the implicit function below, and not from the iterations.
    still, starts = lax.stop_gradient((system, starts))

    typical = jnp.median(row_norms(starts))

    def solve(start):
        size = jnp.maximum(jnp.linalg.norm(start), typical)
        return minimize(still, start, jnp.where(size > 0, size, 1), period, max_iterations)

    at_once = min(num_at_once, len(starts))
    found, converged, num_iterations = lax.map(solve, starts, batch_size=at_once)
    orbits = lax.map(lambda state: orbit(still, state, period), found)
    speeds = row_norms(orbits[:, -1] - found)
    sizes = jnp.maximum(row_norms(found), typical)
    slopes, nearest_singular = lax.map(
        lambda state: _sizes_of_slope(still, state, period), found, batch_size=at_once
    )
    eps = jnp.finfo(speeds.dtype).eps
    rounding = jnp.minimum(eps * slopes, tolerances["slow_speed"])
    is_fixed = speeds <= jnp.maximum(tolerances["fixed_speed"], rounding) * sizes
    is_slow = ~is_fixed & (speeds <= tolerances["slow_speed"] * sizes)
    # Newton and Kantorovich's theorem has one point, and no other nearby, where the square of this
    # singular value is above 2 ‖F(h) − h‖ times the curvature of F, here one over the size.
    accuracy = jnp.maximum(speeds, eps * sizes)
    is_degenerate = is_fixed & (nearest_singular**2 * sizes <= 2 * accuracy)
    same_as, num_starts = _merge(
        orbits[:, :-1], speeds, is_fixed | is_slow, tolerances["same_within"] * sizes
    )
    gaps = jnp.linalg.norm(orbits[:, 1:] - found[:, None], axis=-1)
    # A state returns as well as the whole cycle does.
    returns = gaps <= 10 * jnp.maximum(speeds, tolerances["fixed_speed"] * sizes)[:, None]
    divisors = jnp.asarray([period % steps == 0 for steps in range(1, period + 1)])
    return FixedPoints(
        states=jax.vmap(_with_derivative, in_axes=(None, 0, 0, None))(
            system, found, is_fixed, period
        ),
        residuals=speeds**2 / 2,
        speeds=speeds,
        sizes=sizes,
        is_fixed=is_fixed,
        is_slow=is_slow,
        is_degenerate=is_degenerate,
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


def _sizes_of_slope(system, state, period):
    """Return the norm of 1 − J, and a lower bound of its least singular value, 1/‖(1 − J)⁻¹‖."""
    slope = jnp.eye(system.num_states, dtype=state.dtype) - return_jacobian(system, state, period)
    inverse = jnp.linalg.norm(jnp.linalg.inv(slope))
    return jnp.linalg.norm(slope), jnp.where(jnp.isfinite(inverse), 1 / inverse, 0)


def _is_outlier(starts, found, counts, outlier_scale):
    """Say which states are far from the centre of the starts, as `FixedPoints.is_outlier` tells."""
    centre = jnp.mean(starts, axis=0)
    distances = row_norms(found - centre[None])
    # Starts may be closer to each other than to what they find.
    typical = jnp.nanmedian(jnp.where(counts, distances, jnp.nan))
    spread = jnp.mean(row_norms(starts - centre[None]))
    scale = jnp.fmax(jnp.maximum(spread, jnp.linalg.norm(centre)), typical)  # NaN: nothing found
    return ~(distances <= jnp.where(scale > 0, outlier_scale * scale, jnp.inf))


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


def _merge(orbits, speeds, counts, radii):
    """Let points join the slowest one that is within their radius, and count how many did."""
    num_points = len(speeds)
    order = jnp.argsort(jnp.where(counts, speeds, jnp.inf))
    numbers = jnp.arange(num_points, dtype=jnp.int32)

    def join(place, same_as):
        this = order[place]
        # Any state of a cycle stands for it.
        gaps = jnp.linalg.norm(orbits[this][:, None] - orbits[None, :, 0], axis=-1)
        near = (jnp.min(gaps, axis=0) <= radii[this]) & (same_as == numbers) & counts
        near &= jnp.zeros(num_points, bool).at[order].set(numbers < place)
        first = jnp.argmin(jnp.where(near, speeds, jnp.inf)).astype(jnp.int32)
        joins = counts[this] & jnp.any(near)
        return same_as.at[this].set(jnp.where(joins, first, this.astype(jnp.int32)))

    same_as = lax.fori_loop(0, num_points, join, numbers)
    return same_as, jnp.zeros_like(numbers).at[same_as].add(counts.astype(jnp.int32))

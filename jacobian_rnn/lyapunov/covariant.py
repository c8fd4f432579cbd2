"""Covariant Lyapunov vectors, by Ginelli's method, with checkpoints along the trajectory.

A frame Q is pushed forwards, J Q = Q' R. Its columns are orthonormal, and so most of them are not
what tangents grow like. Those that are, V = Q C, have an upper triangle C with C = R⁻¹ C' up to the
scale of its columns. This recursion runs backwards in time, where it settles.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import (
    check_at_least,
    check_count,
    check_matrices,
    check_precision,
    check_warmup,
    refuse,
)
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import along, back_along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.batch_means import CAPACITY, BatchMeans, time_average
from jacobian_rnn.linalg.frames import generic_columns, positive_qr
from jacobian_rnn.linalg.graded_svd import matmul

# Numbers that frames of stored steps may take in memory, 128 MiB in float64.
MOST_STORED_NUMBERS = 2**24


class CovariantVectors(NamedTuple):
    """Covariant Lyapunov vectors along a stretch of T counted steps, fastest first.

    Attributes:
        vectors: unit columns, `(stored, n, k)`. `[i, :, j]` belongs to exponent j, and the step
            takes it to a multiple of the vector of the next step. Signs are free.
        states: at which they stand, `(stored, n)`.
        steps: numbers of the steps before which they stand, int32 `(stored,)`, warm-up included.
        exponents: mean log growth of each vector, nats per step, `(k,)`, descending up to errors,
            −inf for a direction that was lost in a counted step.
        standard_errors: of the exponents over time, autocorrelation accounted for, nats per step,
            `(k,)`, NaN for lost directions.
        log_growth: of each vector in each counted step, nats, `(T, k)`. Where vectors are NaN it is
            that of the frame, which has the same mean over a long time, and −inf in the step that
            lost the direction.
        angles: smallest angle between the space of the first `num_unstable` vectors and that of the
            others, radians, `(T,)`. It is NaN where one of the two is empty.
        num_unstable: number of vectors in the first space, int32 scalar.
        errors: sine of the angle between each vector and the same one from another starting frame,
            `(T, k)`. It is of the size of rounding where all has settled, and up to one where it
            has not, or where exponents coincide and single vectors have no meaning.
        first_lost_step: first step, warm-up included, that mapped a direction to zero or to
            rounding, int32 scalar, −1 if none. From there back, vectors of that direction and of
            slower ones are NaN.
        first_nonfinite_step: first step, warm-up included, whose Jacobian or new state held NaN or
            inf, int32 scalar, −1 if none. It can only be reported where all is traced.
    """

    vectors: Float[Array, "stored n k"]
    states: Float[Array, "stored n"]
    steps: Int[Array, " stored"]
    exponents: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    log_growth: Float[Array, "steps k"]
    angles: Float[Array, " steps"]
    num_unstable: Int[Array, ""]
    errors: Float[Array, "steps k"]
    first_lost_step: Int[Array, ""]
    first_nonfinite_step: Int[Array, ""]


def covariant_vectors(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_warmup: int,
    num_cooldown: int,
    num_steps: int | None = None,
    num_vectors: int | None = None,
    num_unstable: int | None = None,
    store_every: int = 1,
) -> CovariantVectors:
    """Compute the k fastest covariant Lyapunov vectors along one trajectory.

    At each step t the vector v_j(t) is the direction that grows at the rate λ_j forwards and
    shrinks at the rate −λ_j backwards, and J v_j(t) is a multiple of v_j(t + 1). For a constant
    Jacobian they are its eigenvectors. Angles between the space of the unstable ones and that of
    the others say how hyperbolic the motion is.

    Frames settle during the warm-up, coefficients during the cool-down at the end. The steps
    between are counted. All is done for two starting frames, and their difference is the error.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_warmup: number of first steps in which the frame settles. Static.
        num_cooldown: number of last steps in which the coefficients settle. Static.
        num_steps: number of steps where `xs` is None, warm-up and cool-down included.
        num_vectors: k, from 1 to n, by default n. Static.
        num_unstable: number of vectors in the first of the two spaces, from 0 to k. By default it
            is the number of positive exponents, which takes one more pass. Static.
        store_every: vectors are kept at every so many counted steps. Static.

    Returns:
        The vectors, their growth, and the angles between the two spaces.

    Raises:
        ValueError: counts out of range, nothing left to count, shapes that do not fit, values that
            are not finite, or a run that becomes so, unless it is traced.
        TypeError: float dtypes that differ, counts that are not integers, or a step that computes
            in fewer bits than its state has.

    Cost: 2k tangents and two QR factorisations in each of two or three passes. States and frames
    are stored for all steps where they fit into 2²⁴ numbers, and for √T of them otherwise. This
    takes one more pass. Results take T (2k + 1) numbers, and n k for each stored step. It works
    under `jit` and `vmap`. Results have no derivative. `lyapunov_spectrum` has that of exponents.

    References:
        F. Ginelli, P. Poggi, A. Turchi, H. Chaté, R. Livi and A. Politi, "Characterizing dynamics
        with covariant Lyapunov vectors", Phys. Rev. Lett. 99 (2007).
        P. V. Kuptsov and U. Parlitz, "Theory and computation of covariant Lyapunov vectors",
        J. Nonlinear Sci. 22 (2012).

    Example:
        >>> import jax.numpy as jnp
        >>> def henon(params, carry, x):
        ...     return jnp.array([1 - 1.4 * carry[0] ** 2 + carry[1], 0.3 * carry[0]])
        >>> found = covariant_vectors(
        ...     Recurrence(henon, ()), jnp.array([0.1, 0.1]), None,
        ...     num_steps=20_000, num_warmup=100, num_cooldown=100,
        ... )
        >>> print([round(float(rate), 2) for rate in found.exponents], found.num_unstable)
        [0.42, -1.62] 1
    """
    system = bind(recurrence, carry, xs, num_steps)
    return _covariant(system, num_warmup, num_cooldown, num_vectors, num_unstable, store_every)


def covariant_vectors_of(
    jacobians: Float[Array, "steps n n"],
    *,
    num_warmup: int,
    num_cooldown: int,
    num_vectors: int | None = None,
    num_unstable: int | None = None,
    store_every: int = 1,
) -> CovariantVectors:
    """Compute the k fastest covariant Lyapunov vectors of given matrices.

    Args:
        jacobians: shape `(T, n, n)`, rows as outputs, earliest first.
        num_warmup: as in `covariant_vectors`.
        num_cooldown: as in `covariant_vectors`.
        num_vectors: as in `covariant_vectors`.
        num_unstable: as in `covariant_vectors`.
        store_every: as in `covariant_vectors`.

    Returns:
        The vectors, as `covariant_vectors` returns them, with states of zeros.

    Raises:
        ValueError: as in `covariant_vectors`.
        TypeError: as in `covariant_vectors`.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 1.0], [0.0, 0.5]])
        >>> found = covariant_vectors_of(
        ...     jnp.tile(matrix, (100, 1, 1)), num_warmup=40, num_cooldown=40
        ... )
        >>> print(jnp.abs(found.vectors[0]).round(3))
        [[1.    0.555]
         [0.    0.832]]
    """
    jacobians = check_matrices("jacobians", jacobians)
    rest = jnp.zeros(jacobians.shape[1], jacobians.dtype)
    system = bind(Recurrence(_multiply, ()), rest, jacobians)
    return _covariant(system, num_warmup, num_cooldown, num_vectors, num_unstable, store_every)


def _multiply(_, carry, matrix):
    return matmul(matrix, carry[:, None])[:, 0]


def _covariant(system, num_warmup, num_cooldown, num_vectors, num_unstable, store_every):
    check_precision(system.state.dtype)
    check_warmup(num_warmup, system.num_steps)
    check_at_least(0, num_cooldown=num_cooldown)
    if num_warmup + num_cooldown >= system.num_steps:
        received = f"{num_cooldown} after a warm-up of {num_warmup}, of {system.num_steps} steps"
        refuse("num_cooldown", received, "steps left to count", "give a longer sequence")
    n = system.num_states
    k = n if num_vectors is None else num_vectors
    check_count("num_vectors", k, least=1, most=n, advice="n is the size of the state")
    if num_unstable is not None:
        check_count("num_unstable", num_unstable, least=0, most=k, advice="k is num_vectors")
    check_at_least(1, store_every=store_every)
    found = _run(system, num_warmup, num_cooldown, int(k), num_unstable, store_every)
    first = found.first_nonfinite_step
    if not isinstance(first, Tracer) and first >= 0:
        received = f"NaN or infinity in the state or the Jacobian of step {first}"
        advice = "the trajectory diverges: take fewer steps, another carry or smaller weights"
        refuse("recurrence", received, "finite numbers in all steps", advice)
    return found


@partial(
    jax.jit,
    static_argnames=("num_warmup", "num_cooldown", "k", "num_unstable", "store_every"),
)
def _run(system, num_warmup, num_cooldown, k, num_unstable, store_every):
    refuse_coarse_step(system)
    system = lax.stop_gradient(system)
    n, dtype = system.num_states, system.state.dtype
    framed = _with_frames(system, k)

    def settle(broken, now):
        new = framed.step(now.state, now.x)
        return new, _earlier(broken, now.number, ~jnp.all(jnp.isfinite(new))), None

    none = jnp.int32(-1)
    settled, broken, _ = along(_part(framed, framed.state, 0, num_warmup), settle, none)
    rest = _part(framed, settled, num_warmup, framed.num_steps)
    if num_unstable is None:
        counted = _part(framed, settled, num_warmup, framed.num_steps - num_cooldown)
        num_unstable = jnp.sum(_growth(counted, k) > 0, dtype=jnp.int32)
    is_unstable = jnp.arange(k, dtype=jnp.int32) < num_unstable
    num_counted = rest.num_steps - num_cooldown
    num_stored = -(-num_counted // store_every)

    def visit(carried, now):
        coefficients, lost, broken, stored = carried
        state, frames = framed.unravel(now.state)
        new, new_frames, uppers, gone = _push(system, state, frames, now.x)
        is_finite = jnp.all(jnp.isfinite(new)) & jnp.all(jnp.isfinite(new_frames))
        broken = jnp.where(is_finite, broken, now.number)
        coefficients, log_growth = _pull_coefficients(uppers, gone, coefficients)
        lost = jnp.where(jnp.any(gone, axis=0), now.number, lost)
        dead = jnp.cumsum(lost >= 0) > 0
        first, other = matmul(frames, coefficients)
        seen = jnp.where(dead[None], jnp.nan, first)
        place = jnp.where(now.number % store_every == 0, now.number // store_every, num_stored)
        stored = stored[0].at[place].set(seen), stored[1].at[place].set(state)
        record = (
            jnp.where(dead, _log_pivots(uppers[0], gone[0]), log_growth),
            jnp.where(jnp.any(dead), jnp.nan, _angle(coefficients[0], is_unstable)),
            jnp.where(dead, jnp.nan, _sines(first, other)),
        )
        return (coefficients, lost, broken, stored), record

    generic = jnp.triu(jnp.asarray(generic_columns(k, k), dtype), 1) + jnp.eye(k, dtype=dtype)
    other = jnp.triu(jnp.asarray(generic_columns(k, k, 1), dtype), 1) + jnp.eye(k, dtype=dtype)
    stored = jnp.zeros((num_stored, n, k), dtype), jnp.zeros((num_stored, n), dtype)
    start = (jnp.stack([generic, other]), jnp.full(k, -1, jnp.int32), none, stored)
    most_stored = max(1, MOST_STORED_NUMBERS // settled.size)
    (_, lost, later, (vectors, states)), records = back_along(
        rest, visit, start, most_stored=most_stored
    )
    log_growth, angles, errors = jax.tree.map(lambda a: a[:num_counted], records)
    average = _time_average(log_growth)
    first_lost = jnp.min(jnp.where(lost >= 0, lost, rest.num_steps))
    return CovariantVectors(
        vectors=vectors,
        states=states,
        steps=num_warmup + store_every * jnp.arange(num_stored, dtype=jnp.int32),
        exponents=jnp.mean(log_growth, axis=0),
        standard_errors=average.standard_error,
        log_growth=log_growth,
        angles=angles,
        num_unstable=jnp.asarray(num_unstable, jnp.int32),
        errors=errors,
        first_lost_step=jnp.where(jnp.any(lost >= 0), num_warmup + first_lost, -1).astype(
            jnp.int32
        ),
        first_nonfinite_step=_earlier(broken, num_warmup + later, later >= 0).astype(jnp.int32),
    )


def _with_frames(system: System, k: int) -> System:
    """Return a system whose state holds two frames of k tangents beside that of the first."""
    n, dtype = system.num_states, system.state.dtype
    frames = jnp.stack([jnp.asarray(generic_columns(n, k, draw), dtype) for draw in (0, 1)])
    state, unravel = ravel_pytree((system.state, frames))

    def step(system, carry, x):
        state, frames = carry
        return _push(system, state, frames, x)[:2]

    return System(Recurrence(step, system), state, system.xs, system.num_steps, unravel)


def _push(system, state, frames, x):
    """Push both frames by a step: the new state, new frames, triangles, and what is gone."""
    _, n, k = frames.shape
    rows = jnp.swapaxes(frames, 1, 2).reshape(2 * k, n)
    if system.has_parts:
        new, pushed = system.step(state, x), system.parts(state, x).push(rows)
    else:
        new, pushed = system.push(state, rows, x)
    columns = jnp.swapaxes(pushed.reshape(2, k, n), 1, 2)
    frames, uppers = jax.vmap(positive_qr)(columns)
    pivots = jnp.diagonal(uppers, axis1=1, axis2=2)
    sizes = jnp.linalg.norm(uppers, axis=1)
    return new, frames, uppers, pivots <= n * jnp.finfo(pivots.dtype).eps * sizes


def _pull_coefficients(uppers, gone, coefficients):
    """Return R⁻¹ C with unit columns, and the log growth of each vector of the first frame."""
    pivots = jnp.eye(gone.shape[1], dtype=bool)
    safe = jnp.where(pivots[None] & gone[:, None], 1, uppers)
    solved = lax.linalg.triangular_solve(safe, coefficients, left_side=True, lower=False)
    norms = jnp.linalg.norm(solved, axis=1)
    return solved / norms[:, None], -jnp.log(norms[0])


def _log_pivots(upper, gone):
    """Return the log growth of the columns of a frame, nats, `(k,)`, −inf where one is gone."""
    return jnp.log(jnp.where(gone, 0, jnp.diagonal(upper)))


def _earlier(first, number, happened):
    """Return the first step at which something happened, −1 if it never did."""
    return jnp.where((first < 0) & happened, number, first)


def _growth(system, k):
    """Return the mean log growth of the first frame, nats per step, `(k,)`."""

    def visit(total, now):
        (state, frames), inner = system.unravel(now.state), system.recurrence.params
        new, frames, uppers, gone = _push(inner, state, frames, now.x)
        return ravel_pytree((new, frames))[0], total + _log_pivots(uppers[0], gone[0]), None

    _, total, _ = along(system, visit, jnp.zeros(k, system.state.dtype))
    return total / system.num_steps


def _angle(coefficients, is_unstable):
    """Return the smallest angle between the first vectors and the others, radians.

    The projection along the others onto the first is [[1, Z], [0, 0]] in the frame, because the
    first vectors span the first columns of the frame. The cotangent of the angle is the norm of Z.
    """
    k, dtype = len(coefficients), coefficients.dtype
    chosen = is_unstable.astype(dtype)
    inverse = lax.linalg.triangular_solve(
        coefficients, jnp.eye(k, dtype=dtype), left_side=True, lower=False
    )
    projection = matmul(coefficients * chosen[None], inverse)
    cotangent = jnp.linalg.norm(projection * chosen[:, None] * (1 - chosen)[None], ord=2)
    both = jnp.any(is_unstable) & ~jnp.all(is_unstable)
    return jnp.where(both, jnp.arctan2(jnp.ones_like(cotangent), cotangent), jnp.nan)


def _sines(first, other):
    """Return the sine of the angle between equal columns."""
    signed = other * jnp.where(jnp.sum(first * other, axis=0) < 0, -1, 1)[None].astype(first.dtype)
    half = jnp.linalg.norm(first - signed, axis=0) / 2
    return 2 * half * jnp.sqrt(jnp.maximum(1 - half**2, 0))


def _part(system, state, first, last):
    """Return a system at a state, with the inputs of some of its steps."""
    xs = jax.tree.map(lambda x: x[first:last], system.xs)
    return dataclasses.replace(system, state=state, xs=xs, num_steps=last - first)


def _time_average(log_growth):
    num_steps, k = log_growth.shape
    length = -(-num_steps // CAPACITY)
    numbers = jnp.arange(num_steps) // length
    sums = jnp.zeros((CAPACITY, k), log_growth.dtype).at[numbers].add(log_growth)
    ends = jnp.minimum(length * jnp.arange(CAPACITY + 1, dtype=jnp.int32), num_steps)
    return time_average(BatchMeans(sums, jnp.diff(ends), jnp.int32(length)))

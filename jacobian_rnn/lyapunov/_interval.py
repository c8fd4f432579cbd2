"""One interval of steps: a frame of tangents is pushed through it and factored at its end."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jacobian_rnn.linalg.frames import Factorization, factor_columns

LONGEST_INTERVAL = 16


class Tangents(NamedTuple):
    """The functions that move the state and the tangent vectors of a system. Static.

    Attributes:
        push: `(state, rows, x) -> (new state, new rows)`, one tangent in each row, `(k, n)`. In
            memory these are the columns of a frame, as LAPACK wants them.
        log_abs_det: `(state, x) -> log|det J|`, nats, for the checks.
    """

    push: Callable[[Any, Array, PyTree], tuple[Any, Array]]
    log_abs_det: Callable[[Any, PyTree], Array]


class Trace(NamedTuple):
    """The record of every step of an interval, `(steps, ...)`.

    Attributes:
        peaks: largest absolute entry of each tangent after the step, `(steps, k)`.
        reached: whether any tangent after the step is nonzero in each coordinate, `(steps, n)`.
        states: after the step, `(steps, size)`.
    """

    peaks: Float[Array, "steps k"]
    reached: Bool[Array, "steps n"]
    states: Float[Array, "steps size"]


class Renewal(NamedTuple):
    """What an interval did to the frame.

    Attributes:
        pivots: growth of each direction at the factorisation, `(k,)`, 1 where there was none.
        sizes: what had to cancel to leave each pivot, `(k,)`, NaN where it is not known.
    """

    pivots: Float[Array, " k"]
    sizes: Float[Array, " k"]


def push_interval(
    push: Callable, state: Array, rows: Float[Array, "k n"], xs: PyTree, num_steps: int
) -> tuple[Array, Float[Array, "k n"], PyTree]:
    """Push a frame through an interval of steps, and record every step, in packed or plain form."""

    def one_step(carried, x):
        state, rows = carried
        state, rows = push(state, rows, x)
        sizes = jnp.abs(lax.stop_gradient(rows))
        # The new state is recorded, because XLA would have to copy the old one first.
        trace = Trace(jnp.max(sizes, axis=1), jnp.any(sizes != 0, axis=0), state)
        return (state, rows), _pack(trace)

    if num_steps == 1:
        (state, rows), record = one_step((state, rows), jax.tree.map(lambda x: x[0], xs))
        records = jax.tree.map(lambda a: a[None], record)
    else:
        # A turn of a loop takes as long as a small step, so it does two.
        (state, rows), records = lax.scan(one_step, (state, rows), xs, length=num_steps, unroll=2)
    return state, rows, records


def _pack(trace: Trace) -> Trace | Float[Array, " all"]:
    """Put small records into one array, because each one alone takes as long as a small step."""
    k, n = trace.peaks.size, trace.reached.size
    if 4 * k > n:
        return trace
    return jnp.concatenate([trace.peaks, trace.reached.astype(trace.states.dtype), trace.states])


def _unpack(records: Trace | Float[Array, "... all"], k: int, n: int) -> Trace:
    if isinstance(records, Trace):
        return records
    peaks, reached, states = jnp.split(records, [k, k + n], axis=-1)
    return Trace(peaks, reached != 0, states)


def renew(
    rows: Float[Array, "k n"],
    peaks: Float[Array, " k"],
    factorization: Factorization,
    *,
    is_due: Bool[Array, ""] | bool,
    is_single: bool,
) -> tuple[Float[Array, "k n"], Float[Array, " k"], Renewal]:
    """Factor a pushed frame, if that is due.

    `peaks` are the largest entries since the last factorisation, which a single step does not need.
    The results are the frame, the peaks from here on, and what was done.
    """

    def factor():
        factored = factor_columns(rows.T, factorization)
        sizes = factored.sizes if is_single else jnp.maximum(factored.sizes, peaks)
        return factored.frame.T, jnp.zeros_like(peaks), Renewal(factored.pivots, sizes)

    def keep():
        sizes = jnp.where(jnp.isfinite(peaks), 1, jnp.nan).astype(peaks.dtype)
        return rows, peaks, Renewal(jnp.ones_like(peaks), sizes)

    if isinstance(is_due, bool):
        return factor() if is_due else keep()
    return lax.cond(is_due, factor, keep)


def push_and_renew(
    tangents: Tangents,
    factorization: Factorization,
    state: Array,
    rows: Float[Array, "k n"],
    intervals: PyTree,
    length: int,
    every: int | Array,
) -> tuple[Array, Float[Array, "k n"], Trace, Renewal]:
    """Push a frame through intervals of `length` steps, and factor it once in `every` of them.

    Args:
        tangents: functions that move the system.
        factorization: see `linalg.frames.factor_columns`. Static.
        state: of the system.
        rows: the frame, one tangent in each row.
        intervals: the numbers of the intervals, from 0, and their inputs, `(count, length, ...)`.
        length: of an interval, in steps. Static.
        every: 1, or a traced number, whose product with `length` is at most `LONGEST_INTERVAL`.

    Returns:
        State and frame at the end, and the records of all intervals.
    """
    k, n = rows.shape
    always = isinstance(every, int) and every == 1
    step = partial(push_interval, tangents.push)

    def one_interval(carried, interval):
        state, rows, peaks = carried
        number, xs = interval
        state, rows, records = step(state, rows, xs, length)
        peaks = jnp.maximum(peaks, jnp.max(_unpack(records, k, n).peaks, axis=0))
        rows, peaks, renewal = renew(
            rows,
            peaks,
            factorization,
            is_due=always or (number + 1) % every == 0,
            is_single=always and length == 1,
        )
        return (state, rows, peaks), (records, renewal)

    start = (state, rows, jnp.zeros(rows.shape[0], rows.dtype))
    (state, rows, _), (records, renewals) = lax.scan(one_interval, start, intervals)
    return state, rows, _unpack(records, k, n), renewals

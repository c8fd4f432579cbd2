"""The loop over time, with a visit at every step, forwards or backwards over the same states.

A measurement along a trajectory is a *visit*. This is a function that is called at every step and
carries what it measures from one step to the next.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.jacobians.system import System

MOST_STORED_STATES = 4096


class Moment(NamedTuple):
    """One step, as a visit sees it.

    Attributes:
        number: of the step, from 0 to T − 1, int32 scalar.
        state: before the step, `(n,)`.
        x: its input.
        extra: its entry of the extra arrays, if there are any.
    """

    number: Int[Array, ""]
    state: Float[Array, " n"]
    x: PyTree
    extra: PyTree


def along(
    system: System, visit: Callable[[Any, Moment], tuple[Array, Any, Any]], start: Any
) -> tuple[Array, Any, Any]:
    """Take all steps of a system, forwards.

    Args:
        system: at its first state.
        visit: `(carried, moment) -> (next state, carried, record)`.
        start: what the first visit carries.

    Returns:
        The last state, what the last visit carries, and the records, one for each step.
    """

    def one_step(carried, step):
        state, carried = carried
        number, x = step
        state, carried, record = visit(carried, Moment(number, state, x, None))
        return (state, carried), record

    steps = (jnp.arange(system.num_steps, dtype=jnp.int32), system.xs)
    (state, carried), records = lax.scan(one_step, (system.state, start), steps)
    return state, carried, records


def states_of(system: System) -> Float[Array, "steps_plus_1 n"]:
    """Return all states, the first one included."""

    def visit(_, now):
        new = system.step(now.state, now.x)
        return new, None, new

    _, _, later = along(system, visit, None)
    return jnp.concatenate([system.state[None], later])


class Run(NamedTuple):
    """What `run` saw.

    Attributes:
        states: before every step, `(T, n)`; None where there are too many to be stored.
        last: the last state before one that is not finite, `(n,)`.
        num_finite: number of steps to `last`, int32 scalar; T if all states are finite.
        records: what the visit recorded, one for each step.
    """

    states: Float[Array, "steps n"] | None
    last: Float[Array, " n"]
    num_finite: Int[Array, ""]
    records: Any


def run(
    system: System,
    visit: Callable[[Any, Moment], tuple[Array, Any, Any]] | None = None,
    start: Any = None,
    *,
    most_stored: int = MOST_STORED_STATES,
) -> Run:
    """Take all steps of a system as `along` does, and see how far its states are finite."""
    visit = visit or (lambda _, now: (system.step(now.state, now.x), None, None))

    def watch(carried, now):
        last, num_finite, carried = carried
        new, carried, record = visit(carried, now)
        goes_on = (num_finite == now.number) & jnp.all(jnp.isfinite(new))
        last = jnp.where(goes_on, new, last)
        stored = now.state if system.num_steps <= most_stored else None
        return new, (last, num_finite + goes_on.astype(jnp.int32), carried), (stored, record)

    _, carried, (states, records) = along(system, watch, (system.state, jnp.int32(0), start))
    last, num_finite, _ = carried
    return Run(states, last, num_finite, records)


def back_along(
    system: System,
    visit: Callable[[Any, Moment], tuple[Any, Any]],
    start: Any,
    *,
    extra: PyTree = None,
    states: Float[Array, "steps n"] | None = None,
    most_stored: int = MOST_STORED_STATES,
) -> tuple[Any, Any]:
    """Take all steps of a system, and visit them backwards, the last one first.

    A sequence of more than `most_stored` steps is cut into about √T segments, whose first states
    are stored. The states within a segment are computed again when it is visited. Then each step is
    taken twice, and memory holds 2√T states instead of T.

    Args:
        system: at its first state.
        visit: `(carried, moment) -> (carried, record)`.
        start: what the first visit carries, which is that of the last step.
        extra: arrays with an entry for each step, `(T, ...)`, that the visit needs.
        states: before every step, `(T, n)`, if they are known and in memory already.
        most_stored: number of states that may be stored.

    Returns:
        What the last visit carries, and the records, one for each step, in the order of time.
    """
    num_steps = system.num_steps
    if states is not None:
        numbers = jnp.arange(num_steps, dtype=jnp.int32)
        return lax.scan(visit, start, Moment(numbers, states, system.xs, extra), reverse=True)
    length = num_steps if num_steps <= most_stored else math.isqrt(num_steps - 1) + 1
    num_segments, rest = divmod(num_steps, max(length, 1))

    def segment(first, size):
        def cut(tree):
            return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, first, size), tree)

        return cut(system.xs), cut(extra)

    def visit_segment(carried, first, state, size):
        xs, extras = segment(first, size)
        states = states_of(dataclasses.replace(system, state=state, xs=xs, num_steps=size))[:-1]
        moments = Moment(first + jnp.arange(size, dtype=jnp.int32), states, xs, extras)
        return lax.scan(visit, carried, moments, reverse=True)

    if num_segments <= 1 and rest == 0:
        return visit_segment(start, 0, system.state, num_steps)

    def last_of_segment(state, first):
        xs, _ = segment(first, length)
        part = dataclasses.replace(system, state=state, xs=xs, num_steps=length)
        end, _, _ = along(part, lambda _, now: (system.step(now.state, now.x), None, None), None)
        return end, state

    firsts = length * jnp.arange(num_segments, dtype=jnp.int32)
    end, starts = lax.scan(last_of_segment, system.state, firsts)
    carried, last_records = start, None
    if rest:
        carried, last_records = visit_segment(start, num_segments * length, end, rest)
    carried, records = lax.scan(
        lambda carried, at: visit_segment(carried, *at, length),
        carried,
        (firsts, starts),
        reverse=True,
    )
    records = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), records)
    if rest:
        records = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), records, last_records)
    return carried, records

"""A run along a trajectory of units that see themselves alone: a small frame for each of them.

In a stack of layers they may also see the layers below. Then the Jacobian is block triangular, and
the exponents are those of the blocks on its diagonal. The space of the layers from one layer on is
mapped into itself, and what a frame does in it is seen by no layer below. So a frame whose first
columns lie in the highest layer, the next ones in that and the layer below, and so on, has a
triangle R whose diagonal is that of the frames of the layers by themselves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.jacobians.unit_places import sum_log_abs_dets
from jacobian_rnn.linalg.batch_means import CAPACITY, BatchMeans
from jacobian_rnn.linalg.frames import generic_columns
from jacobian_rnn.lyapunov._run import Faults, TangentRun, no_faults
from jacobian_rnn.lyapunov._volume_check import VolumeCheck, no_check

# Matrices of up to this size are factored entry by entry, without a loop.
MOST_UNROLLED = 8


class _Counted(NamedTuple):
    """What is carried from step to step. Fields are those of `TangentRun`."""

    frames: tuple[Float[Array, "c c units"], ...]
    sums: Float[Array, "batches n"]
    alive: Bool[Array, " n"]
    cancellation: Float[Array, ""]
    check: VolumeCheck
    faults: Faults


def run_units(system: System, num_warmup: int) -> TangentRun:
    """Take all steps and push c tangents of each of N units, orthonormalised at every step.

    The Jacobian of each unit is a c × c block. All N of a layer are factored at once, entry by
    entry. Where one block is that of all units of a layer, it is factored once.
    """
    dtype, num_counted = system.state.dtype, system.num_steps - num_warmup
    shapes = [
        one.shape for one in jax.eval_shape(system.unit_layers, system.state, system.one_input)
    ]
    length = -(-num_counted // CAPACITY)
    places = system.unit_places()
    copies = [place.num_units // shape[2] for place, shape in zip(places, shapes, strict=True)]
    generic = [jnp.asarray(generic_columns(c, c), dtype)[..., None] for c, _, _ in shapes]

    def visit(before, now):
        counts, offset = now.number >= num_warmup, now.number - num_warmup
        new = system.step(now.state, now.x)
        layers = system.unit_layers(now.state, now.x)
        # What the warm-up loses starts anew.
        anew = [jnp.where(counts, 0, one) for one in generic]
        frames, pivots, sizes, gone = zip(*map(_renew, layers, before.frames, anew), strict=True)
        pivots, sizes, gone = (_ravel(one, copies) for one in (pivots, sizes, gone))
        logs = jnp.where(gone | ~counts, 0, jnp.log(jnp.where(gone, 1, pivots)))

        finite_state = jnp.all(jnp.isfinite(new))
        finite = finite_state & jnp.all(jnp.isfinite(_ravel(layers, [1] * len(layers))))
        dies = gone & before.alive & counts & finite
        alive = before.alive & ~dies
        cancelled = jnp.log(jnp.where(gone, 1, sizes)) - jnp.log(jnp.where(gone, 1, pivots))
        zero = pivots == 0
        seen = Faults(jnp.any(dies & ~zero), jnp.any(dies & zero), ~finite, ~finite_state)
        seen = Faults(*(jnp.where(flag, 0, -1) for flag in seen))
        return (
            new,
            _Counted(
                frames,
                before.sums.at[jnp.maximum(offset, 0) // length].add(logs),
                alive,
                jnp.maximum(before.cancellation, jnp.max(jnp.where(alive & counts, cancelled, 0))),
                before.check.add(_volume_check(logs, layers, places, counts & jnp.all(alive))),
                before.faults.then(seen, jnp.where(finite, offset, now.number)),
            ),
            None,
        )

    start = _Counted(
        tuple(map(jnp.broadcast_to, generic, shapes)),
        jnp.zeros((CAPACITY, system.num_states), dtype),
        jnp.ones(system.num_states, bool),
        jnp.zeros((), dtype),
        no_check(dtype),
        no_faults(),
    )
    state, counted, _ = along(system, visit, start)
    ends = jnp.minimum(length * jnp.arange(CAPACITY + 1, dtype=jnp.int32), num_counted)
    return TangentRun(
        state=state,
        frame=_join(counted.frames),
        batches=BatchMeans(counted.sums, jnp.diff(ends), jnp.int32(length)),
        alive=counted.alive,
        log_interval=jnp.int32(0),
        num_steps=jnp.int32(system.num_steps),
        cancellation=counted.cancellation,
        faults=counted.faults,
        check=counted.check,
    )


def _renew(blocks, frames, anew):
    """Push the frames of a layer, and return them, pivots, sizes, and what is gone, `(c, N)`."""
    pushed = jnp.sum(blocks[:, :, None] * frames[None], axis=1)
    frames, pivots, sizes = gram_schmidt(pushed)
    gone = pivots <= len(blocks) * jnp.finfo(blocks.dtype).eps * sizes
    return jnp.where(gone[None], anew, frames), pivots, sizes, gone


def _ravel(layers, copies):
    """Put what each layer has into one vector, as often as it has units of this kind."""
    repeated = zip(layers, copies, strict=True)
    return jnp.concatenate([jnp.repeat(layer.reshape(-1), count) for layer, count in repeated])


def _join(frames):
    """Return the frames of all units, `(units, c, c)`. Those of fewer arrays are padded."""
    largest = max(map(len, frames))
    padding = [((0, 0), *[(0, largest - len(one))] * 2) for one in frames]
    by_unit = [jnp.moveaxis(one, -1, 0) for one in frames]
    return jnp.concatenate(list(map(jnp.pad, by_unit, padding)))


def _volume_check(logs, layers, places, is_due):
    """Compare the growth of all frames in one step with log|det J|, where all are whole."""
    log_det = sum_log_abs_dets(jax.lax.stop_gradient(layers), places)
    is_due &= jnp.isfinite(log_det)
    log_det = jnp.where(is_due, log_det, 0)
    difference = jnp.abs(jax.lax.stop_gradient(jnp.sum(logs)) - log_det)
    return VolumeCheck(
        log_det, log_det**2, jnp.where(is_due, difference, 0), is_due.astype(jnp.int32)
    )


def gram_schmidt(
    columns: Float[Array, "c k units"],
) -> tuple[Float[Array, "c k units"], Float[Array, "k units"], Float[Array, "k units"]]:
    """Orthonormalise the columns of many small matrices, by modified Gram–Schmidt applied twice.

    Return them, what was left of each, and its size before the others were taken out.
    """
    if columns.shape[1] > MOST_UNROLLED:
        return _gram_schmidt_in_a_loop(columns)
    found, pivots, sizes = [], [], []
    for column in jnp.moveaxis(columns, 1, 0):
        scale = jax.lax.stop_gradient(jnp.max(jnp.abs(column), axis=0))
        scale = jnp.where(scale > 0, scale, 1)
        left = column / scale[None]
        size = _norms(left)
        for _ in range(2 if found else 0):
            for one in found:
                left = left - jnp.sum(one * left, axis=0)[None] * one
        norm = _norms(left)
        found.append(left / jnp.where(norm > 0, norm, 1)[None])
        pivots.append(scale * norm)
        sizes.append(scale * size)
    return jnp.stack(found, axis=1), jnp.stack(pivots), jnp.stack(sizes)


def _gram_schmidt_in_a_loop(columns):
    """Do the same for larger matrices, where a program without a loop would compile for minutes."""
    scales = jax.lax.stop_gradient(jnp.max(jnp.abs(columns), axis=0))
    scales = jnp.where(scales > 0, scales, 1)
    columns = columns / scales[None]
    sizes = _norms(columns)
    later = jnp.arange(columns.shape[1], dtype=jnp.int32)[:, None]

    def take_out(number, carried):
        columns, pivots = carried
        norm = _norms(columns[:, number])
        one = columns[:, number] / jnp.where(norm > 0, norm, 1)[None]
        shares = jnp.sum(one[:, None] * columns, axis=0)
        columns = columns - one[:, None] * jnp.where(later > number, shares, 0)[None]
        return columns.at[:, number].set(one), pivots.at[number].multiply(norm)

    carried = columns, jnp.ones_like(sizes)
    for _ in range(2):
        carried = jax.lax.fori_loop(0, columns.shape[1], take_out, carried)
    return carried[0], scales * carried[1], scales * sizes


def _norms(vectors):
    """Return the norms over the first axis, with a derivative of zero where a vector is zero."""
    squares = jnp.sum(vectors**2, axis=0)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

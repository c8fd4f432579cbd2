"""A run along a trajectory of units that see themselves alone: a small frame for each of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.jacobians.system import System, log_abs_dets
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.linalg.batch_means import CAPACITY, BatchMeans
from jacobian_rnn.linalg.frames import generic_columns
from jacobian_rnn.lyapunov._run import Faults, TangentRun
from jacobian_rnn.lyapunov._volume_check import VolumeCheck


def run_units(system: System, num_warmup: int) -> TangentRun:
    """Take all steps and push c tangents of each of N units, orthonormalised at every step.

    The Jacobian of each unit is a c × c block. All N are factored at once, entry by entry.
    """
    dtype = system.state.dtype
    c, _, num_units = jax.eval_shape(system.unit_jacobians, system.state, system.one_input).shape
    length = -(-(system.num_steps - num_warmup) // CAPACITY)
    generic = jnp.broadcast_to(
        jnp.asarray(generic_columns(c, c), dtype)[..., None], (c, c, num_units)
    )
    smallest = jnp.finfo(dtype).eps * c

    def visit(carried, now):
        frames, sums, alive, cancellation, check, faults = carried
        counts = now.number >= num_warmup
        new = system.step(now.state, now.x)
        blocks = system.unit_jacobians(now.state, now.x)
        columns = jnp.sum(blocks[:, :, None] * frames[None], axis=1)
        frames, pivots, sizes = gram_schmidt(columns)
        gone = pivots <= smallest * sizes
        exact = pivots == 0
        frames = jnp.where(gone[None] & ~counts, generic, jnp.where(gone[None], 0, frames))
        logs = jnp.where(gone | ~counts, 0, jnp.log(jnp.where(gone, 1, pivots)))
        index = jnp.maximum(now.number - num_warmup, 0) // length
        sums = sums.at[index].add(logs.reshape(-1))

        finite_state = jnp.all(jnp.isfinite(new))
        finite = finite_state & jnp.all(jnp.isfinite(blocks))
        dies = gone & alive & counts & finite
        alive &= ~dies
        lost = jnp.log(jnp.where(gone, 1, sizes / jnp.where(gone, 1, pivots)))
        cancellation = jnp.maximum(cancellation, jnp.max(jnp.where(alive & counts, lost, 0)))
        volume, log_det = jnp.sum(logs), jnp.sum(log_abs_dets(blocks))
        known = counts & jnp.all(alive) & jnp.isfinite(log_det)
        difference = jnp.where(known, jnp.abs(volume - log_det), 0)
        counted = (log_det, log_det**2, difference, 1)
        check = VolumeCheck(
            *(
                total + jnp.where(known, jnp.asarray(more, total.dtype), 0)
                for total, more in zip(check, counted, strict=True)
            )
        )
        seen = Faults(jnp.any(dies & ~exact), jnp.any(dies & exact), ~finite, ~finite_state)
        faults = Faults(
            *(
                jnp.where((first < 0) & now_seen & (faults.nonfinite < 0), now.number, first)
                for first, now_seen in zip(faults, seen, strict=True)
            )
        )
        return new, (frames, sums, alive, cancellation, check, faults), None

    zero, never = jnp.zeros((), dtype), jnp.full((), -1, jnp.int32)
    start = (
        generic,
        jnp.zeros((CAPACITY, c * num_units), dtype),
        jnp.ones((c, num_units), bool),
        zero,
        VolumeCheck(zero, zero, zero, jnp.int32(0)),
        Faults(never, never, never, never),
    )
    state, carried, _ = along(system, visit, start)
    frames, sums, alive, cancellation, check, faults = carried
    ends = jnp.arange(1, CAPACITY + 1, dtype=jnp.int32) * length
    counted = jnp.minimum(ends, system.num_steps - num_warmup)
    steps = jnp.diff(counted, prepend=jnp.zeros(1, jnp.int32))
    faults = faults._replace(
        **{
            name: jnp.where(getattr(faults, name) >= 0, getattr(faults, name) - num_warmup, -1)
            for name in ("lost", "zero")
        }
    )
    return TangentRun(
        state=state,
        frame=jnp.moveaxis(frames, -1, 0),
        batches=BatchMeans(sums, steps, jnp.int32(length)),
        alive=alive.reshape(-1),
        log_interval=jnp.int32(0),
        num_steps=jnp.int32(system.num_steps),
        cancellation=cancellation,
        faults=faults,
        check=check,
    )


def gram_schmidt(
    columns: Float[Array, "c k units"],
) -> tuple[Float[Array, "c k units"], Float[Array, "k units"], Float[Array, "k units"]]:
    """Orthonormalise the columns of many small matrices, by modified Gram–Schmidt applied twice.

    Return them, what was left of each, and its size before the others were taken out.
    """
    found, pivots, sizes = [], [], []
    for column in jnp.moveaxis(columns, 1, 0):
        scale = jnp.max(jnp.abs(column), axis=0)
        left = column / jnp.where(scale > 0, scale, 1)[None]
        size = jnp.sqrt(jnp.sum(left**2, axis=0))
        for _ in range(2 if found else 0):
            for one in found:
                left = left - jnp.sum(one * left, axis=0)[None] * one
        norm = jnp.sqrt(jnp.sum(left**2, axis=0))
        found.append(left / jnp.where(norm > 0, norm, 1)[None])
        pivots.append(scale * norm)
        sizes.append(scale * size)
    return jnp.stack(found, axis=1), jnp.stack(pivots), jnp.stack(sizes)

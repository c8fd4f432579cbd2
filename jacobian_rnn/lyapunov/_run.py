"""A run along a trajectory: blocks of steps one after the other, and what it needs to go on."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.linalg.batch_means import BatchMeans, add_block, no_batches, widen
from jacobian_rnn.linalg.frames import Factorization, generic_frames, orthonormal_qr
from jacobian_rnn.lyapunov._block import (
    Block,
    Faults,
    no_faults,
    take_block,
    take_block_adaptively,
)
from jacobian_rnn.lyapunov._interval import Tangents
from jacobian_rnn.lyapunov._volume_check import VolumeCheck, no_check

LONGEST_BLOCK = 128
FEWEST_BLOCKS = 32
BLOCKS_PER_CHECK = 4  # of the inequality for k < n; the sum rule for k = n is checked in each


class TangentRun(NamedTuple):
    """Everything that a run along a trajectory needs to go on.

    Attributes:
        state: of the system, ravelled `(n,)`; of size zero where matrices are given.
        frame: tangent vectors, orthonormal columns, `(n, k)`.
        batches: log growth of each direction, nats, summed over batches of steps.
        alive: directions that no counted step has mapped to zero, `(k,)`.
        log_interval: log₂ of the number of steps between factorisations, for "auto"; int32 scalar.
        num_steps: steps taken, those before the count began included; int32 scalar.
        cancellation: log of the worst cancellation before a pivot, which multiplies rounding, nats.
        faults: first steps at which something went wrong.
        check: of the frame's volume against log|det J|.
    """

    state: Float[Array, " size"]
    frame: Float[Array, "n k"]
    batches: BatchMeans
    alive: Bool[Array, " k"]
    log_interval: Int[Array, ""]
    num_steps: Int[Array, ""]
    cancellation: Float[Array, ""]
    faults: Faults
    check: VolumeCheck


def new_run(state: Float[Array, " size"], frame: Float[Array, "n k"]) -> TangentRun:
    """Return a run that has not taken a step. Given matrices need no state: its size is zero."""
    k, dtype = frame.shape[1], frame.dtype
    return TangentRun(
        state=state,
        frame=frame,
        batches=no_batches(k, 1, dtype),
        alive=jnp.ones(k, bool),
        log_interval=jnp.int32(0),
        num_steps=jnp.int32(0),
        cancellation=jnp.zeros((), dtype),
        faults=no_faults(),
        check=no_check(dtype),
    )


def count_anew(run: TangentRun) -> TangentRun:
    """Forget the growth so far, as after a warm-up, but not that a step was not finite."""
    known = {name: getattr(run.faults, name) for name in ("nonfinite", "nonfinite_state")}
    faults = no_faults()._replace(**known)
    return new_run(run.state, run.frame)._replace(num_steps=run.num_steps, faults=faults)


def advance(
    tangents: Tangents,
    run: TangentRun,
    xs: PyTree,
    start: int,
    stop: int,
    qr_every: int | Literal["auto"],
    factorization: Factorization,
    *,
    settling: bool = False,
) -> TangentRun:
    """Take the steps from `start` to `stop` of the inputs `xs`, `(time, ...)`.

    At some of them log|det J| is computed. With `settling` it is not, and directions that are lost
    start anew after their block, because a loss before the count is none of the count.
    """
    length = _block_length(stop - start, qr_every)
    num_blocks, rest = divmod(stop - start, length)
    # Empty batches take the length of the blocks; those of an earlier run grow to it.
    batches = run.batches
    started = jnp.any(batches.steps > 0)
    batches = widen(batches._replace(length=jnp.where(started, batches.length, length)), length)
    is_full = run.frame.shape[0] == run.frame.shape[1]

    def take(run, block_xs, num_steps, check):
        arguments = (tangents, factorization, run.state, run.frame, run.alive, block_xs, num_steps)
        log_interval = run.log_interval
        if num_steps < length:
            block = take_block(*arguments, interval=1, check=check)
        elif qr_every == "auto":
            block, log_interval = take_block_adaptively(
                *arguments, log_interval=log_interval, check=check
            )
        else:
            block = take_block(*arguments, interval=int(qr_every), check=check)
        run = _add(run, block, num_steps)._replace(log_interval=log_interval)
        if settling:
            run = lax.cond(jnp.all(run.alive), lambda run: run, _replace_lost, run)
        return run

    def one_block(run, number):
        cut = partial(lax.dynamic_slice_in_dim, slice_size=length)
        block_xs = jax.tree.map(lambda x: cut(x, start + number * length), xs)
        check_now = not settling and (is_full or number % BLOCKS_PER_CHECK == 0)
        return take(run, block_xs, length, check_now), None

    run = run._replace(batches=batches)
    # Slicing all blocks at once would copy the inputs, and they may be many large matrices.
    if num_blocks:
        run, _ = lax.scan(one_block, run, jnp.arange(num_blocks))
    if rest:
        run = take(run, jax.tree.map(lambda x: x[stop - rest : stop], xs), rest, check=False)
    return run


def _block_length(num_steps, qr_every):
    interval = 1 if qr_every == "auto" else int(qr_every)
    wanted = min(LONGEST_BLOCK, num_steps // FEWEST_BLOCKS) // interval
    if qr_every == "auto":
        # Intervals are powers of two, and have to divide the block.
        wanted -= wanted % max(1, 2 ** (wanted.bit_length() - 2))
    return interval * max(1, wanted)


def _add(run: TangentRun, block: Block, num_steps: int) -> TangentRun:
    """Return the run after a block."""
    return TangentRun(
        state=block.state,
        frame=block.frame,
        batches=add_block(run.batches, block.log_growth, num_steps),
        alive=block.alive,
        log_interval=run.log_interval,
        num_steps=run.num_steps + num_steps,
        cancellation=jnp.maximum(run.cancellation, block.cancellation),
        faults=run.faults.then(block.faults, run.num_steps),
        check=run.check.add(block.check),
    )


def _replace_lost(run: TangentRun) -> TangentRun:
    """Let lost directions start anew, along fixed generic ones, behind those that are left."""
    n, k = run.frame.shape
    left_first = jnp.argsort(~run.alive)
    # Not the frame that a run starts from: of that, some columns may be left.
    generic = jnp.asarray(generic_frames(n)[1, :, :k], run.frame.dtype)
    frame = jnp.where(run.alive[left_first], run.frame[:, left_first], generic)
    return run._replace(frame=orthonormal_qr(frame)[0], alive=jnp.ones_like(run.alive))

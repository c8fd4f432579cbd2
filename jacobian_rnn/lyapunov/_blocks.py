"""A run along a trajectory, taken block by block."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jacobian_rnn.linalg.batch_means import add_block, widen
from jacobian_rnn.linalg.frames import Factorization, generic_columns, orthonormal_qr
from jacobian_rnn.lyapunov._block import Block, take_block, take_block_adaptively
from jacobian_rnn.lyapunov._interval import Tangents
from jacobian_rnn.lyapunov._run import TangentRun

LONGEST_BLOCK = 128
FEWEST_BLOCKS = 32
# For k < n, where an inequality is checked. For k = n the sum rule is checked in every block.
BLOCKS_PER_CHECK = 4


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

    log|det J| is computed at some of them. With `settling` it is not computed, and a lost direction
    starts anew after its block, because a loss before the count does not belong to the count.
    """
    length = _block_length(stop - start, qr_every)
    num_blocks, rest = divmod(stop - start, length)
    # Empty batches take the length of the blocks, and those of an earlier run grow to it.
    batches = run.batches
    started = jnp.any(batches.steps > 0)
    batches = widen(batches._replace(length=jnp.where(started, batches.length, length)), length)
    is_full = run.frame.shape[0] == run.frame.shape[1]

    def take(run, block_xs, num_steps, check):
        log_interval = run.log_interval
        if num_steps < length:
            block = take_block(tangents, factorization, run, block_xs, num_steps, check=check)
        elif qr_every == "auto":
            block, log_interval = take_block_adaptively(
                tangents, factorization, run, block_xs, num_steps, check=check
            )
        else:
            interval = int(qr_every)
            block = take_block(
                tangents, factorization, run, block_xs, num_steps, interval=interval, check=check
            )
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
        # Intervals are powers of two, and they have to divide the block.
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
    """Replace lost directions by fixed generic ones, behind those that are left."""
    n, k = run.frame.shape
    left_first = jnp.argsort(~run.alive)
    # This is not the frame that a run starts from, because columns of that one may be left.
    generic = jnp.asarray(generic_columns(n, k, 1), run.frame.dtype)
    frame = jnp.where(run.alive[left_first], run.frame[:, left_first], generic)
    return run._replace(frame=orthonormal_qr(frame)[0], alive=jnp.ones_like(run.alive))

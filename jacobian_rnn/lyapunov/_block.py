"""A block of steps: several intervals, after which the frame is orthonormal and its growth known.

A block ends with orthonormal columns. Its growth is then that of volumes, whichever factorisations
were used inside it. The growths of all blocks add up to what QR at every step would give.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.linalg.frames import Factorization, orthonormal_qr
from jacobian_rnn.lyapunov._interval import (
    LONGEST_INTERVAL,
    Renewal,
    Tangents,
    Trace,
    push_and_renew,
)
from jacobian_rnn.lyapunov._run import Faults, TangentRun
from jacobian_rnn.lyapunov._volume_check import VolumeCheck, check_volume


class Block(NamedTuple):
    """What a block of steps did.

    Attributes:
        state: at its end, `(size,)`.
        frame: at its end, orthonormal columns, `(n, k)`.
        alive: directions that were not lost so far, to zero or to rounding, `(k,)`.
        log_growth: of each direction over the block, nats, `(k,)`, −inf where it was lost.
        cancellation: log of the worst cancellation before a pivot, which multiplies rounding, nats.
        spread: largest difference of log growths between two factorisations, nats.
        largest_growth: largest |log growth| of a direction between two factorisations, nats.
        faults: first steps at which something went wrong, counted from the start of the block.
        check: sums over the steps at which log|det J| was computed.
    """

    state: Float[Array, " size"]
    frame: Float[Array, "n k"]
    alive: Bool[Array, " k"]
    log_growth: Float[Array, " k"]
    cancellation: Float[Array, ""]
    spread: Float[Array, ""]
    largest_growth: Float[Array, ""]
    faults: Faults
    check: VolumeCheck


class _Pivots(NamedTuple):
    """The growths at the factorisations of a block, `(intervals, k)`."""

    logs: Array
    finite: Array
    gone: Array
    sizes: Array


def take_block(
    tangents: Tangents,
    factorization: Factorization,
    run: TangentRun,
    xs: PyTree,
    num_steps: int,
    *,
    interval: int = 1,
    every: int | Array = 1,
    check: Bool[Array, ""] | bool,
) -> Block:
    """Take `num_steps` steps, and factor the frame once in `every` intervals.

    One loop serves all values of `every`. A loop for each would take twice as long to compile.
    """
    n, k = run.frame.shape
    count = num_steps // interval
    numbers = jnp.arange(count, dtype=jnp.int32)
    cut_xs = jax.tree.map(lambda x: x.reshape(count, interval, *x.shape[1:]), xs)
    state, rows, trace, renewals = push_and_renew(
        tangents,
        factorization,
        run.state,
        run.frame.T,
        (numbers, cut_xs),
        interval,
        every,
    )
    pivots = _read_pivots(renewals, n)
    faults, broken = _find_faults(trace, pivots, run.alive)
    counts = run.alive[None] & pivots.finite & ~pivots.gone
    cancelled = jnp.log(jnp.where(counts, pivots.sizes, 1)) - pivots.logs

    logs, frame = pivots.logs, rows.T
    if factorization == "elimination":
        frame, upper, _ = orthonormal_qr(frame)
        logs = logs.at[-1].add(jnp.log(jnp.diagonal(upper)))
    highest = jnp.max(jnp.where(counts, logs, -jnp.inf), axis=1)
    lowest = jnp.min(jnp.where(counts, logs, jnp.inf), axis=1)
    return Block(
        state=state,
        frame=frame,
        alive=run.alive & ~jnp.any(pivots.gone, axis=0),
        log_growth=jnp.where(jnp.any(broken), jnp.nan, jnp.sum(logs, axis=0)),
        cancellation=jnp.max(jnp.where(counts, cancelled, 0)),
        spread=jnp.max(jnp.maximum(highest - lowest, 0)),
        largest_growth=jnp.max(jnp.where(counts, jnp.abs(logs), 0)),
        faults=faults,
        # A factorisation gives a full frame even where directions are gone, and the volume of that
        # frame shows det J.
        check=check_volume(
            tangents,
            jnp.concatenate([run.state[None], trace.states.reshape(num_steps, -1)[:-1]]),
            xs,
            interval * every,
            jnp.sum(logs[-1]),
            is_full=n == k,
            is_due=check,
        ),
    )


def take_block_adaptively(
    tangents: Tangents,
    factorization: Factorization,
    run: TangentRun,
    xs: PyTree,
    num_steps: int,
    *,
    check: Bool[Array, ""] | bool,
) -> tuple[Block, Int[Array, ""]]:
    """Factor as rarely as the block before allows, and repeat the block if that failed.

    The second result is log₂ of the number of steps that the next block may take between
    factorisations.
    """
    dtype = run.frame.dtype
    # A cancellation by eps^(-1/3), 12 nats in float64, leaves exponents good to about 1e-10.
    allowed = -jnp.log(jnp.finfo(dtype).eps) / 3
    largest = jnp.log(jnp.finfo(dtype).max) / 3
    levels = min(num_steps & -num_steps, LONGEST_INTERVAL).bit_length()
    take = partial(take_block, tangents, factorization, run, xs, num_steps, check=check)

    def at_each_step():
        return take(interval=1), jnp.int32(0)

    if levels == 1:
        block, level = at_each_step()
    else:
        level = jnp.minimum(run.log_interval, levels - 1)
        every = jnp.left_shift(1, jnp.maximum(level - 1, 0))
        # Two steps are taken at a time, because to decide after each takes longer than a small one.
        coarse = partial(take, interval=2, every=every)
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(coarse))
        block = lax.cond(level > 0, coarse, lambda: nothing)
        failed = (block.cancellation > 1.25 * allowed) | (block.faults.nonfinite >= 0)
        failed |= jnp.any(run.alive & ~block.alive)
        block, level = lax.cond((level == 0) | failed, at_each_step, lambda: (block, level))

    # Rows of different sizes cost no digits in single steps. Over more steps they cost the spread.
    cancelled = jnp.maximum(block.cancellation, block.spread)
    used = jnp.maximum(cancelled / allowed, block.largest_growth / largest)
    room = jnp.floor(-jnp.log2(jnp.maximum(used, 2.0**-LONGEST_INTERVAL)))
    room = jnp.where(jnp.isfinite(room), room, 0).astype(jnp.int32)
    return block, jnp.clip(level + room, 0, levels - 1)


def _read_pivots(renewals: Renewal, n: int) -> _Pivots:
    """Separate pivots that are growth from those that rounding may have made, and from NaN."""
    pivots, sizes = renewals
    finite = jnp.isfinite(pivots) & jnp.isfinite(sizes)
    gone = finite & (pivots <= n * jnp.finfo(pivots.dtype).eps * sizes)
    logs = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(finite & ~gone, pivots, jnp.nan)))
    return _Pivots(logs, finite, gone, sizes)


def _find_faults(
    trace: Trace, pivots: _Pivots, alive: Bool[Array, " k"]
) -> tuple[Faults, Bool[Array, " intervals"]]:
    """Find the first step of each fault, and the intervals in which numbers were not finite."""
    k = alive.size
    # Elimination can pass over a row that is not finite, so the tangents themselves are checked.
    # The state is checked too: relu has a finite slope at NaN.
    in_range = jnp.all(jnp.isfinite(trace.states), axis=2)
    whole = jnp.all(jnp.isfinite(trace.peaks), axis=2) & in_range
    broken = ~(jnp.all(pivots.finite, axis=1) & jnp.all(whole, axis=1))

    # A row or a column of exact zeros loses its direction without any cancellation. Rounding took
    # the other directions that are gone.
    newly = pivots.gone & alive[None] & (jnp.cumsum(broken) == 0)[:, None]
    ranks = jnp.minimum(jnp.sum(trace.peaks != 0, axis=2), jnp.sum(trace.reached, axis=2))
    num_zero = k - jnp.min(ranks, axis=1)
    by_rounding = jnp.sum(pivots.gone, axis=1) > num_zero
    lost = by_rounding & jnp.any(newly & (pivots.sizes > 0), axis=1)
    cut = jnp.any(newly, axis=1) & ((num_zero > 0) | ~lost)
    faults = Faults(
        lost=_first_step(lost, jnp.ones_like(whole)),
        zero=_first_step(cut, ranks == k),
        nonfinite=_first_step(broken, whole),
        nonfinite_state=_first_step(~jnp.all(in_range, axis=1), in_range),
    )
    return faults, broken


def _first_step(happened: Bool[Array, " intervals"], intact: Bool[Array, "intervals steps"]):
    """Return the first step that is not intact in the first interval with a fault, −1 if none."""
    index, interval = jnp.argmax(happened), intact.shape[1]
    intact_steps = jnp.sum(jnp.cumprod(intact[index]))
    step = index * interval + jnp.minimum(intact_steps, interval - 1)
    return jnp.where(jnp.any(happened), step, -1).astype(jnp.int32)

"""A frame of tangent vectors on its way along a trajectory: pushed, renewed, its growth recorded.

Steps come in blocks, and a block in intervals. Within an interval the frame is only pushed; at its
end, or at the end of every few, it is factored. A block ends with orthonormal columns, so that its
growth is that of volumes, whatever the factorisations inside it, and adds up to what QR at every
step would give.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.linalg.batch_means import BatchMeans, add_block, no_batches, widen
from jacobian_rnn.linalg.frames import Factorization, factor_columns, generic_frames, orthonormal_qr

LONGEST_BLOCK = 128
LONGEST_INTERVAL = 16
FEWEST_BLOCKS = 32
BLOCKS_PER_CHECK = 4  # of the inequality for k < n; the sum rule for k = n is checked in each


class Tangents(NamedTuple):
    """How a system moves its state and tangent vectors; static.

    Attributes:
        push: `(state, tangents, x) -> (new state, new tangents)`, one tangent a row, `(k, n)`: in
            memory the columns of a frame as LAPACK wants them.
        log_abs_det: `(state, x) -> log|det J|`, nats, for the checks.
    """

    push: Callable[[Any, Array, PyTree], tuple[Any, Array]]
    log_abs_det: Callable[[Any, PyTree], Array]


class TangentRun(NamedTuple):
    """Everything that a run along a trajectory needs to go on.

    Attributes:
        state: of the system, ravelled `(n,)`.
        frame: tangent vectors, orthonormal columns, `(n, k)`.
        batches: log growth of each direction, nats, summed over batches of steps.
        alive: directions that no counted step has mapped to zero, `(k,)`.
        log_interval: log₂ of the number of steps between factorisations, for "auto"; int32 scalar.
        num_steps: steps taken, those before the count began included; int32 scalar.
        first_lost_step: first counted step at which rounding took a direction, int32 scalar, −1 if
            none.
        first_zero_step: first counted step that mapped a direction to an exact zero, int32 scalar,
            −1 if none.
        first_nonfinite_step: first step whose Jacobian or new state held NaN or inf, int32 scalar,
            −1 if none.
        first_nonfinite_state: first step whose new state did, int32 scalar, −1 if none.
        log_loss: nats; log of the worst cancellation before a pivot, which multiplies rounding.
        log_det: sum of log|det J| over the checked steps, nats.
        log_det_squares: sum of (log|det J|)² over them, nats²; only where k < n.
        log_det_error: sum over the checked intervals of |growth of the frame's volume − log|det||,
            nats; only where k = n.
        num_checked: steps behind `log_det`, int32 scalar.
    """

    state: Float[Array, " n"]
    frame: Float[Array, "n k"]
    batches: BatchMeans
    alive: Bool[Array, " k"]
    log_interval: Int[Array, ""]
    num_steps: Int[Array, ""]
    first_lost_step: Int[Array, ""]
    first_zero_step: Int[Array, ""]
    first_nonfinite_step: Int[Array, ""]
    first_nonfinite_state: Int[Array, ""]
    log_loss: Float[Array, ""]
    log_det: Float[Array, ""]
    log_det_squares: Float[Array, ""]
    log_det_error: Float[Array, ""]
    num_checked: Int[Array, ""]


class _Block(NamedTuple):
    """What a block of steps did; step indices are counted from its start, −1 if none."""

    state: Array
    frame: Array
    alive: Array
    log_growth: Array
    log_loss: Array
    spread: Array
    largest_growth: Array
    lost_step: Array
    zero_step: Array
    nonfinite_step: Array
    nonfinite_state: Array
    log_det: Array
    log_det_error: Array
    num_checked: Array


def new_run(state: Float[Array, " n"], frame: Float[Array, "n k"]) -> TangentRun:
    """Return a run that has not taken a step."""
    k, dtype = frame.shape[1], frame.dtype
    zero, never = jnp.zeros((), dtype), jnp.int32(-1)
    return TangentRun(
        state=state,
        frame=frame,
        batches=no_batches(k, 1, dtype),
        alive=jnp.ones(k, bool),
        log_interval=jnp.int32(0),
        num_steps=jnp.int32(0),
        first_lost_step=never,
        first_zero_step=never,
        first_nonfinite_step=never,
        first_nonfinite_state=never,
        log_loss=zero,
        log_det=zero,
        log_det_squares=zero,
        log_det_error=zero,
        num_checked=jnp.int32(0),
    )


def count_anew(run: TangentRun) -> TangentRun:
    """Forget the growth so far, as after a warm-up, but not that a step was not finite."""
    return new_run(run.state, run.frame)._replace(
        num_steps=run.num_steps,
        first_nonfinite_step=run.first_nonfinite_step,
        first_nonfinite_state=run.first_nonfinite_state,
    )


def _renew(run):
    """Let lost directions start anew, along fixed generic ones, behind those that are left."""
    n, k = run.frame.shape
    left_first = jnp.argsort(~run.alive)
    # Not the frame that a run starts from: of that, some columns may be left.
    generic = jnp.asarray(generic_frames(n)[1, :, :k], run.frame.dtype)
    frame = jnp.where(run.alive[left_first], run.frame[:, left_first], generic)
    return run._replace(frame=orthonormal_qr(frame)[0], alive=jnp.ones_like(run.alive))


def advance(
    tangents: Tangents,
    run: TangentRun,
    xs: PyTree,
    start: int,
    stop: int,
    qr_every: int | str,
    factorization: Factorization,
    *,
    settling: bool = False,
) -> TangentRun:
    """Take the steps from `start` to `stop` of the inputs `xs`, `(time, ...)`.

    At some of them log|det J| is computed. Not so with `settling`, where instead directions that
    are lost start anew after their block, because a loss before the count is none of the count.
    """
    num_steps = stop - start
    interval = 1 if qr_every == "auto" else int(qr_every)
    wanted = min(LONGEST_BLOCK, num_steps // FEWEST_BLOCKS) // interval
    if qr_every == "auto":
        # Intervals are powers of two, and have to divide the block.
        wanted -= wanted % max(1, 2 ** (wanted.bit_length() - 2))
    length = interval * max(1, wanted)
    num_blocks, rest = divmod(num_steps, length)
    # Empty batches take the length of the blocks; those of an earlier run grow to it.
    batches = run.batches
    started = jnp.any(batches.steps > 0)
    batches = widen(batches._replace(length=jnp.where(started, batches.length, length)), length)
    run = run._replace(batches=batches)

    def after(run, block, num_steps):
        run = _after(run, block, num_steps)
        if not settling:
            return run
        return lax.cond(jnp.all(run.alive), lambda run: run, _renew, run)

    take = partial(_block, tangents, factorization)
    if qr_every == "auto":
        step_block = partial(_adaptive_block, take, length)
    else:
        step_block = partial(_fixed_block, take, length, interval)

    def one_block(run, number):
        inputs = partial(lax.dynamic_slice_in_dim, slice_size=length)
        block_xs = jax.tree.map(lambda x: inputs(x, start + number * length), xs)
        full = run.frame.shape[0] == run.frame.shape[1]
        check_now = not settling and (full or number % BLOCKS_PER_CHECK == 0)
        block, log_interval = step_block(run, block_xs, check_now)
        return after(run, block, length)._replace(log_interval=log_interval), None

    # Slicing all blocks at once would copy the inputs, and they may be many large matrices.
    if num_blocks:
        run, _ = lax.scan(one_block, run, jnp.arange(num_blocks))
    if rest:
        last = jax.tree.map(lambda x: x[stop - rest : stop], xs)
        run = after(run, take(rest, 1, run, last, check=False), rest)
    return run


def _after(run, block, num_steps):
    def first(so_far, step):
        new = (so_far < 0) & (step >= 0) & (run.first_nonfinite_step < 0)
        return jnp.where(new, run.num_steps + step, so_far)

    return run._replace(
        state=block.state,
        frame=block.frame,
        batches=add_block(run.batches, block.log_growth, num_steps),
        alive=block.alive,
        num_steps=run.num_steps + num_steps,
        first_lost_step=first(run.first_lost_step, block.lost_step),
        first_zero_step=first(run.first_zero_step, block.zero_step),
        first_nonfinite_step=first(run.first_nonfinite_step, block.nonfinite_step),
        first_nonfinite_state=first(run.first_nonfinite_state, block.nonfinite_state),
        log_loss=jnp.maximum(run.log_loss, block.log_loss),
        log_det=run.log_det + block.log_det,
        log_det_squares=run.log_det_squares + block.log_det**2,
        log_det_error=run.log_det_error + block.log_det_error,
        num_checked=run.num_checked + block.num_checked,
    )


def _fixed_block(take, length, interval, run, xs, check):
    return take(length, interval, run, xs, check), run.log_interval


def _adaptive_block(take, length, run, xs, check):
    """Factor as rarely as the loss in the block before allows; redo the block if that was wrong."""
    dtype = run.frame.dtype
    # A cancellation by eps^(-1/3), 12 nats in float64, leaves exponents good to about 1e-10.
    allowed = -jnp.log(jnp.finfo(dtype).eps) / 3
    largest = jnp.log(jnp.finfo(dtype).max) / 3
    levels = min(length & -length, LONGEST_INTERVAL).bit_length()

    def at_each_step():
        return take(length, 1, run, xs, check), jnp.int32(0)

    if levels == 1:
        block, level = at_each_step()
    else:
        level = jnp.minimum(run.log_interval, levels - 1)
        often = jnp.left_shift(1, jnp.maximum(level - 1, 0))
        # Two steps at a time: to decide after each would take longer than small steps themselves.
        coarse = partial(take, length, 2, run, xs, check, every=often)
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(coarse))
        block = lax.cond(level > 0, coarse, lambda: nothing)
        failed = (block.log_loss > 1.25 * allowed) | (block.nonfinite_step >= 0)
        failed |= jnp.any(run.alive & ~block.alive)
        block, level = lax.cond((level == 0) | failed, at_each_step, lambda: (block, level))

    # Rows of different sizes cost single steps no digits; pushed further they cost the spread.
    cancelled = jnp.maximum(block.log_loss, block.spread)
    used = jnp.maximum(cancelled / allowed, block.largest_growth / largest)
    room = jnp.floor(-jnp.log2(jnp.maximum(used, 2.0**-LONGEST_INTERVAL)))
    room = jnp.where(jnp.isfinite(room), room, 0).astype(jnp.int32)
    return block, jnp.clip(level + room, 0, levels - 1)


def _block(tangents, factorization, length, interval, run, xs, check, every=None):
    """Take `length` steps, with a factorisation after every interval, or every few of them.

    `interval` is static; `every` is traced, its product with it at most `LONGEST_INTERVAL`. One
    loop serves all of its values: one for each would take twice as long to compile.
    """
    count, dtype = length // interval, run.frame.dtype

    def one_interval(carried, step):
        state, rows, peaks = carried
        number, xs = step
        state, rows, largest, reached, states = _pushed(tangents, state, rows, xs, interval)
        peaks = jnp.maximum(peaks, jnp.max(largest, axis=0))

        def renew_now():
            factored = factor_columns(rows.T, factorization)
            # What cancels in a single step, the factorisation tells by itself.
            single = every is None and interval == 1
            sizes = factored.sizes if single else jnp.maximum(factored.sizes, peaks)
            return (factored.frame.T, jnp.zeros_like(peaks)), (factored.pivots, sizes)

        def keep():
            sizes = jnp.where(jnp.isfinite(peaks), 1, jnp.nan).astype(dtype)
            return (rows, peaks), (jnp.ones_like(peaks), sizes)

        if every is None:
            renew, records = renew_now()
        else:
            renew, records = lax.cond((number + 1) % every == 0, renew_now, keep)
        return (state, *renew), (states, largest, reached, *records)

    xs = jax.tree.map(lambda x: x.reshape(count, interval, *x.shape[1:]), xs)
    start = (run.state, run.frame.T, jnp.zeros(run.frame.shape[1], dtype))
    (state, rows, _), (states, peaks, reached, pivots, sizes) = lax.scan(
        one_interval, start, (jnp.arange(count, dtype=jnp.int32), xs)
    )

    finite = jnp.isfinite(pivots) & jnp.isfinite(sizes)
    gone = finite & (pivots <= rows.shape[1] * jnp.finfo(dtype).eps * sizes)
    log_pivots = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(finite & ~gone, pivots, jnp.nan)))
    counts = run.alive[None] & finite & ~gone
    log_loss = jnp.where(counts, jnp.log(jnp.where(counts, sizes, 1)) - log_pivots, 0)
    alive = run.alive & ~jnp.any(gone, axis=0)
    # Elimination can pass over a row that is not finite: the tangents themselves tell. And a slope
    # can be a plain number where the state is none, as that of relu at NaN.
    states_after = jnp.concatenate([states.reshape(length, state.size)[1:], state[None]])
    in_range = jnp.all(jnp.isfinite(states_after), axis=1).reshape(count, interval)
    whole = jnp.all(jnp.isfinite(peaks), axis=2) & in_range
    broken = ~(jnp.all(finite, axis=1) & jnp.all(whole, axis=1))

    # A row or a column of exact zeros loses its direction without anything to cancel; what else is
    # gone, rounding took.
    newly = gone & run.alive[None] & (jnp.cumsum(broken) == 0)[:, None]
    ranks = jnp.minimum(jnp.sum(peaks != 0, axis=2), jnp.sum(reached, axis=2))
    num_zero = rows.shape[0] - jnp.min(ranks, axis=1)
    by_rounding = jnp.sum(gone, axis=1) > num_zero
    lost = by_rounding & jnp.any(newly & (sizes > 0), axis=1)
    cut = jnp.any(newly, axis=1) & ((num_zero > 0) | ~lost)

    frame = rows.T
    if factorization == "elimination":
        frame, upper, _ = orthonormal_qr(frame)
        log_pivots = log_pivots.at[-1].add(jnp.log(jnp.diagonal(upper)))
    highest = jnp.max(jnp.where(counts, log_pivots, -jnp.inf), axis=1)
    lowest = jnp.min(jnp.where(counts, log_pivots, jnp.inf), axis=1)
    spread = jnp.max(jnp.maximum(highest - lowest, 0))
    growth = jnp.max(jnp.where(counts, jnp.abs(log_pivots), 0))

    def first(happened, intact):
        """Return the first step that is not intact in the first interval where it happened."""
        index = jnp.argmax(happened)
        intact_steps = jnp.sum(jnp.cumprod(intact[index]))
        step = index * interval + jnp.minimum(intact_steps, interval - 1)
        return jnp.where(jnp.any(happened), step, -1).astype(jnp.int32)

    # A factorisation gives a full frame, whose volume shows det J, even where directions are gone.
    last_growth = jnp.sum(log_pivots[-1])
    apart = interval if every is None else interval * every
    log_det, log_det_error, num_checked = _check(
        tangents, check, states, xs, apart, last_growth, run.frame.shape
    )
    return _Block(
        state=state,
        frame=frame,
        alive=alive,
        log_growth=jnp.where(jnp.any(broken), jnp.nan, jnp.sum(log_pivots, axis=0)),
        log_loss=jnp.max(log_loss),
        spread=spread,
        largest_growth=growth,
        lost_step=first(lost, jnp.ones_like(whole)),
        zero_step=first(cut, ranks == rows.shape[0]),
        nonfinite_step=first(broken, whole),
        nonfinite_state=first(~jnp.all(in_range, axis=1), in_range),
        log_det=log_det,
        log_det_error=log_det_error,
        num_checked=num_checked,
    )


def _pushed(tangents, state, rows, xs, interval):
    """Push tangents, one a row, through an interval.

    Returns also, after every step, the largest entry of each and which coordinates are not zero
    in all of them; and the state before every step.
    """

    def push(carried, x):
        state, rows = carried
        moved = tangents.push(state, rows, x)
        rows = lax.stop_gradient(moved[1])
        return moved, (jnp.max(jnp.abs(rows), axis=1), jnp.any(rows != 0, axis=0), state)

    if interval == 1:
        moved, records = push((state, rows), jax.tree.map(lambda x: x[0], xs))
        return *moved, *(record[None] for record in records)
    moved, records = lax.scan(push, (state, rows), xs, length=interval)
    return *moved, *records


def _check(tangents, check, states, xs, interval, growth, shape):
    """Return log|det J|, its difference from the frame's growth, and the number of steps behind.

    For k = n these are the steps since the last factorisation but one, `interval` of them.
    """
    n, k = shape
    if k < n:
        # The inequality needs a sample of log|det J| alone.
        interval = 1
    num_steps = states.shape[0] * states.shape[1]
    states, xs = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), (states, xs))
    longest = interval if isinstance(interval, int) else min(LONGEST_INTERVAL, num_steps)
    states, xs = jax.tree.map(lambda x: x[-longest:], (states, xs))
    zero = jnp.zeros_like(growth)

    def of_step(log_det, step):
        number, state, x = step
        more = lax.cond(number <= interval, tangents.log_abs_det, lambda *_: zero, state, x)
        return log_det + more, None

    def checked():
        numbers = jnp.arange(longest, 0, -1, dtype=jnp.int32)
        steps = lax.stop_gradient((numbers, states, xs))
        log_det, _ = lax.scan(of_step, zero, steps)
        difference = jnp.where(growth == log_det, 0, jnp.abs(lax.stop_gradient(growth) - log_det))
        return log_det, difference if k == n else zero, jnp.int32(interval)

    def skipped():
        return zero, zero, jnp.int32(0)

    if isinstance(check, bool):
        return checked() if check else skipped()
    return lax.cond(check, checked, skipped)

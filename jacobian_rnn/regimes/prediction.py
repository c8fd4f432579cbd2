"""Will gradients survive? The regime predicted from the step Jacobians of an untrained network.

`observation` says what training showed, and `score` compares the two.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.cells.padding import align_ends, check_lengths, with_padding
from jacobian_rnn.cells.recurrence import Recurrence, check_recurrence
from jacobian_rnn.checks import check_count, check_finite, check_warmup, refuse
from jacobian_rnn.growth.largest import exponent_along
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import states_of
from jacobian_rnn.jacobians.traced_steps import derivative_of
from jacobian_rnn.products.product import identity_frames, product_along, warn_of_cost
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Regime, Thresholds

LOST_DIGITS = 1e-2  # nats: a log growth with a larger error has lost its digits


class RegimePrediction(NamedTuple):
    """What the Jacobians of an untrained network say about its gradients.

    Attributes:
        regime: int32 scalar, a value of `Regime`: the median `log_growth_of_output` against the
            thresholds.
        log_growth: nats, `(B,)`: log root-mean-square growth of a gradient of the whole carry over
            the last `horizon` steps, one per sequence; NaN where its digits are lost to rounding.
        log_growth_of_output: the same of a gradient of what `Recurrence.output` shows. The regime
            follows it, since a loss sees no more of the carry.
        interval: nats, `(2,)`: the central 90 % of `log_growth_of_output` over sequences.
        borderline: bool scalar: the interval holds a threshold, or digits are lost for a sequence.
        exponent: nats per step, scalar: λ₁, the mean over sequences whose states are finite.
        standard_error: nats per step, scalar: of `exponent`, over sequences; NaN where there is
            none, as for an exponent of −inf.
        log_growth_error: nats, `(B,)`: numerical error of both log growths, from three passes.
        undetermined: bool scalar: no sequence has a log growth; `regime` then says nothing.
        first_nonfinite_step: `(B,)`: first step of the sequence whose new state or Jacobian held
            NaN or inf, −1 if none. The log growth is then that of at most `horizon` steps before,
            if they explode already, and NaN if not.
        horizon: int32 scalar, steps.
        thresholds: nats, `(2,)`: lower and upper.
    """

    regime: Int[Array, ""]
    log_growth: Float[Array, " sequences"]
    log_growth_of_output: Float[Array, " sequences"]
    interval: Float[Array, "2"]
    borderline: Bool[Array, ""]
    exponent: Float[Array, ""]
    standard_error: Float[Array, ""]
    log_growth_error: Float[Array, " sequences"]
    undetermined: Bool[Array, ""]
    first_nonfinite_step: Int[Array, " sequences"]
    horizon: Int[Array, ""]
    thresholds: Float[Array, "2"]

    def __str__(self) -> str:
        """Say it in a few lines."""
        if jnp.ndim(self.regime):
            return (
                f"{self.regime.size} predictions: index one, or jax.tree.map(lambda a: a[i], ...)"
            )
        return "\n".join(_report(self))


def _report(prediction):
    steps, growths = int(prediction.horizon), np.asarray(prediction.log_growth_of_output, float)
    broken = np.asarray(prediction.first_nonfinite_step)
    num, num_broken = growths.size, int(np.sum(broken >= 0))
    if bool(prediction.undetermined) and num_broken:
        yield (
            f"undetermined: the state or its Jacobian stops being finite, first at step "
            f"{broken[broken >= 0].min()}, in {num_broken} of {num} sequences"
        )
        return
    if bool(prediction.undetermined):
        yield (
            f"undetermined: over {steps} steps growth and decay cancel, and rounding has taken "
            "every digit of the growth: use float64 or a shorter horizon"
        )
        return
    verdict = Regime(int(prediction.regime)).name.lower()
    verdict += " (borderline)" if bool(prediction.borderline) else ""
    known, low, high = growths[~np.isnan(growths)], *map(float, prediction.thresholds)
    median = float(_quantile(jnp.asarray(known), 0.5))
    over = f"over {'at most ' if num_broken else ''}{steps} steps"
    if median == -np.inf:
        yield f"{verdict}: {over} the gradient is cut to exactly zero"
    else:
        yield f"{verdict}: {over} a gradient is multiplied by {_power(median)}"
    lower, upper = (_power(float(bound)) for bound in prediction.interval)
    yield (
        f"  90 % of {num} sequences between {lower} and {upper}; "
        f"stable from {_power(low)} to {_power(high)}"
    )
    exponent, error = float(prediction.exponent), float(prediction.standard_error)
    if np.isfinite(exponent):
        spread = f" ± {error:.4f}" if np.isfinite(error) else ""
        meaning = " (standard error over sequences)" if spread else ""
        yield f"  largest exponent {exponent:+.4f}{spread} nats per step{meaning}"
    elif exponent == -np.inf:
        yield "  largest exponent -inf: in some sequence a counted step cuts every gradient"
    carry = float(_quantile(prediction.log_growth[~np.isnan(growths)], 0.5))
    if abs(carry - median) > 1:
        yield f"  of the whole carry, what no output shows included: {_power(carry)}"
    cut, lost = int(np.sum(np.isneginf(growths))), int(np.sum(np.isnan(growths) & (broken < 0)))
    if cut:
        yield f"  the gradient is exactly zero in {cut} of {num} sequences: a reset, or dead units"
    if num_broken:
        yield (
            f"  the state or its Jacobian stops being finite in {num_broken} of {num} sequences, "
            f"first at step {broken[broken >= 0].min()}: only the steps before it count"
        )
    if lost:
        yield f"  digits lost to rounding in {lost} of {num} sequences"


def _power(log):
    return "0" if log == -np.inf else f"e^{log:.1f}"


def predict_regime(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    horizon: int,
    num_warmup: int | None = None,
    seq_lengths: Sequence[int] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> RegimePrediction:
    """Predict from Jacobians alone whether gradients survive `horizon` steps of backpropagation.

    For each sequence the Jacobians of its last `horizon` steps are multiplied. The log growth that
    counts is log(‖R P‖_F / ‖R‖_F) with R = ∂output/∂state, that of a random gradient of what
    `recurrence.output` shows. Its median over sequences below the lower threshold means VANISHING,
    above the upper one EXPLODING, else STABLE. Where a state stops being finite, the steps before
    it decide: EXPLODING if they explode, and else nothing is said.

    Args:
        recurrence: the system, untrained or trained.
        carry: initial carry, without batch axis, shared by all sequences.
        xs: a batch of sequences, `(B, T, ...)` with B ≥ 2: typical inputs of the task.
        horizon: number of steps a gradient has to survive, 1 ≤ horizon ≤ T.
        num_warmup: number of first steps not counted in the exponent; T // 4 by default. Of padded
            sequences those are counted that all have, the last ones of the shortest.
        seq_lengths: B lengths, where sequences are padded at their ends: each product then ends
            where its sequence ends, and the horizon is at most the shortest. Concrete.
        thresholds: log growths, nats, between which networks learn. The default was calibrated by
            `experiments/calibrate_threshold.py` and is frozen.

    Returns:
        The prediction; `print` it for a summary. Works under `jit` and `vmap`.

    Raises:
        ValueError: no batch axis or fewer than two sequences, a horizon outside 1 … T, a warm-up
            that leaves nothing, thresholds in the wrong order, shapes that do not fit, or values
            that are not finite.
        TypeError: float dtypes that differ, or a horizon or warm-up that is no int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from jacobian_rnn import from_linen
        >>> cell = nn.SimpleCell(16)
        >>> xs = jax.random.normal(jax.random.key(0), (8, 60, 3))
        >>> carry = jnp.zeros(16)
        >>> network = from_linen(cell, cell.init(jax.random.key(1), carry, xs[0, 0]))
        >>> prediction = predict_regime(network, carry, xs, horizon=50)
        >>> Regime(int(prediction.regime)).name
        'VANISHING'
    """
    check_recurrence(recurrence)
    xs = jax.tree.map(jnp.asarray, xs)
    num_sequences, num_steps = _check_batch(xs, recurrence.step)
    shortest = num_steps
    if seq_lengths is not None:
        shortest = int(check_lengths(seq_lengths, num_sequences, num_steps).min())
    advice = "give longer sequences or a shorter horizon"
    check_count("horizon", horizon, least=1, most=shortest, advice=advice)
    warmup = shortest // 4 if num_warmup is None else num_warmup
    check_warmup(warmup, shortest)
    bounds = tuple(float(bound) for bound in thresholds)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        expected = "(vanishing, exploding) in nats with vanishing < exploding"
        refuse("thresholds", bounds, expected)
    check_finite("xs", xs)
    padding = jnp.zeros((), jnp.int32)
    if seq_lengths is not None:
        padding = num_steps - jnp.asarray(seq_lengths, jnp.int32)
        recurrence, xs = with_padding(recurrence), align_ends(xs, seq_lengths)
    system = bind(recurrence, carry, jax.tree.map(lambda x: x[0], xs))
    lighter = "fewer sequences or a shorter horizon; finite_time_growth gives that of vectors"
    warn_of_cost("predict_regime", system.num_states, horizon, num_sequences, lighter)
    warmup += num_steps - shortest
    return _predict_regime(system, xs, padding, int(horizon), int(warmup), bounds)


@partial(jax.jit, static_argnames=("horizon", "num_warmup", "thresholds"))
def _predict_regime(system, xs, padding, horizon, num_warmup, thresholds):
    lower, upper = thresholds
    frames = identity_frames(system)

    def of_sequence(xs):
        whole = dataclasses.replace(system, xs=xs)
        states = states_of(whole)
        start, end, overflowed = _last_finite_steps(states, horizon)
        window = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, horizon), xs)
        active = start + jnp.arange(horizon, dtype=jnp.int32) < end
        last = System(
            with_padding(system.recurrence),
            states[start],
            (window, active),
            horizon,
            system.unravel,
        )
        product = product_along(last, frames)
        rows = derivative_of(system.output)(states[end])
        seen = jnp.eye(rows.shape[1], dtype=rows.dtype), rows
        growths = jnp.stack([product.log_growth_through(rows) for rows in seen])
        errors = jnp.stack([product.log_growth_through_error(rows) for rows in seen])
        in_window = product.first_nonfinite_step
        broken_jacobian = in_window >= 0
        # What explodes before a state overflows explodes; anything else that ends so says nothing.
        usable = ~broken_jacobian & (~overflowed | (growths[1] > upper))
        growths = jnp.where(usable & (errors <= LOST_DIGITS), growths, jnp.nan)
        broken = jnp.where(overflowed, end, -1)
        broken = jnp.where(broken_jacobian, start + in_window, broken)
        exponent = exponent_along(whole, num_warmup)
        return growths, jnp.max(errors), exponent, broken

    growths, error, exponents, broken = jax.vmap(of_sequence)(xs)
    log_growth, of_output = growths[:, 0], growths[:, 1]
    median, *interval = (_quantile(of_output, level) for level in (0.5, 0.05, 0.95))
    inside = [(interval[0] <= bound) & (bound <= interval[1]) for bound in (lower, upper)]
    counted = ~jnp.isnan(exponents)
    exponent = jnp.mean(exponents, where=counted)
    num_counted = jnp.sum(counted).astype(exponents.dtype)
    spread = jnp.std(exponents, ddof=1, where=counted) / jnp.sqrt(num_counted)
    return RegimePrediction(
        regime=jnp.where(median < lower, -1, jnp.where(median > upper, 1, 0)).astype(jnp.int32),
        log_growth=log_growth,
        log_growth_of_output=of_output,
        interval=jnp.stack(interval),
        borderline=inside[0] | inside[1] | jnp.any(jnp.isnan(of_output)),
        exponent=exponent,
        standard_error=jnp.where(jnp.isfinite(exponent), spread, jnp.nan),
        log_growth_error=error,
        undetermined=jnp.all(jnp.isnan(of_output)),
        first_nonfinite_step=jnp.where(broken >= 0, broken - padding, -1),
        horizon=jnp.int32(horizon),
        thresholds=jnp.asarray(thresholds, log_growth.dtype),
    )


def _last_finite_steps(states, horizon):
    """Return the first and the end of the last `horizon` steps whose states are finite.

    Also whether a later state is not. There may be fewer steps than `horizon` before it.
    """
    num_steps = states.shape[0] - 1
    finite = jnp.all(jnp.isfinite(states[1:]), axis=1)
    overflowed = ~jnp.all(finite)
    end = jnp.where(overflowed, jnp.argmin(finite).astype(jnp.int32), num_steps)
    return jnp.maximum(end - horizon, 0), end, overflowed


def _quantile(values, level):
    """Return a quantile of the values that are not NaN, which may be infinite.

    It is interpolated, as numpy does it; next to an infinite value the outer neighbour is taken.
    """
    method = "lower" if level <= 0.5 else "higher"
    interpolated = jnp.nanquantile(values, level)
    outer = jnp.nanquantile(values, level, method=method)
    return jnp.where(jnp.isfinite(interpolated), interpolated, outer)


def _check_batch(xs, step):
    leaves = jax.tree.leaves(xs)
    rank = getattr(step, "num_feature_axes", None)
    shapes = {x.shape[:2] for x in leaves}
    wrong_rank = rank is not None and any(x.ndim != rank + 2 for x in leaves)
    advice = "the spread over sequences is the prediction's uncertainty"
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or wrong_rank:
        received = "None" if not leaves else ", ".join(str(x.shape) for x in leaves)
        refuse("xs", received, "a batch of sequences (batch, time, inputs)", advice)
    ((num_sequences, num_steps),) = shapes
    if num_sequences < 2 or num_steps < 1:
        received = f"{num_sequences} sequences of {num_steps} steps"
        refuse("xs", received, "at least 2 of at least 1", advice)
    return num_sequences, num_steps

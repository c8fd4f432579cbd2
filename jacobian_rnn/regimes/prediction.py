"""Will gradients survive? The regime predicted from the step Jacobians of an untrained network.

`observation` says what training showed, and `score` compares the two.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.cells.padding import (
    align_ends,
    check_finite_within,
    check_lengths,
    with_padding,
)
from jacobian_rnn.cells.recurrence import (
    Recurrence,
    check_recurrence,
    guess_of_output,
)
from jacobian_rnn.checks import (
    check_choice,
    check_count,
    check_finite,
    check_key,
    check_warmup,
    refuse,
)
from jacobian_rnn.growth.largest import exponent_of, tangent_visit
from jacobian_rnn.jacobians.step_arguments import JOIN
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import MOST_STORED_STATES, run
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.products.multiply import warn_of_cost
from jacobian_rnn.regimes._sequence import LOST_DIGITS, measure_by_probes, measure_by_product
from jacobian_rnn.regimes.quantiles import quantile
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Regime, Thresholds
from jacobian_rnn.regimes.words import report

Method = Literal["probes", "exact"]


class RegimePrediction(NamedTuple):
    """What the Jacobians of an untrained network say about its gradients.

    B is the number of sequences and T their length. A growth is a root mean square over all
    directions of a gradient.

    Attributes:
        regime: int32 scalar, a value of `Regime`. EXPLODING where the median `peak_of_output` is
            above the upper threshold, else VANISHING where the median `log_growth_of_output` is
            below the lower one.
        log_growth: nats, `(B,)`: of a gradient of the whole carry over the last `horizon` steps.
            It is NaN where its digits are lost to rounding.
        log_growth_of_output: the same of a gradient of what `Recurrence.output` shows. The regime
            follows it, since a loss sees no more of the carry.
        interval: nats, `(2,)`: the central 90 % of `deciding_growth` over sequences.
        borderline: bool scalar: another regime is within the central 90 % of sequences, the
            sampling error of its ends counted, or digits are lost for a sequence.
        exponent: nats per step, scalar: λ₁, the mean over sequences whose states are finite.
        standard_error: nats per step, scalar: of `exponent`, over sequences. It is NaN where there
            is none, as for an exponent of −inf.
        profile: nats, `(B, T)`: growth of a gradient of the whole carry at every lag, `[lag − 1]`.
            It is NaN where digits are lost, and before the beginning of a padded sequence. In a
            sequence that stops being finite, lags count from the last finite state.
        peak: nats, `(B,)`: the largest growth at any lag of a gradient of the whole carry.
        peak_lag: the lag of `peak`, int32 `(B,)`, −1 where no growth is known.
        peak_of_output: nats, `(B,)`: the largest growth at any lag of a gradient of what the output
            shows, NaN where none is known.
        peak_lag_of_output: the lag of `peak_of_output`, int32 `(B,)`, −1 where it is not known.
        sampling_error: nats, `(B,)`: standard error of `profile` at the horizon, because only some
            directions were drawn. Unless the method is exact, it is that of both log growths too,
            the larger of both.
        log_growth_error: nats, `(B,)`: estimated numerical error of the log growths, along the
            trajectory as it was computed; the larger of both.
        log_singular_values: nats, `(B, n)`, descending: of the product over the horizon. None
            unless the method is exact.
        undetermined: bool scalar: no sequence has a log growth, and none is known to explode.
            `regime` then says nothing.
        first_nonfinite_step: `(B,)`: first step of the sequence whose new state or Jacobian held
            NaN or inf, −1 if none. Growths are then those of the steps before, if they explode
            already, and NaN if not.
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
    profile: Float[Array, "sequences steps"]
    peak: Float[Array, " sequences"]
    peak_lag: Int[Array, " sequences"]
    peak_of_output: Float[Array, " sequences"]
    peak_lag_of_output: Int[Array, " sequences"]
    sampling_error: Float[Array, " sequences"]
    log_growth_error: Float[Array, " sequences"]
    log_singular_values: Float[Array, "sequences n"] | None
    undetermined: Bool[Array, ""]
    first_nonfinite_step: Int[Array, " sequences"]
    horizon: Int[Array, ""]
    thresholds: Float[Array, "2"]

    @property
    def deciding_growth(self) -> Float[Array, "*axes sequences"]:
        """The number that decided, nats: `peak_of_output` if exploding, else growth of output."""
        explodes = jnp.asarray(self.regime)[..., None] == Regime.EXPLODING
        return jnp.where(explodes, self.peak_of_output, self.log_growth_of_output)

    def __str__(self) -> str:
        """Say it in a few lines."""
        if jnp.ndim(self.regime):
            return (
                f"{self.regime.size} predictions: index one, or jax.tree.map(lambda a: a[i], ...)"
            )
        return "\n".join(report(self))


def predict_regime(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    horizon: int,
    num_warmup: int | None = None,
    seq_lengths: Sequence[int] | None = None,
    thresholds: Thresholds = THRESHOLDS,
    method: Method = "probes",
    num_probes: int = 8,
    key: Array | None = None,
) -> RegimePrediction:
    """Predict from Jacobians alone whether gradients survive `horizon` steps of backpropagation.

    For each sequence the growth of a random gradient is measured on its way back from the end, at
    every lag ℓ. What counts is g(ℓ) = log(‖R P‖_F / ‖R‖_F), nats, with P the product of the last ℓ
    step Jacobians and R = ∂output/∂state: the root-mean-square growth of a gradient of what
    `recurrence.output` shows. Medians over sequences decide:

    - EXPLODING where the peak of g over the whole way back, 1 ≤ ℓ ≤ T, is above the upper
      threshold. A gradient that explodes anywhere swamps what comes from the horizon.
    - VANISHING where it is not, and g(horizon) is below the lower threshold.
    - STABLE otherwise.

    Where a state stops being finite, the steps before it decide: EXPLODING if they explode.
    Otherwise nothing is said.

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
            `experiments/regimes/calibrate_threshold.py` on many cells and tasks, and is frozen.
        method: "probes" pulls a few random gradients back and forms no Jacobian, at the cost of a
            few backpropagations. "exact" also multiplies the Jacobians of the horizon: n³ a step,
            for up to a few hundred states, with all singular values in the result. Growths at other
            lags, which the peak needs, stay those of the random gradients. Where units see
            themselves alone, as the `unit_jacobians` say, it is n a step, and also with a
            `BorderedIdentity`. Static.
        num_probes: number of random gradients of each sequence. Static.
        key: for their directions. There is a fixed one by default: calls repeat exactly.

    Returns:
        The prediction; `print` it for a summary. Works under `jit` and `vmap`.

    Raises:
        ValueError: no batch axis or fewer than two sequences, a horizon outside 1 … T, a warm-up
            that leaves nothing, thresholds in the wrong order, an unknown method, no probes, shapes
            that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, a step that computes in fewer bits than its state has,
            or a horizon, a warm-up or a number of probes that is no int.

    Cost: with "probes" it takes one to three times as long as the gradient of a loss over the same
    sequences. Memory is T n for each, or 2√T n beyond 4096 steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from jacobian_rnn import Regime, from_linen
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
    advice = (
        f"xs are {num_sequences} sequences of {num_steps} steps, (batch, time, inputs); give "
        "longer sequences or a shorter horizon"
    )
    check_count("horizon", horizon, least=1, most=shortest, advice=advice)
    warmup = shortest // 4 if num_warmup is None else num_warmup
    check_warmup(warmup, shortest)
    bounds = tuple(float(bound) for bound in thresholds)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        expected = "(vanishing, exploding) in nats with vanishing < exploding"
        refuse("thresholds", bounds, expected)
    check_choice("method", method, get_args(Method))
    check_count("num_probes", num_probes, least=1)
    if seq_lengths is None:
        check_finite("xs", xs)
    else:
        check_finite_within("xs", xs, seq_lengths)
    padding = jnp.zeros(num_sequences, jnp.int32)
    if seq_lengths is not None:
        padding = num_steps - jnp.asarray(seq_lengths, jnp.int32)
        recurrence, xs = with_padding(recurrence), align_ends(xs, seq_lengths)
    system = bind(recurrence, carry, jax.tree.map(lambda x: x[0], xs))
    guess = guess_of_output(recurrence.step, recurrence.output, carry)
    if guess is not None:
        received, _, advice = guess
        said = f"output: received {received}; the regime is that of the last one: {advice}"
        warnings.warn(said, stacklevel=2)
    if method == "exact" and not system.has_structure:
        lighter = 'method="probes"'
        warn_of_cost("predict_regime", system.num_states, horizon, num_sequences, lighter)
    warmup += num_steps - shortest
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    return _predict_regime(
        system, xs, padding, key, int(horizon), int(warmup), bounds, method, int(num_probes)
    )


@partial(jax.jit, static_argnames=("horizon", "num_warmup", "thresholds", "method", "num_probes"))
def _predict_regime(system, xs, padding, key, horizon, num_warmup, thresholds, method, num_probes):
    refuse_coarse_step(system)
    lower, upper = thresholds
    is_exact = method == "exact"

    def of_sequence(xs, padding, columns):
        whole = dataclasses.replace(system, xs=xs)
        visit, tangent = tangent_visit(whole, num_warmup)
        most_stored = whole.num_steps if is_exact else MOST_STORED_STATES
        forward = run(whole, visit, tangent, most_stored=most_stored)
        said = measure_by_probes(whole, forward, padding, horizon, columns)
        if is_exact:
            said = measure_by_product(whole, forward, horizon, said)
        heights = said.profile_of_output.log_growth
        place = jnp.argmax(jnp.where(jnp.isnan(heights), -jnp.inf, heights))
        peak = jax.tree.map(lambda values: values[place], said.profile_of_output)
        # What explodes before a state overflows explodes. Anything else that ends so says nothing.
        overflowed = forward.num_finite < whole.num_steps
        usable = (said.broken < 0) & (~overflowed | (peak.log_growth > jnp.maximum(upper, 0)))
        broken = jnp.where((said.broken < 0) & overflowed, forward.num_finite, said.broken)
        broken = jnp.where(broken >= 0, broken - padding, -1)

        def known(growth):
            has_digits = usable & (growth.rounding_error <= LOST_DIGITS)
            return growth._replace(log_growth=jnp.where(has_digits, growth.log_growth, jnp.nan))

        said = said._replace(of_carry=known(said.of_carry), of_output=known(said.of_output))
        peak, peak_lag = known(peak), jnp.where(jnp.isnan(known(peak).log_growth), -1, place + 1)
        return said._replace(broken=broken), peak, peak_lag, exponent_of(forward, num_warmup)

    # One draw for all, with one axis: to compile several, or more axes, would take much longer.
    shape = len(padding), max(system.num_states, system.num_outputs), num_probes, 2
    normal = jax.random.normal(key, (math.prod(shape),), system.state.dtype).reshape(shape)
    said, peak, peak_lag, exponents = jax.vmap(of_sequence)(xs, padding, normal)
    of_output, sampling_error = said.of_output.log_growth, said.of_output.sampling_error
    exploding = quantile(peak.log_growth, 0.5) > upper
    vanishing = ~exploding & (quantile(of_output, 0.5) < lower)
    deciding = jnp.where(exploding, peak.log_growth, of_output)

    def may_cross(growths, errors, bound):
        # Twice the standard error of a median of B values, which is 1.25 times that of their mean.
        margin = 2.5 * jnp.nanmean(errors) / math.sqrt(len(padding))
        low, high = quantile(growths, 0.05) - margin, quantile(growths, 0.95) + margin
        return (low <= bound) & (bound <= high)

    errors = jnp.zeros_like(sampling_error) if is_exact else sampling_error
    near_lower = ~exploding & may_cross(of_output, errors, lower)
    near_upper = may_cross(peak.log_growth, peak.sampling_error, upper)
    counted = ~jnp.isnan(exponents)
    exponent = jnp.mean(exponents, where=counted)
    num_counted = jnp.sum(counted).astype(exponent.dtype)
    spread = jnp.std(exponents, ddof=1, where=counted) / jnp.sqrt(num_counted)
    known = ~jnp.isnan(said.profile)
    any_known = jnp.any(known, axis=1)
    heights = jnp.where(known, said.profile, -jnp.inf)
    return RegimePrediction(
        regime=jnp.where(exploding, 1, jnp.where(vanishing, -1, 0)).astype(jnp.int32),
        log_growth=said.of_carry.log_growth,
        log_growth_of_output=of_output,
        interval=jnp.stack([quantile(deciding, level) for level in (0.05, 0.95)]),
        borderline=near_lower | near_upper | jnp.any(jnp.isnan(deciding)),
        exponent=exponent,
        standard_error=jnp.where(jnp.isfinite(exponent), spread, jnp.nan),
        profile=said.profile,
        peak=jnp.where(any_known, jnp.max(heights, axis=1), jnp.nan),
        peak_lag=jnp.where(any_known, jnp.argmax(heights, axis=1) + 1, -1).astype(jnp.int32),
        peak_of_output=peak.log_growth,
        peak_lag_of_output=peak_lag.astype(jnp.int32),
        sampling_error=jnp.maximum(said.of_carry.sampling_error, sampling_error),
        log_growth_error=jnp.maximum(said.of_carry.rounding_error, said.of_output.rounding_error),
        log_singular_values=said.log_singular_values,
        undetermined=jnp.all(jnp.isnan(deciding)),
        first_nonfinite_step=said.broken,
        horizon=jnp.int32(horizon),
        thresholds=jnp.asarray(thresholds, of_output.dtype),
    )


def _check_batch(xs, step):
    leaves = jax.tree.leaves(xs)
    rank = getattr(step, "num_feature_axes", None)
    shapes = {x.shape[:2] for x in leaves}
    # Flags and tokens have fewer axes than features, and the step says whether it takes them.
    features = [x.ndim for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    # The carry has as many axes as the input of an image, or it is a matrix that reads vectors.
    wrong_rank = rank is not None and features and not {3, rank + 2} & set(features)
    advice = (
        "the spread over sequences is the prediction's uncertainty; for one sequence there is "
        "backward_profile"
    )
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or wrong_rank:
        received = "None" if not leaves else ", ".join(str(x.shape) for x in leaves)
        advice = JOIN if isinstance(xs, list) else advice
        refuse("xs", received, "a batch of sequences (batch, time, inputs)", advice)
    ((num_sequences, num_steps),) = shapes
    if num_sequences < 2 or num_steps < 1:
        received = f"{num_sequences} sequences of {num_steps} steps"
        refuse("xs", received, "at least 2 of at least 1", advice)
    return num_sequences, num_steps

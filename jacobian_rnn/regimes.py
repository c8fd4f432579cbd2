"""Will gradients survive? The regime predicted from Jacobians, the outcome observed in training.

The prediction looks at nothing but step Jacobians of the untrained network; the observation at
nothing but the record of its training. `agreement` compares the two.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_count, check_finite, check_system
from jacobian_rnn.growth import largest_exponent
from jacobian_rnn.jacobians import trajectory
from jacobian_rnn.padded_sequences import check_lengths, ending_together, waiting
from jacobian_rnn.products import jacobian_product

LOST_DIGITS = 1e-2  # nats: a log gain whose two passes differ by more has lost its digits


class Regime(IntEnum):
    """What happens to a gradient on its way back over the horizon."""

    VANISHING = -1
    STABLE = 0
    EXPLODING = 1


class Outcome(IntEnum):
    """What training showed."""

    STUCK = -1
    LEARNED = 0
    DIVERGED = 1


class Thresholds(NamedTuple):
    """Log gains over the horizon, in nats, between which gradients survive well enough to learn."""

    vanishing: float
    exploding: float


# Frozen before any other training: `python -m experiments calibrate_threshold`, default preset,
# float32 on CPU, jax 0.10.2 (96 SimpleCell networks of width 32 at 24 gains, delayed recall over 40
# steps, 500 updates of Adam with clipping at the better of two learning rates). Intervals of 95 %
# over gains: vanishing −21.5 to −6.5, exploding +5.3 to +10.7.
THRESHOLDS = Thresholds(vanishing=-17.1, exploding=6.6)


class RegimePrediction(NamedTuple):
    """What the Jacobians of an untrained network say about its gradients.

    Attributes:
        regime: int32 scalar, a value of `Regime`: the median log gain against the thresholds.
        log_gain: nats, `(B,)`: log root-mean-square gain of a gradient over the last `horizon`
            steps, one per sequence; NaN where its digits are lost to rounding.
        interval: nats, `(2,)`: the central 90 % of `log_gain` over sequences.
        borderline: bool scalar: the interval holds a threshold, or digits are lost for a sequence.
        exponent: nats per step, scalar: λ₁, the mean over sequences.
        standard_error: nats per step, scalar: of `exponent`, over sequences.
        log_gain_error: nats, `(B,)`: numerical error of `log_gain`, from two passes.
        undetermined: bool scalar: no sequence has a log gain; `regime` then says nothing.
        first_nonfinite_step: `(B,)`: first step of the horizon whose Jacobian held NaN or inf, −1
            if none.
        horizon: int32 scalar, steps.
        thresholds: nats, `(2,)`: lower and upper.
    """

    regime: Int[Array, ""]
    log_gain: Float[Array, " sequences"]
    interval: Float[Array, "2"]
    borderline: Bool[Array, ""]
    exponent: Float[Array, ""]
    standard_error: Float[Array, ""]
    log_gain_error: Float[Array, " sequences"]
    undetermined: Bool[Array, ""]
    first_nonfinite_step: Int[Array, " sequences"]
    horizon: Int[Array, ""]
    thresholds: Float[Array, "2"]

    def __str__(self) -> str:
        """Say it in two or three lines."""
        if jnp.ndim(self.regime):
            return (
                f"{self.regime.size} predictions: index one, or jax.tree.map(lambda a: a[i], ...)"
            )
        if bool(self.undetermined) and bool(jnp.any(self.first_nonfinite_step >= 0)):
            first = int(self.first_nonfinite_step.max())
            return f"undetermined: the Jacobian is NaN or infinite, at step {first} of the horizon"
        if bool(self.undetermined):
            return (
                f"undetermined: over {int(self.horizon)} steps growth and decay cancel, and "
                "rounding has taken every digit of the gain: use float64 or a shorter horizon"
            )
        verdict = Regime(int(self.regime)).name.lower()
        verdict += " (borderline)" if bool(self.borderline) else ""
        lower, upper = (float(v) for v in self.interval)
        low, high = (float(v) for v in self.thresholds)
        lost = int(jnp.sum(jnp.isnan(self.log_gain)))
        lines = [
            f"{verdict}: over {int(self.horizon)} steps a gradient is multiplied by "
            f"e^{float(jnp.nanmedian(self.log_gain)):.1f}",
            f"  90 % of {self.log_gain.size} sequences between e^{lower:.1f} and e^{upper:.1f}; "
            f"stable from e^{low:.1f} to e^{high:.1f}",
            f"  largest exponent {float(self.exponent):+.4f} ± {float(self.standard_error):.4f} "
            "nats per step (standard error over sequences)",
        ]
        if lost:
            lines.append(f"  digits lost to rounding in {lost} of {self.log_gain.size} sequences")
        return "\n".join(lines)


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

    For each sequence the Jacobians of its last `horizon` steps are multiplied; the log gain is
    ½ log(‖P‖²_F / n), that of a random gradient. The median over sequences below the lower
    threshold means VANISHING, above the upper one EXPLODING, else STABLE.

    Args:
        recurrence: the system, untrained or trained.
        carry: initial carry, without batch axis, shared by all sequences.
        xs: a batch of sequences, `(B, T, ...)` with B ≥ 2: typical inputs of the task.
        horizon: number of steps a gradient has to survive, 1 ≤ horizon ≤ T.
        num_warmup: number of first steps not counted in the exponent; T // 4 by default. Of padded
            sequences those are counted that all have, the last ones of the shortest.
        seq_lengths: B lengths, where sequences are padded at their ends: each product then ends
            where its sequence ends, and the horizon is at most the shortest. Concrete.
        thresholds: log gains, nats, between which networks learn. The default was calibrated by
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
    carry, xs = jax.tree.map(jnp.asarray, (carry, xs))
    num_steps = _check_batch(xs, getattr(recurrence, "step", None))
    for name, steps in {"horizon": horizon, "num_warmup": num_warmup or 0}.items():
        check_count(name, steps)
    shortest = num_steps
    if seq_lengths is not None:
        num_sequences = jax.tree.leaves(xs)[0].shape[0]
        shortest = int(check_lengths(seq_lengths, num_sequences, num_steps).min())
    if not 1 <= horizon <= shortest:
        msg = (
            f"horizon: received {horizon} for sequences of {shortest} steps, expected 1 to "
            f"{shortest}: give longer sequences or a shorter horizon"
        )
        raise ValueError(msg)
    warmup = shortest // 4 if num_warmup is None else num_warmup
    if not 0 <= warmup < shortest:
        msg = (
            f"num_warmup: received {warmup}, expected 0 to {shortest - 1}, so that steps are "
            "left to count"
        )
        raise ValueError(msg)
    warmup += num_steps - shortest
    bounds = tuple(float(bound) for bound in thresholds)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        msg = (
            f"thresholds: received {bounds}, expected (vanishing, exploding) in nats "
            "with vanishing < exploding"
        )
        raise ValueError(msg)
    check_finite("xs", xs)
    check_system(recurrence, carry, jax.tree.map(lambda x: x[0], xs), None)
    if seq_lengths is not None:
        recurrence, xs = waiting(recurrence), ending_together(xs, seq_lengths)
    return _predict_regime(recurrence, carry, xs, int(horizon), int(warmup), bounds)


@partial(jax.jit, static_argnames=("horizon", "num_warmup", "thresholds"))
def _predict_regime(recurrence, carry, xs, horizon, num_warmup, thresholds):
    unravel = ravel_pytree(carry)[1]

    def of_sequence(xs):
        num_steps = jax.tree.leaves(xs)[0].shape[0]
        first = num_steps - horizon
        states = trajectory(recurrence, carry, jax.tree.map(lambda x: x[:first], xs))
        start = unravel(states[-1])
        product = jacobian_product(recurrence, start, jax.tree.map(lambda x: x[first:], xs))
        exponent = largest_exponent(recurrence, carry, xs, num_warmup=num_warmup)
        broken = product.first_nonfinite_step
        return product.log_rms_gain(), product.log_gain_error, exponent, broken

    log_gain, error, exponents, broken = jax.vmap(of_sequence)(xs)
    log_gain = jnp.where((error > LOST_DIGITS) | (broken >= 0), jnp.nan, log_gain)
    median = jnp.nanmedian(log_gain)
    lower, upper = jnp.asarray(thresholds, log_gain.dtype)
    interval = jnp.nanquantile(log_gain, jnp.array([0.05, 0.95], log_gain.dtype))
    inside = ((interval[0] <= lower) & (lower <= interval[1])) | (
        (interval[0] <= upper) & (upper <= interval[1])
    )
    return RegimePrediction(
        regime=jnp.where(median < lower, -1, jnp.where(median > upper, 1, 0)).astype(jnp.int32),
        log_gain=log_gain,
        interval=interval,
        borderline=inside | jnp.any(jnp.isnan(log_gain)),
        exponent=jnp.mean(exponents),
        standard_error=jnp.std(exponents, ddof=1) / jnp.sqrt(exponents.size),
        log_gain_error=error,
        undetermined=jnp.all(jnp.isnan(log_gain)),
        first_nonfinite_step=broken,
        horizon=jnp.int32(horizon),
        thresholds=jnp.stack([lower, upper]),
    )


def _check_batch(xs, step):
    leaves = jax.tree.leaves(xs)
    rank = getattr(step, "num_feature_axes", None)
    shapes = {x.shape[:2] for x in leaves}
    wrong_rank = rank is not None and any(x.ndim != rank + 2 for x in leaves)
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or wrong_rank:
        received = "None" if not leaves else ", ".join(str(x.shape) for x in leaves)
        msg = (
            f"xs: received {received}, expected a batch of sequences (batch, time, inputs): the "
            "spread over sequences is the prediction's uncertainty"
        )
        raise ValueError(msg)
    ((num_sequences, num_steps),) = shapes
    if num_sequences < 2 or num_steps < 1:
        msg = (
            f"xs: received {num_sequences} sequences of {num_steps} steps, expected at least 2 of "
            "at least 1: the spread over sequences is the prediction's uncertainty"
        )
        raise ValueError(msg)
    return num_steps


@runtime_checkable
class TrainingRecord(Protocol):
    """The part of a training history that an observation reads; see `training.TrainingHistory`."""

    @property
    def loss(self) -> Any:
        """Training loss of each update, `(updates,)`."""

    @property
    def update_norm(self) -> Any:
        """Norm of each update, `(updates,)`."""

    @property
    def test_skill(self) -> Any:
        """Held-out skill at the end, scalar."""

    @property
    def baseline_loss(self) -> Any:
        """Loss of the trivial baseline, scalar."""


class Observation(NamedTuple):
    """What training showed.

    Attributes:
        outcome: LEARNED, STUCK or DIVERGED.
        skill: held-out skill at the end, 0 is the trivial baseline and 1 perfect; dimensionless.
        reason: one line for people.
    """

    outcome: Outcome
    skill: float
    reason: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.outcome.name.lower()}: {self.reason}"


def observe_regime(
    history: TrainingRecord, *, learned_above: float = 0.5, diverged_above: float = 10.0
) -> Observation:
    """Say from the record of training alone whether a network learned, and if not, how it failed.

    Learned: the held-out skill at the end is at least `learned_above`. Diverged: it did not learn,
    and the loss or the updates became non-finite, or the median loss of the last tenth of the
    updates exceeds `diverged_above` times that of the trivial baseline. Stuck: neither.

    Args:
        history: a record of training, `training.TrainingHistory`, of one network.
        learned_above: smallest skill that counts as learned, between 0 and 1.
        diverged_above: factor over the baseline's loss, above 1.

    Returns:
        The observation, on the host.

    Raises:
        ValueError: criteria out of range, or a record of several networks or of no update.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> record = SimpleNamespace(
        ...     loss=np.full(100, 1.4),
        ...     update_norm=np.full(100, 0.1),
        ...     test_skill=0.02,
        ...     baseline_loss=1.386,
        ... )
        >>> print(observe_regime(record))
        stuck: skill 0.02 on held-out data, loss 1.01 times the trivial baseline's
    """
    if not 0 < learned_above < 1 or not diverged_above > 1:
        msg = (
            f"learned_above, diverged_above: received {learned_above}, {diverged_above}, expected "
            "a skill between 0 and 1 and a factor above 1"
        )
        raise ValueError(msg)
    loss, updates = np.asarray(history.loss, float), np.asarray(history.update_norm, float)
    if loss.ndim != 1 or not loss.size:
        msg = (
            f"history: received losses of shape {loss.shape}, expected one network's, (updates,) "
            "with at least one"
        )
        raise ValueError(msg)
    baseline = float(history.baseline_loss)
    if updates.shape != loss.shape or not 0 < baseline < np.inf:
        msg = (
            f"history: received {loss.size} losses, {updates.size} update norms and the baseline "
            f"loss {baseline}, expected as many of one as of the other, and a positive loss"
        )
        raise ValueError(msg)
    skill = float(history.test_skill)
    finite = bool(np.all(np.isfinite(loss)) and np.all(np.isfinite(updates)) and np.isfinite(skill))
    relative = float(np.median(loss[-max(1, loss.size // 10) :]) / baseline)
    if finite and skill >= learned_above:
        outcome = Outcome.LEARNED
    elif not finite or relative > diverged_above:
        outcome = Outcome.DIVERGED
    else:
        outcome = Outcome.STUCK
    if finite:
        reason = (
            f"skill {skill:.2f} on held-out data, loss {relative:.2f} times the trivial baseline's"
        )
    else:
        bad = ~(np.isfinite(loss) & np.isfinite(updates))
        when = f"from update {int(np.argmax(bad))} on" if bad.any() else "at the end"
        reason = f"loss or updates not finite {when}"
    return Observation(outcome, skill, reason)

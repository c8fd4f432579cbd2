"""What training showed: from its record alone, a network learned, stayed stuck or diverged."""

from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jacobian_rnn.checks import check_number, check_shape, refuse


class Outcome(IntEnum):
    """What training showed."""

    STUCK = -1
    LEARNED = 0
    DIVERGED = 1


@runtime_checkable
class TrainingRecord(Protocol):
    """The part of a training history (`training.TrainingHistory`) that an observation reads.

    The axes of an ensemble come first in every array, here written `...`. One network has none.
    """

    @property
    def loss(self) -> Any:
        """Training loss of each update, `(..., updates)`."""

    @property
    def update_norm(self) -> Any:
        """Norm of each update, `(..., updates)`."""

    @property
    def test_skill(self) -> Any:
        """Held-out skill at the end, `(...)`."""

    @property
    def baseline_loss(self) -> Any:
        """Loss of the trivial baseline, `(...)`, or one for all."""


class Observation(NamedTuple):
    """What training showed, of one network (scalars) or of each one of an ensemble.

    Attributes:
        outcome: int32, a value of `Outcome`: LEARNED, STUCK or DIVERGED.
        skill: held-out skill at the end, dimensionless, from 1 (perfect) to 0 (baseline) or less.
        relative_loss: median loss of the last tenth of updates, as a multiple of the baseline's.
        first_nonfinite_update: int32, the first update, counted from 0, whose loss or norm is not
            finite, −1 if none.
    """

    outcome: Int[Array, "*axes"]
    skill: Float[Array, "*axes"]
    relative_loss: Float[Array, "*axes"]
    first_nonfinite_update: Int[Array, "*axes"]

    def __str__(self) -> str:
        """Describe one network in one line, or count what networks did."""
        outcomes = np.asarray(self.outcome)
        if outcomes.ndim:
            counts = (f"{np.sum(outcomes == one)} {one.name.lower()}" for one in Outcome)
            return f"{outcomes.size} networks: {', '.join(counts)}"
        first, skill = int(self.first_nonfinite_update), float(self.skill)
        if first >= 0:
            reason = f"loss or updates not finite from update {first} on"
        elif not np.isfinite(skill):
            reason = "the skill is not finite at the end"
        else:
            reason = (
                f"skill {skill:.2f} on held-out data, loss {float(self.relative_loss):.2f} times "
                "the trivial baseline's"
            )
        return f"{Outcome(int(outcomes)).name.lower()}: {reason}"


def observe_regime(
    history: TrainingRecord, *, learned_above: float = 0.5, diverged_above: float = 10.0
) -> Observation:
    """Say from the record of training alone whether networks learned, and if not, how they failed.

    A network diverged if a loss, an update or the skill is not finite. Otherwise it learned if the
    held-out skill at the end is at least `learned_above`. If not, it diverged if the median loss of
    the last tenth of updates exceeds `diverged_above` times the baseline's, and else it is stuck.

    Args:
        history: a record of training, such as `training.TrainingHistory`, of one network or of an
            ensemble. `history.until(num_updates)` is what a smaller budget would have shown.
        learned_above: smallest skill that counts as learned, between 0 and 1.
        diverged_above: factor over the baseline's loss, above 1.

    Returns:
        The observation, with the axes of the ensemble. Works under `jit` and `vmap`.

    Raises:
        ValueError: criteria out of range, shapes that do not fit, or a record of no update.

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
    check_number("learned_above", learned_above, above=0, below=1)
    check_number("diverged_above", diverged_above, above=1)
    loss, updates, skill, baseline = (
        jnp.asarray(array, float)
        for array in (history.loss, history.update_norm, history.test_skill, history.baseline_loss)
    )
    if loss.ndim == 0 or not loss.size:
        refuse("history.loss", f"shape {loss.shape}", "(..., updates), with at least one update")
    axes = loss.shape[:-1]
    check_shape("history.update_norm", updates.shape, loss.shape, "one for each loss")
    check_shape("history.test_skill", skill.shape, axes, "the skill at the end of each training")
    if baseline.ndim:
        check_shape("history.baseline_loss", baseline.shape, axes, "one for each training, or one")
    if not isinstance(baseline, Tracer):
        check_number("history.baseline_loss", np.min(baseline), above=0)
    return _observe(loss, updates, skill, baseline, learned_above, diverged_above)


@jax.jit
def _observe(loss, updates, skill, baseline, learned_above, diverged_above):
    finite = jnp.isfinite(loss) & jnp.isfinite(updates)
    all_finite = jnp.all(finite, axis=-1) & jnp.isfinite(skill)
    last = loss[..., -max(1, loss.shape[-1] // 10) :]
    relative = jnp.median(last, axis=-1) / baseline
    failed = jnp.where(relative > diverged_above, Outcome.DIVERGED, Outcome.STUCK)
    outcome = jnp.where(skill >= learned_above, Outcome.LEARNED, failed)
    first = jnp.where(jnp.all(finite, axis=-1), -1, jnp.argmin(finite, axis=-1))
    return Observation(
        outcome=jnp.where(all_finite, outcome, Outcome.DIVERGED).astype(jnp.int32),
        skill=skill,
        relative_loss=relative,
        first_nonfinite_update=first.astype(jnp.int32),
    )

"""What training showed: from its record alone, a network learned, stayed stuck or diverged."""

from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jacobian_rnn.checks import check_number, check_shape, refuse


class Outcome(IntEnum):
    """What training showed."""

    STUCK = -1
    LEARNED = 0
    DIVERGED = 1


@runtime_checkable
class TrainingRecord(Protocol):
    """The part of a training history (`training.TrainingHistory`) that an observation reads."""

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
        skill: held-out skill at the end, dimensionless, from 1 (perfect) to 0 (baseline) or less.
        reason: one line for people.
    """

    outcome: Outcome
    skill: float
    reason: str

    def __str__(self) -> str:
        """Describe the observation in one line."""
        return f"{self.outcome.name.lower()}: {self.reason}"


def observe_regime(
    history: TrainingRecord, *, learned_above: float = 0.5, diverged_above: float = 10.0
) -> Observation:
    """Say from the record of training alone whether a network learned, and if not, how it failed.

    It diverged if a loss, an update or the skill is not finite. Otherwise it learned if the
    held-out skill at the end is at least `learned_above`. If not, it diverged if the median loss of
    the last tenth of updates exceeds `diverged_above` times the baseline's, and else it is stuck.

    Args:
        history: a record of training of one network, such as `training.TrainingHistory`.
        learned_above: smallest skill that counts as learned, between 0 and 1.
        diverged_above: factor over the baseline's loss, above 1.

    Returns:
        The observation, as numbers on the host.

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
    check_number("learned_above", learned_above, above=0, below=1)
    check_number("diverged_above", diverged_above, above=1)
    loss, updates = np.asarray(history.loss, float), np.asarray(history.update_norm, float)
    check_shape("history.loss", loss.shape, ("updates",), "pass one network's")
    if not loss.size:
        refuse("history.loss", "none", "the loss of at least one update")
    check_shape("history.update_norm", updates.shape, loss.shape, "one for each loss")
    baseline = float(history.baseline_loss)
    check_number("history.baseline_loss", baseline, above=0)
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

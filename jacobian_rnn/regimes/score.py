"""How well predicted regimes agree with what training showed, and whether simple rules do as well.

The main prediction is binary, and it says that a network predicted STABLE learns. Networks with the
same gain are not independent, so intervals come from a bootstrap over groups (gains).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from jacobian_rnn.checks import check_at_least, check_number, check_shape, refuse
from jacobian_rnn.regimes.observation import Outcome
from jacobian_rnn.regimes.thresholds import Regime

AnyArray = Array | np.ndarray


class Score(NamedTuple):
    """How often a binary prediction was right.

    Attributes:
        balanced_accuracy: mean of the fractions right among networks that learned and among those
            that did not. It is NaN if one of the two never occurs.
        interval: lower and upper limit of `balanced_accuracy`, over groups drawn with replacement.
        accuracy: fraction right.
        num_networks: number of networks scored.
    """

    balanced_accuracy: float
    interval: tuple[float, float]
    accuracy: float
    num_networks: int

    def __str__(self) -> str:
        """Describe the score in one line."""
        low, high = self.interval
        return (
            f"balanced accuracy {self.balanced_accuracy:.3f} [{low:.3f}, {high:.3f}], "
            f"accuracy {self.accuracy:.3f}, {self.num_networks} networks"
        )


class Agreement(NamedTuple):
    """Predicted regimes against observed outcomes.

    Attributes:
        confusion: counts `(3, 3)`, with rows VANISHING, STABLE, EXPLODING as predicted, and columns
            STUCK, LEARNED, DIVERGED as observed.
        prediction: score of the predicted regimes, on all networks.
        decided: the same for predictions that were not borderline.
        rules: score of each simple rule, on all networks.
        margins: for each rule, the difference of balanced accuracies, prediction minus rule, and
            its interval from the same resamples.
        disagreements: indices of the networks where prediction and training disagree.
        missing: names of predicted regimes and observed outcomes that never occur.
        level: coverage of all intervals.
    """

    confusion: Int[np.ndarray, "3 3"]
    prediction: Score
    decided: Score
    rules: dict[str, Score]
    margins: dict[str, tuple[float, tuple[float, float]]]
    disagreements: Int[np.ndarray, " k"]
    missing: tuple[str, ...]
    level: float

    def __str__(self) -> str:
        """Lay out the confusion matrix and the scores."""
        names = [outcome.name.lower() for outcome in Outcome]
        lines = ["predicted \\ observed" + "".join(f"{name:>10}" for name in names)]
        for regime, row in zip(Regime, self.confusion, strict=True):
            lines.append(f"{regime.name.lower():<20}" + "".join(f"{count:>10}" for count in row))
        lines += [f"all      {self.prediction}", f"decided  {self.decided}"]
        for name, score in self.rules.items():
            difference, (low, high) = self.margins[name]
            lines.append(
                f"rule: {name:<22} {score.balanced_accuracy:.3f}; "
                f"prediction better by {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
        if self.missing:
            lines.append("never occurs: " + ", ".join(self.missing))
        return "\n".join(lines)


def score_regimes(
    regimes: Int[AnyArray, " networks"],
    outcomes: Int[AnyArray, " networks"],
    *,
    groups: Int[AnyArray, " networks"],
    borderline: Bool[AnyArray, " networks"],
    rules: Mapping[str, Bool[AnyArray, " networks"]],
    key: Array,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Agreement:
    """Compare predicted regimes with observed outcomes, network by network, on the host.

    Args:
        regimes: values of `Regime`, `(networks,)`.
        outcomes: values of `Outcome`, `(networks,)`.
        groups: equal for networks that are not independent of each other, such as those of one
            cell and gain.
        borderline: predictions that are not decided.
        rules: what simple rules say of each network, as True or False. True means "learns" or "does
            not", whichever scores better, so each rule has the benefit of the doubt. The rule
            "majority class" is always added.
        key: a `jax.random.key` for the bootstrap.
        num_resamples: number of bootstrap resamples.
        level: coverage of the intervals, between 0 and 1.

    Returns:
        The agreement. Where one class never occurs, balanced accuracies are NaN and `missing`
        names it.

    Raises:
        ValueError: no networks, arrays of different lengths, codes or options out of range.
        TypeError: rules that are not boolean.

    References:
        K. H. Brodersen, C. S. Ong, K. E. Stephan and J. M. Buhmann, "The balanced accuracy and its
        posterior distribution", ICPR 2010.

    Example:
        >>> import jax, numpy as np
        >>> result = score_regimes(
        ...     np.array([-1, -1, 0, 0]),
        ...     np.array([-1, -1, 0, 1]),
        ...     groups=np.arange(4),
        ...     borderline=np.zeros(4, bool),
        ...     rules={"norm > 1": np.array([False, True, False, True])},
        ...     key=jax.random.key(0),
        ... )
        >>> print(round(result.prediction.balanced_accuracy, 3), result.disagreements)
        0.833 [3]
    """
    predicted = np.asarray(regimes)
    observed = np.asarray(outcomes)
    named = {
        "outcomes": observed,
        "groups": np.asarray(groups),
        "borderline": np.asarray(borderline),
    }
    named |= {f"rules[{name!r}]": np.asarray(rule) for name, rule in rules.items()}
    check_shape("regimes", predicted.shape, ("networks",))
    if not predicted.size:
        refuse("regimes", "none", "at least one network")
    for name, array in named.items():
        check_shape(name, array.shape, predicted.shape, "as many as regimes")
    for name, codes in {"regimes": predicted, "outcomes": observed}.items():
        if not np.isin(codes, (-1, 0, 1)).all():
            refuse(name, np.unique(codes).tolist(), "-1, 0 and 1 alone")
    for name, rule in rules.items():
        if np.asarray(rule).dtype != bool:
            refuse(f"rules[{name!r}]", np.asarray(rule).dtype, "bool", error=TypeError)
    check_number("level", level, above=0, below=1)
    check_at_least(1, num_resamples=num_resamples)

    learned = observed == Outcome.LEARNED
    decided = ~named["borderline"].astype(bool)
    claims = {"prediction": predicted == Regime.STABLE}
    claims["majority class"] = np.full(learned.shape, learned.mean() >= 0.5)
    claims |= {name: _better_sense(np.asarray(rule, bool), learned) for name, rule in rules.items()}

    labels, members = np.unique(named["groups"], return_inverse=True)
    draws = np.asarray(jax.random.randint(key, (num_resamples, labels.size), 0, labels.size))
    resampled = {name: _resample(claim, learned, members, draws) for name, claim in claims.items()}
    scores = {
        name: _score(claim, learned, _interval(resampled[name], level))
        for name, claim in claims.items()
    }
    margins = {
        name: (
            scores["prediction"].balanced_accuracy - scores[name].balanced_accuracy,
            _interval(resampled["prediction"] - resampled[name], level),
        )
        for name in claims
        if name != "prediction"
    }
    of_decided = _resample(claims["prediction"], learned, members, draws, counted=decided)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (predicted + 1, observed + 1), 1)
    missing = [r.name for r in Regime if r not in predicted] + [
        o.name for o in Outcome if o not in observed
    ]
    return Agreement(
        confusion=confusion,
        prediction=scores["prediction"],
        decided=_score(
            claims["prediction"][decided], learned[decided], _interval(of_decided, level)
        ),
        rules={name: score for name, score in scores.items() if name != "prediction"},
        margins=margins,
        disagreements=np.flatnonzero(claims["prediction"] != learned),
        missing=tuple(name.lower() for name in missing),
        level=level,
    )


def balanced_accuracy(claims: np.ndarray, learned: np.ndarray) -> float:
    """Return the mean of the fractions right among True and among False, NaN if one is absent."""
    if learned.all() or not learned.any():
        return float("nan")
    return float((claims[learned].mean() + (~claims[~learned]).mean()) / 2)


def _better_sense(rule, learned):
    return ~rule if balanced_accuracy(rule, learned) < 1 / 2 else rule


def _score(claims, learned, interval):
    accuracy = float(np.mean(claims == learned)) if learned.size else float("nan")
    balanced = balanced_accuracy(claims, learned) if learned.size else float("nan")
    return Score(balanced, interval, accuracy, int(learned.size))


def _resample(claims, learned, members, draws, *, counted: Any = True):
    """Return the balanced accuracy of each resample of groups."""
    num_groups = draws.shape[1]

    def per_group(which):
        return np.bincount(members, weights=which & counted, minlength=num_groups)[draws].sum(
            axis=1
        )

    right_yes, yes = per_group(claims & learned), per_group(learned)
    right_no, no = per_group(~claims & ~learned), per_group(~learned)
    with np.errstate(invalid="ignore"):
        return (right_yes / yes + right_no / no) / 2


def _interval(values, level):
    values = values[np.isfinite(values)]
    if not values.size:
        return (float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))

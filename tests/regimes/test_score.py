import jax
import numpy as np
import pytest

from jacobian_rnn import Outcome, Regime, score_regimes
from jacobian_rnn.regimes.score import balanced_accuracy


def compare(regimes, outcomes, *, groups=None, borderline=None, rules=None, **options):
    size = len(regimes)
    return score_regimes(
        np.array(regimes),
        np.array(outcomes),
        groups=np.arange(size) if groups is None else np.array(groups),
        borderline=np.zeros(size, bool) if borderline is None else np.array(borderline),
        rules={} if rules is None else rules,
        key=jax.random.key(0),
        **options,
    )


def test_confusion_counts_every_pair_of_regime_and_outcome_where_it_belongs():
    pairs = [(r, o) for r in Regime for o in Outcome]
    repeats = np.arange(1, 10)
    regimes = np.repeat([r for r, _ in pairs], repeats)
    outcomes = np.repeat([o for _, o in pairs], repeats)
    assert np.array_equal(compare(regimes, outcomes).confusion, repeats.reshape(3, 3))


def test_balanced_accuracy_is_the_mean_of_both_recalls():
    # 3 of 4 that learned were called stable, 1 of 2 that did not were called otherwise.
    result = compare([0, 0, 0, -1, 1, 0], [0, 0, 0, 0, -1, 1])
    assert result.prediction.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result.prediction.accuracy == pytest.approx(4 / 6)
    assert result.disagreements.tolist() == [3, 5]


def test_borderline_networks_count_for_all_but_not_for_decided():
    result = compare([0, 0, -1, -1], [0, -1, -1, 0], borderline=[False, True, False, True])
    assert result.prediction.balanced_accuracy == 0.5
    assert result.decided.balanced_accuracy == 1.0
    assert result.decided.num_networks == 2


def test_a_rule_is_read_in_its_better_sense_and_majority_scores_one_half():
    outcomes = [0, 0, -1, -1, -1]
    upside_down = np.array([False, False, True, True, True])
    result = compare([0, 0, -1, -1, -1], outcomes, rules={"upside down": upside_down})
    assert result.rules["upside down"].balanced_accuracy == 1.0
    assert result.rules["majority class"].balanced_accuracy == 0.5
    assert result.rules["majority class"].accuracy == pytest.approx(3 / 5)
    assert result.margins["majority class"][0] == pytest.approx(0.5)


def test_a_class_that_never_occurs_is_named_and_leaves_no_plausible_number():
    rule = np.array([True, True, False])
    result = compare([0, 0, -1], [0, 0, 0], rules={"as given": rule})
    assert np.isnan(result.prediction.balanced_accuracy)
    # Nothing tells whether it is upside down.
    assert result.rules["as given"].accuracy == pytest.approx(2 / 3)
    assert np.isnan(result.prediction.interval).all()
    assert set(result.missing) == {"exploding", "stuck", "diverged"}


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say_when_groups_are_independent():
    generator = np.random.default_rng(0)
    truth, covered, trials = 0.8, 0, 200
    for _ in range(trials):
        learned = np.repeat([True, False], 40)
        right = generator.random(80) < truth
        regimes = np.where(learned == right, 0, -1)
        outcomes = np.where(learned, 0, -1)
        low, high = compare(regimes, outcomes, num_resamples=300).prediction.interval
        covered += low <= truth <= high
    # 95 % nominal; the percentile bootstrap undercovers a little at 40 per class.
    assert 0.88 <= covered / trials <= 0.99


def test_networks_of_one_group_do_not_narrow_the_interval():
    regimes, outcomes = [0, 0, -1, -1, 0, -1], [0, -1, -1, 0, 0, -1]
    alone = compare(regimes, outcomes)
    copied = compare(
        np.repeat(regimes, 20), np.repeat(outcomes, 20), groups=np.repeat(np.arange(6), 20)
    )
    assert copied.prediction.interval == pytest.approx(alone.prediction.interval)
    independent = compare(np.repeat(regimes, 20), np.repeat(outcomes, 20))
    width = np.diff(copied.prediction.interval)
    assert np.diff(independent.prediction.interval) < width / 2


def test_the_summary_names_every_number_it_shows():
    text = str(compare([0, -1, 1], [0, -1, 1], rules={"norm": np.array([True, False, False])}))
    for part in (
        "vanishing",
        "stuck",
        "diverged",
        "decided",
        "rule: norm",
        "balanced accuracy 1.000",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"regimes": [], "outcomes": []}, "regimes: received none"),
        ({"regimes": [0, 0], "outcomes": [0]}, "outcomes: received shape"),
        ({"regimes": [0, 0], "outcomes": [0, 0], "groups": [1]}, "groups: received shape"),
        ({"regimes": [0, 0], "outcomes": [0, 0], "rules": {"r": np.array([True])}}, "rules"),
        ({"regimes": [0, 0], "outcomes": [0, 0], "level": 1.5}, "level"),
        ({"regimes": [0, -2], "outcomes": [0, 0]}, "regimes: received"),
        ({"regimes": [0, 0], "outcomes": [0, 2]}, "outcomes: received"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, match):
    with pytest.raises(ValueError, match=match):
        compare(**arguments)


def test_balanced_accuracy_without_a_class_is_nan():
    assert np.isnan(balanced_accuracy(np.array([True]), np.array([True])))

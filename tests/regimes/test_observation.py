from typing import NamedTuple

import jax
import numpy as np
import pytest

from jacobian_rnn import Outcome, observe_regime


class Record(NamedTuple):
    loss: np.ndarray
    update_norm: np.ndarray
    test_skill: float | np.ndarray
    baseline_loss: float | np.ndarray = 1.0


def record(skill=0.9, loss=1.0, updates=0.1):
    return Record(np.full(50, loss), np.full(50, updates), skill)


def test_skill_decides_what_was_learned():
    assert observe_regime(record(skill=0.5)).outcome == Outcome.LEARNED
    assert observe_regime(record(skill=0.49)).outcome == Outcome.STUCK
    assert observe_regime(record(skill=0.49), learned_above=0.4).outcome == Outcome.LEARNED


def test_non_finite_loss_updates_or_skill_mean_diverged():
    assert observe_regime(record(loss=np.nan)).outcome == Outcome.DIVERGED
    assert observe_regime(record(updates=np.inf)).outcome == Outcome.DIVERGED
    assert observe_regime(record(skill=np.nan)).outcome == Outcome.DIVERGED
    late = np.where(np.arange(50) < 30, 1.0, np.nan)
    assert "from update 30 on" in str(observe_regime(record(skill=0.0)._replace(loss=late)))


def test_a_loss_far_above_the_baseline_means_diverged_unless_it_learned():
    assert observe_regime(record(skill=0.1, loss=10.5)).outcome == Outcome.DIVERGED
    assert observe_regime(record(skill=0.1, loss=9.5)).outcome == Outcome.STUCK
    assert observe_regime(record(skill=0.9, loss=10.5)).outcome == Outcome.LEARNED


def test_observation_refuses_criteria_and_records_that_make_no_sense():
    with pytest.raises(ValueError, match="learned_above"):
        observe_regime(record(), learned_above=1.0)
    with pytest.raises(ValueError, match="diverged_above"):
        observe_regime(record(), diverged_above=1.0)
    for name, broken in {"baseline_loss": 0.0, "update_norm": np.ones(3)}.items():
        with pytest.raises(ValueError, match=rf"history\.{name}: received .*, expected"):
            observe_regime(record()._replace(**{name: broken}))
    with pytest.raises(ValueError, match=r"history\.loss: received shape \(0,\)"):
        observe_regime(Record(np.zeros(0), np.zeros(0), 0.5))
    many = Record(np.zeros((2, 5)), np.zeros((2, 5)), 0.5)
    with pytest.raises(ValueError, match=r"test_skill: received shape \(\), expected \(2,\)"):
        observe_regime(many)
    with pytest.raises(ValueError, match=r"baseline_loss: received shape \(3,\), expected \(2,\)"):
        observe_regime(many._replace(test_skill=np.ones(2), baseline_loss=np.ones(3)))


def ensemble():
    """Records of networks that learned, that failed in all ways, and that are on the borders."""
    late = np.where(np.arange(50) < 30, 1.0, np.nan)
    records = [
        record(),
        record(skill=0.5),
        record(skill=0.49),
        record(skill=0.1, loss=10.5),
        record(updates=np.inf),
        record()._replace(loss=late),
        record(skill=np.nan),
        record(skill=-3.0),
    ]
    loss, norm, skill, baseline = (np.stack(parts) for parts in zip(*records, strict=True))
    return records, Record(*(a.reshape(2, 4, *a.shape[1:]) for a in (loss, norm, skill, baseline)))


def test_an_ensemble_is_observed_as_each_of_its_networks():
    records, together = ensemble()
    for observed in (observe_regime(together), jax.jit(observe_regime)(together)):
        for index, one in zip(np.ndindex(2, 4), records, strict=True):
            for of_many, of_one in zip(observed, observe_regime(one), strict=True):
                np.testing.assert_array_equal(of_many[index], of_one)
    assert observe_regime(together).outcome.tolist() == [[0, 0, -1, 1], [1, 1, 1, -1]]
    assert observe_regime(together).first_nonfinite_update.tolist() == [[-1] * 4, [0, 30, -1, -1]]
    one_baseline = together._replace(baseline_loss=1.0)
    np.testing.assert_array_equal(
        observe_regime(one_baseline).outcome, observe_regime(together).outcome
    )


def test_an_ensemble_is_described_by_counts():
    assert str(observe_regime(ensemble()[1])) == "8 networks: 2 stuck, 2 learned, 4 diverged"
    assert "skill is not finite" in str(observe_regime(record(skill=np.nan)))

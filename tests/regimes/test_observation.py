from typing import NamedTuple

import numpy as np
import pytest

from jacobian_rnn import Outcome, observe_regime


class Record(NamedTuple):
    loss: np.ndarray
    update_norm: np.ndarray
    test_skill: float
    baseline_loss: float = 1.0


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
    with pytest.raises(ValueError, match="one network's"):
        observe_regime(record()._replace(loss=np.zeros((2, 5))))

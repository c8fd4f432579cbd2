import numpy as np
import pytest

from jacobian_rnn import plotting
from jacobian_rnn.training import Records, TrainingHistory
from tests.plotting.drawings import labels, marked


def history(**fields):
    blank = dict.fromkeys(TrainingHistory._fields, np.zeros(0))
    return TrainingHistory(**(blank | {"baseline_loss": np.float64(1.4)} | fields))


def lag_records(norms):
    blank = dict.fromkeys(Records._fields, np.zeros(0))
    lags = {"gradient_norm_by_lag": norms, "num_updates": np.array([0, 10, 20])}
    return Records(**(blank | lags))


def test_a_loss_is_averaged_over_its_window_and_broken_stretches_are_marked(axes):
    loss = np.array([4.0, 2.0, 1.0, np.nan, np.inf, 1.0, np.nan])
    plotting.training_loss(axes, history(loss=loss), window=2)
    updates, means = marked(axes, "training, mean of 2 updates").get_data()
    np.testing.assert_array_equal(updates, [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(means[:2], [3.0, 1.5])
    assert np.isnan(means[2:]).all()
    assert marked(axes, "not finite").get_xdata().tolist() == [4, 7]
    assert marked(axes, "trivial baseline").get_ydata()[0] == 1.4
    for window in (0, 8):
        with pytest.raises(ValueError, match=f"window: received {window}, expected 1 to 7"):
            plotting.training_loss(axes, history(loss=loss), window=window)
    with pytest.raises(ValueError, match="received a batch"):
        plotting.training_loss(axes, history(loss=np.zeros((2, 3))))
    axes.clear()
    plotting.training_loss(axes, history(loss=np.array([1.0, 0.0, -1.0, 2.0, 0.0, -np.inf])))
    assert marked(axes, "zero or less").get_xdata().tolist() == [2, 5]


def test_gradient_norms_are_logs_against_the_lag_for_the_first_and_the_last_record(axes):
    norms = np.array([[1.0, 0.5, 0.0, 0.0], [1.0, 0.9, 0.8, 0.7], [1.0, 10.0, np.inf, np.nan]])
    record = history(records=lag_records(norms))
    plotting.gradient_norms_by_lag(axes, record, most=2)
    assert labels(axes)[:2] == ["before training", "after 20 updates"]
    lags, logs = marked(axes, "before training").get_data()
    assert lags.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(logs, [0, np.log(0.5), np.nan, np.nan])
    under, over = marked(axes, "underflow"), marked(axes, "not finite")
    assert (under.get_xdata().tolist(), under.get_ydata().tolist()) == ([2], [0.03])
    assert (over.get_xdata().tolist(), over.get_ydata().tolist()) == ([2], [0.97])
    with pytest.raises(ValueError, match="most: received 0"):
        plotting.gradient_norms_by_lag(axes, record, most=0)
    with pytest.raises(ValueError, match="train with gradients_by_lag=True"):
        plotting.gradient_norms_by_lag(axes, history(records=lag_records(np.zeros((0, 4)))))
    with pytest.raises(ValueError, match="received a batch"):
        plotting.gradient_norms_by_lag(axes, history(records=lag_records(np.zeros((2, 3, 4)))))

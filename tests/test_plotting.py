import matplotlib.pyplot as plt
import numpy as np

from jacobian_rnn import THRESHOLDS, Outcome, plotting


def drawn(log_gain, outcome):
    _, axes = plt.subplots()
    log_gain = np.array(log_gain)
    interval = np.stack([log_gain - 1, log_gain + 1], axis=1)
    gains = np.arange(1.0, len(log_gain) + 1)
    return plotting.regime_against_gain(axes, gains, log_gain, interval, np.array(outcome))


def ringed(axes):
    return axes.collections[-1].get_offsets()[:, 0].tolist()


def test_networks_where_prediction_and_training_disagree_are_ringed():
    axes = drawn([-30.0, -30.0, 0.0, 0.0, 20.0], [-1, 0, 0, 1, 0])
    assert ringed(axes) == [2.0, 4.0, 5.0]
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) >= {outcome.name.lower() for outcome in Outcome}
    plt.close()


def test_a_gain_of_zero_sits_on_the_lower_edge_and_counts_as_vanishing():
    axes = drawn([-np.inf, 0.0], [Outcome.STUCK, Outcome.LEARNED])
    assert np.isfinite(axes.get_ylim()).all()
    assert ringed(axes) == []
    lowest = min(line.get_ydata().min() for line in axes.lines if len(line.get_ydata()) == 1)
    assert lowest == axes.get_ylim()[0]
    plt.close()


def test_the_names_of_the_regimes_stand_between_their_thresholds():
    axes = plotting.label_regimes(drawn([0.0], [0]))
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights["vanishing"] < THRESHOLDS.vanishing < heights["stable"]
    assert heights["stable"] < THRESHOLDS.exploding < heights["exploding"]
    plt.close()

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import jacobian_rnn as jrnn
from jacobian_rnn import THRESHOLDS, Outcome, plotting
from paper_figures import style
from tests.plotting.drawings import marked, points


def drawn(log_growth, outcome):
    _, axes = plt.subplots()
    log_growth = np.array(log_growth)
    interval = np.stack([log_growth - 1, log_growth + 1], axis=1)
    gains = np.arange(1.0, len(log_growth) + 1)
    return plotting.regime_against_gain(axes, gains, log_growth, interval, np.array(outcome))


def ringed(axes):
    return axes.collections[-1].get_offsets()[:, 0].tolist()


def test_networks_where_prediction_and_training_disagree_are_ringed():
    axes = drawn([-30.0, -30.0, 0.0, 0.0, 20.0], [-1, 0, 0, 1, 0])
    assert ringed(axes) == [2.0, 4.0, 5.0]
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) >= {outcome.name.lower() for outcome in Outcome}
    plt.close()


def test_gains_without_a_finite_log_sit_on_the_edges_open_and_count_as_what_they_are():
    axes = drawn([-np.inf, 0.0, np.inf], [Outcome.STUCK, Outcome.LEARNED, Outcome.LEARNED])
    low, high = axes.get_ylim()
    assert np.isfinite([low, high]).all()
    assert ringed(axes) == [3.0]
    ((_, ring),) = np.asarray(axes.collections[-1].get_offsets())
    for label, gain, height in (
        ("stuck, log growth −∞", 1, 0.03),
        ("learned, log growth +∞", 3, 0.97),
    ):
        marks = marked(axes, label)
        assert (list(marks.get_xdata()), list(marks.get_ydata())) == ([gain], [height])
        assert to_hex(marks.get_markerfacecolor()) == "#ffffff"
    assert ring == pytest.approx(low + 0.97 * (high - low))  # around its triangle
    assert points(axes, "learned")[0].tolist() == [2]
    plt.close()


def test_every_finite_gain_is_in_the_picture_and_its_ring_around_it():
    _, axes = plt.subplots()
    gains, intervals = np.array([-300.0, 0.0]), np.array([[-np.inf, -200.0], [-0.1, 0.1]])
    plotting.regime_against_gain(axes, np.array([1.0, 2.0]), gains, intervals, np.array([0, -1]))
    assert axes.get_ylim()[0] < -300
    np.testing.assert_array_equal(axes.collections[-1].get_offsets(), [[1, -300], [2, 0]])
    plt.close()


def test_the_names_of_the_regimes_stand_between_their_thresholds():
    axes = plotting.label_regimes(drawn([0.0], [0]))
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights["vanishing"] < THRESHOLDS.vanishing < heights["stable"]
    assert heights["stable"] < THRESHOLDS.exploding < heights["exploding"]
    plt.close()


def test_names_of_narrow_regimes_lie_flat_so_that_they_do_not_meet():
    for log_growth, angle in ((0.0, 90), (-400.0, 0)):
        axes = plotting.label_regimes(drawn([log_growth], [0]))
        assert {text.get_rotation() for text in axes.texts} == {angle}
        plt.close()


def test_regimes_against_gain_name_their_axes_and_refuse_what_does_not_fit(axes):
    one = drawn([0.0], [0])
    assert (one.get_xlabel(), one.get_ylabel()) == ("recurrent gain", "predicted log growth (nats)")
    plt.close(one.figure)
    fitting = (np.ones(2), np.zeros(2), np.zeros((2, 2)), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"interval: received shape \(2,\), expected \(2, 2\)"):
        plotting.regime_against_gain(axes, *fitting[:2], np.zeros(2), fitting[3])
    with pytest.raises(ValueError, match="outcome: received"):
        plotting.regime_against_gain(axes, *fitting[:3], np.array([0, 7]))
    with pytest.raises(ValueError, match=r"gain: received \[0.0, 1.0\], expected positive"):
        plotting.regime_against_gain(axes, np.array([0.0, 1.0]), *fitting[1:])


def test_the_colours_are_those_of_the_papers_figures():
    for name in ("COLOURS", "MARKERS", "LINES"):
        assert getattr(plotting, name) == getattr(style, name)
    outcomes = [colour for colour, _ in plotting.OUTCOME_STYLE.values()]
    assert set(outcomes) < set(plotting.COLOURS)


def prediction(log_growth, horizon=60, thresholds=THRESHOLDS):
    gains = np.asarray(log_growth, float)
    interval = np.nanquantile(np.where(np.isinf(gains), -1e3, gains), [0.05, 0.95])
    known = {"log_growth_of_output": gains, "interval": interval}
    known |= {"horizon": horizon, "thresholds": thresholds}
    return jrnn.RegimePrediction(**(dict.fromkeys(jrnn.RegimePrediction._fields, 0) | known))


def test_predictions_show_each_sequence_median_and_interval_over_the_regimes(axes):
    gains = np.array([-3.0, -1.0, -2.0, np.nan])
    plotting.predicted_regimes(axes, {"mine": prediction(gains), "other": prediction([-40, -30])})
    line = marked(axes, "sequences")
    np.testing.assert_array_equal(line.get_ydata(), gains)
    assert np.all(np.abs(line.get_xdata()) < 0.5)
    median = marked(axes, "median and central 90 %")
    assert (list(median.get_xdata()), list(median.get_ydata())) == ([0], [-2.0])
    bars = [bar.get_ydata() for bar in axes.lines if bar.get_linewidth() == 2.2]
    np.testing.assert_allclose(bars, [[-2.9, -1.1], [-39.5, -30.5]])
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["mine\ndigits lost: 1 of 4", "other"]
    assert axes.get_ylabel() == "log growth over 60 steps (nats)"
    band = axes.patches[0]
    assert band.get_y() == THRESHOLDS.vanishing
    assert band.get_y() + band.get_height() == pytest.approx(THRESHOLDS.exploding)
    assert {text.get_text() for text in axes.texts} == {"vanishing", "stable", "exploding"}
    assert axes.get_ylim()[0] < -40


def test_a_gain_of_zero_and_lost_gains_leave_the_picture_readable(axes):
    plotting.predicted_regimes(axes, prediction([-np.inf, 2.0, 3.0]))
    assert marked(axes, "log growth −∞").get_xdata().size == 1
    assert np.isfinite(axes.get_ylim()).all()
    axes.clear()
    nothing = prediction([0.0, 0.0])._replace(log_growth_of_output=np.full(2, np.nan))
    plotting.predicted_regimes(axes, {"a": nothing, "b": prediction([0, 1], horizon=9)})
    assert "digits lost: 2 of 2" in axes.get_xticklabels()[0].get_text()
    assert axes.get_ylabel() == "log growth over the horizon (nats)"


def test_predictions_that_do_not_belong_together_are_refused(axes):
    several = {"a": prediction([0, 1]), "b": prediction([0, 1], thresholds=(-1, 1))}
    with pytest.raises(ValueError, match="expected the same for all"):
        plotting.predicted_regimes(axes, several)
    with pytest.raises(ValueError, match="predictions"):
        plotting.predicted_regimes(axes, {})
    with pytest.raises(TypeError, match="predictions: received a list"):
        plotting.predicted_regimes(axes, [prediction([0, 1])])
    with pytest.raises(ValueError, match=r"predictions\['a'\]: received a batch"):
        plotting.predicted_regimes(axes, {"a": prediction([0, 1])._replace(regime=np.zeros(3))})


def test_a_confusion_matrix_has_its_counts_names_shares_and_frames(axes):
    result = jrnn.score_regimes(
        np.array([-1, -1, -1, 0, 0, 1]),
        np.array([-1, -1, 0, 0, 1, 1]),
        groups=np.arange(6),
        borderline=np.zeros(6, bool),
        rules={},
        key=jax.random.key(0),
        num_resamples=50,
    )
    plotting.confusion_matrix(axes, result)
    counts = np.zeros((3, 3), int)
    for text in axes.texts:
        counts[text.get_position()[::-1]] = int(text.get_text())
    np.testing.assert_array_equal(counts, result.confusion)
    np.testing.assert_allclose(axes.images[0].get_array()[0], [2 / 3, 1 / 3, 0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["stuck", "learned", "diverged"]
    assert axes.get_yticklabels()[2].get_text() == "exploding"
    framed = {(round(p.get_y() + 0.44), round(p.get_x() + 0.46)) for p in axes.patches}
    assert framed == {(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)}
    accuracy = result.prediction.balanced_accuracy
    assert axes.get_title().startswith(f"balanced accuracy {accuracy:.2f} [")

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import jacobian_rnn as jrnn
from jacobian_rnn import THRESHOLDS, Outcome, plotting
from jacobian_rnn.training import TrainingHistory
from paper_figures import style


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what was drawn can be drawn
    plt.close(figure)


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def marked(axes, label):
    """Return the line with a label that begins so: marks at an edge, or a curve."""
    (line,) = (line for line in axes.lines if str(line.get_label()).startswith(label))
    return line


def with_bars(axes, label):
    """Return the points with a label, or the only ones whose label begins so."""
    known = {one.get_label(): one for one in axes.containers}
    (name,) = {label} & set(known) or {name for name in known if name.startswith(label)}
    return known[name]


def points(axes, label):
    """Return places, values and half widths of error bars of the points with a label."""
    data, _, bars = with_bars(axes, label)
    halves = None
    if bars:
        halves = [(end[1] - start[1]) / 2 for start, end in bars[0].get_segments()]
    return *data.get_data(), halves


def is_open(axes, label):
    return to_hex(with_bars(axes, label)[0].get_markerfacecolor()) == "#ffffff"


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


def test_names_of_narrow_regimes_lie_flat_so_that_they_do_not_meet():
    for log_gain, angle in ((0.0, 90), (-400.0, 0)):
        axes = plotting.label_regimes(drawn([log_gain], [0]))
        assert {text.get_rotation() for text in axes.texts} == {angle}
        plt.close()


def test_regimes_against_gain_name_their_axes_and_refuse_what_does_not_fit(axes):
    one = drawn([0.0], [0])
    assert (one.get_xlabel(), one.get_ylabel()) == ("recurrent gain", "predicted log gain (nats)")
    plt.close(one.figure)
    fitting = (np.ones(2), np.zeros(2), np.zeros((2, 2)), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"interval: received shape \(2,\) beside \(2,\) gains"):
        plotting.regime_against_gain(axes, *fitting[:2], np.zeros(2), fitting[3])
    with pytest.raises(ValueError, match="outcome: received"):
        plotting.regime_against_gain(axes, *fitting[:3], np.array([0, 7]))


def test_the_colours_are_those_of_the_papers_figures():
    for name in ("COLOURS", "MARKERS", "LINES"):
        assert getattr(plotting, name) == getattr(style, name)
    outcomes = [colour for colour, _ in plotting.OUTCOME_STYLE.values()]
    assert set(outcomes) < set(plotting.COLOURS)


def decaying(smallest=0.5, passes=2, disagreement=0.0):
    """Multiply diag(2, 1, smallest) 50 times; passes disagree about the last two."""
    with np.errstate(divide="ignore"):
        one = 50 * np.log([2.0, 1.0, smallest])
    other = one + disagreement * np.array([0, 1, -1])
    return jrnn.JacobianProduct(
        left=jnp.tile(jnp.eye(3), (passes, 1, 1)),
        log_scale=jnp.array([one, other][:passes]),
        right=jnp.tile(jnp.eye(3), (passes, 1, 1)),
        num_steps=jnp.int32(50),
        first_lost_step=jnp.int32(-1),
        first_nonfinite_step=jnp.int32(-1),
    )


def test_singular_values_stand_at_their_place_and_lost_ones_on_the_edge(axes):
    assert plotting.product_singular_values(axes, decaying(smallest=0.0)) is axes
    places, values, halves = points(axes, "50 steps")
    np.testing.assert_allclose(places, [1 / 6, 3 / 6])
    np.testing.assert_allclose(values, [50 * np.log(2), 0], atol=1e-9)
    assert max(halves) < 1e-9
    lost = marked(axes, "lost (−∞): 1 of 3")
    np.testing.assert_allclose(lost.get_xdata(), [5 / 6])
    assert lost.get_ydata() == [0.03]  # of the axis, not nats
    assert lost.get_transform() == axes.get_xaxis_transform()
    assert axes.get_ylabel() == "log σᵢ (nats)"


def test_bars_are_the_products_own_errors_and_lost_digits_are_open_points(axes):
    product = decaying(disagreement=0.03)
    assert product.log_error > 0.1 > 1e-2 > product.log_gain_error
    plotting.product_singular_values(axes, product, label="mine")
    assert not is_open(axes, "mine")
    assert len(points(axes, "mine")[0]) == 1
    assert is_open(axes, "digits lost")
    np.testing.assert_allclose(points(axes, "digits lost")[2], float(product.log_error))


def test_without_a_second_pass_there_are_no_bars_and_no_verdict(axes):
    product = decaying(passes=1)
    plotting.product_singular_values(axes, product)
    assert labels(axes) == ["50 steps"]
    assert max(points(axes, "50 steps")[2]) == 0
    assert not is_open(axes, "50 steps")
    with pytest.raises(TypeError, match="expected JacobianProduct"):
        plotting.product_singular_values(axes, product.dense())
    with pytest.raises(ValueError, match="received a batch"):
        plotting.product_singular_values(axes, jax.tree.map(lambda a: a[None], product))
    broken = product._replace(log_scale=jnp.full((2, 3), jnp.nan))
    with pytest.raises(ValueError, match=r"NaN or infinity.*first_nonfinite_step"):
        plotting.product_singular_values(axes, broken)
    with pytest.raises(TypeError, match="axes: received ndarray, expected one matplotlib Axes"):
        plotting.product_singular_values(np.array([axes, axes]), product)


def test_by_lag_three_values_stand_out_in_the_order_of_the_lags(axes):
    rates = np.log([1.1, 0.9, 0.8, 0.5, 0.1])
    lags = [300, 10, 100]
    spectra = np.array(lags)[:, None] * rates
    spectra[0, 4] = -np.inf
    plotting.singular_values_by_lag(axes, lags, spectra, float_ranges=["float32", "float64"])
    ends = ["ends of float32", "ends of float64"]
    assert labels(axes) == ["σ₁", "σ₃", "σ₅", "lost (−∞): 1 of 5", *ends]
    line = marked(axes, "σ₁")
    np.testing.assert_allclose(line.get_xdata(), [10, 100, 300])
    np.testing.assert_allclose(line.get_ydata(), np.array([10, 100, 300]) * np.log(1.1))
    assert np.isnan(marked(axes, "σ₅").get_ydata()[2])
    assert marked(axes, "lost").get_xdata().tolist() == [300]
    assert sum(line.get_color() == "0.75" for line in axes.lines) == 2
    # The ends of float64 lie outside what is seen, and change nothing in it.
    assert marked(axes, "ends of float32").get_ydata()[0] == pytest.approx(-87.3, abs=0.1)
    assert -708 < axes.get_ylim()[0] < -230.3 < -87.3


def test_by_lag_shapes_lags_and_types_are_checked(axes):
    def refused(match, lags, spectra, **options):
        with pytest.raises(ValueError, match=match):
            plotting.singular_values_by_lag(axes, lags, spectra, **options)

    refused(r"received shapes \(2,\), \(3, 4\)", [1, 2], np.zeros((3, 4)))
    refused("each once", [1, 1], np.zeros((2, 4)))
    refused("each once, from 0 on", [-1, 1], np.zeros((2, 4)))
    refused("some of .*float32", [1], np.zeros((1, 4)), float_ranges=["float16"])
    refused("NaN", [1], np.full((1, 4), np.nan))


@pytest.fixture
def spectrum():
    """Give three exponents of four, with a history of two batches in room for three."""
    fields = {
        "exponents": jnp.array([0.5, 0.0, -1.0]),
        "standard_errors": jnp.array([0.01, 0.02, 0.03]),
        "num_batches": jnp.array([64, 32, 16]),
        "long_enough": jnp.ones(3, bool),
        "history": jnp.array([[0.4, 0.1, -0.9], [0.5, 0.0, -1.0], 3 * [jnp.nan]]),
        "history_steps": jnp.array([10, 20, 0]),
        "run": SimpleNamespace(frame=jnp.zeros((4, 3))),
    }
    return jrnn.LyapunovSpectrum(**(dict.fromkeys(jrnn.LyapunovSpectrum._fields) | fields))


def test_exponents_have_their_intervals_over_time_and_the_place_of_their_number(axes, spectrum):
    fractions = np.array([0.1, 0.5, 0.9])
    theory = (fractions, jnp.array([1.0, 0.5, -jnp.inf]))
    plotting.lyapunov_exponents(axes, spectrum, theory=theory)
    places, values, halves = points(axes, "3 exponents, 95 % over time")
    np.testing.assert_allclose(places, [1 / 8, 3 / 8, 5 / 8])  # of all four, not of three
    np.testing.assert_allclose(values, spectrum.exponents)
    low, high = spectrum.interval()
    np.testing.assert_allclose(halves, (high - low) / 2)
    np.testing.assert_allclose(marked(axes, "theory").get_xdata(), fractions)
    assert np.isnan(marked(axes, "theory").get_ydata()[2])
    assert axes.get_xlim() == (0, 1)
    assert axes.get_ylabel() == "exponent λᵢ (nats per step)"


def test_exponents_of_too_short_a_run_are_open_and_lost_ones_stand_on_the_edge(axes, spectrum):
    honest = spectrum._replace(
        exponents=spectrum.exponents.at[2].set(-jnp.inf),
        long_enough=jnp.array([True, False, False]),
    )
    plotting.lyapunov_exponents(axes, honest)
    assert points(axes, "3 exponents")[0].tolist() == [1 / 8]
    assert is_open(axes, "too short a run")
    assert points(axes, "too short a run")[0].tolist() == [3 / 8]
    assert marked(axes, "lost (−∞): 1 of 3").get_xdata().tolist() == [5 / 8]
    assert axes.get_xlim() == (0, 3 / 4)  # as far as there are exponents


def test_an_ensembles_bars_are_standard_errors_over_members(axes):
    errors = np.array([0.1, 0.2, np.nan])
    ensemble = jrnn.EnsembleSpectrum(np.array([1.0, 0.0, -1.0]), errors, errors, errors)
    plotting.lyapunov_exponents(axes, ensemble, num_states=10, shown=[1, 2], label="mine")
    places, values, halves = points(axes, "mine")
    assert (places.tolist(), values.tolist()) == ([0.15], [0.0])
    np.testing.assert_allclose(halves, 0.2)
    assert is_open(axes, "error unknown")
    for options, match in (
        ({"shown": [3]}, "shown: received"),
        ({"num_states": 2}, "num_states: received 2, expected at least 3"),
        ({"theory": (np.zeros(2), np.zeros(3))}, "theory: received shapes"),
    ):
        with pytest.raises(ValueError, match=match):
            plotting.lyapunov_exponents(axes, ensemble, **options)
    with pytest.raises(TypeError, match="spectrum: received ndarray"):
        plotting.lyapunov_exponents(axes, errors)


def test_convergence_draws_the_history_and_the_final_interval(axes, spectrum):
    plotting.convergence(axes, spectrum, most=2)
    assert labels(axes) == ["λ₁", "λ₃"]
    steps, values = marked(axes, "λ₃").get_data()
    made = ~np.isnan(np.asarray(spectrum.history[:, 2]))
    np.testing.assert_array_equal(steps, spectrum.history_steps[made])
    np.testing.assert_allclose(values, spectrum.history[made, 2])
    low, high = spectrum.interval()
    heights = [(band.get_y(), band.get_y() + band.get_height()) for band in axes.patches]
    np.testing.assert_allclose(heights, [(low[i], high[i]) for i in (0, 2)])
    assert axes.get_xscale() == "log"
    with pytest.raises(ValueError, match="most: received 0"):
        plotting.convergence(axes, spectrum, most=0)


def test_rates_of_finite_times_are_open_where_rare_windows_carry_them(axes):
    rng = np.random.default_rng(0)
    lags = jnp.array([1, 50])
    spread = rng.normal(size=(40, 2, 3)) * np.array([0.1, 15.0])[:, None]
    growth = jrnn.FiniteTimeGrowth(lags, jnp.array(spread))
    plotting.finite_time_rates(axes, growth)
    typical, mean = growth.finite_time_exponents(), growth.generalized_exponents(2)
    np.testing.assert_allclose(points(axes, "typical")[1], typical.value)
    np.testing.assert_allclose(points(axes, "typical")[2], typical.standard_error)
    assert points(axes, "mean square")[0].tolist() == [1]
    np.testing.assert_allclose(points(axes, "mean square, not")[1], mean.value[1])
    assert is_open(axes, "mean square, not to be trusted")


def prediction(log_gain, horizon=60, thresholds=THRESHOLDS):
    gains = np.asarray(log_gain, float)
    interval = np.nanquantile(np.where(np.isinf(gains), -1e3, gains), [0.05, 0.95])
    known = {"log_gain": gains, "interval": interval, "horizon": horizon, "thresholds": thresholds}
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
    assert axes.get_ylabel() == "log gain over 60 steps (nats)"
    band = axes.patches[0]
    assert band.get_y() == THRESHOLDS.vanishing
    assert band.get_y() + band.get_height() == pytest.approx(THRESHOLDS.exploding)
    assert {text.get_text() for text in axes.texts} == {"vanishing", "stable", "exploding"}
    assert axes.get_ylim()[0] < -40


def test_a_gain_of_zero_and_lost_gains_leave_the_picture_readable(axes):
    plotting.predicted_regimes(axes, prediction([-np.inf, 2.0, 3.0]))
    assert marked(axes, "log gain −∞").get_xdata().size == 1
    assert np.isfinite(axes.get_ylim()).all()
    axes.clear()
    nothing = prediction([0.0, 0.0])._replace(log_gain=np.full(2, np.nan))
    plotting.predicted_regimes(axes, {"a": nothing, "b": prediction([0, 1], horizon=9)})
    assert "digits lost: 2 of 2" in axes.get_xticklabels()[0].get_text()
    assert axes.get_ylabel() == "log gain over the horizon (nats)"


def test_predictions_that_do_not_belong_together_are_refused(axes):
    several = {"a": prediction([0, 1]), "b": prediction([0, 1], thresholds=(-1, 1))}
    with pytest.raises(ValueError, match="expected the same for all"):
        plotting.predicted_regimes(axes, several)
    with pytest.raises(ValueError, match="predictions"):
        plotting.predicted_regimes(axes, {})
    with pytest.raises(TypeError, match="predictions: received list"):
        plotting.predicted_regimes(axes, [prediction([0, 1])])
    with pytest.raises(ValueError, match=r"predictions\['a'\]: received a batch"):
        plotting.predicted_regimes(axes, {"a": prediction([0, 1])._replace(regime=np.zeros(3))})


def test_a_confusion_matrix_has_its_counts_names_shares_and_frames(axes):
    result = jrnn.agreement(
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


def history(**fields):
    blank = dict.fromkeys(TrainingHistory._fields, np.zeros(0))
    return TrainingHistory(**(blank | {"baseline_loss": np.float64(1.4)} | fields))


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


def test_gradient_norms_are_logs_against_the_lag_for_the_first_and_the_last_record(axes):
    norms = np.array([[1.0, 0.5, 0.0, 0.0], [1.0, 0.9, 0.8, 0.7], [1.0, 10.0, np.inf, np.nan]])
    record = history(gradient_norm_by_lag=norms, lag_updates=np.array([0, 10, 20]))
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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import plotting
from tests.plotting.drawings import is_open, labels, marked, points


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
        first_underflow_step=jnp.int32(-1),
        first_nonfinite_step=jnp.int32(-1),
        right_cut=jnp.zeros(passes, bool),
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
    assert product.log_error > 0.1 > 1e-2 > product.log_growth_error
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
    with pytest.raises(TypeError, match="expected one JacobianProduct"):
        plotting.product_singular_values(axes, product.dense())
    with pytest.raises(ValueError, match="received a batch"):
        plotting.product_singular_values(axes, jax.tree.map(lambda a: a[None], product))
    broken = product._replace(log_scale=jnp.full((2, 3), jnp.nan))
    with pytest.raises(ValueError, match=r"NaN or infinity.*first_nonfinite_step"):
        plotting.product_singular_values(axes, broken)
    with pytest.raises(TypeError, match="axes: received a ndarray, expected a matplotlib Axes"):
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

    refused(r"received shape \(3, 4\), expected \(2, n\)", [1, 2], np.zeros((3, 4)))
    refused("each once", [1, 1], np.zeros((2, 4)))
    refused("each once, from 0 on", [-1, 1], np.zeros((2, 4)))
    refused(
        "float_ranges: received .float16., .*float32",
        [1],
        np.zeros((1, 4)),
        float_ranges=["float16"],
    )
    refused("expected integers", [0.0, np.nan], np.zeros((2, 4)))
    refused("rows that ascend", [1], np.arange(4.0)[None])
    refused("NaN", [1], np.full((1, 4), np.nan))

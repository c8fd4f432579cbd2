"""Predictions by probes and by the exact product: where they agree, and what each knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    Regime,
    Thresholds,
    from_linen,
    jacobian_product,
    predict_regime,
    with_gain,
)
from tests.networks import normal, random_variables
from tests.systems import batch, chosen_matrix, linear, rotation


@pytest.mark.parametrize(
    "make_cell",
    [
        lambda: nn.SimpleCell(24, param_dtype=jnp.float64),
        pytest.param(lambda: nn.LSTMCell(8, param_dtype=jnp.float64), marks=pytest.mark.slow),
        pytest.param(lambda: nn.LSTMCell(24, param_dtype=jnp.float64), marks=pytest.mark.slow),
        pytest.param(lambda: nn.GRUCell(24, param_dtype=jnp.float64), marks=pytest.mark.slow),
        pytest.param(lambda: nn.MGUCell(24, param_dtype=jnp.float64), marks=pytest.mark.slow),
    ],
)
def test_probes_agree_with_the_exact_product_within_three_sampling_errors(make_cell):
    cell, num = make_cell(), 40
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    xs = jnp.asarray(normal(0, (num, 3, 40, 3)))
    keys = jax.random.split(jax.random.key(1), num)
    gains = jnp.geomspace(0.3, 8, num)
    networks = jax.vmap(lambda key: from_linen(cell, cell.init(key, carry, xs[0, 0, 0])))(keys)
    networks = jax.vmap(with_gain)(networks, gains)

    def predict(method):
        def one(network, xs, key):
            return predict_regime(network, carry, xs, horizon=25, method=method, key=key)

        return jax.jit(jax.vmap(one))(networks, xs, keys)

    probes, exact = predict("probes"), predict("exact")
    for name in ("log_growth", "log_growth_of_output"):
        off = np.abs(getattr(probes, name) - getattr(exact, name))
        assert np.mean(off < 3 * probes.sampling_error) >= 0.975
    np.testing.assert_array_equal(exact.profile, probes.profile)
    np.testing.assert_array_equal(probes.profile[..., 24], probes.log_growth)
    differ = probes.regime != exact.regime
    assert np.all(probes.borderline[differ] | exact.borderline[differ])
    assert np.ptp(exact.log_growth) > 15
    growths = jax.nn.logsumexp(2 * exact.log_singular_values, axis=-1) / 2
    n = exact.log_singular_values.shape[-1]
    np.testing.assert_allclose(growths - np.log(n) / 2, exact.log_growth, atol=1e-9)


def test_the_profile_shows_where_the_gradient_is_largest_on_its_way():
    matrices = jnp.array([2 * np.eye(2), 0.5 * np.eye(2)])
    xs = jnp.tile(jnp.repeat(jnp.array([1.0, 0.0]), 20)[:, None], (2, 1, 1))
    prediction = predict_regime(Recurrence(chosen_matrix, matrices), jnp.ones(2), xs, horizon=40)
    lags = np.arange(1, 41)
    expected = np.log(2) * np.where(lags <= 20, lags, 40 - lags)
    np.testing.assert_allclose(prediction.profile, [expected, expected], atol=1e-12)
    np.testing.assert_allclose(prediction.peak, 20 * np.log(2), atol=1e-12)
    np.testing.assert_array_equal(prediction.peak_lag, 20)
    said = "exploding: at lag 20 a gradient is multiplied by e^13.9, more than e^7.6"
    assert said in str(prediction)
    padded = predict_regime(
        Recurrence(chosen_matrix, matrices), jnp.ones(2), xs, horizon=10, seq_lengths=[40, 30]
    )
    assert np.all(np.isnan(padded.profile[1, 30:]))
    assert np.all(np.isfinite(padded.profile[1, :30]))
    np.testing.assert_array_equal(padded.peak_lag, [20, 10])


@pytest.mark.parametrize("method", ["probes", "exact"])
def test_the_growth_at_the_horizon_decides_what_vanishes_and_the_peak_what_explodes(method):
    # On the way back: decay by 2 in the last 10 steps, growth by 2 in 30, decay by 2 in 20.
    matrices = jnp.array([2 * np.eye(3), 0.5 * np.eye(3)])
    xs = jnp.ones((2, 60, 1)).at[:, :20].set(0.0).at[:, 50:].set(0.0)
    system = Recurrence(chosen_matrix, matrices[::-1])

    def predicted(horizon, *thresholds):
        options = {"thresholds": Thresholds(*thresholds), "method": method, "horizon": horizon}
        return predict_regime(system, jnp.ones(3), xs, **options)

    log_2 = np.log(2)
    # e^13.9 at lag 40, though over 12 steps a gradient is 2^-8 of its size.
    explodes = predicted(12, -4.0, 13.0)
    assert int(explodes.regime) == Regime.EXPLODING
    np.testing.assert_allclose(explodes.log_growth_of_output, -8 * log_2, atol=1e-9)
    np.testing.assert_allclose(explodes.deciding_growth, 20 * log_2, atol=1e-9)
    np.testing.assert_allclose(explodes.interval, 20 * log_2, atol=1e-9)
    assert str(explodes).startswith(
        "exploding: at lag 40 a gradient is multiplied by e^13.9, more than e^13.0"
    )
    assert "over 12 steps it is multiplied by e^-5.5" in str(explodes)
    vanishes = predicted(12, -4.0, 14.0)
    assert int(vanishes.regime) == Regime.VANISHING
    np.testing.assert_allclose(vanishes.deciding_growth, -8 * log_2, atol=1e-9)
    assert "over 12 steps a gradient is multiplied by e^-5.5, less than e^-4.0" in str(vanishes)
    # Over 60 steps nothing is left of the growth, and the peak counts all the same.
    assert int(predicted(60, -4.0, 13.0).regime) == Regime.EXPLODING
    stable = predicted(60, -4.0, 14.0)
    assert int(stable.regime) == Regime.STABLE
    assert "more than e^-4.0, and at no lag by more than e^13.9, less than e^14.0" in str(stable)
    assert not any(bool(one.borderline) for one in (explodes, vanishes, stable))


def test_the_peak_is_that_of_the_product_where_it_is_at_the_horizon():
    system = with_gain(
        from_linen(
            cell := nn.SimpleCell(24, param_dtype=jnp.float64),
            random_variables(cell, jnp.zeros(24), jnp.zeros(3)),
        ),
        1.5,
    )
    xs = jnp.asarray(normal(3, (3, 30, 3))) / 10
    exact = predict_regime(system, jnp.zeros(24), xs, horizon=30, method="exact")
    at_end = np.asarray(exact.peak_lag_of_output) == 30
    assert at_end.any()
    np.testing.assert_array_equal(exact.peak_of_output[at_end], exact.log_growth_of_output[at_end])


def test_the_spread_of_the_peak_makes_it_borderline():
    few = jnp.zeros((8, 20, 1)).at[:, :8].set(1.0)
    mixed = few.at[4:, :12].set(1.0)
    system = Recurrence(chosen_matrix, jnp.array([np.eye(2), 2 * np.eye(2)]))
    middle = Thresholds(-4.0, 10 * np.log(2))
    for xs, expected in ((mixed, True), (few, False)):
        prediction = predict_regime(system, jnp.ones(2), xs, horizon=1, thresholds=middle)
        assert bool(prediction.borderline) == expected


def test_the_exact_method_says_its_singular_values_and_the_other_has_none():
    exact = predict_regime(rotation(0.9), jnp.ones(2), batch(), horizon=30, method="exact")
    np.testing.assert_allclose(exact.log_singular_values, 30 * np.log(0.9), atol=1e-12)
    assert "singular values of the product from e^-3.2 to e^-3.2" in str(exact)
    probes = predict_regime(rotation(0.9), jnp.ones(2), batch(), horizon=30)
    assert probes.log_singular_values is None


def test_a_long_batch_keeps_its_numbers_when_its_states_are_not_stored():
    xs = jnp.asarray(normal(0, (2, 5000, 1)))
    prediction = predict_regime(rotation(0.999), jnp.ones(2), xs, horizon=4999)
    np.testing.assert_allclose(prediction.log_growth, 4999 * np.log(0.999), atol=1e-10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "svd"}, "method: received 'svd', expected one of 'probes', 'exact'"),
        ({"num_probes": 0}, "num_probes: received 0"),
    ],
)
def test_unknown_methods_and_no_probes_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        predict_regime(rotation(0.9), jnp.ones(2), batch(), horizon=30, **options)


def test_digits_that_a_hidden_part_loses_are_its_own():
    def step(matrices, carry, x):
        hidden, shown = carry
        return matrices[x[0].astype(int)] @ hidden, 0.99 * shown

    matrix = normal(0, (6, 6))
    matrices = jnp.asarray(np.stack([np.linalg.inv(matrix), matrix]))
    xs = jnp.tile(jnp.repeat(jnp.array([1.0, 0.0]), 100)[:, None], (2, 1, 1))
    carry = (jnp.ones(6), jnp.ones(3))
    system = Recurrence(step, matrices, output=lambda carry: carry[1])
    for method in ("probes", "exact"):
        prediction = predict_regime(system, carry, xs, horizon=200, method=method)
        np.testing.assert_allclose(prediction.log_growth_of_output, 200 * np.log(0.99), atol=1e-9)
        assert np.all(np.isnan(prediction.log_growth))
        assert np.all(prediction.log_growth_error > 1)
        assert int(prediction.regime) == Regime.STABLE


def test_the_sampling_error_of_an_output_counts_what_its_own_size_leaves_open():
    weights = np.ones(50)
    weights[0] = 1e3

    def step(damping, carry, x):
        return damping * carry + 0 * x.sum()

    damping = jnp.ones(50).at[0].set(0.5)
    system = Recurrence(step, damping, output=lambda carry: jnp.asarray(weights) * carry)
    xs = batch(size=64)
    exact = predict_regime(system, jnp.ones(50), xs, horizon=10, method="exact")
    probes = predict_regime(system, jnp.ones(50), xs, horizon=10)
    off = np.abs(probes.log_growth_of_output - exact.log_growth_of_output)
    assert np.mean(off < 3 * probes.sampling_error) > 0.95


def test_what_no_output_shows_has_a_gradient_of_zero():
    for method in ("probes", "exact"):
        system = Recurrence(linear, jnp.eye(2), output=lambda carry: 0 * carry[:1])
        prediction = predict_regime(system, jnp.ones(2), batch(), horizon=9, method=method)
        np.testing.assert_array_equal(prediction.log_growth_of_output, -np.inf)
        assert int(prediction.regime) == Regime.VANISHING


def test_a_threshold_within_the_sampling_error_makes_it_borderline():
    direction = np.linalg.qr(normal(0, (40, 40)))[0][0]
    matrix = jnp.asarray(np.exp(0.3) * np.outer(direction, direction))
    growth = 9 * 0.3 - np.log(40) / 2
    system = Recurrence(linear, matrix)
    near = Thresholds(-9.0, growth + 0.05)
    far = Thresholds(-9.0, growth + 3.0)
    for thresholds, expected in ((near, True), (far, False)):
        prediction = predict_regime(
            system, jnp.ones(40), batch(9, size=2), horizon=9, thresholds=thresholds
        )
        assert bool(prediction.borderline) == expected
    assert "from a few random gradients" in str(prediction)


def test_slopes_that_underflow_to_zero_are_no_exact_zeros():
    def saturated(weights, carry, x):
        return jnp.tanh(weights @ carry + 12 + x.sum())

    weights = jnp.asarray(normal(0, (6, 6)) / 6, jnp.float32)
    xs = jnp.asarray(batch(), jnp.float32)
    for method in ("probes", "exact"):
        prediction = predict_regime(
            Recurrence(saturated, weights), jnp.zeros(6, jnp.float32), xs, horizon=9, method=method
        )
        assert bool(prediction.undetermined)
        assert "use float64" in str(prediction)


@pytest.mark.parametrize(("dtype", "bias"), [(jnp.float32, 40.0), (jnp.float64, 100.0)])
def test_dead_units_leave_the_growth_of_the_others_known(dtype, bias):
    cell = nn.GRUCell(8, param_dtype=dtype)
    xs, carry = jnp.asarray(normal(0, (3, 60, 3)), dtype), jnp.zeros(8, dtype)
    variables = random_variables(cell, carry, xs[0, 0])
    # Four units take their candidate, which is saturated, at every step.
    for layer, of_dead in (("iz", -bias), ("in", 1000.0)):
        entries = variables["params"][layer]
        entries["bias"] = entries["bias"].at[:4].set(of_dead)
    network = from_linen(cell, variables)
    exact = predict_regime(network, carry, xs, horizon=50, method="exact")
    product = jacobian_product(network, carry, xs[0])
    assert np.isinf(product.log_error)
    # As many probes as states leave nothing to chance.
    probes = predict_regime(network, carry, xs, horizon=50, num_probes=8)
    assert not bool(exact.undetermined)
    assert np.all(np.isfinite(exact.log_growth))
    allowed = np.max(exact.log_growth_error + probes.log_growth_error)
    assert allowed < 1e-2
    np.testing.assert_allclose(exact.log_growth, probes.log_growth, atol=allowed)

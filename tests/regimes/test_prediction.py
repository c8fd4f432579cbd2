import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    THRESHOLDS,
    Recurrence,
    Regime,
    Thresholds,
    from_linen,
    from_nnx,
    jacobian_product,
    predict_regime,
    trajectory,
)
from tests.networks import normal, random_variables
from tests.systems import batch, chosen_matrix, linear, rotation


def test_log_growth_and_exponent_of_a_scaled_rotation_are_exact():
    prediction = predict_regime(rotation(0.9), jnp.ones(2), batch(), horizon=30)
    np.testing.assert_allclose(prediction.log_growth, 30 * np.log(0.9), atol=1e-12)
    np.testing.assert_allclose(prediction.interval, 30 * np.log(0.9), atol=1e-12)
    assert float(prediction.exponent) == pytest.approx(np.log(0.9), abs=1e-13)
    assert float(prediction.standard_error) < 1e-13


@pytest.mark.parametrize(
    ("rate", "regime"),
    [(-1.0, Regime.VANISHING), (0.0, Regime.STABLE), (1.0, Regime.EXPLODING)],
)
def test_the_median_log_growth_against_the_thresholds_decides(rate, regime):
    prediction = predict_regime(rotation(np.exp(rate)), jnp.ones(2), batch(), horizon=30)
    assert Regime(int(prediction.regime)) == regime
    assert not bool(prediction.borderline)
    assert regime.name.lower() in str(prediction)


@pytest.mark.slow
def test_the_horizon_is_the_last_steps_of_the_sequence():
    # Growth by 2 in the first 20 steps, decay by 2 in the last 20: what counts is the end.
    matrices = jnp.array([2 * np.eye(2), 0.5 * np.eye(2)])
    xs = jnp.tile(jnp.repeat(jnp.array([0.0, 1.0]), 20)[:, None], (2, 1, 1))
    for horizon, expected in ((10, -10), (20, -20), (30, -10), (40, 0)):
        prediction = predict_regime(
            Recurrence(chosen_matrix, matrices), jnp.ones(2), xs, horizon=horizon
        )
        np.testing.assert_allclose(prediction.log_growth, expected * np.log(2), atol=1e-12)


def test_log_growth_is_that_of_the_product_from_the_state_before_the_horizon():
    cell = nn.LSTMCell(5, param_dtype=jnp.float64)
    xs = batch()
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    system = from_linen(cell, random_variables(cell, carry, xs[0, 0]))
    prediction = predict_regime(system, carry, xs, horizon=25, method="exact")
    for sequence, gain in zip(xs, prediction.log_growth, strict=True):
        state = trajectory(system, carry, sequence[:15])[-1]
        product = jacobian_product(system, (state[:5], state[5:]), sequence[15:])
        dense = np.exp(float(product.dense()[1])) * np.asarray(product.dense()[0])
        by_hand = np.log(np.linalg.norm(dense) / np.sqrt(10))
        assert float(gain) == pytest.approx(by_hand, abs=1e-10)


def test_a_threshold_inside_the_spread_makes_it_borderline():
    matrices = jnp.array([np.eye(2), np.exp(THRESHOLDS.vanishing / 20 * 2) * np.eye(2)])
    few = jnp.zeros((8, 20, 1)).at[:, :8].set(1.0)
    many = jnp.zeros((8, 20, 1)).at[:, :12].set(1.0)
    mixed = jnp.concatenate([few[:4], many[:4]])
    system = Recurrence(chosen_matrix, matrices)
    assert bool(predict_regime(system, jnp.ones(2), mixed, horizon=20).borderline)
    assert not bool(predict_regime(system, jnp.ones(2), few, horizon=20).borderline)
    assert "borderline" in str(predict_regime(system, jnp.ones(2), mixed, horizon=20))


@pytest.mark.slow
def test_growth_that_is_undone_explodes_on_its_way_and_its_lost_digits_are_flagged():
    v = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    grow = v @ np.diag([2, 2, 0.5, 0.5]) @ v.T
    undo = v @ np.diag([0.5, 0.5, 2, 2]) @ v.T
    xs = jnp.tile(jnp.repeat(jnp.array([0.0, 1.0]), 100)[:, None], (3, 1, 1))
    system = Recurrence(chosen_matrix, jnp.array([grow, undo]))
    prediction = predict_regime(system, jnp.zeros(4), xs, horizon=200)
    assert bool(jnp.all(jnp.isnan(prediction.log_growth)))
    assert int(prediction.regime) == Regime.EXPLODING
    assert not bool(prediction.undetermined)
    # Half of all directions double at every step.
    np.testing.assert_allclose(prediction.peak_of_output, np.log(2) * 99.5, atol=0.01)
    np.testing.assert_array_equal(prediction.peak_lag_of_output, 100)
    assert "digits lost to rounding in 3 of 3" in str(prediction)
    calm = Thresholds(-20.0, 80.0)
    prediction = predict_regime(system, jnp.zeros(4), xs, horizon=200, thresholds=calm)
    assert bool(prediction.borderline)
    assert "undetermined" in str(prediction)
    # Where rounding has not yet eaten the digits, the answer is right and nothing is flagged.
    short = predict_regime(system, jnp.zeros(4), xs[:, 92:108], horizon=16)
    np.testing.assert_allclose(short.log_growth, 0, atol=1e-9)
    assert not bool(short.borderline)


def test_an_overflow_that_is_an_explosion_is_called_one_and_its_step_named():
    def square(params, carry, x):
        return params * carry**2 + 0 * x.sum()

    # 1e30, 1e60, 1e120, 1e240, inf: the slopes of three steps multiply to 8e210.
    prediction = predict_regime(
        Recurrence(square, jnp.array(1.0)), jnp.array([1e30]), batch(), horizon=40
    )
    assert int(prediction.regime) == Regime.EXPLODING
    np.testing.assert_array_equal(prediction.first_nonfinite_step, 3)
    np.testing.assert_allclose(prediction.log_growth, np.log(8) + 210 * np.log(10), rtol=1e-12)
    assert "stops being finite in 4 of 4 sequences, first at step 3" in str(prediction)


def doubling(relu):
    def step(matrix, carry, x):
        return relu(matrix @ carry + 0 * x.sum())

    return Recurrence(step, 2 * jnp.eye(3))


@pytest.mark.parametrize("relu", [nn.relu, lambda a: jnp.where(a > 0, a, 0)])
def test_a_relu_network_that_overflows_explodes_though_its_last_jacobians_are_zero(relu):
    xs = jnp.asarray(batch(1200), jnp.float64)
    prediction = predict_regime(doubling(relu), jnp.full(3, 1e10), xs, horizon=50)
    assert int(prediction.regime) == Regime.EXPLODING
    np.testing.assert_allclose(prediction.log_growth, 50 * np.log(2), atol=1e-10)
    first = int(np.ceil(1024 - np.log2(1e10))) - 1
    np.testing.assert_array_equal(prediction.first_nonfinite_step, first)


def test_a_state_that_turns_nan_without_growth_gives_no_verdict():
    def step(rate, carry, x):
        return jnp.where(x[0] > 0.5, jnp.nan, rate * carry)

    xs = jnp.zeros((3, 30, 1)).at[:, 20].set(1.0)
    prediction = predict_regime(Recurrence(step, jnp.array(0.9)), jnp.ones(2), xs, horizon=10)
    assert bool(prediction.undetermined)
    assert int(prediction.regime) == Regime.STABLE
    assert "first at step 20, in 3 of 3 sequences" in str(prediction)
    # One bad sequence of three leaves a verdict, and doubt.
    mixed = xs.at[1:].set(0.0)
    prediction = predict_regime(Recurrence(step, jnp.array(0.9)), jnp.ones(2), mixed, horizon=10)
    assert not bool(prediction.undetermined)
    assert bool(prediction.borderline)
    np.testing.assert_allclose(prediction.log_growth[1:], 10 * np.log(0.9), atol=1e-12)
    assert float(prediction.exponent) == pytest.approx(np.log(0.9))


def test_a_jacobian_that_is_not_finite_gives_no_verdict_though_a_later_state_overflows():
    def step(rate, carry, x):
        # The slope of the root is infinite at zero, where the state stays finite.
        return jnp.where(x[0] > 0.5, 1 + jnp.sqrt(0 * carry), rate * carry)

    xs = jnp.zeros((3, 1100, 1)).at[:, 20].set(1.0)
    system = Recurrence(step, jnp.array(2.0))
    prediction = predict_regime(system, jnp.ones(2), xs, horizon=1090, method="exact")
    assert bool(prediction.undetermined)
    np.testing.assert_array_equal(prediction.first_nonfinite_step, 20)
    # In reverse mode the infinite slope spoils the steps that do not use it too, as in training.
    prediction = predict_regime(system, jnp.ones(2), xs, horizon=1090)
    assert bool(prediction.undetermined)
    np.testing.assert_array_equal(prediction.first_nonfinite_step, 1043)


def test_the_step_of_a_padded_sequence_is_counted_in_the_sequence_itself():
    def step(rate, carry, x):
        return jnp.where(x[0] > 0.5, jnp.nan, rate * carry)

    xs = jnp.zeros((2, 30, 1)).at[0, 12].set(1.0)
    prediction = predict_regime(
        Recurrence(step, jnp.array(0.9)), jnp.ones(2), xs, horizon=10, seq_lengths=[20, 30]
    )
    np.testing.assert_array_equal(prediction.first_nonfinite_step, [12, -1])


def reset(matrix, carry, x):
    return jnp.tanh(matrix @ jnp.where(x[-1] > 0, 0.0, carry) + x[:-1])


def test_a_reset_before_the_horizon_changes_nothing_and_one_inside_cuts_the_gradient():
    xs = jnp.concatenate([jnp.asarray(normal(0, (21, 64, 4))), jnp.zeros((21, 64, 1))], axis=2)
    system = Recurrence(reset, jnp.asarray(normal(1, (4, 4))))
    free = predict_regime(system, jnp.zeros(4), xs, horizon=20)
    start = predict_regime(system, jnp.zeros(4), xs.at[:, 0, -1].set(1), horizon=20)
    np.testing.assert_allclose(start.log_growth, free.log_growth, atol=1e-12)
    assert np.isfinite(float(start.exponent))
    few = predict_regime(
        system,
        jnp.zeros(4),
        xs.at[:2, 50, -1].set(1),
        horizon=20,
        thresholds=Thresholds(-40.0, 10.0),
    )
    assert np.isneginf(few.interval[0])
    assert bool(few.borderline)
    assert np.isneginf(few.exponent)
    everything = predict_regime(system, jnp.zeros(4), xs.at[:, 50, -1].set(1), horizon=20)
    assert int(everything.regime) == Regime.VANISHING
    assert not bool(everything.borderline)
    for prediction, num in ((few, 2), (everything, 21)):
        assert np.isnan(prediction.standard_error)
        assert "nan" not in str(prediction)
        assert f"exactly zero in {num} of 21 sequences" in str(prediction)
    assert "cut to exactly zero" in str(everything)


def stabilised(params, carry, x):
    """An sLSTM: h shows c / n, and m only keeps the exponentials in range."""
    c, n, m, h = carry
    z, i, f, o = jnp.split(params["x"] @ x + params["h"] @ h, 4)
    new = jnp.maximum(f + m, i)
    c = jnp.exp(f + m - new) * c + jnp.exp(i - new) * jnp.tanh(z)
    n = jnp.exp(f + m - new) * n + jnp.exp(i - new)
    return c, n, new, jax.nn.sigmoid(o) * c / n


def test_the_regime_follows_what_the_output_shows_and_not_a_gauge():
    params = {"x": 9 * normal(0, (16, 3)), "h": 4 * normal(1, (16, 4))}
    xs, zero = jnp.asarray(normal(8, (2, 600, 3))), jnp.zeros(4)
    carry = (zero, jnp.ones(4), zero, zero)
    system = Recurrence(
        stabilised, jax.tree.map(jnp.asarray, params), output=lambda carry: carry[3]
    )
    prediction = predict_regime(system, carry, xs, horizon=600, method="exact")
    errors = prediction.log_growth_error
    assert float(errors.max()) < 1e-2
    for sequence, gain, error in zip(xs, prediction.log_growth_of_output, errors, strict=True):
        flat, unravel = ravel_pytree(carry)

        def last_output(state, sequence=sequence, unravel=unravel):
            def one(carry, x):
                return stabilised(system.params, carry, x), None

            return jax.lax.scan(one, unravel(state), sequence)[0][3]

        # Reverse mode through the scan is another route. The gauge grows by 12 nats more, and takes
        # digits from both.
        exact = jnp.log(jnp.linalg.norm(jax.jacrev(last_output)(flat)) / 2)
        assert abs(float(gain) - float(exact)) < 10 * float(error)
    assert (prediction.log_growth - prediction.log_growth_of_output).min() > 3
    assert "of the whole carry" in str(prediction)
    whole = Recurrence(stabilised, system.params, output=lambda carry: jnp.concatenate(carry))
    everything = predict_regime(whole, carry, xs, horizon=600, method="exact")
    np.testing.assert_allclose(everything.log_growth_of_output, prediction.log_growth, atol=1e-9)


def test_a_start_at_minus_infinity_is_refused_with_the_way_out():
    system = Recurrence(lambda p, c, x: p * c + 0 * x.sum(), jnp.array(0.5))
    with pytest.raises(ValueError, match=r"carry: .* can start at 0 instead"):
        predict_regime(system, jnp.full(2, -jnp.inf), batch(), horizon=5)


def test_a_call_that_takes_minutes_says_so_before_it_starts():
    system = Recurrence(lambda p, c, x: p * c + 0 * x.sum(), jnp.ones(2048))
    with pytest.warns(UserWarning, match=r"40 Jacobians of 2048 states take about .* minutes"):
        jax.eval_shape(
            lambda xs: predict_regime(system, jnp.ones(2048), xs, horizon=40, method="exact"),
            batch(),
        )


@pytest.mark.parametrize("horizon", [5.0, True, jnp.array(5)])
def test_a_horizon_that_is_no_int_is_refused(horizon):
    with pytest.raises(TypeError, match="horizon: received"):
        predict_regime(rotation(1.0), jnp.ones(2), batch(), horizon=horizon)


def test_one_sequence_of_a_flax_cell_is_not_taken_for_a_batch():
    cell = nn.GRUCell(2, param_dtype=jnp.float64)
    system = from_linen(cell, random_variables(cell, jnp.zeros(2), jnp.zeros(3)))
    with pytest.raises(ValueError, match="expected a batch of sequences"):
        predict_regime(system, jnp.zeros(2), jnp.zeros((10, 3)), horizon=2)


@pytest.mark.slow
def test_linen_and_nnx_cells_with_the_same_weights_have_the_same_regime():
    linen = nn.OptimizedLSTMCell(6, param_dtype=jnp.float64)
    xs = batch()
    carry = linen.initialize_carry(jax.random.key(0), (3,))
    variables = linen.init(jax.random.key(1), carry, xs[0, 0])
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [w + 0.3 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
    variables = jax.tree.unflatten(structure, leaves)
    cell = nnx.OptimizedLSTMCell(3, 6, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    p = variables["params"]
    cell.dense_i.kernel[...] = jnp.concatenate([p["i" + g]["kernel"] for g in "ifgo"], axis=1)
    cell.dense_h.kernel[...] = jnp.concatenate([p["h" + g]["kernel"] for g in "ifgo"], axis=1)
    cell.dense_h.bias[...] = jnp.concatenate([p["h" + g]["bias"] for g in "ifgo"])  # pyright: ignore[reportOptionalSubscript]
    one = predict_regime(from_linen(linen, variables), carry, xs, horizon=30)
    other = predict_regime(from_nnx(cell), carry, xs, horizon=30)
    np.testing.assert_allclose(one.log_growth, other.log_growth, atol=1e-11)
    assert int(one.regime) == int(other.regime)


def test_prediction_under_jit_and_vmap_equals_the_plain_call():
    xs = batch()
    plain = [predict_regime(rotation(g), jnp.ones(2), xs, horizon=30) for g in (0.5, 1.5)]
    matrices = jnp.stack([rotation(g).params for g in (0.5, 1.5)])
    mapped = jax.jit(
        jax.vmap(lambda m: predict_regime(Recurrence(linear, m), jnp.ones(2), xs, horizon=30))
    )(matrices)
    for index, one in enumerate(plain):
        np.testing.assert_allclose(mapped.log_growth[index], one.log_growth, atol=1e-12)
        assert int(mapped.regime[index]) == int(one.regime)
    assert "2 predictions" in str(mapped)


@pytest.mark.parametrize(
    ("xs", "options", "match"),
    [
        (jnp.zeros((40, 3)), {"horizon": 50}, "xs: received|horizon"),
        (jnp.zeros((1, 40, 3)), {"horizon": 10}, "at least 2"),
        (jnp.zeros((4, 0, 3)), {"horizon": 1}, "at least 2 of at least 1"),
        (None, {"horizon": 10}, "xs: received None"),
        (jnp.zeros((4, 40, 3)), {"horizon": 41}, "horizon: received 41, expected 1 to 40"),
        (jnp.zeros((4, 40, 3)), {"horizon": 0}, "horizon: received 0"),
        (jnp.zeros((4, 40, 3)), {"horizon": 10, "num_warmup": 40}, "num_warmup: received 40"),
        (
            jnp.zeros((4, 40, 3)),
            {"horizon": 10, "thresholds": Thresholds(5.0, -5.0)},
            "vanishing < exploding",
        ),
        (jnp.full((4, 40, 3), jnp.nan), {"horizon": 10}, "NaN or infinite"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(xs, options, match):
    with pytest.raises(ValueError, match=match):
        predict_regime(rotation(1.0), jnp.ones(2), xs, **options)

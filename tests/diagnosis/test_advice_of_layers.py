"""What is advised for a layer: applied by the code that is told, and measured by another route."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis.advice import median_growth
from tests.networks import random_network

R = np.random.default_rng(0)

NETWORKS = [
    (nn.GRUCell, {}, 0.3), (nn.GRUCell, {"forget": -1.0}, 1.0), (nn.LSTMCell, {}, 0.5),
    (nn.LSTMCell, {"forget": -2.0}, 1.0), (nn.LSTMCell, {}, 8.0), (nn.SimpleCell, {}, 0.4),
    (nn.SimpleCell, {}, 3.0), (nn.MGUCell, {}, 0.3), (nn.OptimizedLSTMCell, {}, 1.0),
    (nn.GRUCell, {}, 12.0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(NETWORKS)))
def test_advice_holds_where_it_is_applied_and_measured_otherwise(seed, optimized):
    """Applied by the code that is told, and measured by the exact product of all Jacobians."""
    del optimized
    kind, biases, gain = NETWORKS[seed]
    # Of 80 units some directions are not drawn.
    network = random_network(kind(80 if seed == 0 else 16, param_dtype=float), seed)
    network = jrnn.with_gain(network, gain)
    for gate, bias in biases.items():
        network = jrnn.with_gate_bias(network, gate, bias)
    xs = np.random.default_rng(seed).normal(size=(12, 80, 3))
    (layer,) = jrnn.diagnose(network, xs, horizon=60).layers
    assert layer.verdict in ("vanishing", "exploding")
    assert layer.advice, str(layer.prediction)
    for advice in layer.advice:
        changed = eval(advice.code, {"jrnn": jrnn, "network": network})
        carry = jrnn.zero_carry(changed)
        exact = jrnn.predict_regime(changed, carry, xs, horizon=60, method="exact")
        assert jrnn.Regime(int(exact.regime)) == jrnn.Regime.STABLE
        # Each sequence is known to its sampling error.
        error = 4 * np.asarray(advice.after.sampling_error) + 1e-6
        apart = np.abs(exact.log_growth_of_output - advice.after.log_growth_of_output)
        assert (apart <= error).all()
        # And it is the change that was told: a new batch has the same median within its spread.
        fresh = np.random.default_rng(100 + seed).normal(size=(12, 80, 3))
        again = jrnn.predict_regime(changed, carry, fresh, horizon=60, method="exact")
        spread = np.std(np.asarray(exact.log_growth_of_output))
        apart = abs(median_growth(again) - median_growth(advice.after))
        assert apart <= 4 * 1.25 * spread * math.sqrt(2 / 12) + error.max()
        assert f"e^{median_growth(advice.after):.1f}" in str(advice)


def test_advice_is_for_the_start_of_a_training_and_applied_before_it_is_told():
    network = random_network(nn.GRUCell(8, param_dtype=float))
    network = jrnn.with_gate_bias(network, "forget", -2.0)
    xs = R.normal(size=(4, 50, 3))
    (layer,) = jrnn.diagnose(network, xs).layers
    assert layer.searched == ("forget_bias", "gain")
    best = layer.advice[0]
    changed = eval(best.code, {"jrnn": jrnn, "network": network})
    again = jrnn.predict_regime(changed, jnp.zeros(8), xs, horizon=50)
    np.testing.assert_allclose(
        again.log_growth_of_output, best.after.log_growth_of_output, rtol=1e-9
    )
    assert abs(median_growth(best.after) + 1) < 0.5
    page = str(layer.advice[0])
    assert best.code in page


def test_advice_for_a_layer_of_a_stack_changes_that_layer_alone():
    two = [
        random_network(nn.GRUCell(6, param_dtype=float), seed, size)
        for seed, size in ((0, 3), (1, 6))
    ]
    network = jrnn.stack(*(jrnn.with_gain(one, 0.3) for one in two))
    xs = R.normal(size=(4, 50, 3))
    upper = jrnn.diagnose(network, xs).layers[1]
    advice = upper.advice[0]
    changed = eval(advice.code, {"jrnn": jrnn, "network": network})
    lower, new = jrnn.unstack(changed)
    jax.tree.map(np.testing.assert_array_equal, lower.params, jrnn.unstack(network)[0].params)
    again = jrnn.diagnose(changed, xs).layers[1].prediction
    told = median_growth(advice.after)
    assert median_growth(again) == pytest.approx(told, abs=1e-9)
    with pytest.raises(ValueError, match=r"layer: received 2, expected 0 to 1"):
        jrnn.with_gain(network, 0.5, layer=2)
    with pytest.raises(TypeError, match="a stack of layers"):
        jrnn.with_gain(new, 0.5, layer=0)


def test_advice_says_where_a_rate_turns_positive():
    (layer,) = jrnn.diagnose(
        random_network(nn.GRUCell(8, param_dtype=float)), R.normal(size=(4, 50, 3)), horizon=50
    ).layers
    one = layer.advice[0]
    for old, new, said in ((-0.1, 0.02, True), (-0.1, -0.02, False), (0.1, 0.02, False)):
        before, after = (
            prediction._replace(exponent=jnp.asarray(rate))
            for prediction, rate in ((one.before, old), (one.after, new))
        )
        text = str(one._replace(before=before, after=after))
        assert ("above zero: gradients grow" in text) == said


def test_a_stable_layer_gets_no_advice():
    (layer,) = jrnn.diagnose(
        random_network(nn.GRUCell(8, param_dtype=float)), R.normal(size=(4, 10, 3))
    ).layers
    assert layer.verdict == "stable"
    assert layer.advice == layer.searched == ()

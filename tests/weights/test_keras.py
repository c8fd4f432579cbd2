import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import from_keras, trajectory
from tests.weights.reference_layers import HIDDEN, INPUTS, as_carry, random_state, run, sigmoid

# The equations of Keras's documentation, for rows.


def keras_rnn(kernel, recurrent, bias, x, state):
    return (np.tanh(x @ kernel + bias + state[0] @ recurrent),)


def keras_lstm(kernel, recurrent, bias, x, state):
    c, h = state
    i, f, candidate, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
    return c, sigmoid(o) * np.tanh(c)


def keras_gru(kernel, recurrent, bias, x, state):
    (h,) = state
    x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3)
    h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3)
    z = sigmoid(x_z + h_z)
    return (z * h + (1 - z) * np.tanh(x_h + sigmoid(x_r + h_r) * h_h),)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    ("kind", "gates", "step"),
    [("SimpleRNN", 1, keras_rnn), ("LSTM", 4, keras_lstm), ("GRU", 3, keras_gru)],
)
def test_all_states_are_those_of_kerass_equations(rng, kind, gates, step, num_layers):
    layers = []
    for k in range(num_layers):
        kernel = rng.normal(size=(HIDDEN if k else INPUTS, gates * HIDDEN))
        recurrent = rng.normal(size=(HIDDEN, gates * HIDDEN))
        bias = rng.normal(size=(2, gates * HIDDEN) if kind == "GRU" else gates * HIDDEN)
        layers.append([kernel, recurrent, bias])
    state, xs = random_state(rng, kind, num_layers), rng.normal(size=(9, INPUTS))
    recurrence = from_keras(layers if num_layers > 1 else layers[0], kind=kind)
    got = trajectory(recurrence, as_carry(state), jnp.asarray(xs))
    np.testing.assert_allclose(got, run(step, layers, state, xs), rtol=1e-12, atol=1e-12)

    without = [[kernel, recurrent, 0 * bias] for kernel, recurrent, bias in layers]
    bare = [layer[:2] for layer in without]
    options = {"reset_after": True} if kind == "GRU" else {}
    recurrence = from_keras(bare if num_layers > 1 else bare[0], kind=kind, **options)
    got = trajectory(recurrence, as_carry(state), jnp.asarray(xs))
    np.testing.assert_allclose(got, run(step, without, state, xs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "options", "error", "match"),
    [
        ([(3, 20), (5, 20), (20,)], {"kind": "lstm"}, ValueError, "kind: received 'lstm'"),
        ([(3, 20)], {"kind": "LSTM"}, ValueError, "weights: received 1 arrays"),
        ([(3, 20)] * 6, {"kind": "LSTM"}, ValueError, "6 arrays of shapes.*a list for each layer"),
        (
            [(20, 3), (5, 20)],
            {"kind": "LSTM"},
            ValueError,
            r"0\] \(kernel\): .*\(20, 3\).*\(inputs, 20\)",
        ),
        (
            [(3, 20), (20, 5)],
            {"kind": "LSTM"},
            ValueError,
            r"\(20, 5\), expected \(N, 4N\) of LSTM",
        ),
        ([(3, 20), ()], {"kind": "LSTM"}, ValueError, r"shape \(\), expected"),
        ([(3, 20), (5, 20), (5,)], {"kind": "LSTM"}, ValueError, r"\(bias\): .*expected \(20,\)"),
        (
            [(3, 15), (5, 15), (15,)],
            {"kind": "GRU", "reset_after": True},
            ValueError,
            "reset_after: received True, expected False, as weights tells",
        ),
        ([(3, 15), (5, 15)], {"kind": "GRU"}, ValueError, "reset_after: received None for weights"),
        ([(3, 15), (5, 15), (2, 5)], {"kind": "GRU"}, ValueError, r"\(15,\) or \(2, 15\)"),
        ([(3, 15), (5, 15), (30,)], {"kind": "GRU"}, ValueError, "only ran on a GPU"),
        ([(3, 20), (5, 20)], {"kind": "LSTM", "activation": "softmax"}, ValueError, "'softmax'"),
        ([(3, 20), (5, 20)], {"kind": "LSTM", "dtype": jnp.int32}, TypeError, "int32"),
        ([], {"kind": "LSTM"}, TypeError, "weights: received an empty list"),
        (
            [[(3, 20), (5, 20)], [(4, 20), (5, 20)]],
            {"kind": "LSTM"},
            ValueError,
            r"weights\[1\]\[0\] \(kernel\): received shape \(4, 20\), expected \(5, 20\)",
        ),
    ],
)
def test_wrong_keras_weights_are_refused(weights, options, error, match):
    weights = jax.tree.map(np.ones, weights, is_leaf=lambda s: isinstance(s, tuple))
    with pytest.raises(error, match=match):
        from_keras(weights, **options)


def test_non_finite_keras_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights\[0\] \(kernel\): received 9 of 9 values"):
        from_keras([np.full((3, 3), np.nan), np.ones((3, 3))], kind="SimpleRNN")


def test_a_keras_simple_rnn_may_have_relu():
    recurrence = from_keras([np.eye(2), 0 * np.eye(2)], kind="SimpleRNN", activation="relu")
    new = recurrence.step(recurrence.params, jnp.zeros(2), jnp.array([-3.0, 3.0]))
    np.testing.assert_array_equal(new, [0, 3])

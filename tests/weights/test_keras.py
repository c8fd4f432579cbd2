import json

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import from_keras, step_jacobians, trajectory
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


def reset_before(kernel, recurrent, bias, x, state):
    (h,) = state
    x_z, x_r, x_h = np.split(x @ kernel + bias, 3)
    w_z, w_r, w_h = np.split(recurrent, 3, axis=1)
    z, r = sigmoid(x_z + h @ w_z), sigmoid(x_r + h @ w_r)
    return (z * h + (1 - z) * np.tanh(x_h + (r * h) @ w_h),)


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


def draw(rng, gates, sizes, *, bias=True):
    """Draw layers of a list of arrays each, without the axis of two biases."""
    return [
        [rng.normal(size=(inputs, gates * units)), rng.normal(size=(units, gates * units))]
        + ([rng.normal(size=gates * units)] if bias else [])
        for inputs, units in sizes
    ]


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_gru_whose_reset_gate_stands_before_the_kernel_has_the_states_of_its_equations(
    rng, num_layers
):
    layers = draw(rng, 3, [(INPUTS, HIDDEN), (HIDDEN, HIDDEN)][:num_layers])
    state, xs = random_state(rng, "GRU", num_layers), rng.normal(size=(9, INPUTS))
    network = from_keras(layers, kind="GRU", reset_after=False)
    got = trajectory(network, as_carry(state), jnp.asarray(xs))
    np.testing.assert_allclose(got, run(reset_before, layers, state, xs), rtol=1e-12, atol=1e-12)
    closed, forward = (
        step_jacobians(network, as_carry(state), jnp.asarray(xs), method=method)
        for method in ("closed_form", "forward")
    )
    np.testing.assert_allclose(closed, forward, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_may_follow_each_other_in_one_list(rng, bias):
    layers = draw(rng, 4, [(3, 6), (6, 4), (4, 4)], bias=bias)
    network = from_keras([array for layer in layers for array in layer], kind="LSTM")
    expected = from_keras(layers, kind="LSTM")
    assert network.step == expected.step
    jax.tree.map(np.testing.assert_array_equal, network.params, expected.params)


def test_a_list_that_may_be_two_layers_or_two_directions_is_refused_unless_it_is_said(rng):
    first, second = draw(rng, 4, [(5, 5), (5, 5)])
    with pytest.raises(ValueError, match=r"direction='forward'.*\[\[\.\.\.\], \[\.\.\.\]\]"):
        from_keras(first + second, kind="LSTM")
    for direction, layer in (("forward", first), ("backward", second)):
        got = from_keras(first + second, kind="LSTM", direction=direction)
        jax.tree.map(np.testing.assert_array_equal, got.params, from_keras(layer).params)
    assert len(from_keras([first, second], kind="LSTM").params) == 2


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("hard_sigmoid", lambda a: np.clip((a + 3) / 6, 0, 1)),
        ("keras_2_hard_sigmoid", lambda a: np.clip(a / 5 + 1 / 2, 0, 1)),
        (jax.nn.sigmoid, sigmoid),
        (None, sigmoid),
    ],
)
def test_the_functions_of_a_layer_are_those_that_its_caller_names(rng, name, gate):
    ((kernel, recurrent, bias),) = draw(rng, 4, [(INPUTS, HIDDEN)])
    network = from_keras([kernel, recurrent, bias], recurrent_activation=name, activation="elu")
    (c, h), x = random_state(rng, "LSTM", 1)[0], rng.normal(size=INPUTS)
    i, f, candidate, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    elu = jax.nn.elu
    new = gate(f) * c + gate(i) * elu(candidate)
    got = network.step(network.params, (jnp.asarray(c), jnp.asarray(h)), jnp.asarray(x))
    np.testing.assert_allclose(got[0], new, rtol=1e-12)
    np.testing.assert_allclose(got[1], gate(o) * elu(new), rtol=1e-12)
    assert network.jacobian is not None


def test_half_precision_is_widened(rng):
    ((kernel, recurrent),) = draw(rng, 4, [(INPUTS, HIDDEN)], bias=False)
    half = [kernel.astype(np.float16), recurrent.astype(np.float16)]
    leaves = jax.tree.leaves(from_keras(half).params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("version", "expected"), [("2.2.4", "keras_2_hard_sigmoid"), ("3.15.1", "hard_sigmoid")]
)
def test_a_file_says_which_hard_sigmoid_it_means(rng, tmp_path, version, expected):
    ((kernel, recurrent, bias),) = draw(rng, 4, [(INPUTS, HIDDEN)])
    options = {"name": "lstm_1", "activation": "tanh", "recurrent_activation": "hard_sigmoid"}
    layers = [{"class_name": "LSTM", "config": options}]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        config = layers if version == "2.2.4" else {"layers": layers}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file.attrs["keras_version"] = version.encode()
        group = file.create_group("model_weights/lstm_1/lstm_1")
        arrays = {"kernel:0": kernel, "recurrent_kernel:0": recurrent, "bias:0": bias}
        for name, array in arrays.items():
            group[name] = array
    got = from_keras(tmp_path / "old.h5", prefix="lstm_1")
    other = from_keras([kernel, recurrent, bias], recurrent_activation=expected)
    assert got.step == other.step
    jax.tree.map(np.testing.assert_array_equal, got.params, other.params)

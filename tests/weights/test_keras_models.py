"""Keras itself: layers, models and what it saves, with its own outputs as the oracle."""

import os
import sys
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import from_keras, layers_in, step_jacobians, trajectory, zero_carry
from jacobian_rnn.weights.keras import ACTIVATIONS

os.environ.setdefault("KERAS_BACKEND", "numpy")
keras = pytest.importorskip("keras")
# Keras reads its own variables in a way that NumPy will drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

INPUTS, UNITS = 3, 5
# Keras computes tanh in float32, whatever it is given, unless TensorFlow does it.
CLOSE = {"rtol": 2e-6, "atol": 1e-6}


@pytest.fixture(autouse=True)
def in_float64(standard_promotion):
    del standard_promotion
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.utils.clear_session()
    yield
    keras.config.set_floatx(before)


def randomized(layer, shape=(1, 7, INPUTS)):
    """Build a layer, and draw all its weights, because Keras draws biases of zero."""
    generator = np.random.default_rng(0)
    layer(np.zeros(shape))
    layer.set_weights([generator.normal(size=a.shape) / 2 for a in layer.get_weights()])
    return layer


def xs_of(size=INPUTS):
    return np.random.default_rng(1).normal(size=(7, size))


def outputs_of(network, xs):
    """Return h at all steps."""
    states = trajectory(network, zero_carry(network), jnp.asarray(xs))
    return states[1:, -network.output(zero_carry(network)).size :]


def assert_same(got, expected):
    assert got.step == expected.step
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


LAYERS = {
    "SimpleRNN": {"activation": "relu"},
    "LSTM": {},
    "LSTM, hard sigmoid": {"recurrent_activation": "hard_sigmoid", "activation": "softsign"},
    "LSTM, no bias": {"use_bias": False},
    "GRU": {},
    "GRU, reset before": {"reset_after": False},
    "GRU, reset before, hard sigmoid": {
        "reset_after": False,
        "recurrent_activation": "hard_sigmoid",
        "activation": "elu",
    },
    "GRU, no bias": {"use_bias": False, "reset_after": False},
}


def make_layer(name, **more):
    kind = getattr(keras.layers, name.partition(",")[0])
    return kind(UNITS, return_sequences=True, **LAYERS[name], **more)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_outputs_of_keras_and_a_closed_form(name):
    layer = randomized(make_layer(name))
    network, xs = from_keras(layer), xs_of()
    np.testing.assert_allclose(outputs_of(network, xs), layer(xs[None])[0], **CLOSE)
    carry = jax.tree.map(lambda a: a + 0.3, zero_carry(network))
    closed = step_jacobians(network, carry, jnp.asarray(xs), method="closed_form")
    forward = step_jacobians(network, carry, jnp.asarray(xs), method="forward")
    np.testing.assert_allclose(closed, forward, rtol=1e-11, atol=1e-12)
    # The list of its weights says no more than the shapes do.
    options = {key: value for key, value in LAYERS[name].items() if key != "use_bias"}
    assert_same(from_keras(layer.get_weights(), **options), network)
    assert_same(from_keras(layer.cell), network)


def test_the_cell_state_of_an_lstm_is_that_of_keras():
    layer = randomized(keras.layers.LSTM(UNITS, return_state=True))
    network, xs = from_keras(layer), xs_of()
    states = trajectory(network, zero_carry(network), jnp.asarray(xs))
    _, h, c = layer(xs[None])
    np.testing.assert_allclose(states[-1], np.concatenate([c[0], h[0]]), **CLOSE)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"keras_2_hard_sigmoid"}))
def test_activations_are_those_that_keras_has_under_these_names(name):
    x = np.linspace(-7, 7, 57)
    expected = keras.activations.get(name)(x)
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, **CLOSE)


def test_both_directions_have_the_outputs_of_keras():
    layer = randomized(keras.layers.Bidirectional(make_layer("GRU")))
    xs = xs_of()
    forward, backward = (from_keras(layer, direction=one) for one in ("forward", "backward"))
    got = np.concatenate([outputs_of(forward, xs), outputs_of(backward, xs[::-1])[::-1]], axis=1)
    np.testing.assert_allclose(got, layer(xs[None])[0], **CLOSE)
    assert_same(from_keras(layer.get_weights(), direction="backward"), backward)
    for source in (layer, layer.get_weights()):
        with pytest.raises(ValueError, match=r"'forward'.*'backward'"):
            from_keras(source)


def test_a_layer_that_runs_backwards_has_to_be_asked_for():
    layer = randomized(make_layer("GRU", go_backwards=True))
    xs, network = xs_of(), from_keras(layer, direction="backward")
    np.testing.assert_allclose(outputs_of(network, xs[::-1]), layer(xs[None])[0], **CLOSE)
    for options, match in (({}, "received None"), ({"direction": "forward"}, "of the other one")):
        with pytest.raises(ValueError, match=match):
            from_keras(layer, **options)


def save(layer, path):
    model = keras.Sequential([keras.Input((None, INPUTS)), layer])
    (model.save if path.suffix == ".keras" else model.save_weights)(path)


def make_model():
    layers = keras.layers
    cells = [layers.LSTMCell(4), layers.LSTMCell(3)]
    inner = keras.Sequential(
        [keras.Input((None, 4)), layers.LSTM(3, return_sequences=True, activation="elu")],
        name="inner",
    )
    stacked = [
        keras.Input((None, INPUTS)),
        layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid", name="first"),
        inner,
        layers.Bidirectional(layers.GRU(2, return_sequences=True, reset_after=False)),
        layers.RNN(cells, return_sequences=True),
        layers.Dense(4),
        layers.SimpleRNN(2, activation="relu"),
    ]
    return randomized(keras.Sequential(stacked))


NAMES = ["first", "inner", "bidirectional", "rnn", "simple_rnn"]


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
@pytest.mark.filterwarnings("ignore")
def test_files_say_what_the_model_says(tmp_path, name, monkeypatch):
    model, path = make_model(), tmp_path / name
    (model.save_weights if name == "m.weights.h5" else model.save)(path)
    expected = layers_in(model)
    assert [layer.prefix for layer in expected] == [NAMES[0], "inner/lstm", *NAMES[2:]]
    networks = {}
    for layer in expected:
        direction = "forward" if layer.num_directions == 2 else None
        networks[layer.prefix] = from_keras(model, prefix=layer.prefix, direction=direction)
    monkeypatch.setitem(sys.modules, "keras", None)  # files are read without it
    told = name != "m.weights.h5"
    found = layers_in(path)
    blank = {"prefix": "", "untold": ()}
    same = [one._replace(**blank) for one in found]
    other = [one._replace(**blank) for one in expected]
    assert (same == other) if told else (sorted(same) == sorted(other))
    assert all(not layer.untold for layer in found) == told
    settings = {
        "first": {"activation": "tanh", "recurrent_activation": "hard_sigmoid"},
        "inner/lstm": {"activation": "elu", "recurrent_activation": "sigmoid"},
        "simple_rnn": {"activation": "relu"},
    }
    for prefix, network in networks.items():
        (layer,) = [one for one in found if one._replace(**blank) == expected_of(expected, prefix)]
        direction = "forward" if layer.num_directions == 2 else None
        defaults = {"activation": "tanh", "recurrent_activation": "sigmoid"}
        options = {} if told else settings.get(prefix, defaults)
        got = from_keras(path, prefix=layer.prefix, direction=direction, **options)
        assert_same(got, network)
        if not told:
            with pytest.raises(ValueError, match=r"activation: received None .* does not tell"):
                from_keras(path, prefix=layer.prefix, direction=direction)


def expected_of(layers, prefix):
    (layer,) = [one for one in layers if one.prefix == prefix]
    return layer._replace(prefix="", untold=())


def test_a_layer_is_chosen_by_its_own_name(tmp_path):
    model = make_model()
    model.save(tmp_path / "m.keras")
    expected = from_keras(model, prefix="first")
    for prefix in ("first", "layers/lstm"):
        assert_same(from_keras(tmp_path / "m.keras", prefix=prefix), expected)
    with pytest.raises(ValueError, match="prefix: received None, which fits 5 layers"):
        from_keras(tmp_path / "m.keras")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Dense(INPUTS)
        self.encoder = keras.layers.LSTM(UNITS)

    def call(self, x):
        return self.encoder(self.embed(x))


def test_the_weights_of_a_subclassed_model_are_found(tmp_path):
    model = randomized(Subclassed())
    model.save_weights(tmp_path / "m.weights.h5")
    (layer,) = layers_in(tmp_path / "m.weights.h5")
    assert layer.prefix == "encoder"
    options = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    assert_same(from_keras(tmp_path / "m.weights.h5", **options), from_keras(model))


def square(x):
    return x * x


def test_a_function_that_keras_does_not_have_has_to_be_passed(tmp_path):
    layer = randomized(keras.layers.LSTM(UNITS, activation=square))
    with pytest.raises(ValueError, match="activation: received 'square', expected one of"):
        from_keras(layer)
    network = from_keras(layer, activation=square)
    assert network.jacobian is None  # JAX differentiates a function that is not known
    np.testing.assert_allclose(outputs_of(network, xs_of())[-1], layer(xs_of()[None])[0], **CLOSE)
    save(layer, tmp_path / "m.keras")
    assert_same(from_keras(tmp_path / "m.keras", activation=square), network)
    with pytest.raises(ValueError, match="received 'square'"):
        from_keras(tmp_path / "m.keras")


def test_what_contradicts_the_layer_or_is_not_built_is_refused():
    layer = randomized(keras.layers.GRU(UNITS))
    for options, match in (
        ({"activation": "relu"}, "activation: received 'relu', expected 'tanh'"),
        ({"reset_after": False}, "reset_after: received False, expected True"),
        ({"kind": "LSTM"}, r"expected \(N, 4N\) of LSTM"),
        ({"direction": "backward"}, "direction: received 'backward'"),
    ):
        with pytest.raises(ValueError, match=match):
            from_keras(layer, **options)
    with pytest.raises(ValueError, match=r"weights of gru.*: received none: it is not built"):
        from_keras(keras.layers.GRU(UNITS))
    with pytest.raises(ValueError, match="there is none"):
        from_keras(randomized(keras.layers.Dense(3)))


def test_a_bias_of_a_layer_that_only_ran_on_a_gpu_is_refused(tmp_path):
    layer = randomized(keras.layers.GRU(UNITS))
    save(layer, tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        place = "layers/gru/cell/vars/2"
        stored: Any = file[place]
        bias = stored[()].ravel()
        del file[place]
        file[place] = bias
    with pytest.raises(ValueError, match=r"shape \(30,\).*only ran on a GPU"):
        from_keras(tmp_path / "m.weights.h5", activation="tanh", recurrent_activation="sigmoid")


@pytest.mark.parametrize(
    "make",
    [
        lambda layers: layers.LeakyReLU(negative_slope=0.3),
        lambda layers: layers.LeakyReLU(negative_slope=0.2),
        lambda layers: layers.ELU(alpha=0.5),
        lambda layers: layers.ReLU(),
        lambda layers: layers.ReLU(max_value=6),
        lambda layers: layers.ReLU(negative_slope=0.1),
        lambda layers: layers.Activation("relu"),
        lambda layers: layers.Activation(layers.ELU(alpha=0.5)),
    ],
)
def test_a_layer_for_an_activation_is_the_function_that_it_computes(tmp_path, make):
    layer = randomized(keras.layers.LSTM(UNITS, activation=make(keras.layers)))
    save(layer, tmp_path / "m.keras")
    for source in (layer, tmp_path / "m.keras"):
        got = outputs_of(from_keras(source), xs_of())[-1]
        np.testing.assert_allclose(got, layer(xs_of()[None])[0], **CLOSE)
    cell = randomized(keras.layers.SimpleRNN(UNITS, activation=make(keras.layers)))
    got = outputs_of(from_keras(cell), xs_of())[-1]
    np.testing.assert_allclose(got, cell(xs_of()[None])[0], **CLOSE)


def test_a_layer_that_is_no_known_function_is_refused_and_may_be_told(tmp_path):
    for make, match in (
        (lambda: keras.layers.Softmax(), "layer Softmax with"),
        (lambda: keras.layers.ReLU(threshold=0.5), "'threshold': 0.5"),
        (lambda: keras.layers.ReLU(max_value=2), "'max_value': 2"),
    ):
        layer = randomized(keras.layers.LSTM(UNITS, activation=make()))
        save(layer, tmp_path / "m.keras")
        for source in (layer, tmp_path / "m.keras"):
            with pytest.raises(ValueError, match=f"^activation: received .*{match}"):
                from_keras(source)
        assert from_keras(layer, activation=square).jacobian is None


def test_a_function_with_a_name_of_keras_is_not_taken_for_that_of_keras():
    def tanh(x):
        return 0.3 * x

    layer = randomized(keras.layers.GRU(UNITS, activation=tanh))
    with pytest.raises(ValueError, match=r"^activation: received .*test_keras_models.*tanh"):
        from_keras(layer)


@keras.saving.register_keras_serializable(package="mine")
class DoubledCell(keras.layers.LSTMCell):
    def call(self, inputs, states, training=False):
        h, (_, c) = super().call(inputs, states, training=training)
        return 2 * h, [2 * h, c]


@keras.saving.register_keras_serializable(package="mine")
class LSTM(keras.layers.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(3 * sequences, initial_state, mask, training)


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: keras.layers.RNN(DoubledCell(UNITS)), "mine>DoubledCell"), (LSTM, "mine>LSTM")],
)
def test_a_class_that_is_not_of_keras_is_refused_by_name(tmp_path, make, name):
    layer = randomized(make() if name != "mine>LSTM" else make(UNITS))
    with pytest.raises(ValueError, match="there is none"):
        from_keras(layer)
    assert layers_in(layer) == ()
    save(layer, tmp_path / "m.keras")
    functions = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    for options in ({}, functions):
        with pytest.raises(ValueError, match=f"received class {name} besides .*kind='LSTM'"):
            from_keras(tmp_path / "m.keras", **options)
    (found,) = layers_in(tmp_path / "m.keras")
    assert found.unread == (f"class {name}",)
    plain = randomized(keras.layers.LSTM(UNITS))
    plain.set_weights(layer.get_weights())
    assert_same(from_keras(tmp_path / "m.keras", kind="LSTM"), from_keras(plain))

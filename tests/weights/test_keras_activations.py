"""What a configuration of Keras says of a function: a name, or a layer with parameters."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn.weights._keras_activations import ACTIVATIONS, activation_of

X = np.linspace(-3, 3, 13)


def layer(name, **config):
    return {"module": "keras.layers", "class_name": name, "config": {"name": "a", **config}}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, X),
        ("tanh", np.tanh(X)),
        (layer("LeakyReLU", negative_slope=0.3), np.where(X > 0, X, 0.3 * X)),
        (layer("LeakyReLU", negative_slope=0.2), np.where(X > 0, X, 0.2 * X)),
        ({"class_name": "LeakyReLU", "config": {"alpha": 0.1}}, np.where(X > 0, X, 0.1 * X)),
        ({"class_name": "LeakyReLU", "config": {}}, np.where(X > 0, X, 0.3 * X)),
        (layer("ELU", alpha=0.5), np.where(X > 0, X, 0.5 * np.expm1(X))),
        (layer("ELU"), np.where(X > 0, X, np.expm1(X))),
        (layer("ReLU", max_value=None, negative_slope=0.0), np.maximum(X, 0)),
        (layer("Activation", activation="tanh"), np.tanh(X)),
        (
            layer("Activation", activation=layer("ELU", alpha=2)),
            np.where(X > 0, X, 2 * np.expm1(X)),
        ),
    ],
)
def test_layers_of_keras_are_the_functions_that_their_parameters_say(told, expected):
    function = activation_of(told)
    function = ACTIVATIONS[function] if isinstance(function, str) else function
    np.testing.assert_allclose(function(jnp.asarray(X)), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        (layer("PReLU"), "PReLU"),
        (layer("Softmax", axis=-1), "Softmax"),
        (layer("ReLU", threshold=1.0), "threshold"),
        (layer("LeakyReLU", negative_slope={"class_name": "__numpy__"}), "__numpy__"),
        ({**layer("ELU"), "registered_name": "mine>ELU"}, "mine>ELU"),
        ({**layer("ELU"), "module": "mine.layers"}, r"mine\.layers\.ELU"),
        ({"module": "mine", "class_name": "function", "config": "tanh"}, r"mine\.tanh"),
        ({"value": ["4wE", None, None]}, "lambda"),
    ],
)
def test_what_is_not_known_keeps_a_name_that_no_function_has(told, named):
    function = activation_of(told)
    assert function not in ACTIVATIONS
    assert re.search(named, function)

"""The activation functions of Keras: by name, or as layers of Keras that stand for a function."""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jacobian_rnn.cells import activations

# The functions of Keras that act on each unit alone, by their names there.
ACTIVATIONS = {
    name: getattr(jax.nn, name)
    for name in (
        *("relu", "relu6", "celu", "elu", "selu", "softplus", "squareplus", "silu", "mish"),
        *("tanh", "hard_tanh", "sigmoid", "hard_sigmoid", "log_sigmoid", "hard_silu"),
        *("sparse_plus", "sparse_sigmoid"),
    )
} | {
    "linear": jax.nn.identity,
    "exponential": jnp.exp,
    "softsign": jax.nn.soft_sign,
    "swish": jax.nn.silu,
    "hard_swish": jax.nn.hard_silu,
    "gelu": activations.exact_gelu,
    "leaky_relu": activations.keras_leaky_relu,
    "keras_2_hard_sigmoid": activations.keras_2_hard_sigmoid,
    "tanh_shrink": activations.tanh_shrink,
    "soft_shrink": activations.soft_shrink,
    "hard_shrink": activations.hard_shrink,
}


def activation_of(value: Any) -> Any:
    """Return the name of the function that a configuration tells, or a function with parameters.

    A name that is not one of `ACTIVATIONS` stands for a function that is not known.
    """
    while isinstance(value, Mapping) and str(value.get("class_name")) == "Activation":
        value = _config(value).get("activation")
    if value is None:
        return "linear"
    if not isinstance(value, Mapping):
        return str(value)
    name, config = str(value.get("class_name", "lambda")), value.get("config")
    if isinstance(config, str):  # a function. Keras writes its own as plain names.
        module = value.get("module")
        return config if module in (None, "builtins") else f"{module}.{config}"
    if foreign := foreign_class(value):
        return foreign
    return _of_layer(name, _config(value)) or f"layer {name} with {_parameters(_config(value))}"


def foreign_class(entry: Mapping) -> str:
    """Return the name of the class of a configuration if it is not one of Keras, else nothing."""
    module, registered = entry.get("module"), entry.get("registered_name")
    if registered:
        return str(registered)
    is_own = module is None or str(module).partition(".")[0] in ("keras", "tf_keras")
    return "" if is_own else f"{module}.{entry.get('class_name')}"


def name_of_own(function: Any, told: Any) -> Any:
    """Return what a configuration tells, unless the function is not the one that Keras calls so."""
    if not isinstance(told, str) or told not in ACTIVATIONS or not hasattr(function, "__module__"):
        return told
    keras: Any = sys.modules["keras"]
    while isinstance(function, keras.layers.Activation):
        function = function.activation
    is_layer = isinstance(function, keras.layers.Layer)
    if is_layer or function is keras.activations.get(told):
        return told
    return f"{function.__module__}.{getattr(function, '__qualname__', told)}"


def _config(value: Mapping) -> Mapping:
    config = value.get("config")
    return config if isinstance(config, Mapping) else {}


def _parameters(config: Mapping) -> str:
    hidden = ("name", "trainable", "dtype", "batch_input_shape")
    return str({name: value for name, value in config.items() if name not in hidden})


def _of_layer(name: str, config: Mapping) -> Any:
    """Return the function of a layer of Keras, or None for one that is not known.

    Keras 2 calls every slope alpha, and has 0.3 for it in a LeakyReLU.
    """
    if name == "LeakyReLU":
        slope = config.get("negative_slope", config.get("alpha", 0.3))
        if _is_number(slope):
            return "leaky_relu" if slope == 0.2 else activations.LeakyReLU(float(slope))
    if name == "ELU" and _is_number(alpha := config.get("alpha", 1.0)):
        return "elu" if alpha == 1 else activations.ELU(float(alpha))
    if name == "ReLU" and not config.get("threshold"):
        top, slope = config.get("max_value"), config.get("negative_slope") or 0.0
        if not _is_number(slope):
            return None
        if top is None:
            return activations.LeakyReLU(float(slope)) if slope else "relu"
        return "relu6" if top == 6 and not slope else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

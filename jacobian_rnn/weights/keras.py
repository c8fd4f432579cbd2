"""The weights of Keras's recurrent layers, as `layer.get_weights()` returns them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.weights._gated_layers import (
    check_nonlinearity,
    foreign_layouts,
    gated_layers,
    to_floats,
    to_numpy,
)


def from_keras(
    weights: Sequence,
    *,
    kind: str,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reset_after: bool | None = None,
    dtype: Any = None,
) -> Recurrence:
    """Turn the weights of a Keras SimpleRNN, LSTM or GRU layer into a `Recurrence`.

    The layer must have Keras's default activations, tanh and sigmoid, but a SimpleRNN may have
    relu. The carry is as in `from_torch`, so an LSTM has `(c, h)`.

    Args:
        weights: `layer.get_weights()`, which is the kernel `(inputs, G·N)`, the recurrent kernel
            `(N, G·N)` and, unless `use_bias=False`, the bias. Several layers are a list of these,
            lowest layer first.
        kind: "SimpleRNN", "LSTM" or "GRU".
        nonlinearity: "tanh" or "relu" of a SimpleRNN, which its weights do not show.
        reset_after: needed only for a GRU without bias, because the shape of a bias shows it. No
            linen cell computes the function of a GRU with `reset_after=False`.
        dtype: float32 or float64 to cast the weights. By default they keep their dtype.

    Returns:
        The recurrence of the linen SimpleCell, OptimizedLSTMCell or GRUCell, or a `stack` of them.

    Raises:
        TypeError: `weights` is no list, or a dtype would have to change without `dtype`.
        ValueError: `kind` or `nonlinearity` is unknown, an array is missing, misshapen or not
            finite, or a GRU has `reset_after=False` or does not show it.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> weights = [np.ones((2, 9), "f4"), np.ones((3, 9), "f4"), np.ones((2, 9), "f4")]
        >>> gru = from_keras(weights, kind="GRU")
        >>> gru.step(gru.params, jnp.zeros(3), jnp.zeros(2)).shape
        (3,)

    References:
        Keras documentation, layers.SimpleRNN, layers.LSTM, layers.GRU.
    """
    known = foreign_layouts("keras")
    if kind not in known:
        refuse("kind", repr(kind), f"one of {list(known)}")
    layout: Any = known[kind]
    gates = layout.keras.gates
    check_nonlinearity(layout, kind, nonlinearity)
    if not isinstance(weights, list | tuple) or not weights:
        expected = "the list that layer.get_weights() returns"
        refuse("weights", type(weights).__name__, expected, error=TypeError)
    if all(isinstance(layer, list | tuple) for layer in weights):
        named = {f"weights[{position}]": layer for position, layer in enumerate(weights)}
    else:
        named = {"weights": weights}
    layers, num_inputs = [], None
    for name, layer in named.items():
        arrays = _check_keras_layer(name, layer, layout, num_inputs, reset_after)
        kernel, recurrent, *bias = (to_floats(*pair, dtype) for pair in arrays.items())
        biases = bias[0] if bias and bias[0].ndim == 2 else (*bias, None, None)[:2]
        layers.append((kernel, recurrent, *biases))
        num_inputs = len(recurrent)
    return gated_layers(layout, gates, layers, nonlinearity)


def _check_keras_layer(name, layer, layout, num_inputs, reset_after) -> dict[str, np.ndarray]:
    """Return the arrays of a layer by the names that errors give them."""
    if len(layer) not in (2, 3):
        expected = "kernel, recurrent kernel and, unless use_bias=False, bias of a layer"
        refuse(name, f"{len(layer)} arrays", expected, "a Bidirectional layer is not supported")
    parts = ("kernel", "recurrent kernel", "bias")
    arrays = {f"{name}[{k}] ({parts[k]})": array for k, array in enumerate(layer)}
    arrays = {key: to_numpy(key, array) for key, array in arrays.items()}
    (kernel_key, kernel), (key, recurrent), *bias = arrays.items()
    if recurrent.ndim != 2 or not recurrent.size:
        refuse(key, f"shape {recurrent.shape}", f"(N, {len(layout.gates)} * N)")
    columns = len(layout.gates) * len(recurrent)
    check_shape(key, recurrent.shape, (len(recurrent), columns))
    if num_inputs is None:
        num_inputs = kernel.shape[0] if kernel.ndim == 2 else "inputs"
    check_shape(kernel_key, kernel.shape, (num_inputs, columns))
    # Where a gate scales the bias of the part that reads h, the layer has two biases.
    two_biases = bool(layout.layers[layout.loaded_as].read_bias)
    if two_biases:
        kind = f"a {layout.keras.name}"
        if reset_after is False or (bias and bias[0][1].shape == (columns,)):
            expected = f"True, with a bias of shape (2, {columns})"
            refuse(name, f"{kind} with reset_after=False", expected, "linen has no such cell")
        if not bias and reset_after is None:
            advice = "pass reset_after=True if its layer has that (Keras's default)"
            refuse(name, f"{kind} without bias", "one that tells its reset_after", advice)
    for key, array in bias:
        check_shape(key, array.shape, (2, columns) if two_biases else (columns,))
    return arrays

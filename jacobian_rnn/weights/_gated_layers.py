"""Trained weights from elsewhere, checked, and as the linen cells that compute the same function.

`torch_weights`, `keras_weights` and `orbax_weights` read them. Nothing is ever unpickled, and no
number changes its dtype unless asked to.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jacobian_rnn.cells.recurrence import Recurrence, from_linen, stack
from jacobian_rnn.checks import check_dtype, check_finite, refuse

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def gated_layers(gates: str, layers: Sequence[tuple], nonlinearity: str) -> Recurrence:
    """Build linen cells from layers `(kernel_x, kernel_h, bias_x, bias_h)`; a None is zero."""
    dtypes = {str(array.dtype) for layer in layers for array in layer if array is not None}
    if len(dtypes) > 1:
        advice = "pass dtype=jnp.float32 or jnp.float64 to cast"
        refuse("weights", f"dtypes {sorted(dtypes)}", "one for all", advice, error=TypeError)
    recurrences = [_gated_layer(gates, layer, nonlinearity) for layer in layers]
    return recurrences[0] if len(recurrences) == 1 else stack(*recurrences)


def _gated_layer(gates, layer, nonlinearity) -> Recurrence:
    num_units, dtype = len(layer[1]), layer[1].dtype
    zeros = np.zeros(len(gates) * num_units, dtype)
    blocks = [np.split(zeros if a is None else a, len(gates), axis=-1) for a in layer]
    # Copies: the weights may share memory with a model that is trained further.
    u, w, b_x, b_h = (dict(zip(gates, map(jnp.array, block), strict=True)) for block in blocks)
    bias = {gate: b_x[gate] + b_h[gate] for gate in gates}
    if len(gates) == 1:
        activation = ACTIVATIONS[nonlinearity]
        cell = nn.SimpleCell(num_units, activation_fn=activation, param_dtype=dtype)
        params = {"i": {"kernel": u["h"], "bias": bias["h"]}, "h": {"kernel": w["h"]}}
    elif len(gates) == 4:
        cell = nn.OptimizedLSTMCell(num_units, param_dtype=dtype)
        params = {"i" + gate: {"kernel": u[gate]} for gate in gates}
        params |= {"h" + gate: {"kernel": w[gate], "bias": bias[gate]} for gate in gates}
    else:
        cell = nn.GRUCell(num_units, param_dtype=dtype)
        bias["n"] = b_x["n"]  # r multiplies the other: it stays apart
        params = {"i" + gate: {"kernel": u[gate], "bias": bias[gate]} for gate in gates}
        params |= {"h" + gate: {"kernel": w[gate]} for gate in gates}
        params["hn"]["bias"] = b_h["n"]
    return from_linen(cell, {"params": params})


def to_numpy(name: str, array: Any) -> np.ndarray:
    """Turn an array or a PyTorch tensor, known by its methods, into a numpy array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which numpy lacks
            return array.float().numpy().astype(jnp.bfloat16)
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        msg = f"{name}: received {type(array).__name__}, expected an array ({error})"
        raise TypeError(msg) from error


def to_floats(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return finite float32 or float64 numbers, cast only where `dtype` asks for it."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        refuse(name, f"dtype {array.dtype}", "floating-point numbers", error=TypeError)
    wanted = array.dtype if dtype is None else dtype
    check_dtype(name if dtype is None else "dtype", wanted)
    check_finite(name, array)
    with np.errstate(over="ignore"):
        array = array.astype(wanted)
    check_finite(name, array, f"they are beyond the range of {np.dtype(wanted)}")
    return array


def check_nonlinearity(gates: str, nonlinearity: str):
    """Refuse a nonlinearity that the linen cell with these gates cannot have."""
    expected = list(ACTIVATIONS) if len(gates) == 1 else ["tanh"]
    if nonlinearity not in expected:
        kind = {1: "an RNN", 3: "a GRU", 4: "an LSTM"}[len(gates)]
        refuse("nonlinearity", repr(nonlinearity), f"one of {expected} for {kind}")

"""Checks of trained weights, and linen cells that compute the same function with them.

`pytorch`, `keras` and `orbax` read the weights. Nothing is ever unpickled, and no number changes
its dtype unless the caller asks for it.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jacobian_rnn.cells.flax import from_linen
from jacobian_rnn.cells.known_cells import layouts
from jacobian_rnn.cells.layout import Layout, Weights
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.stacking import stack
from jacobian_rnn.checks import check_dtype, check_finite, refuse

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def foreign_layouts(framework: str) -> dict[str, Layout]:
    """Return the cells for which "pytorch" or "keras" has a layer, by the name of that layer."""
    found = ((getattr(layout, framework), layout) for layout in layouts())
    return {foreign.name: layout for foreign, layout in found if foreign is not None}


def gated_layers(
    layout: Layout, gates: str, layers: Sequence[tuple], nonlinearity: str
) -> Recurrence:
    """Build linen cells from layers `(kernel_x, kernel_h, bias_x, bias_h)`. None means zero.

    Args:
        layout: layout of the cell.
        gates: the gates in the order in which they lie side by side in the arrays.
        layers: the layers, lowest first.
        nonlinearity: a key of `ACTIVATIONS`.
    """
    dtypes = {str(array.dtype) for layer in layers for array in layer if array is not None}
    if len(dtypes) > 1:
        advice = "pass dtype=jnp.float32 or jnp.float64 to cast"
        refuse("weights", f"dtypes {sorted(dtypes)}", "one for all", advice, error=TypeError)
    recurrences = [_gated_layer(layout, gates, layer, nonlinearity) for layer in layers]
    return recurrences[0] if len(recurrences) == 1 else stack(*recurrences)


def _gated_layer(layout, gates, layer, nonlinearity) -> Recurrence:
    num_units, dtype = len(layer[1]), layer[1].dtype
    zeros = np.zeros(len(gates) * num_units, dtype)
    blocks = [np.split(zeros if a is None else a, len(gates), axis=-1) for a in layer]
    # The arrays are copied, because they may share memory with a model that is trained further.
    named = [dict(zip(gates, map(jnp.array, block), strict=True)) for block in blocks]
    u, w, b_x, b_h = (tuple(block[gate] for gate in layout.gates) for block in named)
    biases = [x + h for x, h in zip(b_x, b_h, strict=True)]
    layers = layout.layers[layout.loaded_as]
    if layers.read_bias:  # A gate scales the other bias, which stays apart.
        biases[-1] = b_x[-1]
    params = layers.write(Weights(u, w, tuple(biases), b_h[-1]))
    activation_fn = ACTIVATIONS[nonlinearity]
    cell = layout.loaded_as(num_units, activation_fn=activation_fn, param_dtype=dtype)
    return from_linen(cell, {"params": params})


def to_numpy(name: str, array: Any) -> np.ndarray:
    """Turn an array or a PyTorch tensor, recognised by its methods, into a numpy array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # numpy lacks this dtype
            return array.float().numpy().astype(jnp.bfloat16)
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        msg = f"{name}: received {type(array).__name__}, expected an array ({error})"
        raise TypeError(msg) from error


def to_floats(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return finite float32 or float64 numbers, and cast them only where `dtype` asks for it."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        refuse(name, f"dtype {array.dtype}", "floating-point numbers", error=TypeError)
    wanted = array.dtype if dtype is None else dtype
    check_dtype(name if dtype is None else "dtype", wanted)
    check_finite(name, array)
    with np.errstate(over="ignore"):
        array = array.astype(wanted)
    check_finite(name, array, f"they are beyond the range of {np.dtype(wanted)}")
    return array


def check_nonlinearity(layout: Layout, name: str, nonlinearity: str):
    """Refuse a nonlinearity that the named layer cannot have. A layer with gates has tanh."""
    expected = ["tanh"] if layout.keeps else list(ACTIVATIONS)
    if nonlinearity not in expected:
        refuse("nonlinearity", repr(nonlinearity), f"one of {expected} for layers of kind {name}")

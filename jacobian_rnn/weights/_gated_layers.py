"""Recurrences that compute the same functions as the layers of other frameworks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jacobian_rnn.cells.flax import from_linen
from jacobian_rnn.cells.known_cells import layouts
from jacobian_rnn.cells.layout import Layout, Weights
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.stacking import stack
from jacobian_rnn.checks import refuse

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class GatedLayer(NamedTuple):
    """The weights of one layer, with all gates side by side. None stands for zero.

    Attributes:
        kernel_x: `(inputs, G N)`, reads the input.
        kernel_h: `(N, G N)`, reads h.
        bias_x: `(G N,)`, added to what the first kernel reads.
        bias_h: `(G N,)`, added to what the second one reads.
        projection: `(N, P)`, from o φ(c) to h, or None where there is none.
    """

    kernel_x: np.ndarray
    kernel_h: np.ndarray
    bias_x: np.ndarray | None = None
    bias_h: np.ndarray | None = None
    projection: np.ndarray | None = None


def foreign_layouts(framework: str, variant: str = "") -> dict[str, Layout]:
    """Return the cells for which "pytorch", "keras" or "equinox" has a layer, by its name."""
    found = ((getattr(layout, framework), layout) for layout in layouts())
    return {
        foreign.name: layout
        for foreign, layout in found
        if foreign is not None and foreign.variant == variant
    }


def build(
    layout: Layout,
    framework: str,
    layers: Sequence[GatedLayer],
    *,
    activation_fn: Callable = nn.tanh,
    gate_fn: Callable = nn.sigmoid,
) -> Recurrence:
    """Build the cells that have these weights, on top of each other.

    Args:
        layout: layout of the cell.
        framework: where the arrays come from, "pytorch", "keras" or "equinox". It tells the order
            in which the gates lie side by side in them.
        layers: the layers, lowest first.
        activation_fn: φ.
        gate_fn: σ.
    """
    dtypes = {str(array.dtype) for layer in layers for array in layer if array is not None}
    if len(dtypes) > 1:
        advice = "pass dtype=jnp.float32 or jnp.float64 to cast"
        refuse("weights", f"dtypes {sorted(dtypes)}", "one for all", advice, error=TypeError)
    gates = getattr(layout, framework).gates
    cells = [_build_cell(layout, gates, layer, activation_fn, gate_fn) for layer in layers]
    return cells[0] if len(cells) == 1 else stack(*cells)


def _build_cell(
    layout: Layout, gates: str, layer: GatedLayer, activation_fn: Callable, gate_fn: Callable
) -> Recurrence:
    num_units, dtype = layer.kernel_h.shape[1] // len(gates), layer.kernel_h.dtype
    zeros = np.zeros(len(gates) * num_units, dtype)
    blocks = [np.split(zeros if a is None else a, len(gates), axis=-1) for a in layer[:4]]
    # The arrays are copied, because they may share memory with a model that is trained further.
    named = [dict(zip(gates, map(jnp.array, block), strict=True)) for block in blocks]
    u, w, b_x, b_h = (tuple(block[gate] for gate in layout.gates) for block in named)
    biases = [x + h for x, h in zip(b_x, b_h, strict=True)]
    loaded_as: Any = layout.loaded_as
    if layers := layout.layers.get(loaded_as):
        if layers.read_bias:  # A gate scales the other bias, which stays apart.
            biases[-1] = b_x[-1]
        params = layers.write(Weights(u, w, tuple(biases), b_h[-1]))
        functions = {"activation_fn": activation_fn}
        functions |= {"gate_fn": gate_fn} if layout.keeps else {}
        cell = loaded_as(num_units, param_dtype=dtype, **functions)
        return from_linen(cell, {"params": params})
    weights = Weights(u, w, tuple(biases))
    projection = () if layer.projection is None else (jnp.array(layer.projection),)
    return loaded_as(weights, *projection, gate_fn=gate_fn, activation_fn=activation_fn)

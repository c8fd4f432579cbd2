"""Default initialisations of recurrent cells in Flax, PyTorch and Keras, as recurrences.

Flax's cells are drawn by Flax itself. PyTorch's and Keras's schemes are drawn here, from their
documented definitions and sources (`reset_parameters` in torch/nn/modules/rnn.py; `build` of the
cells in keras/src/layers/rnn/{simple_rnn,lstm,gru}.py of Keras 3), as parameters of the linen cell
with the same equations:

PyTorch (`nn.RNN`, `nn.LSTM`, `nn.GRU`): every entry of both kernels and both biases is uniform
    between ±1/√N, N the width, whatever the number of inputs; so N times the variance is 1/3. Where
    the two biases are added at once (all gates but a GRU's n), linen has one: their sum.
Keras (`SimpleRNN`, `LSTM`, `GRU`): one input kernel for all G gates, (inputs, G N), Glorot uniform:
    between ±√(6 / (inputs + G N)); one recurrent kernel for all gates, (N, G N), with orthonormal
    rows; zero biases, but 1 at the forget gate of the LSTM (`unit_forget_bias`). The GRU resets
    after the product with its kernel (`reset_after`), as PyTorch's and Flax's do.

Gates are named as in Flax: a plain cell's kernel is "h"; "n" or "g" is the candidate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, Float

import jacobian_rnn as jrnn
from jacobian_rnn.cells import layout_of
from jacobian_rnn.cells.layout import ForeignLayer

FLAX = {
    "linen": (nn.SimpleCell, nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.MGUCell),
    "nnx": (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell),
}


def _foreign_layer(cell: type, library: str) -> ForeignLayer | None:
    """Return the layer of a library whose weights this linen cell takes, if there is one."""
    layout: Any = layout_of(cell)
    return getattr(layout, library.lower()) if layout.loaded_as is cell else None


# The linen cell with the same equations, and the gates in the order of the fused kernels.
EQUIVALENT = {
    (library, layer.name): (cell, layer.gates)
    for library in ("PyTorch", "Keras")
    for cell in FLAX["linen"]
    if (layer := _foreign_layer(cell, library)) is not None
}


class Scheme(NamedTuple):
    """A library and the name that a cell has there."""

    library: str
    cell: str


class FusedParameters(NamedTuple):
    """The tensors of PyTorch and Keras: the gates side by side, kernels as (inputs, outputs)."""

    kernel_x: Float[Array, "inputs gates_width"]
    kernel_h: Float[Array, "width gates_width"]
    bias_x: Float[Array, " gates_width"]
    bias_h: Float[Array, " gates_width"]


SCHEMES = (
    *(Scheme(library, cell.__name__) for library, cells in FLAX.items() for cell in cells),
    *(Scheme(*names) for names in EQUIVALENT),
)
GATES = ("h", "i", "f", "g", "o", "r", "z", "n")


def draw(scheme: Scheme, width: int, input_size: int, *, dtype, key: Array) -> jrnn.Recurrence:
    """Draw a network as the library does by default.

    Args:
        scheme: one of `SCHEMES`.
        width: number of hidden units N.
        input_size: number of input channels.
        dtype: of parameters and computation.
        key: a `jax.random.key`.

    Returns:
        The recurrence.

    Raises:
        ValueError: an unknown scheme.
    """
    if scheme not in SCHEMES:
        known = ", ".join(" ".join(one) for one in SCHEMES)
        msg = f"scheme: received {' '.join(scheme)}, expected one of {known}"
        raise ValueError(msg)
    if scheme.library == "nnx":
        cell = getattr(nnx, scheme.cell)
        return jrnn.from_nnx(
            cell(input_size, width, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(key))
        )
    if scheme.library == "linen":
        cell = getattr(nn, scheme.cell)(width, param_dtype=dtype)
        carry = cell.initialize_carry(key, (input_size,))
        return jrnn.from_linen(cell, cell.init(key, carry, jnp.zeros(input_size, dtype)))
    _, gates = EQUIVALENT[scheme]
    if scheme.library == "PyTorch":
        kernel_x, kernel_h, *biases = pytorch(gates, width, input_size, dtype=dtype, key=key)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        tensors = (kernel_x.T, kernel_h.T, *biases)
        nonlinearity = "tanh" if scheme.cell == "RNN" else None
        return jrnn.from_torch(dict(zip(names, tensors, strict=True)), nonlinearity=nonlinearity)
    kernel_x, kernel_h, *biases = keras(gates, width, input_size, dtype=dtype, key=key)
    bias = jnp.stack(biases) if scheme.cell == "GRU" else sum(biases)
    kind: Any = scheme.cell
    return jrnn.from_keras([kernel_x, kernel_h, bias], kind=kind)


def pytorch(gates: str, width: int, input_size: int, *, dtype, key: Array) -> FusedParameters:
    """Draw the four tensors of a PyTorch layer, kernels transposed: all uniform in ±1/√N."""
    size = len(gates) * width
    shapes = ((input_size, size), (width, size), (size,), (size,))
    bound = width**-0.5
    return FusedParameters(
        *(
            jax.random.uniform(one, shape, dtype, -bound, bound)
            for one, shape in zip(jax.random.split(key, 4), shapes, strict=True)
        )
    )


def keras(gates: str, width: int, input_size: int, *, dtype, key: Array) -> FusedParameters:
    """Draw the tensors of a Keras layer: Glorot uniform, one orthogonal matrix for all gates."""
    key_x, key_h = jax.random.split(key)
    size = len(gates) * width
    units = {gate: jnp.full(width, float(gate == "f"), dtype) for gate in gates}
    return FusedParameters(
        nn.initializers.glorot_uniform()(key_x, (input_size, size), dtype),
        nn.initializers.orthogonal()(key_h, (width, size), dtype),
        jnp.zeros(size, dtype),
        jnp.concatenate(list(units.values())),
    )

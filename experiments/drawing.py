"""The networks that experiments draw: Flax cells whose recurrent kernels are scaled by a gain."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

import jacobian_rnn as jrnn

CELLS = {"SimpleCell": nn.SimpleCell, "GRUCell": nn.GRUCell, "LSTMCell": nn.OptimizedLSTMCell}


def draw(
    cell_name: str, width: int, gain, input_size: int, *, dtype, key: Array
) -> jrnn.Recurrence:
    """Draw a network whose recurrent kernels are `gain` times orthogonal matrices, gate by gate.

    Input kernels and biases are Flax's defaults: LeCun normal and zero, the forget gate included.

    Args:
        cell_name: a key of `CELLS`; "LSTMCell" is Flax's OptimizedLSTMCell, the same equations.
        width: number of hidden units.
        gain: scale of the recurrent kernels; may be traced.
        input_size: number of input channels.
        dtype: of parameters and carry.
        key: a `jax.random.key`.

    Returns:
        The recurrence.
    """
    cell = CELLS[cell_name](
        width, recurrent_kernel_init=nn.initializers.orthogonal(gain), param_dtype=dtype
    )
    x = jnp.zeros(input_size, dtype)
    return jrnn.from_linen(cell, cell.init(key, zero_carry(cell_name, width, dtype), x))


def class_name(cell_name: str) -> str:
    """Name the class that a cell is an instance of, as `linen OptimizedLSTMCell`."""
    kind = CELLS.get(cell_name)
    return f"linen {kind.__name__}" if kind is not None else cell_name


def zero_carry(cell_name: str, width: int, dtype):
    """Return the carry of zeros from which all sequences start."""
    zeros = jnp.zeros(width, dtype)
    return (zeros, zeros) if cell_name == "LSTMCell" else zeros


def candidate_matrix(recurrence: jrnn.Recurrence) -> Array:
    """Return the recurrent matrix of the plain cell, or of a gated cell's candidate."""
    kernels = jrnn.recurrent_kernels(recurrence)
    return next(kernels[gate].T for gate in "hng" if gate in kernels)

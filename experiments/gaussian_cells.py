"""GRUs and LSTMs as mean-field theory assumes them: Gaussian kernels, under white Gaussian input.

Several experiments draw them, and ask theories about them.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

import jacobian_rnn as jrnn
from experiments import drawing
from jacobian_rnn.mean_field.cell_units import Gate, GRUUnits, LSTMUnits

Cell = Literal["GRUCell", "LSTMCell"]


def draw(
    cell_name: str, width: int, gain, bias, input_std: float, *, dtype, key: Array
) -> jrnn.Recurrence:
    """Draw a network whose gates' pre-activations are those that theory assumes.

    Every gate has a Gaussian recurrent kernel and a Gaussian input kernel of its own; under as many
    channels of white noise of unit variance as units the latter adds nearly independent noise to
    every gate and unit.

    Args:
        cell_name: a `Cell`.
        width: hidden units, and channels of input.
        gain: recurrent entries have standard deviation gain/√width; may be traced.
        bias: of the gate that keeps the state (LSTM: forget, GRU: update); may be traced.
        input_std: standard deviation of what the input adds to each pre-activation.
        dtype: of the parameters.
        key: a `jax.random.key`.

    Returns:
        The recurrence.
    """
    cell = drawing.CELLS[cell_name](
        width,
        kernel_init=nn.initializers.normal(input_std / width**0.5),
        recurrent_kernel_init=nn.initializers.normal(1 / width**0.5),
        param_dtype=jnp.dtype(dtype),
    )
    carry = drawing.zero_carry(cell_name, width, dtype)
    network = jrnn.from_linen(cell, cell.init(key, carry, jnp.zeros(width, dtype)))
    return jrnn.with_gate_bias(jrnn.with_gain(network, gain), "forget", bias)


def units_of(cell_name: str, gain: float, bias: float, input_std: float) -> GRUUnits | LSTMUnits:
    """Describe these networks to the theories."""
    gate = Gate(weight_std=gain, input_std=input_std)
    keeps = gate._replace(bias_mean=bias)
    if cell_name == "GRUCell":
        return GRUUnits(reset=gate, update=keeps, candidate=gate)
    return LSTMUnits(input=gate, forget=keeps, candidate=gate, output=gate)

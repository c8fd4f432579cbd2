"""The plain cell: h' = φ(U x + W h + b)."""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jacobian_rnn.cells.closed_form import of_one_part, pre_activations
from jacobian_rnn.cells.layout import ForeignLayer, Layers, Layout
from jacobian_rnn.cells.slopes import with_slope


def simple_jacobian(weights, carry, x, gate_fn, activation_fn):
    """Compute J = diag(φ') W of h' = φ(U x + W h + b)."""
    del gate_fn
    (pre,) = pre_activations(weights, carry, x)
    slopes = [with_slope(activation_fn, pre)[1]]
    return of_one_part(weights, jnp.zeros_like(carry), slopes, slopes)


def residual_jacobian(weights, carry, x, gate_fn, activation_fn):
    """Compute J = diag(φ') (W + 1) of h' = φ(U x + W h + b + h)."""
    shifted = weights._replace(biases=(weights.biases[0] + carry,))
    parts = simple_jacobian(shifted, carry, x, gate_fn, activation_fn)
    return parts._replace(diagonals=parts.slopes)


LAYOUT = Layout(
    gates="h",
    layers={
        nn.SimpleCell: Layers(inputs=("i",), recurrent=("h",), biases=("i",)),
        nnx.SimpleCell: Layers(inputs=("dense_i",), recurrent=("dense_h",), biases=("dense_i",)),
    },
    jacobian=simple_jacobian,
    variants={("residual", True): residual_jacobian},
    loaded_as=nn.SimpleCell,
    pytorch=ForeignLayer("RNN", "h"),
    keras=ForeignLayer("SimpleRNN", "h"),
    theory=("unit",),
)

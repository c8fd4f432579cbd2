"""Long short-term memory: c' = f c + i g and h' = o φ(c'), with the state c, then h.

The gates i, f and o are σ(U x + W h + b), each with its own kernels. g = φ(U_g x + W_g h + b_g).
"""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jacobian_rnn.cells.closed_form import pre_activations
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import ForeignLayer, Layers, Layout
from jacobian_rnn.cells.slopes import with_slope


def lstm_jacobian(weights, carry, x, gate_fn, activation_fn):
    """Compute J = [[1, 0], [diag s, 1]] [[diag f, A], [0, B]], with gates in the order i, f, g, o.

    A = diag(g i') W_i + diag(c f') W_f + diag(i g') W_g, B = diag(φ(c') o') W_o, s = o φ'(c').
    """
    c, h = carry
    pre_i, pre_f, pre_g, pre_o = pre_activations(weights, h, x)
    (i, i_slope), (f, f_slope), (o, o_slope) = (
        with_slope(gate_fn, pre) for pre in (pre_i, pre_f, pre_o)
    )
    g, g_slope = with_slope(activation_fn, pre_g)
    shown, shown_slope = with_slope(activation_fn, f * c + i * g)
    none = jnp.zeros_like(c)
    slopes = jnp.stack(
        [
            jnp.stack([g * i_slope, c * f_slope, i * g_slope, none]),
            jnp.stack([none, none, none, shown * o_slope]),
        ]
    )
    return GatedJacobian(
        diagonals=jnp.stack([jnp.stack([f, none]), jnp.stack([none, none])]),
        slopes=slopes,
        kernels=weights.recurrent,
        input_slopes=slopes,
        input_kernels=weights.inputs,
        mixing=o * shown_slope,
    )


RECURRENT = ("hi", "hf", "hg", "ho")
SEPARATE = Layers(inputs=("ii", "if", "ig", "io"), recurrent=RECURRENT, biases=RECURRENT)
LAYOUT = Layout(
    gates="ifgo",
    layers={
        nn.LSTMCell: SEPARATE,
        nn.OptimizedLSTMCell: SEPARATE,
        nnx.LSTMCell: SEPARATE._replace(inputs=("ii", "if_", "ig", "io")),
        nnx.OptimizedLSTMCell: Layers(("dense_i",), ("dense_h",), biases=("dense_h",)),
    },
    keeps="f",
    jacobian=lstm_jacobian,
    loaded_as=nn.OptimizedLSTMCell,
    pytorch=ForeignLayer("LSTM", "ifgo"),
    keras=ForeignLayer("LSTM", "ifgo"),
    equinox=ForeignLayer("LSTMCell", "ifgo"),
    theory=("input", "forget", "candidate", "output"),
)

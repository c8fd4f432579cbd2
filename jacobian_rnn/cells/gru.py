"""The gated recurrent unit: h' = (1 − z) n + z h, n = φ(U_n x + b_n + r m), m = W_n h + b_hn.

Both gates are σ(U x + W h + b), each with its own kernels. The cell of nnx has no b_hn.
"""

from flax import linen as nn
from flax import nnx

from jacobian_rnn.cells.closed_form import of_one_part, pre_activations
from jacobian_rnn.cells.layout import ForeignLayer, Layers, Layout
from jacobian_rnn.cells.slopes import with_slope


def gru_jacobian(weights, carry, x, gate_fn, activation_fn):
    """Compute J = diag z + diag((h − n) z') W_z + diag((1 − z) n') [diag r W_n + diag(m r') W_r].

    Gates are in the order r, z, n. The Jacobian for the input has no r before U_n.
    """
    h = carry
    read = h @ weights.recurrent[2] + weights.read_bias
    from_x = x @ weights.inputs[2] + weights.biases[2]
    pre_r, pre_z = pre_activations(weights, h, x, num_gates=2)
    (r, r_slope), (z, z_slope) = with_slope(gate_fn, pre_r), with_slope(gate_fn, pre_z)
    n, n_slope = with_slope(activation_fn, from_x + r * read)
    new = (1 - z) * n_slope
    to_r, to_z = new * read * r_slope, (h - n) * z_slope
    return of_one_part(weights, z, [to_r, to_z, new * r], [to_r, to_z, new])


INPUTS = ("ir", "iz", "in")
LAYOUT = Layout(
    gates="rzn",
    layers={
        nn.GRUCell: Layers(INPUTS, ("hr", "hz", "hn"), biases=INPUTS, read_bias="hn"),
        # This class has no bias b_hn. If a future Flax adds one, it is found under "dense_h".
        nnx.GRUCell: Layers(("dense_i",), ("dense_h",), biases=("dense_i",), read_bias="dense_h"),
    },
    keeps="z",
    jacobian=gru_jacobian,
    loaded_as=nn.GRUCell,
    pytorch=ForeignLayer("GRU", "rzn"),
    keras=ForeignLayer("GRU", "zrn"),
    equinox=ForeignLayer("GRUCell", "rzn"),
    theory=("reset", "update", "candidate"),
)

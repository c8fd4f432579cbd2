"""The minimal gated unit: h' = (1 − f) n + f h, n = φ(U_n x + b_n + f m), m = W_n h + b_hn.

f = σ(U_f x + W_f h + b_f). Without its reset gate n = φ(U_n x + W_n h + b_n).
"""

from flax import linen as nn

from jacobian_rnn.cells.closed_form import of_one_part, pre_activations
from jacobian_rnn.cells.layout import Layers, Layout
from jacobian_rnn.cells.slopes import with_slope


def mgu_jacobian(weights, carry, x, gate_fn, activation_fn):
    """Compute J = diag f + diag((h − n + (1 − f) n' m) f') W_f + diag((1 − f) n' f) W_n."""
    h = carry
    read = h @ weights.recurrent[1] + weights.read_bias
    from_x = x @ weights.inputs[1] + weights.biases[1]
    (pre_f,) = pre_activations(weights, h, x, num_gates=1)
    f, f_slope = with_slope(gate_fn, pre_f)
    n, n_slope = with_slope(activation_fn, from_x + f * read)
    new = (1 - f) * n_slope
    to_f = (h - n + new * read) * f_slope
    return of_one_part(weights, f, [to_f, new * f], [to_f, new])


def jacobian_without_reset(weights, carry, x, gate_fn, activation_fn):
    """Compute J = diag f + diag((h − n) f') W_f + diag((1 − f) n') W_n."""
    h = carry
    pre_f, pre_n = pre_activations(weights, h, x)
    f, f_slope = with_slope(gate_fn, pre_f)
    n, n_slope = with_slope(activation_fn, pre_n)
    slopes = [(h - n) * f_slope, (1 - f) * n_slope]
    return of_one_part(weights, f, slopes, slopes)


LAYOUT = Layout(
    gates="fn",
    # Without a reset gate there is no bias in "hn".
    layers={nn.MGUCell: Layers(("if", "in"), ("hf", "hn"), biases=("if", "in"), read_bias="hn")},
    keeps="f",
    jacobian=mgu_jacobian,
    variants={("reset_gate", False): jacobian_without_reset},
)

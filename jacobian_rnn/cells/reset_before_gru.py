"""The GRU as first published: h' = (1 − z) n + z h, n = φ(U_n x + W_n (r h) + b_n).

The reset gate scales what the recurrent kernel reads, and not what it returns as in `gru`. Both
gates are σ(U x + W h + b), each with its own kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jacobian_rnn.cells._own_cells import OWN_LAYERS, recurrence_of
from jacobian_rnn.cells.closed_form import ELEMENTWISE, of_one_part, pre_activations
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import ForeignLayer, Layout, Weights
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.linalg.graded_svd import matmul


def make_reset_before_gru(
    weights: Weights,
    gate_fn: Callable = jax.nn.sigmoid,
    activation_fn: Callable = jnp.tanh,
) -> Recurrence:
    """Make a GRU whose reset gate stands before the recurrent kernel, of its weights.

    Args:
        weights: kernels `(inputs, N)` and `(N, N)` and biases `(N,)`, in the order r, z, n.
        gate_fn: σ.
        activation_fn: φ.

    Returns:
        The recurrence, with a closed-form Jacobian where both functions are known to act on each
        unit alone.

    References:
        K. Cho et al., "Learning phrase representations using RNN encoder–decoder for statistical
        machine translation", EMNLP 2014.
    """
    inputs, recurrent, biases = (jnp.concatenate(part, axis=-1) for part in weights[:3])
    params = {"input": {"kernel": inputs}, "recurrent": {"kernel": recurrent, "bias": biases}}
    step = ResetBeforeGRUStep(gate_fn, activation_fn)
    known = {gate_fn, activation_fn} <= ELEMENTWISE
    return recurrence_of(step, params) if known else Recurrence(step, params)


@dataclass(frozen=True)
class ResetBeforeGRUStep:
    """The step of `make_reset_before_gru`. Equal functions have equal steps."""

    gate_fn: Callable
    activation_fn: Callable
    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params: Any, carry: Any, x: Any) -> Array:
        """Return the new carry."""
        weights = OWN_LAYERS.read(params, 3)
        r, z = map(self.gate_fn, pre_activations(weights, carry, x, num_gates=2))
        n = self.activation_fn(_candidate(weights, r * carry, x))
        return (1 - z) * n + z * carry

    def parts(self, params: Any, carry: Any, x: Any) -> GatedJacobian:
        """Compute J = diag z + diag((h − n) z') W_z + diag((1 − z) n') W_n Q.

        Q = diag r + diag(h r') W_r is the derivative of r h. It costs one more product of kernels,
        and so does what r does to the input.
        """
        weights = OWN_LAYERS.read(params, 3)
        pre_r, pre_z = pre_activations(weights, carry, x, num_gates=2)
        (r, r_slope), (z, z_slope) = (with_slope(self.gate_fn, pre) for pre in (pre_r, pre_z))
        n, n_slope = with_slope(self.activation_fn, _candidate(weights, r * carry, x))
        to_r = carry * r_slope
        w_r, w_z, w_n = weights.recurrent
        u_r, u_z, u_n = weights.inputs
        through_h = r[:, None] * w_n + matmul(w_r * to_r[None], w_n)
        through_x = u_n + matmul(u_r * to_r[None], w_n)
        slopes = [(carry - n) * z_slope, (1 - z) * n_slope]
        read = Weights((u_z, through_x), (w_z, through_h), ())
        return of_one_part(read, z, slopes, slopes)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["kernel"][:, 0]


def _candidate(weights, read, x):
    """Compute what φ acts on."""
    return x @ weights.inputs[2] + read @ weights.recurrent[2] + weights.biases[2]


LAYOUT = Layout(
    gates="rzn",
    layers={ResetBeforeGRUStep: OWN_LAYERS},
    keeps="z",
    loaded_as=make_reset_before_gru,
    keras=ForeignLayer("GRU", "zrn", variant="reset_after=False"),
)

"""Hand-derived step Jacobians of Flax cells: ∂state'/∂state and ∂state'/∂x, rows are outputs.

Each formula was derived from the equations that Flax computes and stands in the file of its cell.

Notation: a kernel has shape (inputs, outputs), so the matrix that acts on a column is its
transpose; φ is the activation function, σ that of the gates, a prime on either its slope.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import Layers, Weights

# Functions of each unit alone: their slopes are all of their derivative.
ELEMENTWISE = frozenset({jnp.tanh, jnp.sin}) | {
    getattr(jax.nn, name)
    for name in (
        *("tanh", "hard_tanh", "sigmoid", "hard_sigmoid", "log_sigmoid", "soft_sign", "softplus"),
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu"),
        "identity",
    )
}


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The closed-form Jacobian of a Flax cell; equal for equal cells.

    Attributes:
        formula: `(weights, carry, x, gate_fn, activation_fn) -> GatedJacobian`.
        layers: where the weights are.
        num_gates: their number.
        gate_fn: σ.
        activation_fn: φ.
    """

    formula: Callable[..., GatedJacobian]
    layers: Layers
    num_gates: int
    gate_fn: Callable = jax.nn.sigmoid
    activation_fn: Callable = jnp.tanh

    def weights(self, params: Any) -> Weights:
        """Take the weights out of the parameters, gate by gate."""
        return self.layers.read(params, self.num_gates)

    def parts(self, params: Any, carry: Any, x: Any) -> GatedJacobian:
        """Return the parts of the Jacobian of one step."""
        return self.formula(self.weights(params), carry, x, self.gate_fn, self.activation_fn)

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


def of_one_part(
    weights: Weights, diagonal: Array, slopes: Sequence[Array], input_slopes: Sequence[Array]
) -> GatedJacobian:
    """Put together the Jacobian of a cell whose state is h alone, with a slope for each gate."""
    return GatedJacobian(
        diagonals=diagonal[None, None],
        slopes=jnp.stack(slopes)[None],
        kernels=weights.recurrent,
        input_slopes=jnp.stack(input_slopes)[None],
        input_kernels=weights.inputs,
    )


def pre_activations(weights: Weights, h: Array, x: Array, num_gates: int | None = None) -> list:
    """Compute U x + W h + b of the first gates, of all by default."""
    gates = zip(weights.inputs, weights.recurrent, weights.biases, strict=True)
    return [x @ u + h @ w + b for u, w, b in list(gates)[:num_gates]]


def with_slope(function: Callable, pre: Array) -> tuple[Array, Array]:
    """Return the values of a function of each unit alone, and its slopes there."""
    return jax.jvp(function, (pre,), (jnp.ones_like(pre),))

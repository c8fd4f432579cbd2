"""Step Jacobians of Flax cells, derived by hand: ∂state'/∂state and ∂state'/∂x.

Rows are outputs. Each formula stands in the file of its cell, derived from Flax's equations.

A kernel has shape (inputs, outputs), so the matrix that acts on a column is its transpose. φ is the
activation function and σ the function of the gates. A prime marks the slope of either.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.cells.activations import OWN_ACTIVATIONS
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import Layers, Weights

# These functions act on each unit alone, so their slopes are the whole derivative.
ELEMENTWISE = (
    frozenset({jnp.tanh, jnp.sin, jnp.exp})
    | OWN_ACTIVATIONS
    | {
        getattr(jax.nn, name)
        for name in (
            *(
                "tanh",
                "hard_tanh",
                "sigmoid",
                "hard_sigmoid",
                "log_sigmoid",
                "soft_sign",
                "softplus",
            ),
            *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu"),
            *("identity", "mish", "squareplus", "sparse_plus", "sparse_sigmoid"),
        )
    }
)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The closed-form Jacobian of a Flax cell. Equal cells have equal ones.

    Attributes:
        formula: `(weights, carry, x, gate_fn, activation_fn) -> GatedJacobian`.
        layers: the names of the layers that hold the weights.
        num_gates: number of gates.
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
    """Build the Jacobian of a cell whose state is h alone, with one slope for each gate."""
    return GatedJacobian(
        diagonals=diagonal[None, None],
        slopes=jnp.stack(slopes)[None],
        kernels=weights.recurrent,
        input_slopes=jnp.stack(input_slopes)[None],
        input_kernels=weights.inputs,
    )


def pre_activations(weights: Weights, h: Array, x: Array, num_gates: int | None = None) -> list:
    """Compute U x + W h + b of the first gates, or of all gates by default."""
    gates = zip(weights.inputs, weights.recurrent, weights.biases, strict=True)
    return [x @ u + h @ w + b for u, w, b in list(gates)[:num_gates]]

"""The minimalRNN: z = tanh(V x + a), u = σ(W h + U z + b), h' = u h + (1 − u) z."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import OWN_LAYERS, check_sizes, normal_kernel, recurrence_of
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import Layout
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope


def minimal_rnn(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw a minimalRNN: z = tanh(V x + a), u = σ(W h + U z + b), h' = u h + (1 − u) z.

    Entries of kernels have variance 1 / (number of rows). W is orthogonal. Biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = diag u + diag((h − z) u') W.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        M. Chen, "MinimalRNN: toward more interpretable and trainable recurrent neural networks",
        2017, and M. Chen, J. Pennington and S. Schoenholz, ICML 2018.

    Example:
        >>> import jax
        >>> network = minimal_rnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    embed, read, recur = jax.random.split(key, 3)
    zeros = jnp.zeros(num_units, dtype)
    params = {
        "embedding": {"kernel": normal_kernel(embed, num_inputs, num_units, dtype), "bias": zeros},
        "input": {"kernel": normal_kernel(read, num_units, num_units, dtype)},
        "recurrent": {
            "kernel": initializers.orthogonal()(recur, (num_units, num_units), dtype),
            "bias": zeros,
        },
    }
    return recurrence_of(MinimalStep(), params)


@dataclass(frozen=True)
class MinimalStep:
    """The step of `minimal_rnn`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        (z, _), (gate, _) = self._with_slopes(params, carry, x)
        return gate * carry + (1 - gate) * z

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        (z, z_slope), (gate, gate_slope) = self._with_slopes(params, carry, x)
        slope = (carry - z) * gate_slope
        # x acts through z alone: z enters the new state and also the gate.
        through = z_slope[None] * params["embedding"]["kernel"]
        return GatedJacobian(
            diagonals=gate[None, None],
            slopes=slope[None, None],
            kernels=(params["recurrent"]["kernel"],),
            input_slopes=jnp.stack([1 - gate, slope])[None],
            input_kernels=(through, through @ params["input"]["kernel"]),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _with_slopes(self, params, carry, x):
        pre_z = x @ params["embedding"]["kernel"] + params["embedding"]["bias"]
        z, z_slope = with_slope(jnp.tanh, pre_z)
        pre = carry @ params["recurrent"]["kernel"] + z @ params["input"]["kernel"]
        return (z, z_slope), with_slope(jax.nn.sigmoid, pre + params["recurrent"]["bias"])


LAYOUT = Layout(
    gates="u",
    layers={MinimalStep: OWN_LAYERS},
    keeps="u",
    theory=("update",),
    embedding="embedding",
)

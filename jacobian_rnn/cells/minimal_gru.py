"""The minGRU: a GRU whose gate and candidate read the input alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    of_diagonal,
    recurrence_of,
    uniform_layer,
)
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope


def min_gru(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw a minGRU: z = σ(U x + b), c = V x + d, h' = (1 − z) h + z c.

    Kernels and biases are uniform on ±1/√inputs, as the linear layers of the paper's listing are.
    The variant that the paper trains in logs has another candidate, g(V x + d), and the same J.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with the diagonal J = diag(1 − z). It depends on x and not on h, and no
        exponent is above zero.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        L. Feng et al., "Were RNNs all we needed?", 2024, section 3.1.

    Example:
        >>> import jax
        >>> network = min_gru(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    layers = ("update", "candidate")
    params = {
        layer: uniform_layer(one, num_inputs, num_units, dtype)
        for layer, one in zip(layers, jax.random.split(key), strict=True)
    }
    return recurrence_of(MinGRUStep(), params, unit_jacobians=StepUnitJacobians(MinGRUStep()))


@dataclass(frozen=True)
class MinGRUStep:
    """The step of `min_gru`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        update, candidate = self._pre(params, x)
        return jax.nn.sigmoid(-update) * carry + jax.nn.sigmoid(update) * candidate

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        update, candidate = self._pre(params, x)
        gate, slope = with_slope(jax.nn.sigmoid, update)
        return of_diagonal(
            # 1 − z would lose the digits of a gate that is nearly open.
            jax.nn.sigmoid(-update),
            [(candidate - carry) * slope, gate],
            (params["update"]["kernel"], params["candidate"]["kernel"]),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["update"]["bias"]

    def _pre(self, params, x):
        update, candidate = params["update"], params["candidate"]
        return (
            x @ update["kernel"] + update["bias"],
            x @ candidate["kernel"] + candidate["bias"],
        )

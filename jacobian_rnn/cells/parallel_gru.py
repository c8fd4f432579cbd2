"""The ParaGRU: a GRU whose recurrent matrices are diagonal, so that units see themselves alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    of_diagonal,
    recurrence_of,
)
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope

LAYERS = ("update", "reset", "candidate")
LARGEST_WEIGHT = 0.5


def para_gru(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw a ParaGRU: z = σ(a h + U x + b), r = σ(p h + V x + d), c = tanh(q (h r) + W x + e).

    The new state is h' = (1 − z) h + z c. The recurrent weights a, p and q are vectors, one number
    for each unit. Kernels are uniform with variance 2 / inputs (He). Recurrent weights are normal
    with variance 1/N, which is Glorot's for a matrix (N, N), cut off at ±1/2. Biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = diag(1 − z + (c − h) z' a + z c' q (r + h r' p)). It depends on h,
        so the state can be chaotic or have several fixed points where weights are large.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        F. Danieli et al., "ParaRNN: unlocking parallel training of nonlinear RNNs for large
        language models", 2025, equations (3.1) to (3.3) and appendix C.1.

    Example:
        >>> import jax
        >>> network = para_gru(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    keys = jax.random.split(key, (len(LAYERS), 2))

    def layer(read, recur):
        weights = jax.random.normal(recur, (num_units,), dtype) / jnp.sqrt(
            jnp.asarray(num_units, dtype)
        )
        return {
            "kernel": initializers.he_uniform()(read, (num_inputs, num_units), dtype),
            "recurrent": jnp.clip(weights, -LARGEST_WEIGHT, LARGEST_WEIGHT),
            "bias": jnp.zeros(num_units, dtype),
        }

    params = {name: layer(*pair) for name, pair in zip(LAYERS, keys, strict=True)}
    return recurrence_of(ParaGRUStep(), params, unit_jacobians=StepUnitJacobians(ParaGRUStep()))


@dataclass(frozen=True)
class ParaGRUStep:
    """The step of `para_gru`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        (z, _), _, (c, _), _ = self._gates(params, carry, x)
        return (1 - z) * carry + z * c

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        (z, z_slope), (r, r_slope), (c, c_slope), kept = self._gates(params, carry, x)
        of_z = (c - carry) * z_slope
        of_c = z * c_slope
        of_r = of_c * params["candidate"]["recurrent"] * carry * r_slope
        diagonal = (
            kept
            + of_z * params["update"]["recurrent"]
            + of_c * params["candidate"]["recurrent"] * r
            + of_r * params["reset"]["recurrent"]
        )
        kernels = tuple(params[layer]["kernel"] for layer in LAYERS)
        return of_diagonal(diagonal, [of_z, of_r, of_c], kernels)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["update"]["bias"]

    def _gates(self, params, carry, x):
        """Return z, r and c with their slopes, and 1 − z."""

        def pre(layer, seen):
            layer = params[layer]
            return layer["recurrent"] * seen + x @ layer["kernel"] + layer["bias"]

        update = pre("update", carry)
        r, r_slope = with_slope(jax.nn.sigmoid, pre("reset", carry))
        c = with_slope(jnp.tanh, pre("candidate", carry * r))
        return with_slope(jax.nn.sigmoid, update), (r, r_slope), c, jax.nn.sigmoid(-update)

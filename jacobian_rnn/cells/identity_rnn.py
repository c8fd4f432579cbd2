"""The IRNN: a SimpleCell of rectified units whose recurrent kernel starts as the identity."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import check_sizes
from jacobian_rnn.cells.flax import from_linen
from jacobian_rnn.cells.recurrence import Recurrence


def irnn(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw an IRNN: a SimpleCell of rectified units whose recurrent kernel starts as the identity.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key` for the input kernel. Its entries have variance 10⁻⁶.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = diag(1 where h' > 0) W.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
        rectified linear units", 2015.

    Example:
        >>> import jax
        >>> network = irnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    cell = nn.SimpleCell(num_units, activation_fn=nn.relu, param_dtype=dtype)
    small = 1e-3 * jax.random.normal(key, (num_inputs, num_units), dtype)
    params = {
        "i": {"kernel": small, "bias": jnp.zeros(num_units, dtype)},
        "h": {"kernel": jnp.eye(num_units, dtype=dtype)},
    }
    return from_linen(cell, {"params": params})

"""The minLSTM: an LSTM whose gates read the input alone and add up to one."""

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

LAYERS = ("forget", "input", "candidate")


def min_lstm(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw a minLSTM: f = σ(U x + b), i = σ(V x + d), h' = f/(f+i) h + i/(f+i) c, c = W x + e.

    Kernels and biases are uniform on ±1/√inputs, as the linear layers of the paper's listing are.
    f/(f+i) is σ(log f − log i), which stays exact where both gates are closed.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with the diagonal J = diag(f/(f+i)). It depends on x and not on h, and no
        exponent is above zero.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        L. Feng et al., "Were RNNs all we needed?", 2024, section 3.2.

    Example:
        >>> import jax
        >>> network = min_lstm(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    params = {
        layer: uniform_layer(one, num_inputs, num_units, dtype)
        for layer, one in zip(LAYERS, jax.random.split(key, 3), strict=True)
    }
    return recurrence_of(MinLSTMStep(), params, unit_jacobians=StepUnitJacobians(MinLSTMStep()))


@dataclass(frozen=True)
class MinLSTMStep:
    """The step of `min_lstm`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        forget, read, candidate = self._pre(params, x)
        log_ratio = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(read)
        return jax.nn.sigmoid(log_ratio) * carry + jax.nn.sigmoid(-log_ratio) * candidate

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        forget, read, candidate = self._pre(params, x)
        log_ratio = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(read)
        kept, slope = with_slope(jax.nn.sigmoid, log_ratio)
        change = (carry - candidate) * slope
        return of_diagonal(
            kept,
            [
                change * jax.nn.sigmoid(-forget),
                -change * jax.nn.sigmoid(-read),
                jax.nn.sigmoid(-log_ratio),
            ],
            tuple(params[layer]["kernel"] for layer in LAYERS),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["forget"]["bias"]

    def _pre(self, params, x):
        return [x @ params[layer]["kernel"] + params[layer]["bias"] for layer in LAYERS]

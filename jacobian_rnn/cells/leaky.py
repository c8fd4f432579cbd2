"""Leaky rate units: h' = (1 − α) h + α tanh(W h + V x + b)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import OWN_LAYERS, check_sizes, normal_kernel, recurrence_of
from jacobian_rnn.cells.closed_form import of_one_part, pre_activations
from jacobian_rnn.cells.layout import Layout
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_number


def leaky_rate_network(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    leak: float = 0.1,
    gain: float = 1.0,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a network of leaky rate units: h' = (1 − α) h + α tanh(W h + V x + b).

    Entries of W have variance gain² / N and those of V variance 1 / inputs. Biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        leak: α, the time step over the time constant, above 0 and at most 1.
        gain: factor on the recurrent weights, zero or above.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = 1 − α + α diag(tanh') W. Its parameters include α.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, or α or the gain out of range.

    References:
        H. Jaeger, M. Lukoševičius, D. Popovici and U. Siewert, "Optimization and applications of
        echo state networks with leaky-integrator neurons", Neural Networks 20 (2007).

    Example:
        >>> import jax
        >>> network = leaky_rate_network(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    check_number("leak", leak, above=0, most=1)
    check_number("gain", gain, least=0)
    read, recur = jax.random.split(key)
    params = {
        "input": {"kernel": normal_kernel(read, num_inputs, num_units, dtype)},
        "recurrent": {
            "kernel": jnp.asarray(gain, dtype) * normal_kernel(recur, num_units, num_units, dtype),
            "bias": jnp.zeros(num_units, dtype),
        },
        "leak": jnp.asarray(leak, dtype),
    }
    return recurrence_of(LeakyStep(), params)


@dataclass(frozen=True)
class LeakyStep:
    """The step of `leaky_rate_network`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        leak = params["leak"]
        return (1 - leak) * carry + leak * jnp.tanh(self._pre(params, carry, x))

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        leak = params["leak"]
        slope = leak * with_slope(jnp.tanh, self._pre(params, carry, x))[1]
        kept = (1 - leak) * jnp.ones_like(carry)
        return of_one_part(OWN_LAYERS.read(params, 1), kept, [slope], [slope])

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _pre(self, params, carry, x):
        (pre,) = pre_activations(OWN_LAYERS.read(params, 1), carry, x)
        return pre


LAYOUT = Layout(gates="h", layers={LeakyStep: OWN_LAYERS})

"""Gated DeltaNet: a matrix memory that decays, and in which a key's value is replaced.

S' = α S (I − β k kᵀ) + β v kᵀ. Reading with a query gives o = S' q.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._delta_rules import DeltaRuleStep, delta_rule_recurrence, unit_vector
from jacobian_rnn.cells._own_cells import check_sizes, normal_kernel
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least, check_number


def gated_delta_net(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    num_keys: int | None = None,
    largest_rate: float = 1.0,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a head of Gated DeltaNet: S' = α S (I − β k kᵀ) + β v kᵀ.

    k and q are silu(W x), divided by their length, and v = silu(W_v x). α = exp(−A softplus(w x +
    b)) with A > 0, and β is `largest_rate` times σ(w_β x). As in Mamba-2, A is uniform on (0, 16),
    and softplus(b) is uniform in its log between 0.001 and 0.1. Entries of kernels have variance 1
    / inputs. Short convolutions act on the inputs before the recurrence, and heads do not see
    each other, so neither is part of it.

    Args:
        num_inputs: size of x.
        num_units: number of values, the rows of S. Each is a unit of its own.
        key: a `jax.random.key`.
        num_keys: number of columns of S, the states of each unit. By default that of the values.
        largest_rate: the bound of β, above 0 and at most 2. With 1 the eigenvalues of I − β k kᵀ
            lie in [0, 1], and with 2 in [−1, 1].
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its carry is S, `(num_units, num_keys)`. J acts on the keys alone, with the
        same block α (I − β k kᵀ) for every row of S, which its `unit_jacobians` declare. It shows S
        row after row. `step.read(params, carry, x)` reads o from it.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, or `largest_rate` out of range.

    References:
        S. Yang, J. Kautz and A. Hatamizadeh, "Gated delta networks: improving Mamba2 with delta
        rule", 2024, section 3.1. R. Grazzi et al., "Unlocking state-tracking in linear RNNs through
        negative eigenvalues", 2025.

    Example:
        >>> import jax
        >>> network = gated_delta_net(3, 4, num_keys=2, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros((4, 2)), jnp.ones(3)).shape
        (4, 2)
    """
    num_keys = num_units if num_keys is None else num_keys
    check_sizes(num_inputs, num_units, dtype)
    check_at_least(1, num_keys=num_keys)
    check_number("largest_rate", largest_rate, above=0, most=2)
    *keys, decay, width = jax.random.split(key, 7)
    sizes = {"query": num_keys, "key": num_keys, "value": num_units, "decay": 1, "rate": 1}
    params = {
        name: {"kernel": normal_kernel(one, num_inputs, size, dtype)}
        for one, (name, size) in zip(keys, sizes.items(), strict=True)
    }
    shortest, longest = math.log(1e-3), math.log(0.1)
    step = jnp.exp(jax.random.uniform(width, (1,), dtype, minval=shortest, maxval=longest))
    params["decay"]["bias"] = step + jnp.log(-jnp.expm1(-step))  # whose softplus it is
    speed = 16 * (1 - jax.random.uniform(decay, (1,), dtype))
    params["decay"]["log_speed"] = jnp.log(speed)
    return delta_rule_recurrence(GatedDeltaStep(float(largest_rate)), params)


@dataclass(frozen=True)
class GatedDeltaStep(DeltaRuleStep):
    """The step of `gated_delta_net`. Equal bounds of β have equal steps."""

    largest_rate: float

    def read(self, params, carry, x):
        """Return o = S q, what a query finds in a memory."""
        return carry @ unit_vector(jax.nn.silu(x @ params["query"]["kernel"]))

    def gates(self, params, x):
        """Return w, l, r, v and b of S' = S (diag(w) − l rᵀ) + v bᵀ."""
        key = unit_vector(jax.nn.silu(x @ params["key"]["kernel"]))
        value = jax.nn.silu(x @ params["value"]["kernel"])
        decay = params["decay"]
        wait = jax.nn.softplus(x @ decay["kernel"] + decay["bias"])
        kept = jnp.exp(-jnp.exp(decay["log_speed"]) * wait)
        rate = self.largest_rate * jax.nn.sigmoid(x @ params["rate"]["kernel"])
        return jnp.broadcast_to(kept, key.shape), kept * rate * key, key, value, rate * key

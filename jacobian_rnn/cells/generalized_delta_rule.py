"""RWKV-7: a matrix memory in which each key decays and is erased at rates of its own.

S' = S (diag(w) − κ (a κ)ᵀ) + v kᵀ. Reading with a receptance gives o = S' r.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Key

from jacobian_rnn.cells._delta_rules import DeltaRuleStep, delta_rule_recurrence, unit_vector
from jacobian_rnn.cells._own_cells import check_sizes
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least


def rwkv7(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    num_keys: int | None = None,
    rank: int = 32,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a head of RWKV-7: S' = S (diag(w) − κ (a κ)ᵀ) + v kᵀ.

    w = exp(−e^(−1/2) σ(d + tanh(x D₁) D₂)) is the decay of each key and a = σ(c + x A₁ A₂) the rate
    at which it is replaced. κ is ξ W_k x, divided by its length, k = W_k x (1 + (a − 1) μ), and
    v = W_v x.

    It starts as the first layer of the published models. With u from 0 to 1 over the keys and z =
    2 u − 1, d = −5.5 + 6 u + 2.5 z |z|, c = −0.19 + 0.3 z |z| + 0.4 (u − ½), ξ = 0.71 − 0.1 (u −
    ½) and μ = 1.02. D₁ and A₁ are zero, D₂ and A₂ orthogonal times 0.1 and so is W_k. W_r and W_v
    are orthogonal. The shift of tokens and the value of the first layer act on the inputs before
    the recurrence, and heads do not see each other, so they are no part of it.

    Args:
        num_inputs: size of x.
        num_units: number of values, the rows of S. Each is a unit of its own.
        key: a `jax.random.key`.
        num_keys: number of columns of S, the states of each unit. By default that of the values.
        rank: number of columns of D₁ and of A₁.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its carry is S, `(num_units, num_keys)`. J acts on the keys alone, with the
        same block, a diagonal plus rank one, for every row of S, which its `unit_jacobians`
        declare. It shows S row after row. `step.read(params, carry, x)` reads o from it.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one.

    References:
        B. Peng et al., "RWKV-7 'Goose' with expressive dynamic state evolution", 2025, section 4.

    Example:
        >>> import jax
        >>> network = rwkv7(3, 4, num_keys=2, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros((4, 2)), jnp.ones(3)).shape
        (4, 2)
    """
    num_keys = num_units if num_keys is None else num_keys
    check_sizes(num_inputs, num_units, dtype)
    check_at_least(1, num_keys=num_keys, rank=rank)
    keys = jax.random.split(key, 5)

    def orthogonal(one, shape, gain=1.0):
        return initializers.orthogonal(gain)(one, shape, dtype)

    def of_low_rank(one, bias):
        up = orthogonal(one, (rank, num_keys), 0.1 * math.sqrt(max(rank / num_keys, 1)))
        return {"down": jnp.zeros((num_inputs, rank), dtype), "up": up, "bias": bias}

    along = jnp.linspace(0, 1, num_keys, dtype=dtype)
    bent = (2 * along - 1) * jnp.abs(2 * along - 1)
    params = {
        "receptance": {"kernel": orthogonal(keys[0], (num_inputs, num_keys))},
        "key": {"kernel": orthogonal(keys[1], (num_inputs, num_keys), 0.1)},
        "value": {"kernel": orthogonal(keys[2], (num_inputs, num_units))},
        "decay": of_low_rank(keys[3], -5.5 + 6 * along + 2.5 * bent),
        "rate": of_low_rank(keys[4], -0.19 + 0.3 * bent + 0.4 * (along - 0.5)),
        "removal": 0.71 - 0.1 * (along - 0.5),
        "replacement": jnp.full(num_keys, 1.02, dtype),
    }
    return delta_rule_recurrence(RWKV7Step(), params)


@dataclass(frozen=True)
class RWKV7Step(DeltaRuleStep):
    """The step of `rwkv7`."""

    def read(self, params, carry, x):
        """Return o = S r, what a receptance finds in a memory."""
        return carry @ (x @ params["receptance"]["kernel"])

    def gates(self, params, x):
        """Return w, l, r, v and b of S' = S (diag(w) − l rᵀ) + v bᵀ."""
        decay, rate = params["decay"], params["rate"]
        speed = jax.nn.sigmoid(decay["bias"] + jnp.tanh(x @ decay["down"]) @ decay["up"])
        kept = jnp.exp(-math.exp(-0.5) * speed)
        replaced = jax.nn.sigmoid(rate["bias"] + x @ rate["down"] @ rate["up"])
        key = x @ params["key"]["kernel"]
        removed = unit_vector(params["removal"] * key)
        write = key * (1 + (replaced - 1) * params["replacement"])
        return kept, removed, replaced * removed, x @ params["value"]["kernel"], write

"""The exponential gates of xLSTM, kept in range by the largest log gate so far.

The gates i = exp(ĩ) and f = σ(f̃) or exp(f̃) can be of any size. The stabiliser m' = max(log f + m,
ĩ) is their largest product in logs. What a cell computes with are i' = exp(ĩ − m') and f' = exp(log
f + m − m'), of which the larger is 1.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jacobian_rnn.checks import check_choice

Forget = Literal["sigmoid", "exp"]


class StabilizedGates(NamedTuple):
    """The gates of one step, and what they do to first order.

    With d = dm + d log f − dĩ the changes are dm' = share (dm + d log f) + (1 − share) dĩ, df' = f'
    (1 − share) d and di' = −i' share d.

    Attributes:
        stabilizer: m'.
        forget: f'.
        write: i'.
        share: ∂m'/∂m, which is 1 where the memory is the larger, 0 where the input is, and ½ where
            both are equal, as JAX differentiates a maximum.
        forget_slope: the derivative of log f by f̃.
    """

    stabilizer: Float[Array, "..."]
    forget: Float[Array, "..."]
    write: Float[Array, "..."]
    share: Float[Array, "..."]
    forget_slope: Float[Array, "..."]


def stabilized_gates(
    write: Float[Array, "..."],
    forget: Float[Array, "..."],
    before: Float[Array, "..."],
    kind: str,
    is_empty: Bool[Array, "..."] | bool = False,
) -> StabilizedGates:
    """Compute the gates of ĩ, f̃ and m, where f is σ(f̃) or exp(f̃). Empty memories keep nothing."""
    log_forget = jax.nn.log_sigmoid(forget) if kind == "sigmoid" else forget
    kept = jnp.where(is_empty, write, log_forget + before)
    new = jnp.maximum(kept, write)
    slope = jax.nn.sigmoid(-forget) if kind == "sigmoid" else jnp.ones_like(forget)
    share = jnp.where(is_empty, 0, (jnp.sign(kept - write) + 1) / 2)
    keeps = jnp.where(is_empty, 0, jnp.exp(kept - new))
    return StabilizedGates(new, keeps, jnp.exp(write - new), share, slope)


def check_forget(forget: object) -> None:
    """Raise a ValueError for a forget gate of another kind."""
    check_choice("forget", forget, get_args(Forget))

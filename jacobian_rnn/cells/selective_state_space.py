"""S6, the selective state space of Mamba: a real diagonal state space whose step the input sets."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    of_diagonal,
    recurrence_of,
    uniform_layer,
)
from jacobian_rnn.cells.recurrence import Recurrence, flat_matrix
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_at_least, check_count, check_dtype

SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1


def s6(
    num_inputs: int,
    num_channels: int,
    *,
    key: Key[Array, ""],
    num_states: int = 16,
    rank: int | None = None,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw an S6: h' = exp(ΔA) h + A⁻¹ (exp(ΔA) − 1) B u for N states of every channel.

    The channels are u = V x. Each has its own step, Δ = softplus(Q P u + b) with P and Q of low
    rank, and B = R u is common to all channels. Channel d and state n see
    h'[d, n] = exp(Δ[d] A[d, n]) h[d, n] + A[d, n]⁻¹ (exp(Δ[d] A[d, n]) − 1) B[n] u[d] (zero-order
    hold). Mamba's code takes Δ B u for the last term, with the same ∂h'/∂h.

    A = −exp(`log_decay`) starts at −1, …, −N in every channel. b is the inverse of softplus at a
    step that is log-uniform between 0.001 and 0.1. V, P and R are uniform on ±1/√rows, and Q on
    ±1/√rank. The readout y[d] = Σₙ C[n] h[d, n] + D[d] u[d] of the paper reads x as well as h,
    and lies outside of the recurrence. So the output is the whole state. Convolution and SiLU in
    front of the unit are left out.

    Args:
        num_inputs: size of x.
        num_channels: number D of channels.
        key: a `jax.random.key`.
        num_states: states N of each channel. The carry is a matrix (D, N).
        rank: rank of Q P. By default it is D/32, rounded up, which is 1/16 of the width of the
            paper's block.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with the diagonal J = diag exp(ΔA). It depends on x and not on h, and no
        exponent is above zero.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, or a rank above the number of channels.

    References:
        A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023,
        sections 3.2 and 3.6.

    Example:
        >>> import jax
        >>> network = s6(3, 4, key=jax.random.key(0), num_states=2)
        >>> network.step(network.params, jnp.zeros((4, 2)), jnp.ones(3)).shape
        (4, 2)
    """
    check_at_least(1, num_inputs=num_inputs, num_channels=num_channels, num_states=num_states)
    check_dtype("dtype", dtype)
    rank = math.ceil(num_channels / 32) if rank is None else rank
    check_count("rank", rank, 1, num_channels)
    read, down, up, write, step = jax.random.split(key, 5)

    def kernel(key, num_rows, num_units):
        return {"kernel": uniform_layer(key, num_rows, num_units, dtype)["kernel"]}

    bounds = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
    steps = jnp.exp(jax.random.uniform(step, (num_channels,), dtype, *bounds))
    decay = jnp.log(jnp.arange(1, num_states + 1, dtype=dtype))
    params = {
        "embedding": kernel(read, num_inputs, num_channels),
        "step_down": kernel(down, num_channels, rank),
        # The inverse of softplus.
        "step_up": kernel(up, rank, num_channels) | {"bias": steps + jnp.log(-jnp.expm1(-steps))},
        "input": kernel(write, num_channels, num_states),
        "log_decay": jnp.broadcast_to(decay, (num_channels, num_states)),
    }
    return recurrence_of(S6Step(), params, flat_matrix, StepUnitJacobians(S6Step()))


@dataclass(frozen=True)
class S6Step:
    """The step of `s6`."""

    num_feature_axes: ClassVar[int] = 2

    def __call__(self, params, carry, x):
        """Return the new carry."""
        embedded, pre_step, b = self._read(params, x)
        kept, gain = self._held(params, jax.nn.softplus(pre_step))
        return kept * carry + gain * b * embedded[:, None]

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        embedded, pre_step, b = self._read(params, x)
        step, step_slope = with_slope(jax.nn.softplus, pre_step)
        kept, gain = self._held(params, step)
        write = b * embedded[:, None]
        of_step = kept * (write - jnp.exp(params["log_decay"]) * carry)
        num_channels, num_states = carry.shape
        through = params["embedding"]["kernel"]
        to_step = through @ params["step_down"]["kernel"] @ params["step_up"]["kernel"]
        return of_diagonal(
            kept.ravel(),
            [
                (of_step * step_slope[:, None]).ravel(),
                (gain * embedded[:, None]).ravel(),
                (gain * b).ravel(),
            ],
            (
                jnp.repeat(to_step, num_states, axis=1),
                jnp.tile(through @ params["input"]["kernel"], (1, num_channels)),
                jnp.repeat(through, num_states, axis=1),
            ),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["log_decay"]

    def _read(self, params, x):
        """Return u, the step before softplus, and B as a row."""
        embedded = x @ params["embedding"]["kernel"]
        low = embedded @ params["step_down"]["kernel"]
        pre_step = low @ params["step_up"]["kernel"] + params["step_up"]["bias"]
        return embedded, pre_step, (embedded @ params["input"]["kernel"])[None]

    def _held(self, params, step):
        """Return exp(ΔA) and A⁻¹ (exp(ΔA) − 1)."""
        decay = jnp.exp(params["log_decay"])
        exponent = -step[:, None] * decay
        return jnp.exp(exponent), -jnp.expm1(exponent) / decay

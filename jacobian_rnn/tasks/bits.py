"""The flip-flop task: several bits, each of which is to be held until it is set again."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype, check_number
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def flip_flop(
    num_steps: int,
    *,
    num_bits: int = 3,
    pulse_probability: float = 0.1,
    dtype: type | np.dtype = jnp.float32,
) -> Task:
    """Build the flip-flop task: what was the last pulse in each channel?

    Each channel shows a pulse of +1 or −1 at the first step, and at each later step with the given
    probability. Between pulses it shows 0. Each output is to be the last pulse of its channel, the
    present one included. All steps are scored. Horizon: T − 1, for a pulse of the first step that
    is not followed by another. It is a worst case: lags are geometric, with a mean of
    1/probability. Baseline: 0, with loss 1.

    There are at least 2^num_bits sequences for each pattern of steps with a pulse.

    Args:
        num_steps: T, at least 2.
        num_bits: number of channels.
        pulse_probability: of a pulse in a channel at a step after the first, from 0 to 1.
        dtype: of inputs and targets.

    Returns:
        A regression task with as many inputs and outputs as bits.

    Raises:
        ValueError: if an argument is out of range.

    References:
        D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in
        high-dimensional recurrent neural networks", Neural Computation 25 (2013), section 4.1.

    Example:
        >>> import jax
        >>> xs, targets = flip_flop(50).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 50, 3) (32, 50, 3)
    """
    check_at_least(2, num_steps=num_steps)
    check_at_least(1, num_bits=num_bits)
    check_number("pulse_probability", pulse_probability, least=0, most=1)
    check_dtype("dtype", dtype)

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        sign_key, pulse_key = jax.random.split(key)
        shape = (batch_size, num_steps, num_bits)
        is_up = jax.random.uniform(sign_key, shape, jnp.float32) < 1 / 2
        signs = jnp.where(is_up, 1, -1).astype(dtype)
        is_pulse = jax.random.uniform(pulse_key, shape, jnp.float32) < pulse_probability
        is_pulse = is_pulse.at[:, 0].set(True)
        steps = jnp.arange(num_steps, dtype=jnp.int32)[None, :, None]
        last = lax.cummax(jnp.where(is_pulse, steps, 0), axis=1)
        return Batch(jnp.where(is_pulse, signs, 0), jnp.take_along_axis(signs, last, axis=1))

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="flip_flop",
        num_steps=num_steps,
        horizon=num_steps - 1,
        input_size=num_bits,
        output_size=num_bits,
        num_scored_steps=num_steps,
        loss="squared_error",
        baseline_loss=1.0,
        baseline_accuracy=math.nan,
        sample=sample,
        sample_held_out=sample_held_out,
    )

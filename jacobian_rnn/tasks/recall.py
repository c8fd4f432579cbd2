"""Remembering one symbol through noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype, check_number
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def delayed_recall(
    delay: int,
    *,
    num_classes: int = 4,
    noise_std: float = 0.5,
    dtype: type | np.dtype = jnp.float32,
) -> Task:
    """Build the task of naming, after `delay` steps of noise, the symbol shown at the first step.

    Step 0 shows one of K equally likely symbols as a one-hot vector, without noise. Every channel
    of the following `delay` steps is Gaussian noise, N(0, noise_std²). The last state is scored.
    Horizon: `delay`. Baseline: loss ln K and accuracy 1/K.

    The noise makes every sequence new. With `noise_std=0` only K sequences exist, and held-out data
    repeat them.

    Args:
        delay: at least 1. Sequences have `delay + 1` steps.
        num_classes: K, at least 2.
        noise_std: at least 0.
        dtype: of the inputs.

    Returns:
        A task with K inputs and K outputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> xs, targets = delayed_recall(9).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 10, 4) (32, 1)
    """
    check_at_least(1, delay=delay)
    check_at_least(2, num_classes=num_classes)
    check_number("noise_std", noise_std, least=0)
    check_dtype("dtype", dtype)

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        symbol_key, noise_key = jax.random.split(key)
        symbols = jax.random.randint(symbol_key, (batch_size, 1), 0, num_classes, jnp.int32)
        noise = jax.random.normal(noise_key, (batch_size, delay, num_classes), dtype)
        shown = jax.nn.one_hot(symbols, num_classes, dtype=dtype)
        # A NumPy float64 would promote float32 noise; a Python float does not.
        return Batch(jnp.concatenate([shown, float(noise_std) * noise], axis=1), symbols)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="delayed_recall",
        num_steps=delay + 1,
        horizon=delay,
        input_size=num_classes,
        output_size=num_classes,
        num_scored_steps=1,
        loss="cross_entropy",
        baseline_loss=math.log(num_classes),
        baseline_accuracy=1 / num_classes,
        sample=sample,
        sample_held_out=sample_held_out,
    )

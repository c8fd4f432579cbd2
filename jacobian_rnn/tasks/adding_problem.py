"""The adding problem: the sum of two marked numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def adding(num_steps: int, *, dtype: type | np.dtype = jnp.float32) -> Task:
    """Build the adding problem in its modern form: the sum of two marked numbers.

    Channel 0 is uniform on [0, 1). Channel 1 is 1 at two uniform steps, one in [0, T//2) and one in
    [T//2, T), and 0 elsewhere. The target is the sum of the two marked numbers, asked at the last
    step. Baseline: always 1, whose mean squared error is the variance of the sum, 1/6.

    Horizon: T − 1, for a mark at step 0. It is a worst case: the first mark's lag is uniform on
    [T − T//2, T − 1]. The random numbers make every sequence new.

    The problem is of Hochreiter and Schmidhuber (1997, section 5.4), numbers in [0, 1] of Le et al.
    (2015, section 4.1), one mark in each half of Arjovsky et al. (2016, section 4.2).

    Args:
        num_steps: T, at least 2.
        dtype: of inputs and targets.

    Returns:
        A regression task with two inputs and one output.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> xs, targets = adding(100).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 100, 2) (32, 1, 1)
    """
    check_at_least(2, num_steps=num_steps)
    check_dtype("dtype", dtype)
    half = num_steps // 2

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        value_key, first_key, second_key = jax.random.split(key, 3)
        values = jax.random.uniform(value_key, (batch_size, num_steps), dtype)
        first = jax.random.randint(first_key, (batch_size,), 0, half, jnp.int32)
        second = jax.random.randint(second_key, (batch_size,), half, num_steps, jnp.int32)
        marks = sum(jax.nn.one_hot(step, num_steps, dtype=dtype) for step in (first, second))
        sums = jnp.sum(values * marks, axis=1)
        return Batch(jnp.stack([values, marks], axis=-1), sums[:, None, None])

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="adding",
        num_steps=num_steps,
        horizon=num_steps - 1,
        input_size=2,
        output_size=1,
        num_scored_steps=1,
        loss="squared_error",
        baseline_loss=1 / 6,
        baseline_accuracy=math.nan,
        sample=sample,
        sample_held_out=sample_held_out,
    )

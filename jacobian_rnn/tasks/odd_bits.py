"""The parity task: is the number of ones so far odd?"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_count, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def parity(
    num_steps: int, *, num_scored: int | None = None, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the parity task: is the number of ones up to this step, itself included, odd?

    The one channel is a fair random bit at each step. The class at step t is the sum of the bits of
    steps 0 to t, modulo 2. It is the simplest task that needs a state which is switched, and not
    only kept: no finite set of bits without the others says anything about it. Horizon: L − 1, for
    the first bit at the last step. Baseline: loss ln 2 and accuracy 1/2.

    A linear recurrence whose transitions have eigenvalues in [0, 1] alone solves it at no length
    beyond those where finite precision tells apart the counts of ones, and one with eigenvalues in
    [−1, 1] does so at every length.

    There are 2^L sequences, so that held-out ones are as good as certain to be new for L ≥ 50.

    Args:
        num_steps: L, at least 2.
        num_scored: how many of the last steps are scored, from 1 to L. All of them by default: the
            first steps are then easy, and lead to those that are hard. With few, only what the
            network does after a long sequence counts.
        dtype: of the inputs.

    Returns:
        A task with one input and two outputs.

    Raises:
        ValueError: if an argument is out of range.

    References:
        R. Grazzi et al., "Unlocking state-tracking in linear RNNs through negative eigenvalues",
        ICLR 2025, section 4.1 and theorem 1.

    Example:
        >>> import jax
        >>> xs, targets = parity(20).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 20, 1) (32, 20)
    """
    check_at_least(2, num_steps=num_steps)
    num_scored = num_steps if num_scored is None else num_scored
    check_count("num_scored", num_scored, 1, num_steps)
    check_dtype("dtype", dtype)

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        bits = jax.random.randint(key, (batch_size, num_steps), 0, 2, jnp.int32)
        odd = jnp.cumsum(bits, axis=1, dtype=jnp.int32) % 2
        return Batch(bits[..., None].astype(dtype), odd[:, num_steps - num_scored :])

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="parity",
        num_steps=num_steps,
        horizon=num_steps - 1,
        input_size=1,
        output_size=2,
        num_scored_steps=num_scored,
        loss="cross_entropy",
        baseline_loss=math.log(2),
        baseline_accuracy=1 / 2,
        sample=sample,
        sample_held_out=sample_held_out,
    )

"""The delayed XOR task: do two earlier bits differ?"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def delayed_xor(num_steps: int, delay: int, *, dtype: type | np.dtype = jnp.float32) -> Task:
    """Build the delayed XOR task: do the bits shown `delay` and 2 `delay` steps ago differ?

    The one channel is a fair random bit at each step. From step 2d on, d being `delay`, the class
    at step t is the XOR of the bits of steps t − d and t − 2d, and all these L − 2d steps are
    scored. Neither bit alone says anything about the class. Horizon: 2d. Baseline: loss ln 2 and
    accuracy 1/2.

    There are 2^L sequences, so that held-out ones are as good as certain to be new for L ≥ 50.

    The form is that of the code with Engelken (2023), where d is called delay too.

    Args:
        num_steps: L, above 2d.
        delay: d, at least 1.
        dtype: of the inputs.

    Returns:
        A task with one input and two outputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> xs, targets = delayed_xor(60, 10).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 60, 1) (32, 40)
    """
    check_at_least(1, delay=delay)
    check_at_least(2 * delay + 1, num_steps=num_steps)
    check_dtype("dtype", dtype)
    num_scored = num_steps - 2 * delay

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        bits = jax.random.randint(key, (batch_size, num_steps), 0, 2, jnp.int32)
        classes = bits[:, delay : delay + num_scored] ^ bits[:, :num_scored]
        return Batch(bits[..., None].astype(dtype), classes)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="delayed_xor",
        num_steps=num_steps,
        horizon=2 * delay,
        input_size=1,
        output_size=2,
        num_scored_steps=num_scored,
        loss="cross_entropy",
        baseline_loss=math.log(2),
        baseline_accuracy=1 / 2,
        sample=sample,
        sample_held_out=sample_held_out,
    )

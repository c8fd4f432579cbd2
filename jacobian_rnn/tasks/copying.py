"""The copying memory problem: repeating a word after a delay."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def copying_memory(
    delay: int, *, num_symbols: int = 8, length: int = 10, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the copying memory problem: repeat a word after `delay` steps, when told to.

    The inputs are one-hot: a word of n random symbols (channels 0 to K − 1), `delay − 1` blanks
    (channel K), a delimiter (channel K + 1) and n blanks. The answer is `delay + n` blanks (class
    K) and then the word. All `delay + 2n` steps are scored, as in the literature. Horizon:
    `delay + n`, for every symbol.

    Baseline: blanks, then symbols at chance, with loss n ln K/(delay + 2n), in the literature's
    setting 10 ln 8/(T + 20), and accuracy (delay + n + n/K)/(delay + 2n). Given right blanks, the
    skill is (p − 1/K)/(1 − 1/K) for a fraction p of right symbols.

    Nothing but the word is random, so a held-out sequence is new only while training has drawn few
    of the K^n words: with 8^10 ≈ 10⁹, one held-out word in a thousand was seen after 10⁶ sequences.

    The form is that of Arjovsky et al. (2016, section 4.1).

    Args:
        delay: the literature's T, at least 1.
        num_symbols: K, at least 2.
        length: n, at least 1.
        dtype: of the inputs.

    Returns:
        A task with K + 2 inputs and K + 1 outputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> task = copying_memory(100)
        >>> print(task.num_steps, task.horizon, round(task.baseline_loss, 6))
        120 110 0.173287
    """
    check_at_least(1, delay=delay, length=length)
    check_at_least(2, num_symbols=num_symbols)
    check_dtype("dtype", dtype)
    num_steps, horizon = delay + 2 * length, delay + length
    blank, delimiter = num_symbols, num_symbols + 1

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        words = jax.random.randint(key, (batch_size, length), 0, num_symbols, jnp.int32)
        blanks = jnp.full((batch_size, horizon), blank, jnp.int32)
        shown = jnp.concatenate([words, blanks.at[:, delay - 1].set(delimiter)], axis=1)
        answer = jnp.concatenate([blanks, words], axis=1)
        return Batch(jax.nn.one_hot(shown, num_symbols + 2, dtype=dtype), answer)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="copying_memory",
        num_steps=num_steps,
        horizon=horizon,
        input_size=num_symbols + 2,
        output_size=num_symbols + 1,
        num_scored_steps=num_steps,
        loss="cross_entropy",
        baseline_loss=length * math.log(num_symbols) / num_steps,
        baseline_accuracy=(horizon + length / num_symbols) / num_steps,
        sample=sample,
        sample_held_out=sample_held_out,
    )

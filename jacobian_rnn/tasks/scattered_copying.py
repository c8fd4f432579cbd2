"""The selective copying problem: repeating the symbols of a word, but not what stood between."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, streams_of


def selective_copying(
    delay: int, *, num_symbols: int = 8, length: int = 10, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the selective copying problem: repeat a word that is scattered among blanks.

    The inputs are one-hot. During the first `delay` steps the n symbols of a random word (channels
    0 to K − 1) stand at random steps, all choices of n steps being equally likely, and the other
    steps show a blank (channel K). Then come n delimiters (channel K + 1), and at each of these the
    answer is the next symbol of the word. They alone are scored. Horizon: `delay`, for every symbol
    at its earliest step. At its latest the lag of each is n.

    A network of fixed delays solves `copying_memory` and not this, since the lag of a symbol
    differs from sequence to sequence. With `delay = length` nothing stands between.

    Baseline: symbols at chance, with loss ln K and accuracy 1/K. There are K^n words at as many
    places as n steps can be chosen out of `delay`. So held-out sequences are as good as certain to
    be new, unless the word is short and the delay as well.

    Args:
        delay: steps in which the word is shown, at least `length`. 4096 in the paper.
        num_symbols: K, at least 2. 14 in the paper, whose vocabulary counts blank and delimiter.
        length: n, at least 1. 16 in the paper.
        dtype: of the inputs.

    Returns:
        A task with K + 2 inputs and K outputs.

    Raises:
        ValueError: if an argument is out of range.

    References:
        A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023,
        section 3.1 and appendix E.1.

    Example:
        >>> import jax
        >>> xs, targets = selective_copying(40, length=5).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 45, 10) (32, 5)
    """
    check_at_least(1, length=length)
    check_at_least(length, delay=delay)
    check_at_least(2, num_symbols=num_symbols)
    check_dtype("dtype", dtype)
    blank, delimiter = num_symbols, num_symbols + 1

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        word_key, place_key = jax.random.split(key)
        words = jax.random.randint(word_key, (batch_size, length), 0, num_symbols, jnp.int32)
        every = jnp.broadcast_to(jnp.arange(delay, dtype=jnp.int32)[None], (batch_size, delay))
        shuffled = jax.random.permutation(place_key, every, axis=1, independent=True)
        places = jnp.sort(shuffled[:, :length], axis=1)
        shown = jnp.full((batch_size, delay + length), blank, jnp.int32)
        shown = shown.at[:, delay:].set(delimiter)
        shown = shown.at[jnp.arange(batch_size)[:, None], places].set(words)
        return Batch(jax.nn.one_hot(shown, num_symbols + 2, dtype=dtype), words)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="selective_copying",
        num_steps=delay + length,
        horizon=delay,
        input_size=num_symbols + 2,
        output_size=num_symbols,
        num_scored_steps=length,
        loss="cross_entropy",
        baseline_loss=math.log(num_symbols),
        baseline_accuracy=1 / num_symbols,
        sample=sample,
        sample_held_out=sample_held_out,
    )

"""Tasks whose gradients have to survive a known number of steps.

**Horizon**: the longest lag, in steps, over which a solution has to carry information, the maximum
being over sequences and scored steps. What is shown at step s and needed at step t has lag t − s:
between the state that first holds it, `states[s + 1]`, and the state that is read, `states[t + 1]`,
lie t − s Jacobians.

**Baseline**: the best predictor that knows the step number and sees no inputs, so one constant for
each scored step.

**Held out**: a synthetic task has a generator and no finite training set. Training, validation and
test draw from it with three keys that `jax.random.fold_in` makes from the caller's one and that
never coincide. That no held-out *sequence* was seen in training is a matter of probability; each
constructor says how many sequences there are.

References:
    S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks",
    ICML (2013).
    Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
    rectified linear units", arXiv:1504.00941 (2015).
    M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", ICML (2016).
    R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
    Jacobians", NeurIPS (2023).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.digits import sequential_digits
from jacobian_rnn.task_definition import (
    Batch,
    Predictions,
    Targets,
    Task,
    accuracy,
    check_at_least,
    check_dtype,
    loss,
    skill,
    streams_of,
)

__all__ = [
    "Batch",
    "Predictions",
    "Targets",
    "Task",
    "accuracy",
    "adding",
    "copying_memory",
    "delayed_recall",
    "delayed_xor",
    "loss",
    "sequential_digits",
    "skill",
    "temporal_order",
]

# First and last step of each trigger, in hundredths of the length.
TRIGGER_WINDOWS = {2: ((10, 20), (40, 50)), 3: ((10, 20), (33, 43), (66, 76))}


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
        delay: at least 1; sequences have `delay + 1` steps.
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
    if not 0 <= noise_std < math.inf:
        message = f"noise_std is {noise_std}, but has to be finite and at least 0"
        raise ValueError(message)
    check_dtype(dtype)

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
    check_dtype(dtype)
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
    check_dtype(dtype)
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


def temporal_order(
    num_steps: int, *, num_triggers: int = 2, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the temporal order problem: in which order did the triggers X and Y come?

    The inputs are one-hot: at each step a random distractor (channels 0 to 3), but at two or three
    steps X or Y (channels 4 and 5). With length L, the triggers come at uniform steps of [10, 20]
    and [40, 50] hundredths of L, or, for three, of [10, 20], [33, 43] and [66, 76] hundredths; ends
    are rounded down and included. The class, asked at the last step, is the binary number of the
    triggers, X = 0 and Y = 1, the first one on the left. Baseline for k triggers: loss k ln 2,
    accuracy 2^−k.

    Horizon: L − 1 − ⌊L/10⌋, for the earliest first trigger; the latest has a lag shorter by at most
    ⌈L/10⌉. There are at least 4^(L − 3) sequences, so that held-out ones are as good as certain to
    be new for L ≥ 30, and not for L = 10.

    Experiments 6a and 6b of Hochreiter and Schmidhuber (1997), with the fixed length, the
    proportional positions and the six symbols of Pascanu et al. (2013), who have two triggers; the
    positions of three are the original ones, scaled.

    Args:
        num_steps: L, at least 10.
        num_triggers: 2 or 3.
        dtype: of the inputs.

    Returns:
        A task with six inputs and `2**num_triggers` outputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax
        >>> xs, targets = temporal_order(50).sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape)
        (32, 50, 6) (32, 1)
    """
    check_at_least(10, num_steps=num_steps)
    if num_triggers not in TRIGGER_WINDOWS:
        message = (
            f"num_triggers is {num_triggers}, but the problem is defined for 2 and 3: pass one"
        )
        raise ValueError(message)
    check_dtype(dtype)
    first, last = np.array(TRIGGER_WINDOWS[num_triggers]).T * num_steps // 100
    num_classes = 2**num_triggers

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        class_key, step_key, distractor_key = jax.random.split(key, 3)
        classes = jax.random.randint(class_key, (batch_size, 1), 0, num_classes, jnp.int32)
        bits = classes >> jnp.arange(num_triggers, dtype=jnp.int32)[None, ::-1] & 1
        window_shape = (batch_size, num_triggers)
        steps = jax.random.randint(step_key, window_shape, first[None], last[None] + 1, jnp.int32)
        shown = jax.random.randint(distractor_key, (batch_size, num_steps), 0, 4, jnp.int32)
        shown = shown.at[jnp.arange(batch_size)[:, None], steps].set(4 + bits)
        return Batch(jax.nn.one_hot(shown, 6, dtype=dtype), classes)

    sample, sample_held_out = streams_of(generate)
    return Task(
        name="temporal_order",
        num_steps=num_steps,
        horizon=num_steps - 1 - int(first[0]),
        input_size=6,
        output_size=num_classes,
        num_scored_steps=1,
        loss="cross_entropy",
        baseline_loss=math.log(num_classes),
        baseline_accuracy=1 / num_classes,
        sample=sample,
        sample_held_out=sample_held_out,
    )


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
    check_dtype(dtype)
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

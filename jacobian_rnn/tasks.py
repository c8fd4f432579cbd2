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
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Predictions = Float[Array, "batch scored outputs"]
Targets = Int[Array, "batch scored"] | Float[Array, "batch scored outputs"]

STREAMS = {"training": 0, "validation": 1, "test": 2}
# First and last step of each trigger, in hundredths of the length.
TRIGGER_WINDOWS = {2: ((10, 20), (40, 50)), 3: ((10, 20), (33, 43), (66, 76))}


class Batch(NamedTuple):
    """Sequences, and what to answer on their scored steps.

    Attributes:
        xs: inputs, shape `(batch, time, inputs)`.
        targets: classes, int32 of shape `(batch, scored)`, or values, floating of shape
            `(batch, scored, outputs)`.
    """

    xs: Float[Array, "batch time inputs"]
    targets: Targets


@dataclass(frozen=True)
class Task:
    """A source of sequences, how to score the answers, and what is reached without memory.

    Attributes:
        name: the constructor's name.
        num_steps: length of every sequence.
        horizon: the longest lag, in steps, over which information has to be carried.
        input_size: number of input channels.
        output_size: number of classes, or of regression outputs.
        num_scored_steps: the readout is scored on the last this-many states.
        loss: `"cross_entropy"` (nats) or `"squared_error"` (squared units of the target).
        baseline_loss: expected loss of the baseline.
        baseline_accuracy: expected accuracy of the baseline; nan for regression.
        sample: `(key, batch_size) -> Batch` of training data; `batch_size` is static.
        sample_held_out: `(key, batch_size, split) -> Batch` of data that training never sees;
            `split` is `"validation"` or `"test"`, static like `batch_size`.
    """

    name: str
    num_steps: int
    horizon: int
    input_size: int
    output_size: int
    num_scored_steps: int
    loss: Literal["cross_entropy", "squared_error"]
    baseline_loss: float
    baseline_accuracy: float
    sample: Callable[[Key[Array, ""], int], Batch]
    sample_held_out: Callable[[Key[Array, ""], int, str], Batch]


def loss(task: Task, predictions: Predictions, targets: Targets) -> Float[Array, " batch"]:
    """Compute the loss of each sequence, averaged over its scored steps.

    Args:
        task: says which loss.
        predictions: logits or values, shape `(batch, scored, outputs)`.
        targets: as in `Batch`.

    Returns:
        Shape `(batch,)`: −log softmax(predictions)[target] in nats, or the squared error.

    Raises:
        ValueError: if the shapes are not those of the task.
    """
    _check_shapes(task, predictions, targets)
    if task.loss == "squared_error":
        return jnp.mean((predictions - targets) ** 2, axis=(1, 2))
    log_probabilities = jax.nn.log_softmax(predictions)
    of_target = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)
    return -jnp.mean(of_target, axis=(1, 2))


def accuracy(task: Task, predictions: Predictions, targets: Targets) -> Float[Array, ""]:
    """Compute the fraction of correct answers; a non-finite answer is never correct.

    For classification, the fraction of scored steps whose largest logit is the target's. For
    regression, the fraction of sequences with every absolute error below 0.04, the criterion of
    Hochreiter and Schmidhuber (1997, section 5.4). Their target, 0.5 + (X₁ + X₂)/4 with X in
    [−1, 1], is half of that of `adding`, in whose units their criterion would be 0.08.

    Takes and raises what `loss` does. Returns a scalar in [0, 1], whose derivative is zero.
    """
    _check_shapes(task, predictions, targets)
    if task.loss == "squared_error":
        correct = jnp.all(jnp.abs(predictions - targets) < 0.04, axis=(1, 2))
    else:
        # The argmax of NaNs is class 0, which is right now and then.
        finite = jnp.all(jnp.isfinite(predictions), axis=-1)
        answers = jnp.argmax(predictions, axis=-1).astype(targets.dtype)
        correct = finite & (answers == targets)
    return jnp.mean(correct, dtype=predictions.dtype)


def skill(task: Task, predictions: Predictions, targets: Targets) -> Float[Array, ""]:
    """Compute the score that is 1 for perfect answers and, on average, 0 for the baseline.

    (accuracy − a₀)/(1 − a₀) for classification and 1 − loss/l₀ for regression, with the task's
    baseline accuracy a₀ and baseline loss l₀.

    Takes and raises what `loss` does. Returns a scalar in (−∞, 1], or nan for a regression with a
    prediction that is nan.

    Example:
        >>> import jax
        >>> task = adding(20)
        >>> xs, targets = task.sample(jax.random.key(0), 4)
        >>> print(skill(task, targets, targets))
        1.0
    """
    if task.loss == "squared_error":
        return 1 - jnp.mean(loss(task, predictions, targets)) / task.baseline_loss
    chance = task.baseline_accuracy
    return (accuracy(task, predictions, targets) - chance) / (1 - chance)


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
    _check_at_least(1, delay=delay)
    _check_at_least(2, num_classes=num_classes)
    if not 0 <= noise_std < math.inf:
        message = f"noise_std is {noise_std}, but has to be finite and at least 0"
        raise ValueError(message)
    _check_dtype(dtype)

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        symbol_key, noise_key = jax.random.split(key)
        symbols = jax.random.randint(symbol_key, (batch_size, 1), 0, num_classes, jnp.int32)
        noise = jax.random.normal(noise_key, (batch_size, delay, num_classes), dtype)
        shown = jax.nn.one_hot(symbols, num_classes, dtype=dtype)
        # A NumPy float64 would promote float32 noise; a Python float does not.
        return Batch(jnp.concatenate([shown, float(noise_std) * noise], axis=1), symbols)

    sample, sample_held_out = _streams_of(generate)
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
    _check_at_least(2, num_steps=num_steps)
    _check_dtype(dtype)
    half = num_steps // 2

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        value_key, first_key, second_key = jax.random.split(key, 3)
        values = jax.random.uniform(value_key, (batch_size, num_steps), dtype)
        first = jax.random.randint(first_key, (batch_size,), 0, half, jnp.int32)
        second = jax.random.randint(second_key, (batch_size,), half, num_steps, jnp.int32)
        marks = sum(jax.nn.one_hot(step, num_steps, dtype=dtype) for step in (first, second))
        sums = jnp.sum(values * marks, axis=1)
        return Batch(jnp.stack([values, marks], axis=-1), sums[:, None, None])

    sample, sample_held_out = _streams_of(generate)
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
    _check_at_least(1, delay=delay, length=length)
    _check_at_least(2, num_symbols=num_symbols)
    _check_dtype(dtype)
    num_steps, horizon = delay + 2 * length, delay + length
    blank, delimiter = num_symbols, num_symbols + 1

    def generate(key: Key[Array, ""], batch_size: int) -> Batch:
        words = jax.random.randint(key, (batch_size, length), 0, num_symbols, jnp.int32)
        blanks = jnp.full((batch_size, horizon), blank, jnp.int32)
        shown = jnp.concatenate([words, blanks.at[:, delay - 1].set(delimiter)], axis=1)
        answer = jnp.concatenate([blanks, words], axis=1)
        return Batch(jax.nn.one_hot(shown, num_symbols + 2, dtype=dtype), answer)

    sample, sample_held_out = _streams_of(generate)
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
    _check_at_least(10, num_steps=num_steps)
    if num_triggers not in TRIGGER_WINDOWS:
        message = (
            f"num_triggers is {num_triggers}, but the problem is defined for 2 and 3: pass one"
        )
        raise ValueError(message)
    _check_dtype(dtype)
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

    sample, sample_held_out = _streams_of(generate)
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


def sequential_digits(
    delay: int, *, permuted: bool = False, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the task of naming a handwritten digit read pixel by pixel, then `delay` zeros.

    The 1797 images of 8 × 8 pixels of scikit-learn's `load_digits`, grey levels scaled to [0, 1],
    are read row by row through one channel, or in one fixed random order, the same for all. The
    last state is scored. It is a small relative of the pixel-by-pixel MNIST of Le et al. (2015,
    section 4.2).

    Horizon: `delay`, the lag of the last pixel. This is a lower bound, since the last pixels alone
    do not determine the digit: a support vector machine (radial kernel, C = 10) names 56, 74 and
    91 % of the held-out images from the last 8, 16 and 32 pixels read row by row; 63, 88 and 97 %
    in the permuted order; and 99 % from all 64.

    The images, shuffled with `numpy.random.default_rng(0)` and sorted stably by class, are dealt
    out 3 : 1 : 1 in turn: 1079 for training, 359 for validation, 359 for test. No two images are
    equal, but the same writers are in all three. Training draws with replacement, held-out data
    without. Baseline: the entropy of the training classes, and the share among the held-out images
    of the class most frequent in training.

    Args:
        delay: at least 0; sequences have `64 + delay` steps.
        permuted: read the pixels in the fixed random order.
        dtype: of the inputs.

    Returns:
        A task with one input and ten outputs.

    Raises:
        ValueError: if an argument is out of range.
        ImportError: if scikit-learn is missing.

    Example:
        >>> import jax
        >>> xs, targets = sequential_digits(36).sample_held_out(jax.random.key(0), 359, "test")
        >>> print(xs.shape, targets.shape)
        (359, 100, 1) (359, 1)
    """
    _check_at_least(0, delay=delay)
    _check_dtype(dtype)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = 'sequential_digits needs scikit-learn: pip install "jacobian_rnn[experiments]"'
        raise ImportError(message) from error

    images, classes = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    pixel_order = rng.permutation(64) if permuted else np.arange(64)
    images, classes = images[order][:, pixel_order] / 16, classes[order]
    turn = np.arange(len(classes)) % 5
    rows_of = {"training": turn < 3, "validation": turn == 3, "test": turn == 4}
    xs_of = {split: jnp.asarray(images[rows], dtype) for split, rows in rows_of.items()}
    targets_of = {split: jnp.asarray(classes[rows], jnp.int32) for split, rows in rows_of.items()}
    frequencies = np.bincount(classes[turn < 3]) / np.sum(turn < 3)

    def pick(split: str, rows: Int[Array, " batch"]) -> Batch:
        xs = jnp.pad(xs_of[split][rows], ((0, 0), (0, delay)))
        return Batch(xs[..., None], targets_of[split][rows, None])

    def sample(key: Key[Array, ""], batch_size: int) -> Batch:
        _check_at_least(1, batch_size=batch_size)
        size = len(xs_of["training"])
        return pick("training", jax.random.randint(key, (batch_size,), 0, size, jnp.int32))

    def sample_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        _check_at_least(1, batch_size=batch_size)
        _check_split(split)
        size = len(xs_of[split])
        if batch_size > size:
            message = (
                f"batch_size is {batch_size}, but the {split} split has {size} images, drawn"
                f" without replacement: pass at most {size}"
            )
            raise ValueError(message)
        return pick(split, jax.random.permutation(key, jnp.arange(size))[:batch_size])

    return Task(
        name="sequential_digits",
        num_steps=64 + delay,
        horizon=delay,
        input_size=1,
        output_size=10,
        num_scored_steps=1,
        loss="cross_entropy",
        baseline_loss=float(-np.sum(frequencies * np.log(frequencies))),
        baseline_accuracy=float(np.mean(classes[turn >= 3] == np.argmax(frequencies))),
        sample=sample,
        sample_held_out=sample_held_out,
    )


def _streams_of(generate):
    """Make the two samplers of a task from its generator, `(key, batch_size) -> Batch`."""

    def sample(key: Key[Array, ""], batch_size: int) -> Batch:
        _check_at_least(1, batch_size=batch_size)
        return generate(jax.random.fold_in(key, STREAMS["training"]), batch_size)

    def sample_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        _check_at_least(1, batch_size=batch_size)
        _check_split(split)
        return generate(jax.random.fold_in(key, STREAMS[split]), batch_size)

    return sample, sample_held_out


def _check_at_least(minimum, **values):
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            message = f"{name} is {value!r}, but has to be an int: a count or a number of steps"
            raise TypeError(message)
        if not value >= minimum:
            message = f"{name} is {value}, but has to be at least {minimum}: pass a larger one"
            raise ValueError(message)


def _check_split(split):
    if split not in ("validation", "test"):
        message = (
            f'split is {split!r}, expected "validation" or "test"; for training data call'
            " task.sample(key, batch_size)"
        )
        raise ValueError(message)


def _check_dtype(dtype):
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not floating or jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype):
        message = (
            f"dtype is {np.dtype(dtype)}, expected a floating one that JAX keeps: pass jnp.float32,"
            " or set jax_enable_x64 for jnp.float64"
        )
        raise ValueError(message)


def _check_shapes(task, predictions, targets):
    # Without this, unequal shapes can broadcast to a plausible number.
    shape = (len(predictions), task.num_scored_steps, task.output_size)
    target_shape = shape if task.loss == "squared_error" else shape[:2]
    if predictions.shape != shape or targets.shape != target_shape:
        message = (
            f"predictions and targets have shapes {predictions.shape} and {targets.shape}, but"
            f" {task.name} expects {shape} and {target_shape}: pass the readout of the last"
            " num_scored_steps states, and the targets of the same Batch"
        )
        raise ValueError(message)

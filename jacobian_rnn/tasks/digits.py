"""Handwritten digits read pixel by pixel: real data, with a finite training set."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jacobian_rnn.checks import check_at_least, check_count, check_dtype
from jacobian_rnn.tasks.task import Batch, Task, check_split


def sequential_digits(
    delay: int, *, permuted: bool = False, dtype: type | np.dtype = jnp.float32
) -> Task:
    """Build the task of naming a handwritten digit read pixel by pixel, then `delay` zeros.

    The 1797 images of 8 × 8 pixels of scikit-learn's `load_digits`, grey levels scaled to [0, 1],
    are read row by row through one channel, or in one fixed random order, the same for all. The
    last state is scored. It is a small relative of the pixel-by-pixel MNIST of Le et al. (2015,
    section 4.2).

    Horizon: `delay`, the lag of the last pixel. This is a lower bound, since the last pixels alone
    do not determine the digit. A support vector machine (radial kernel, C = 10) names 56, 74 and
    91 % of the held-out images from the last 8, 16 and 32 pixels read row by row, and 63, 88 and
    97 % in the permuted order. From all 64 it names 99 %.

    The images, shuffled with `numpy.random.default_rng(0)` and sorted stably by class, are dealt
    out 3 : 1 : 1 in turn: 1079 for training, 359 for validation, 359 for test. No two images are
    equal, but the same writers are in all three. Training draws with replacement, held-out data
    without. Baseline: the entropy of the training classes, and the share among the held-out images
    of the class most frequent in training.

    Args:
        delay: at least 0. Sequences have `64 + delay` steps.
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
    check_at_least(0, delay=delay)
    check_dtype("dtype", dtype)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        msg = "sequential_digits needs scikit-learn: pip install 'jacobian_rnn[experiments]'"
        raise ImportError(msg) from error

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
        check_at_least(1, batch_size=batch_size)
        size = len(xs_of["training"])
        return pick("training", jax.random.randint(key, (batch_size,), 0, size, jnp.int32))

    def sample_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        check_at_least(1, batch_size=batch_size)
        check_split(split)
        size = len(xs_of[split])
        advice = f"the {split} split has {size} images, drawn without replacement"
        check_count("batch_size", batch_size, most=size, advice=advice)
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

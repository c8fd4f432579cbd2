"""Handwritten digits read pixel by pixel: real data, with a finite training set."""

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.checks import check_at_least, check_dtype
from jacobian_rnn.tasks.finite_sets import labelled_series
from jacobian_rnn.tasks.task import Task


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

    The images are dealt out as `labelled_series` says: 1079 for training, 359 for validation, 359
    for test. No two images are equal, but the same writers are in all three.

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

    images, classes = map(np.asarray, load_digits(return_X_y=True))
    if permuted:
        rng = np.random.default_rng(0)
        rng.permutation(len(classes))  # this is the order of the images
        images = images[:, rng.permutation(64)]
    return labelled_series(
        images[..., None] / 16, classes, delay=delay, name="sequential_digits", dtype=dtype
    )

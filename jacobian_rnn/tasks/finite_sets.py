"""Naming the class of a series: from your own arrays, with a finite training set."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jacobian_rnn.checks import check_at_least, check_count, check_dtype, refuse
from jacobian_rnn.tasks.task import Batch, Task, check_split

TURNS = {"training": (0, 1, 2), "validation": (3,), "test": (4,)}  # of five


def labelled_series(
    series: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence | np.ndarray,
    *,
    delay: int = 0,
    horizon: int | None = None,
    name: str = "labelled_series",
    dtype: type | np.dtype = jnp.float32,
) -> Task:
    """Build the task of naming the class of a series, `delay` zeros after its end.

    The last state is scored. Series may differ in length. They then end together, with zeros in
    front of the shorter ones. Values are taken as they are: scale each channel beforehand.

    Horizon: `delay`, the lag of the last step of the series, unless another is given. It is a lower
    bound, since the last step alone may not determine the class.

    The series, shuffled with `numpy.random.default_rng(0)` and sorted stably by class, are dealt
    out 3 : 1 : 1 in turn, for training, validation and test. Training draws with replacement,
    held-out data without. Baseline: the entropy of the training classes, and the share among the
    held-out series of the class most frequent in training.

    Args:
        series: `(series, time, channels)`, or a list of arrays `(time, channels)`.
        labels: the class of each series, numbers or strings.
        delay: at least 0.
        horizon: the lag in steps of what determines the class, if that is known, below the number
            of all steps.
        name: of the task.
        dtype: of the inputs.

    Returns:
        A task with an input for each channel and an output for each class, in the order of the
        sorted labels.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than two classes, or a
            class of fewer than five series.

    Example:
        >>> import jax, numpy as np
        >>> rng = np.random.default_rng(1)
        >>> rising = [np.linspace(0, 1, n)[:, None] for n in rng.integers(5, 9, 20)]
        >>> task = labelled_series(rising + [-one for one in rising], ["up"] * 20 + ["down"] * 20)
        >>> xs, targets = task.sample(jax.random.key(0), 32)
        >>> print(xs.shape, targets.shape, task.output_size)
        (32, 8, 1) (32, 1) 2
    """
    check_at_least(0, delay=delay)
    check_dtype("dtype", dtype)
    padded = _ending_together(series)
    classes = _check_labels(labels, len(padded))
    padded = np.pad(padded, ((0, 0), (0, delay), (0, 0)))
    horizon = delay if horizon is None else horizon
    check_count("horizon", horizon, most=padded.shape[1] - 1)

    order = np.random.default_rng(0).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    turn = np.arange(len(classes)) % 5
    rows_of = {split: order[np.isin(turn, turns)] for split, turns in TURNS.items()}
    xs_of = {split: jnp.asarray(padded[rows], dtype) for split, rows in rows_of.items()}
    targets_of = {split: jnp.asarray(classes[rows], jnp.int32) for split, rows in rows_of.items()}
    frequencies = np.bincount(classes[rows_of["training"]]) / len(rows_of["training"])
    held_out = classes[np.concatenate([rows_of["validation"], rows_of["test"]])]

    def pick(split: str, rows: Int[Array, " batch"]) -> Batch:
        return Batch(xs_of[split][rows], targets_of[split][rows, None])

    def sample(key: Key[Array, ""], batch_size: int) -> Batch:
        check_at_least(1, batch_size=batch_size)
        size = len(xs_of["training"])
        return pick("training", jax.random.randint(key, (batch_size,), 0, size, jnp.int32))

    def sample_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        check_at_least(1, batch_size=batch_size)
        check_split(split)
        size = len(xs_of[split])
        advice = f"the {split} split has {size} series, drawn without replacement"
        check_count("batch_size", batch_size, most=size, advice=advice)
        return pick(split, jax.random.permutation(key, jnp.arange(size))[:batch_size])

    return Task(
        name=name,
        num_steps=padded.shape[1],
        horizon=horizon,
        input_size=padded.shape[2],
        output_size=len(frequencies),
        num_scored_steps=1,
        loss="cross_entropy",
        baseline_loss=float(-np.sum(frequencies * np.log(frequencies))),
        baseline_accuracy=float(np.mean(held_out == np.argmax(frequencies))),
        sample=sample,
        sample_held_out=sample_held_out,
        num_held_out=min(len(xs_of["validation"]), len(xs_of["test"])),
    )


def _ending_together(series):
    """Return the series as one array, with zeros in front of those that are shorter."""
    every = [np.asarray(one, float) for one in series]
    shapes = {one.shape for one in every}
    fits = shapes and all(len(shape) == 2 and all(shape) for shape in shapes)
    if not fits or len({shape[1] for shape in shapes}) != 1:
        expected = "arrays (time, channels) with the same channels"
        refuse("series", sorted(shapes), expected, "one channel is series[..., None]")
    for number, one in enumerate(every):
        if not np.isfinite(one).all():
            refuse("series", f"NaN or infinity in series {number}", "finite values")
    longest = max(len(one) for one in every)
    return np.stack([np.pad(one, ((longest - len(one), 0), (0, 0))) for one in every])


def _check_labels(labels, num_series):
    labels = np.asarray(labels)
    if labels.shape != (num_series,):
        refuse("labels", f"shape {labels.shape}", f"one for each series, ({num_series},)")
    names, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        refuse("labels", names.tolist(), "at least two classes")
    if counts.min() < 5:
        received = f"{counts.min()} series of class {names[counts.argmin()]}"
        refuse("labels", received, "at least 5 of each class", "they are dealt out 3 : 1 : 1")
    return classes

"""A task made of the sequences of one batch, for questions about a batch of your own."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jacobian_rnn.checks import check_at_least, check_count, refuse
from jacobian_rnn.tasks.task import Batch, Task, check_split


def task_of(batch: Batch, *, horizon: int, name: str = "given_batch") -> Task:
    """Make a task that draws its sequences from one batch, with replacement.

    It serves to measure and to forecast. To train on it shows whether the batch can be learned by
    heart, since held-out sequences are those of the batch.

    Args:
        batch: sequences `(B, T, inputs)` and their targets, as in `Batch`. Answers are scored at
            the last steps, as many as there are targets of a sequence.
        horizon: the longest lag over which information has to be carried, in steps, from 1 to T.
        name: of the task.

    Returns:
        A task with classes where targets are integers, and with values where they are floats. Its
        baseline knows the frequencies of classes, or the means and variances of values, in the
        batch.

    Raises:
        ValueError: shapes that do not fit, a horizon outside 1 … T, or targets that never vary.

    Example:
        >>> import jax
        >>> xs = jax.random.normal(jax.random.key(0), (64, 30, 3))
        >>> task = task_of(Batch(xs, xs[:, :1, :1]), horizon=29)
        >>> print(task.loss, task.output_size, task.num_scored_steps)
        squared_error 1 1
    """
    xs, targets = (jnp.asarray(array) for array in batch)
    is_class = jnp.issubdtype(targets.dtype, jnp.integer)
    rank = 2 if is_class else 3
    if xs.ndim != 3 or targets.ndim != rank or len(xs) != len(targets) or not len(xs):
        expected = "(B, T, inputs) and (B, scored) classes or (B, scored, outputs) values"
        refuse("batch", f"shapes {xs.shape} and {targets.shape}", expected)
    num_steps, num_scored = xs.shape[1], targets.shape[1]
    check_count("horizon", horizon, least=1, most=num_steps)
    check_count("the number of scored steps", num_scored, least=1, most=num_steps)
    values = np.asarray(targets)
    if is_class:
        output_size = int(values.max()) + 1
        counts = [np.bincount(column, minlength=output_size) for column in values.T]
        frequencies = np.array(counts) / len(values)
        entropies = -np.sum(frequencies * np.log(np.where(frequencies > 0, frequencies, 1)), axis=1)
        baseline_loss, baseline_accuracy = entropies.mean(), frequencies.max(axis=1).mean()
    else:
        output_size = values.shape[2]
        baseline_loss, baseline_accuracy = values.var(axis=0).mean(), np.nan
    if baseline_loss <= 0:
        refuse("batch", "the same answer for all sequences", "answers that differ")

    def pick(key: Key[Array, ""], batch_size: int) -> Batch:
        check_at_least(1, batch_size=batch_size)
        rows = jax.random.randint(key, (batch_size,), 0, len(xs), jnp.int32)
        return Batch(xs[rows], targets[rows])

    def pick_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        check_at_least(1, batch_size=batch_size)
        check_split(split)
        advice = "held-out sequences are those of the batch, drawn without replacement"
        check_count("batch_size", batch_size, most=len(xs), advice=advice)
        rows = jax.random.permutation(key, jnp.arange(len(xs)))[:batch_size]
        return Batch(xs[rows], targets[rows])

    return Task(
        name=name,
        num_steps=num_steps,
        horizon=horizon,
        input_size=xs.shape[2],
        output_size=output_size,
        num_scored_steps=num_scored,
        loss="cross_entropy" if is_class else "squared_error",
        baseline_loss=float(baseline_loss),
        baseline_accuracy=float(baseline_accuracy),
        sample=pick,
        sample_held_out=pick_held_out,
        num_held_out=len(xs),
    )

"""What a task is, how answers to it are scored, and how its splits are kept apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jacobian_rnn.checks import check_at_least, check_choice, check_shape

Predictions = Float[Array, "batch scored outputs"]
Targets = Int[Array, "batch scored"] | Float[Array, "batch scored outputs"]

STREAMS = {"training": 0, "validation": 1, "test": 2}


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
        baseline_accuracy: expected accuracy of the baseline, nan for regression.
        sample: `(key, batch_size) -> Batch` of training data, where `batch_size` is static.
        sample_held_out: `(key, batch_size, split) -> Batch` of data that training never sees, where
            `split` is `"validation"` or `"test"`, static like `batch_size`.
        num_held_out: sequences in the smaller of the two splits, None where they are generated.
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
    num_held_out: int | None = None


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
    """Compute the fraction of correct answers, where a non-finite answer is never correct.

    For classification it is the fraction of scored steps whose largest logit is the target's. For
    regression it is the fraction of sequences with every absolute error below 0.04, the criterion
    of Hochreiter and Schmidhuber (1997, section 5.4). Their target, 0.5 + (X₁ + X₂)/4 with X in
    [−1, 1], is half of that of `adding`, in whose units their criterion would be 0.08.

    Takes and raises what `loss` does. Returns a scalar in [0, 1], whose derivative is zero.
    """
    _check_shapes(task, predictions, targets)
    if task.loss == "squared_error":
        correct = jnp.all(jnp.abs(predictions - targets) < 0.04, axis=(1, 2))
    else:
        # The argmax of NaNs is class 0, which is right at times.
        finite = jnp.all(jnp.isfinite(predictions), axis=-1)
        answers = jnp.argmax(predictions, axis=-1).astype(targets.dtype)
        correct = finite & (answers == targets)
    return jnp.mean(correct, dtype=predictions.dtype)


def skill(task: Task, predictions: Predictions, targets: Targets) -> Float[Array, ""]:
    """Compute the score that is 1 for perfect answers and, on average, 0 for the baseline.

    It is (accuracy − a₀)/(1 − a₀) for classification and 1 − loss/l₀ for regression, with the
    task's baseline accuracy a₀ and baseline loss l₀.

    Takes and raises what `loss` does. Returns a scalar in (−∞, 1], or nan for a regression with a
    prediction that is nan.

    Example:
        >>> import jax
        >>> from jacobian_rnn.tasks import adding
        >>> task = adding(20)
        >>> xs, targets = task.sample(jax.random.key(0), 4)
        >>> print(skill(task, targets, targets))
        1.0
    """
    if task.loss == "squared_error":
        return 1 - jnp.mean(loss(task, predictions, targets)) / task.baseline_loss
    chance = task.baseline_accuracy
    return (accuracy(task, predictions, targets) - chance) / (1 - chance)


def streams_of(generate: Callable[[Key[Array, ""], int], Batch]) -> tuple[Callable, Callable]:
    """Make the two samplers of a task from its generator, `(key, batch_size) -> Batch`."""

    def sample(key: Key[Array, ""], batch_size: int) -> Batch:
        check_at_least(1, batch_size=batch_size)
        return generate(jax.random.fold_in(key, STREAMS["training"]), batch_size)

    def sample_held_out(key: Key[Array, ""], batch_size: int, split: str) -> Batch:
        check_at_least(1, batch_size=batch_size)
        check_split(split)
        return generate(jax.random.fold_in(key, STREAMS[split]), batch_size)

    return sample, sample_held_out


def check_split(split: str) -> None:
    """Raise a ValueError where a split is not one of the two that are held out."""
    advice = "for training data call task.sample(key, batch_size)"
    check_choice("split", split, ("validation", "test"), advice)


def _check_shapes(task, predictions, targets):
    # Without this, unequal shapes can broadcast to a plausible number.
    shape = (len(predictions), task.num_scored_steps, task.output_size)
    target_shape = shape if task.loss == "squared_error" else shape[:2]
    advice = (
        "pass the readout of the last num_scored_steps states, and the targets of the same Batch"
    )
    check_shape("predictions", predictions.shape, shape, advice)
    check_shape("targets", targets.shape, target_shape, advice)

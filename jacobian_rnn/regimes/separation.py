"""How far apart the states of different answers are, before anything was trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import refuse
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import states_of

RIDGE = 1e-2  # penalty of the linear readout, in units of the mean variance of an output


class Separation(NamedTuple):
    """What the output at the end says about the answer, linearly, before training.

    Attributes:
        log_ratio: nats, scalar: half the log of the ratio of variances of the output, between
            answers and within them, summed over all units. What chance adds is taken off, and no
            less than a tenth of that is left.
        readout_skill: dimensionless, scalar: share of the variance of the answers that the best
            linear readout explains on other sequences, 1 for all, 0 or less for none.
    """

    log_ratio: Float[Array, ""]
    readout_skill: Float[Array, ""]


def answer_separation(
    recurrence: Recurrence, carry: PyTree, task: tasks.Task, batch: tasks.Batch
) -> Separation:
    """Measure how far apart the states of different answers are at the last scored step.

    Two numbers say so. The ratio of variances is the distance of the answers' mean outputs beside
    the spread around them, whatever the direction. The skill is that of a linear readout, fitted
    to every second sequence and tested on the others, which may find a direction with little noise.

    Args:
        recurrence: the system, trained or not.
        carry: initial carry of every sequence.
        task: says what the answers are, classes or values.
        batch: at least eight sequences with their targets. With fewer than there are units, the
            skill is mostly that of the ridge penalty.

    Returns:
        Ratio and skill.

    Raises:
        ValueError: too few sequences, or shapes that do not fit.
        TypeError: float dtypes that differ.

    Cost: one forward pass, and a linear system of the size of the output.

    References:
        R. A. Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7
        (1936), for the ratio of variances.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> task = tasks.delayed_recall(20, noise_std=0.1)
        >>> batch = task.sample(jax.random.key(0), 256)
        >>> for bias in (-2.0, 4.0):
        ...     cell = nn.GRUCell(16)
        ...     network = draw(cell, key=jax.random.key(1), num_inputs=4, forget_bias=bias)
        ...     print(answer_separation(network, jnp.zeros(16), task, batch).readout_skill > 0.5)
        False
        True
    """
    if len(batch.xs) < 8:
        refuse("batch", f"{len(batch.xs)} sequences", "at least 8", "half of them fit a readout")

    def last_output(xs):
        system = bind(recurrence, carry, xs)
        return system.output(states_of(system)[-1])

    outputs = jax.vmap(last_output)(batch.xs)
    answers = batch.targets[:, -1]
    if task.loss == "cross_entropy":
        answers = jax.nn.one_hot(answers, task.output_size, dtype=outputs.dtype)
    outputs, answers = (values - jnp.mean(values, axis=0)[None] for values in (outputs, answers))
    return Separation(_log_ratio(outputs, answers), _readout_skill(outputs, answers))


def _log_ratio(outputs, answers):
    """Return half the log of the explained over the residual variance of all outputs together."""
    count = len(outputs)
    # A direction of the answers that no sequence shows explains nothing.
    left, sizes, _ = jnp.linalg.svd(answers, full_matrices=False)
    there = sizes > 1e-3 * sizes[0]
    explained = jnp.sum(jnp.where(there[:, None], left.T @ outputs, 0) ** 2)
    total = jnp.sum(outputs**2)
    num_directions = jnp.sum(there).astype(outputs.dtype)
    within = (total - explained) / (count - 1 - num_directions)
    by_chance = num_directions * within
    between = jnp.maximum(explained - by_chance, by_chance / 10) / (count - 1)
    return jnp.log(between / within) / 2


def _readout_skill(outputs, answers):
    fitted, tested = (slice(start, None, 2) for start in (0, 1))
    seen = outputs[fitted]
    penalty = RIDGE * len(seen) * jnp.mean(seen**2) + jnp.finfo(seen.dtype).tiny
    gram = seen.T @ seen + penalty * jnp.eye(seen.shape[1], dtype=seen.dtype)
    readout = jnp.linalg.solve(gram, seen.T @ answers[fitted])
    missed = answers[tested] - outputs[tested] @ readout
    return 1 - jnp.sum(missed**2) / jnp.sum(answers[tested] ** 2)

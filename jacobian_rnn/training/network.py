"""A recurrence with a linear readout: what it predicts, and how well."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence, check_output
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import along


class Network(NamedTuple):
    """A recurrence with a linear readout of its output.

    Attributes:
        recurrence: the recurrent part.
        kernel: readout weights `(features, outputs)`.
        bias: readout bias `(outputs,)`.
    """

    recurrence: Recurrence
    kernel: Float[Array, "features outputs"]
    bias: Float[Array, " outputs"]


def add_readout(recurrence: Recurrence, carry: PyTree, num_outputs: int, *, key: Array) -> Network:
    """Add a random readout, whose kernel has variance 1/features and whose bias is zero."""
    check_output(recurrence.step, recurrence.output, carry)
    output = jax.eval_shape(lambda c: jnp.ravel(recurrence.output(c)), carry)
    kernel = jax.random.normal(key, (output.size, num_outputs), output.dtype) / output.size**0.5
    return Network(recurrence, kernel, jnp.zeros(num_outputs, output.dtype))


def read_out(
    network: Network, outputs: Float[Array, "scored features"]
) -> Float[Array, "scored predictions"]:
    """Turn outputs of the recurrence into predictions."""
    return outputs @ network.kernel + network.bias[None]


def loss_of_states(
    network: Network, carry: PyTree, task: tasks.Task, targets: Array
) -> Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]]:
    """Return the loss of one sequence as a function of its states.

    `state_gradients` and `parameter_gradients` differentiate such a function.

    Args:
        network: the network.
        carry: initial carry, which tells how a state is ravelled.
        task: the task, for its loss and the number of scored steps.
        targets: those of the sequence, without batch axis.
    """
    check_output(network.recurrence.step, network.recurrence.output, carry)
    _, unravel = ravel_pytree(carry)

    def loss(states):
        last = states[len(states) - task.num_scored_steps :]
        outputs = jax.vmap(lambda state: jnp.ravel(network.recurrence.output(unravel(state))))(last)
        return tasks.loss(task, read_out(network, outputs)[None], targets[None])[0]

    return loss


def apply(
    network: Network, carry: PyTree, task: tasks.Task, xs: Array, *, num_at_once: int | None = None
) -> Array:
    """Predict a batch: inputs `(batch, T, inputs)` to predictions `(batch, scored, outputs)`.

    Args:
        network: the network.
        carry: initial carry of every sequence.
        task: says how many of the last steps are scored.
        xs: inputs.
        num_at_once: sequences that are in memory together, all by default. Static.
    """
    check_output(network.recurrence.step, network.recurrence.output, carry)

    def of_sequence(xs):
        system = bind(network.recurrence, carry, xs)

        def visit(_, now):
            state = system.step(now.state, now.x)
            return state, None, system.output(state)

        _, _, outputs = along(system, visit, None)
        return read_out(network, outputs[len(outputs) - task.num_scored_steps :])

    if num_at_once is None or num_at_once >= len(xs):
        return jax.vmap(of_sequence)(xs)
    return lax.map(of_sequence, xs, batch_size=num_at_once)


def score(
    task: tasks.Task, predicted: tasks.Predictions, targets: tasks.Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the skill (0 is the trivial baseline, 1 is perfect) and the mean loss of a batch."""
    return (
        tasks.skill(task, predicted, targets),
        jnp.mean(tasks.loss(task, predicted, targets)),
    )


def evaluate(
    network: Network, carry: PyTree, task: tasks.Task, batch: tasks.Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return skill (0 is the trivial baseline, 1 is perfect) and mean loss on a held-out batch."""
    return score(task, apply(network, carry, task, batch.xs), batch.targets)

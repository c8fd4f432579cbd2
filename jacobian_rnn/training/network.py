"""A recurrence with a linear readout: what it predicts, and how well."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
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
    output = jax.eval_shape(lambda c: jnp.ravel(recurrence.output(c)), carry)
    kernel = jax.random.normal(key, (output.size, num_outputs), output.dtype) / output.size**0.5
    return Network(recurrence, kernel, jnp.zeros(num_outputs, output.dtype))


def read_out(
    network: Network, outputs: Float[Array, "scored features"]
) -> Float[Array, "scored predictions"]:
    """Turn outputs of the recurrence into predictions."""
    return outputs @ network.kernel + network.bias[None]


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


def evaluate(
    network: Network,
    carry: PyTree,
    task: tasks.Task,
    batch: tasks.Batch,
    *,
    num_at_once: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return skill (0 is the trivial baseline, 1 is perfect) and mean loss on a held-out batch.

    It takes what `apply` takes, and the targets in `batch`.
    """
    predicted = apply(network, carry, task, batch.xs, num_at_once=num_at_once)
    return (
        tasks.skill(task, predicted, batch.targets),
        jnp.mean(tasks.loss(task, predicted, batch.targets)),
    )

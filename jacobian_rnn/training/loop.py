"""Training with optax, recording what gradients do: norms before clipping, and norms at every lag.

`train` does one network. Its parts (`start`, `advance`, `lag_norms`, `evaluate`) are pure
functions to which `jax.vmap` and `jax.jit` apply, for many networks at once.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least, check_count
from jacobian_rnn.jacobians.gradients import state_gradients
from jacobian_rnn.jacobians.steps import trajectory
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.linalg.graded_svd import scaled_norm


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


class TrainingState(NamedTuple):
    """A network in training.

    Attributes:
        network: the network as trained so far.
        optimizer_state: optax state.
        key: of the data still to be drawn.
    """

    network: Network
    optimizer_state: PyTree
    key: Array


class Updates(NamedTuple):
    """What a stretch of updates recorded, each of shape `(updates,)`.

    Attributes:
        loss: training loss of each batch, before its update.
        gradient_norm: norm of the parameter gradient, before clipping.
        update_norm: norm of the change of the parameters.
    """

    loss: Float[Array, " updates"]
    gradient_norm: Float[Array, " updates"]
    update_norm: Float[Array, " updates"]


class TrainingHistory(NamedTuple):
    """The record of training one network.

    Attributes:
        loss, gradient_norm, update_norm: `(updates,)`, as in `Updates`.
        lag_updates: `(records,)`, how many updates had been made at each record.
        gradient_norm_by_lag: `(records, T + 1)`: root mean square over a batch of
            ‖∂loss/∂states[T − lag]‖, for lag = 0 … T, by plain backpropagation.
        validation_skill: `(records,)`, on held-out data, at each record.
        test_skill, test_loss: scalars, on other held-out data, at the end.
        baseline_loss: scalar, loss of the trivial baseline.
    """

    loss: Float[Array, " updates"]
    gradient_norm: Float[Array, " updates"]
    update_norm: Float[Array, " updates"]
    lag_updates: Array
    gradient_norm_by_lag: Float[Array, "records lags"]
    validation_skill: Float[Array, " records"]
    test_skill: Float[Array, ""]
    test_loss: Float[Array, ""]
    baseline_loss: Float[Array, ""]


def start(
    task: tasks.Task,
    recurrence: Recurrence,
    carry: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Array,
) -> TrainingState:
    """Add a random readout to a recurrence and initialise the optimiser.

    Args:
        task: what to train on.
        recurrence: the recurrent part, as initialised.
        carry: initial carry of every sequence, without batch axis.
        optimizer: any optax transformation.
        key: a `jax.random.key`, for the readout and all training data.

    Returns:
        The state before the first update. The readout kernel has variance 1/features.
    """
    readout_key, data_key = jax.random.split(key)
    output = jax.eval_shape(lambda c: jnp.ravel(recurrence.output(c)), carry)
    shape = (output.size, task.output_size)
    kernel = jax.random.normal(readout_key, shape, output.dtype) / output.size**0.5
    network = Network(recurrence, kernel, jnp.zeros(task.output_size, output.dtype))
    return TrainingState(network, optimizer.init(_floats(network)), data_key)


def predictions(
    network: Network, carry: PyTree, states: Float[Array, "steps_plus_1 n"], num_scored_steps: int
) -> Float[Array, "scored outputs"]:
    """Read the network's predictions off the last `num_scored_steps` states of one sequence."""
    unravel = ravel_pytree(carry)[1]
    outputs = jax.vmap(lambda s: jnp.ravel(network.recurrence.output(unravel(s))))(
        states[states.shape[0] - num_scored_steps :]
    )
    return outputs @ network.kernel + network.bias[None]


def apply(network: Network, carry: PyTree, task: tasks.Task, xs: Array) -> Array:
    """Predict a batch: inputs `(batch, T, inputs)` to predictions `(batch, scored, outputs)`."""

    def of_sequence(xs):
        states = trajectory(network.recurrence, carry, xs)
        return predictions(network, carry, states, task.num_scored_steps)

    return jax.vmap(of_sequence)(xs)


def advance(
    state: TrainingState,
    carry: PyTree,
    task: tasks.Task,
    optimizer: optax.GradientTransformation,
    *,
    num_updates: int,
    batch_size: int,
) -> tuple[TrainingState, Updates]:
    """Make `num_updates` updates, each on a fresh batch. Record what diverges, and never raise.

    Args:
        state: the network in training.
        carry: initial carry of every sequence.
        task: where batches and the loss come from.
        optimizer: the transformation that `start` initialised.
        num_updates: number of updates. Static.
        batch_size: sequences per update. Static.

    Returns:
        The new state and the record of each update.
    """

    def loss_of(parameters, network, batch):
        return jnp.mean(_losses(_with_floats(network, parameters), carry, task, batch))

    def update(state, _):
        key, batch_key = jax.random.split(state.key)
        batch = task.sample(batch_key, batch_size)
        parameters = _floats(state.network)
        loss, gradient = jax.value_and_grad(loss_of)(parameters, state.network, batch)
        # Adam raises a float to an integer power, which strict promotion would forbid.
        with jax.numpy_dtype_promotion("standard"):
            changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, parameters)
        network = _with_floats(state.network, optax.apply_updates(parameters, changes))
        norms = (scaled_norm(ravel_pytree(tree)[0]) for tree in (gradient, changes))
        record = Updates(loss, *norms)
        return TrainingState(network, optimizer_state, key), record

    return lax.scan(update, state, length=num_updates)


def lag_norms(
    network: Network, carry: PyTree, task: tasks.Task, batch: tasks.Batch
) -> Float[Array, " lags"]:
    """Backpropagate to every state: root mean square over the batch of ‖∂loss/∂states[T − lag]‖.

    The loss is that of each sequence by itself. Plain backpropagation is independent of
    `JacobianProduct` and checks it. It is never used as a label.

    Args:
        network: the network.
        carry: initial carry of every sequence.
        task: the task, for its loss.
        batch: sequences and targets.

    Returns:
        Norms for lag = 0 … T, shape `(T + 1,)`. They under- or overflow only where the gradients
        of training do.
    """

    def of_sequence(xs, targets):
        def loss(states):
            predicted = predictions(network, carry, states, task.num_scored_steps)
            return tasks.loss(task, predicted[None], targets[None])[0]

        return jax.vmap(scaled_norm)(state_gradients(network.recurrence, carry, xs, loss))

    norms = jax.vmap(of_sequence)(*batch)
    return jax.vmap(scaled_norm, in_axes=1)(norms / len(norms) ** 0.5)[::-1]


def evaluate(
    network: Network, carry: PyTree, task: tasks.Task, batch: tasks.Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return skill (0 is the trivial baseline, 1 is perfect) and mean loss on a held-out batch."""
    predicted = apply(network, carry, task, batch.xs)
    return (
        tasks.skill(task, predicted, batch.targets),
        jnp.mean(tasks.loss(task, predicted, batch.targets)),
    )


def train(
    task: tasks.Task,
    recurrence: Recurrence,
    carry: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    key: Array,
    num_updates: int,
    batch_size: int = 32,
    num_records: int = 10,
    held_out_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Network, TrainingHistory]:
    """Train one network on a task and record what its gradients do.

    Args:
        task: from `tasks`.
        recurrence: the network's recurrent part, as initialised.
        carry: initial carry of every sequence, without batch axis.
        optimizer: any `optax.GradientTransformation`.
        key: a `jax.random.key`.
        num_updates: number of updates.
        batch_size: sequences per update.
        num_records: how many times, at even intervals, lag norms and validation skill are
            recorded. The first time is before the first update.
        held_out_size: sequences in the validation and in the test data, never trained on.
        on_progress: called as `on_progress(updates_done, num_updates)` after every stretch.

    Returns:
        The trained network and its history. Divergence is recorded, not raised.

    Raises:
        ValueError: counts below one, more records than updates, or a system that does not fit the
            task's inputs.
        TypeError: float dtypes that differ.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import from_linen, tasks
        >>> task, cell, carry = tasks.delayed_recall(5), nn.GRUCell(16), jnp.zeros(16)
        >>> variables = cell.init(jax.random.key(0), carry, jnp.zeros(task.input_size))
        >>> network, history = train(
        ...     task,
        ...     from_linen(cell, variables),
        ...     carry,
        ...     optimizer=optax.adam(1e-2),
        ...     key=jax.random.key(1),
        ...     num_updates=200,
        ... )
        >>> bool(history.test_skill > 0.9)
        True
    """
    check_at_least(1, num_updates=num_updates, batch_size=batch_size, held_out_size=held_out_size)
    advice = "no more records than updates"
    check_count("num_records", num_records, least=1, most=num_updates, advice=advice)
    key, lag_key, validation_key, test_key = jax.random.split(key, 4)
    lag_batch = task.sample(lag_key, batch_size)
    bind(recurrence, carry, lag_batch.xs[0])
    validation = task.sample_held_out(validation_key, held_out_size, "validation")
    test = task.sample_held_out(test_key, held_out_size, "test")

    state = start(task, recurrence, carry, optimizer, key=key)
    bounds = [num_updates * i // num_records for i in range(num_records + 1)]
    updates, looks = [], []
    for done, until in itertools.pairwise(bounds):
        looks.append(_look(state.network, carry, task, lag_batch, validation))
        state, recorded = _advance(
            state, carry, task, optimizer, num_updates=until - done, batch_size=batch_size
        )
        updates.append(recorded)
        if on_progress is not None:
            jax.block_until_ready(recorded)
            on_progress(until, num_updates)
    test_skill, test_loss = _evaluate(state.network, carry, task, test)
    every = jax.tree.map(lambda *parts: jnp.concatenate(parts), *updates)
    by_lag, validation_skill = (jnp.stack(parts) for parts in zip(*looks, strict=True))
    return state.network, TrainingHistory(
        loss=every.loss,
        gradient_norm=every.gradient_norm,
        update_norm=every.update_norm,
        lag_updates=jnp.array(bounds[:-1]),
        gradient_norm_by_lag=by_lag,
        validation_skill=validation_skill,
        test_skill=test_skill,
        test_loss=test_loss,
        baseline_loss=jnp.asarray(task.baseline_loss, test_loss.dtype),
    )


_advance = jax.jit(advance, static_argnames=("task", "optimizer", "num_updates", "batch_size"))
_evaluate = jax.jit(evaluate, static_argnames="task")


@partial(jax.jit, static_argnames="task")
def _look(network, carry, task, lag_batch, validation):
    return (
        lag_norms(network, carry, task, lag_batch),
        evaluate(network, carry, task, validation)[0],
    )


def _losses(network, carry, task, batch):
    return tasks.loss(task, apply(network, carry, task, batch.xs), batch.targets)


def _floats(network):
    """Keep what is trained, the floating-point leaves. None stands for the others."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else None, network)


def _with_floats(network, parameters):
    return jax.tree.map(
        lambda old, new: old if new is None else new,
        network,
        parameters,
        is_leaf=lambda leaf: leaf is None,
    )

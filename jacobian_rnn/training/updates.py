"""Updates of one network with any optimiser of optax, and what each of them did."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.linalg.graded_svd import scaled_norm
from jacobian_rnn.training.network import Network, add_readout, apply

Optimizer = optax.GradientTransformation | optax.MultiSteps
Penalty = Callable[[Network, tasks.Batch], Array]


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
        loss: training loss of each batch, before its update and without a penalty.
        gradient_norm: norm of the parameter gradient, before clipping.
        update_norm: norm of the change of the parameters.
    """

    loss: Float[Array, " updates"]
    gradient_norm: Float[Array, " updates"]
    update_norm: Float[Array, " updates"]


def start(
    task: tasks.Task,
    recurrence: Recurrence,
    carry: PyTree,
    optimizer: Optimizer,
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
    network = add_readout(recurrence, carry, task.output_size, key=readout_key)
    with jax.numpy_dtype_promotion("standard"):
        optimizer_state = optimizer.init(floats_of(network))
    return TrainingState(network, optimizer_state, data_key)


def advance(
    state: TrainingState,
    carry: PyTree,
    task: tasks.Task,
    optimizer: Optimizer,
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

    def one(state, _):
        return update(state, carry, task, optimizer, batch_size=batch_size)

    return lax.scan(one, state, length=num_updates)


def update(
    state: TrainingState,
    carry: PyTree,
    task: tasks.Task,
    optimizer: Optimizer,
    *,
    batch_size: int,
    penalty: Penalty | None = None,
) -> tuple[TrainingState, Updates]:
    """Make one update on a fresh batch, and record it as scalars.

    The optimiser is told the parameters and, if it asks for them, the value, the gradient and the
    function that is minimised on this batch.

    Args:
        state: the network in training.
        carry: initial carry of every sequence.
        task: where batches and the loss come from.
        optimizer: the transformation that `start` initialised.
        batch_size: sequences per update. Static.
        penalty: `penalty(network, batch)`, a scalar that is added to the mean loss. Static.
    """
    key, batch_key = jax.random.split(state.key)
    batch = task.sample(batch_key, batch_size)

    def objective(parameters):
        network = with_floats(state.network, parameters)
        predicted = apply(network, carry, task, batch.xs)
        loss = jnp.mean(tasks.loss(task, predicted, batch.targets))
        return loss if penalty is None else loss + penalty(network, batch), loss

    def value_of(parameters):
        return objective(parameters)[0]

    parameters = floats_of(state.network)
    (value, loss), gradient = jax.value_and_grad(objective, has_aux=True)(parameters)
    # optax descends along the conjugate of what JAX calls the gradient for a complex number.
    gradient = jax.tree.map(jnp.conj, gradient)
    # Adam raises a float to an integer power, which strict promotion would forbid.
    with jax.numpy_dtype_promotion("standard"):
        changes, optimizer_state = optimizer.update(
            gradient,
            state.optimizer_state,
            parameters,
            **_asked_for(optimizer, value=value, grad=gradient, value_fn=value_of),
        )
    network = with_floats(state.network, optax.apply_updates(parameters, changes))
    record = Updates(loss, norm_of(gradient), norm_of(changes))
    return TrainingState(network, optimizer_state, key), record


def network_of(state: TrainingState) -> Network:
    """Return the network that is to be tested, and kept after training.

    It is the one that is trained, unless the optimiser averages what it tests: schedule-free ones
    take gradients at other parameters than those of `optax.contrib.schedule_free_eval_params`.
    """

    def averages(part):
        return isinstance(part, optax.contrib.ScheduleFreeState)

    parts = jax.tree.leaves(state.optimizer_state, is_leaf=averages)
    found = [part for part in parts if averages(part)]
    if not found:
        return state.network
    averaged = optax.contrib.schedule_free_eval_params(found[0], floats_of(state.network))
    return with_floats(state.network, averaged)


def _asked_for(optimizer: Optimizer, **extra: Any) -> dict[str, Any]:
    """Return those extra arguments that the update of an optimiser takes."""
    parameters = inspect.signature(optimizer.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def norm_of(tree: PyTree) -> Float[Array, ""]:
    """Return the Euclidean norm of all arrays of a tree together, which does not overflow."""
    return scaled_norm(jnp.stack([scaled_norm(leaf) for leaf in jax.tree.leaves(tree)]))


def floats_of(network: Network) -> PyTree:
    """Keep what is trained, the floating-point leaves. None stands for the others."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else None, network)


def with_floats(network: Network, parameters: PyTree) -> Network:
    """Put what is trained back in its place."""
    return jax.tree.map(
        lambda old, new: old if new is None else new,
        network,
        parameters,
        is_leaf=lambda leaf: leaf is None,
    )

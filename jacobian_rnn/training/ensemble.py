"""Training of one network, or of an ensemble as one program, with tests on held-out data."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence, check_recurrence
from jacobian_rnn.checks import (
    check_at_least,
    check_count,
    check_finite,
    check_key,
    check_type,
    refuse,
)
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.training.network import Network, evaluate
from jacobian_rnn.training.records import Records, TrainingHistory, lag_norms
from jacobian_rnn.training.updates import Optimizer, Penalty, Updates, network_of, start, update


class _Members(NamedTuple):
    """What tells the networks of an ensemble apart, one after the other."""

    recurrence: Recurrence
    key: Array
    hyperparameters: PyTree


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is static. Equal plans share their compiled programs."""

    axes: tuple[int, ...]
    task: tasks.Task
    optimizer: Any
    num_updates: int
    batch_size: int
    gradients_by_lag: bool
    penalty: Penalty | None
    held_out_size: int

    def optimizer_of(self, member: _Members) -> Optimizer:
        """Return the optimiser of one network."""
        if member.hyperparameters is None:
            return self.optimizer
        return self.optimizer(member.hyperparameters)


def train(
    task: tasks.Task,
    recurrence: Recurrence,
    carry: PyTree,
    *,
    optimizer: Optimizer | Callable[[Any], Any],
    key: Array,
    num_updates: int,
    hyperparameters: PyTree = None,
    batch_size: int = 32,
    records: int | Sequence[int] = 10,
    gradients_by_lag: bool = False,
    penalty: Penalty | None = None,
    held_out_size: int = 256,
    held_out_key: Array | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Network, TrainingHistory]:
    """Train a network on a task, or an ensemble of networks as one program, and record how it does.

    A key for each network makes an ensemble. The axes of `key` are then its axes, such as gain and
    seed, and each array of `recurrence` has them in front of its own. An axis of size 1 stands for
    as many as are needed. So learning rates of shape `(3, 1, 1)` cross with networks of shape
    `(gains, seeds)`, and the ensemble is `(3, gains, seeds)`.

    Args:
        task: from `tasks`. Static.
        recurrence: the recurrent part of the network or the networks, as initialised.
        carry: initial carry of every sequence of every network, without batch axis.
        optimizer: any optax transformation. With `hyperparameters`, a function from those of one
            network to its transformation. It may ask for the parameters, and for the value, the
            gradient and the function that is minimised. Static: the same object again compiles
            nothing anew.
        key: a `jax.random.key`, or an array of them, for readouts and training data.
        num_updates: number of updates. Static.
        hyperparameters: pytree of numbers, each with axes that broadcast against those of `key`.
        batch_size: sequences per update. Static.
        records: a number of even intervals, or numbers of updates, after which networks are tested.
            They are tested before the first update and after the last one anyway. Static.
        gradients_by_lag: whether to record the norm of the gradient at every lag, too. It takes a
            backward pass over the first `batch_size` sequences of the validation data. Static.
        penalty: `penalty(network, batch)`, a scalar that is added to the mean loss of each batch.
            Recorded losses are without it. Static.
        held_out_size: sequences in the validation and in the test data, never trained on. Static.
        held_out_key: for these data, which all networks share. There is a fixed one by default.
        on_progress: called as `on_progress(updates_done, num_updates)` after each record. Each
            stretch of updates is then a call of its own, which cannot be traced.

    Returns:
        The trained network and its history, with the axes of the ensemble first in every array.
        Divergence is recorded, not raised. Works under `jit` and `vmap`.

    Raises:
        ValueError: counts below one, records outside the training, axes that do not broadcast, a
            system that does not fit the task's inputs, or values that are not finite.
        TypeError: float dtypes that differ, no optimiser, no key, or progress of a traced call.

    Cost: one compilation for a task, an optimiser and shapes. Memory holds the states of a batch
    for every network. Tests take `batch_size` sequences at a time, and need no more.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> task, keys = tasks.delayed_recall(5), jax.random.split(jax.random.key(0), 2)
        >>> networks = jax.vmap(lambda key: draw(nn.GRUCell(8), key=key, num_inputs=4))(keys)
        >>> networks, history = train(
        ...     task,
        ...     networks,
        ...     jnp.zeros(8),
        ...     optimizer=optax.adam,
        ...     hyperparameters=jnp.array([[1e-4], [1e-2]]),
        ...     key=keys,
        ...     num_updates=200,
        ...     records=(50, 100),
        ... )
        >>> print(history.loss.shape, history.records.num_updates[0, 0])
        (2, 2, 200) [  0  50 100 200]
        >>> print(history.test_skill[0] < 0.2, history.test_skill[1] > 0.8)
        [ True  True] [ True  True]
    """
    carry = jax.tree.map(jnp.asarray, carry)
    check_at_least(1, num_updates=num_updates, batch_size=batch_size, held_out_size=held_out_size)
    recorded = _recorded(records, num_updates)
    if held_out_key is None:
        held_out_key = jax.random.key(0)
    check_key("held_out_key", held_out_key)
    check_key("key", key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    check_recurrence(recurrence)
    check_finite("recurrence", recurrence)
    check_finite("carry", carry)
    given = _Members(*jax.tree.map(jnp.asarray, (recurrence, key, hyperparameters)))
    plan = _Plan(
        axes=_axes_of(given),
        task=task,
        optimizer=optimizer,
        num_updates=num_updates,
        batch_size=batch_size,
        gradients_by_lag=gradients_by_lag,
        penalty=penalty,
        held_out_size=held_out_size,
    )
    jax.eval_shape(partial(_check_member, plan), given, carry)
    stretches = np.stack([(0, *recorded[:-1]), recorded], axis=1).astype(np.int32)
    if on_progress is None:
        networks, updates, tested = _train(plan, given, carry, held_out_key, stretches)
    else:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((given, carry, held_out_key))):
            advice = "leave it out under jit and vmap"
            refuse("on_progress", "a function", "None in a traced call", advice, error=TypeError)
        members, state = _start(plan, given, carry)
        parts = []
        for stretch in stretches:
            state, part = _go_on(plan, members, carry, held_out_key, state, stretch)
            parts.append(jax.block_until_ready(part))
            on_progress(int(stretch[1]), num_updates)
        parts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        networks, updates, tested = _finish(plan, state, parts)
    (validation, test), by_lag = tested
    # A constant, so that `history.until` knows it under jit, too.
    made = np.broadcast_to(np.array(recorded, np.int32), (*plan.axes, len(recorded)))
    return networks, TrainingHistory(
        loss=updates.loss,
        gradient_norm=updates.gradient_norm,
        update_norm=updates.update_norm,
        records=Records(
            num_updates=made,
            validation_skill=validation[0],
            validation_loss=validation[1],
            test_skill=test[0],
            test_loss=test[1],
            gradient_norm_by_lag=by_lag,
        ),
        baseline_loss=np.full(plan.axes, task.baseline_loss, updates.loss.dtype),
    )


@partial(jax.jit, static_argnames="plan")
def _train(plan, given, carry, held_out_key, stretches):
    members, state = _start(plan, given, carry)

    def go_on(state, stretch):
        return _go_on(plan, members, carry, held_out_key, state, stretch)

    return _finish(plan, *lax.scan(go_on, state, stretches))


@partial(jax.jit, static_argnames="plan")
def _start(plan, given, carry):
    """Return what tells networks apart, in a row, and all networks before their first update."""

    def in_a_row(leaf, num_axes):
        own = leaf.shape[num_axes:]
        aligned = leaf.reshape((1,) * (len(plan.axes) - num_axes) + leaf.shape)
        return jnp.broadcast_to(aligned, plan.axes + own).reshape(-1, *own)

    def in_float(leaf):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jax.tree.leaves(carry)[0].dtype) if is_float else leaf

    members = _Members(
        jax.tree.map(lambda leaf: in_a_row(leaf, given.key.ndim), given.recurrence),
        in_a_row(given.key, given.key.ndim),
        jax.tree.map(lambda leaf: in_a_row(in_float(leaf), leaf.ndim), given.hyperparameters),
    )

    def start_one(member):
        optimizer = plan.optimizer_of(member)
        state = start(plan.task, member.recurrence, carry, optimizer, key=member.key)
        room = jnp.zeros(plan.num_updates, state.network.kernel.dtype)
        return state, Updates(room, room, room)

    return members, _for_each(start_one, members)


@partial(jax.jit, static_argnames="plan")
def _go_on(plan, members, carry, held_out_key, state, stretch):
    """Make the updates from one number of them to another, and test all networks."""
    validation, test = (
        plan.task.sample_held_out(held_out_key, plan.held_out_size, split)
        for split in ("validation", "test")
    )
    some = jax.tree.map(lambda leaf: leaf[: plan.batch_size], validation)

    def of_one(member, state):
        optimizer = plan.optimizer_of(member)

        def update_one(number, carried):
            state, updates = carried
            state, now = update(
                state,
                carry,
                plan.task,
                optimizer,
                batch_size=plan.batch_size,
                penalty=plan.penalty,
            )
            write = partial(lax.dynamic_update_index_in_dim, index=number, axis=0)
            return state, jax.tree.map(write, updates, now)

        state, updates = lax.fori_loop(stretch[0], stretch[1], update_one, state)
        network = network_of(state)
        scores = tuple(
            evaluate(network, carry, plan.task, held_out, num_at_once=plan.batch_size)
            for held_out in (validation, test)
        )
        by_lag = lag_norms(network, carry, plan.task, some) if plan.gradients_by_lag else None
        return (state, updates), (scores, by_lag)

    return _for_each(of_one, members, state)


@partial(jax.jit, static_argnames="plan")
def _finish(plan, state, parts):
    """Return networks and records with the axes of the ensemble in front."""
    state, updates = state
    scores, by_lag = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), parts)
    if by_lag is None:
        shape = (len(updates.loss), 0, plan.task.num_steps + 1)
        by_lag = jnp.zeros(shape, updates.loss.dtype)
    return jax.tree.map(
        lambda leaf: leaf.reshape(*plan.axes, *leaf.shape[1:]),
        (_for_each(network_of, state), updates, (scores, by_lag)),
    )


def _for_each(function, *trees):
    """Map a function over networks. One network alone is no batch, which would take longer."""
    if len(jax.tree.leaves(trees)[0]) > 1:
        return jax.vmap(function)(*trees)
    result = function(*jax.tree.map(lambda leaf: leaf[0], trees))
    return jax.tree.map(lambda leaf: leaf[None], result)


def _recorded(records, num_updates):
    """Return the numbers of updates after which networks are tested, in order."""
    if not isinstance(records, Sequence):
        advice = "no more intervals than updates"
        check_count("records", records, least=1, most=num_updates, advice=advice)
        return tuple(num_updates * i // records for i in range(records + 1))
    for number in records:
        check_count("records", number, least=0, most=num_updates, advice="numbers of updates")
    return tuple(sorted({0, *map(int, records), num_updates}))


def _axes_of(given):
    """Return the axes of the ensemble, to which those of all arrays broadcast."""
    shapes = {"key": given.key.shape}
    for path, leaf in jax.tree_util.tree_leaves_with_path(given.recurrence):
        name = f"recurrence{jax.tree_util.keystr(path)}"
        shapes[name] = leaf.shape[: given.key.ndim]
        if leaf.ndim < given.key.ndim:
            expected = f"the {given.key.ndim} axes of key first"
            refuse(name, f"shape {leaf.shape}", expected, "stack networks, or pass one key")
    for path, leaf in jax.tree_util.tree_leaves_with_path(given.hyperparameters):
        shapes[f"hyperparameters{jax.tree_util.keystr(path)}"] = leaf.shape
    axes = ()
    for name, shape in shapes.items():
        try:
            axes = np.broadcast_shapes(axes, shape)
        except ValueError:
            expected = f"axes that broadcast with {axes}"
            refuse(name, f"axes {shape}", expected, "an axis of size 1 fits any other")
    if 0 in axes:
        refuse("key", f"shape {given.key.shape}", "at least one network")
    return axes


def _check_member(plan, given, carry):
    """Raise unless a network fits the task, and the optimiser is one."""
    xs = jax.eval_shape(lambda key: plan.task.sample(key, 1).xs[0], jax.random.key(0))
    recurrence = jax.tree.map(lambda leaf: leaf[(0,) * given.key.ndim], given.recurrence)
    bind(recurrence, carry, jnp.zeros(xs.shape, xs.dtype))
    kind = "an optax transformation"
    if given.hyperparameters is None:
        advice = "a function to one goes with hyperparameters"
        check_type("optimizer", plan.optimizer, Optimizer, kind, advice)
        return
    expected = f"a function from hyperparameters to {kind}"
    check_type("optimizer", plan.optimizer, Callable, expected, "such as optax.adam")
    one = jax.tree.map(lambda leaf: leaf[(0,) * leaf.ndim], given.hyperparameters)
    check_type("optimizer(hyperparameters)", plan.optimizer(one), Optimizer, kind)

"""What a training recorded, what it would have recorded on a smaller budget, and the best of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.checks import check_count, refuse
from jacobian_rnn.jacobians.gradients import state_gradients
from jacobian_rnn.linalg.graded_svd import scaled_norm
from jacobian_rnn.training.network import Network, loss_of_states


class Records(NamedTuple):
    """How networks did on held-out data, after chosen numbers of updates.

    The axes of the ensemble come first in every array, here written `...`.

    Attributes:
        num_updates: `(..., records)`, how many updates had been made: 0, …, all.
        validation_skill, validation_loss: `(..., records)`, on validation data.
        test_skill, test_loss: `(..., records)`, on other data.
        gradient_norm_by_lag: `(..., records, T + 1)`: root mean square over sequences of
            ‖∂loss/∂states[T − lag]‖, for lag = 0 … T, by plain backpropagation. It is
            `(..., 0, T + 1)` where gradients by lag were not asked for.
    """

    num_updates: Int[Array | np.ndarray, "*axes records"]
    validation_skill: Float[Array, "*axes records"]
    validation_loss: Float[Array, "*axes records"]
    test_skill: Float[Array, "*axes records"]
    test_loss: Float[Array, "*axes records"]
    gradient_norm_by_lag: Float[Array, "*axes lag_records lags"]


class TrainingHistory(NamedTuple):
    """The record of training one network, or an ensemble of them.

    The axes of the ensemble come first in every array, here written `...`. One network has none,
    and `jax.tree.map(lambda leaf: leaf[index], history)` is the history of one of many.

    Attributes:
        loss: `(..., updates)`, of each training batch, before its update and without a penalty.
        gradient_norm: `(..., updates)`, norm of the parameter gradient, before clipping.
        update_norm: `(..., updates)`, norm of the change of the parameters.
        records: what held-out data showed after chosen numbers of updates.
        baseline_loss: `(...)`, loss of the trivial baseline.
    """

    loss: Float[Array, "*axes updates"]
    gradient_norm: Float[Array, "*axes updates"]
    update_norm: Float[Array, "*axes updates"]
    records: Records
    baseline_loss: Float[Array | np.ndarray, "*axes"]

    @property
    def validation_skill(self) -> Float[Array, "*axes"]:
        """Skill on validation data at the end."""
        return self.records.validation_skill[..., -1]

    @property
    def validation_loss(self) -> Float[Array, "*axes"]:
        """Loss on validation data at the end."""
        return self.records.validation_loss[..., -1]

    @property
    def test_skill(self) -> Float[Array, "*axes"]:
        """Skill on test data at the end."""
        return self.records.test_skill[..., -1]

    @property
    def test_loss(self) -> Float[Array, "*axes"]:
        """Loss on test data at the end."""
        return self.records.test_loss[..., -1]

    def until(self, num_updates: int) -> "TrainingHistory":
        """Return the history of the same training on a smaller budget.

        Args:
            num_updates: a recorded number of updates, above 0. Static.

        Raises:
            ValueError: a number that is not recorded.
            TypeError: no int.
        """
        check_count("num_updates", num_updates, least=1)
        recorded = np.asarray(self.records.num_updates)
        recorded = recorded.reshape(-1, recorded.shape[-1])[0].tolist()
        if num_updates not in recorded:
            advice = "ask for it in `records` when you train"
            refuse("num_updates", num_updates, f"one of the recorded {recorded}", advice)
        number = recorded.index(num_updates) + 1
        by_lag = self.records.gradient_norm_by_lag[..., :number, :]
        scores = self.records._replace(gradient_norm_by_lag=None)
        records = jax.tree.map(lambda leaf: leaf[..., :number], scores)
        return self._replace(
            loss=self.loss[..., :num_updates],
            gradient_norm=self.gradient_norm[..., :num_updates],
            update_norm=self.update_norm[..., :num_updates],
            records=records._replace(gradient_norm_by_lag=by_lag),
        )


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
        loss = loss_of_states(network, carry, task, targets)
        return jax.vmap(scaled_norm)(state_gradients(network.recurrence, carry, xs, loss))

    norms = jax.vmap(of_sequence)(*batch)
    return jax.vmap(scaled_norm, in_axes=1)(norms / len(norms) ** 0.5)[::-1]


def best_index(history: TrainingHistory, *, axis: int) -> Int[Array, "*axes"]:
    """Find the best of the networks along one axis of an ensemble, such as that of learning rates.

    The best one has the highest validation skill at the end. Of equal skills the lower validation
    loss counts. What is NaN comes last.

    Args:
        history: of an ensemble. Give `history.until(num_updates)` to choose on a smaller budget.
        axis: one of the ensemble's axes. A negative one counts from the last of them. Static.

    Returns:
        Indices along that axis, int32, with the other axes of the ensemble.

    Raises:
        ValueError: an axis that the ensemble does not have.

    Example:
        >>> import numpy as np
        >>> from jacobian_rnn.training import Records, TrainingHistory
        >>> skill, loss = np.array([[0.5], [0.9], [0.9]]), np.array([[0.7], [0.2], [0.1]])
        >>> records = Records(np.full((3, 1), 10), skill, loss, skill, loss, np.zeros((3, 0, 5)))
        >>> blank = np.ones((3, 10))
        >>> history = TrainingHistory(blank, blank, blank, records, np.ones(3))
        >>> best = best_index(history, axis=-1)
        >>> print(best, take_along(history, best, axis=-1).test_loss)
        2 0.1
    """
    skill, loss = jnp.asarray(history.validation_skill), jnp.asarray(history.validation_loss)
    axis = _counted(axis, skill.ndim)
    skill = jnp.where(jnp.isnan(skill), -jnp.inf, skill)
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    order = jnp.lexsort((loss, -skill), axis=axis)
    return jnp.take(order, 0, axis=axis).astype(jnp.int32)


def take_along(tree: PyTree, index: Int[Array, "*axes"], *, axis: int) -> PyTree:
    """Take one network along an axis of an ensemble, where the index may differ along the others.

    Args:
        tree: histories, networks or what else has the axes of the ensemble first in every array.
        index: which one to take, with the other axes of the ensemble, as from `best_index`.
        axis: the axis that goes. A negative one counts from the last of the ensemble's. Static.

    Returns:
        The tree without that axis.

    Raises:
        ValueError: an axis that the ensemble does not have.
    """
    num_axes = jnp.ndim(index) + 1
    axis = _counted(axis, num_axes)

    def take(leaf):
        places = jnp.expand_dims(index, (axis, *range(num_axes, leaf.ndim)))
        return jnp.take_along_axis(leaf, places, axis=axis).squeeze(axis)

    return jax.tree.map(take, jax.tree.map(jnp.asarray, tree))


def _counted(axis: int, num_axes: int) -> int:
    check_count("axis", axis, -num_axes, num_axes - 1, "an axis of the ensemble")
    return axis % num_axes

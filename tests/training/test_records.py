import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jacobian_rnn import Recurrence, jacobian_product, tasks, training
from jacobian_rnn.training import Records, TrainingHistory
from tests.networks import mostly_slow
from tests.training.trainings import network, recall


@pytest.mark.parametrize(
    "cell_class", mostly_slow([nn.SimpleCell, nn.GRUCell, nn.LSTMCell], [nn.GRUCell])
)
def test_lag_norms_before_training_equal_the_adjoint_growth_of_the_product(cell_class):
    task = recall(12)
    recurrence, carry = network(cell_class, task)
    key, optimizer = jax.random.key(2), optax.sgd(0.0)
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=optimizer,
        key=key,
        num_updates=1,
        batch_size=3,
        records=1,
        gradients_by_lag=True,
        held_out_size=4,
    )
    # The same sequences and readout, drawn as `train` draws them.
    xs, targets = task.sample_held_out(jax.random.key(0), 4, "validation")
    net = training.start(task, recurrence, carry, optimizer, key=key).network
    unravel = ravel_pytree(carry)[1]
    lags = (0, 1, 5, 12)
    squares = []
    for one, target in zip(xs[:3], targets[:3], strict=True):

        def loss_of_last(last, target=target):
            output = jax.tree.leaves(unravel(last))[-1]
            predicted = (output @ net.kernel + net.bias)[None, None]
            return tasks.loss(task, predicted, target[None])[0]

        states = jnp.concatenate([ravel_pytree(carry)[0][None], _states(recurrence, carry, one)])
        cotangent = jax.grad(loss_of_last)(states[-1])
        products = [
            jacobian_product(
                recurrence, unravel(states[13 - lag]), one[13 - lag :], estimate_error=False
            )
            for lag in lags
        ]
        growth = jnp.exp(jnp.stack([product.log_adjoint_growth(cotangent) for product in products]))
        squares.append((growth * jnp.linalg.norm(cotangent)) ** 2)
    expected = np.sqrt(np.mean(squares, axis=0))
    by_lag = history.records.gradient_norm_by_lag
    np.testing.assert_allclose(by_lag[0, lags], expected, rtol=1e-10)


def _states(recurrence, carry, xs):
    states = []
    for x in xs:
        carry = recurrence.step(recurrence.params, carry, x)
        states.append(ravel_pytree(carry)[0])
    return jnp.stack(states)


@pytest.mark.parametrize("gain", [10.0, 0.1])
def test_recorded_norms_are_not_squared_out_of_range(gain):
    def step(params, state, x):
        return params * state + x.sum()

    with jax.enable_x64(False):
        task, zero = tasks.delayed_recall(29), jnp.zeros(3, jnp.float32)
        system = Recurrence(step, jnp.asarray(gain, jnp.float32))
        state = training.start(task, system, zero, optax.sgd(1e-3), key=jax.random.key(0))
        # A small readout keeps the answers, and so their gradient, out of saturation.
        state = state._replace(
            network=state.network._replace(kernel=state.network.kernel * gain**-31)
        )
        batch = task.sample(jax.random.key(1), 4)
        norms = training.lag_norms(state.network, zero, task, batch)
        _, record = training.advance(
            state, zero, task, optax.sgd(1e-3), num_updates=1, batch_size=4
        )
        last = norms[0].astype(float)
    expected = float(last) * gain ** np.arange(31.0)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    assert np.isfinite(record.gradient_norm[0])
    np.testing.assert_allclose(record.update_norm, 1e-3 * record.gradient_norm, rtol=1e-5)


def history_of(skill, loss):
    """Make a history with given validation scores, whose test loss numbers the networks."""
    skill, loss = (np.asarray(scores, float)[..., None] for scores in (skill, loss))
    numbers = np.arange(skill.size, dtype=float).reshape(skill.shape)
    records = Records(
        np.full(skill.shape, 5), skill, loss, skill, numbers, np.zeros((*skill.shape[:-1], 0, 4))
    )
    blank = np.zeros((*skill.shape[:-1], 5))
    return TrainingHistory(blank, blank, blank, records, blank[..., 0])


def test_the_best_has_the_highest_skill_then_the_lowest_loss_and_nan_comes_last():
    skill = [[0.1, 0.3, 0.2], [0.4, 0.4, 0.4], [np.nan, -1.0, np.nan], [np.nan] * 3]
    loss = [[0.0, 9.0, 0.0], [np.nan, 0.2, 0.1], [0.0, np.inf, 0.0], [0.2, np.nan, 0.1]]
    history = history_of(skill, loss)
    best = training.best_index(history, axis=1)
    assert best.tolist() == [1, 2, 1, 2]
    chosen = training.take_along(history, best, axis=1)
    assert chosen.test_loss.tolist() == [1, 5, 7, 11]
    assert chosen.loss.shape == (4, 5)
    assert chosen.records.gradient_norm_by_lag.shape == (4, 0, 4)
    np.testing.assert_array_equal(chosen.validation_skill, [0.3, 0.4, -1, np.nan])


def test_the_best_along_any_axis_is_the_best_of_each_line():
    generator = np.random.default_rng(0)
    history = history_of(generator.integers(0, 3, (2, 4, 3)), generator.uniform(size=(2, 4, 3)))
    for axis in (0, 1, -1):
        best = training.best_index(history, axis=axis)
        chosen = training.take_along(history, best, axis=axis)
        skill, loss, numbers = (
            np.moveaxis(part[..., 0], axis, -1)
            for part in (*history.records[1:3], history.records.test_loss)
        )
        for index in np.ndindex(best.shape):
            expected = min(range(skill.shape[-1]), key=lambda i: (-skill[index][i], loss[index][i]))
            assert best[index] == expected
            assert chosen.test_loss[index] == numbers[index][expected]
    for axis in (3, -4):
        with pytest.raises(ValueError, match=f"axis: received {axis}, expected -3 to 2"):
            training.best_index(history, axis=axis)
    with pytest.raises(ValueError, match="axis: received 1"):
        training.take_along(history, jnp.int32(0), axis=1)

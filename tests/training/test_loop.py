from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    Outcome,
    Recurrence,
    from_linen,
    jacobian_product,
    observe_regime,
    tasks,
    training,
)
from tests.networks import mostly_slow, random_variables

CELLS = [nn.SimpleCell, nn.GRUCell, nn.LSTMCell]


def network(cell_class, task, width=6):
    cell = cell_class(width, param_dtype=jnp.float64)
    carry = cell.initialize_carry(jax.random.key(0), (task.input_size,))
    variables = random_variables(cell, carry, jnp.zeros(task.input_size))
    return from_linen(cell, variables), carry


def recall(delay):
    return tasks.delayed_recall(delay, dtype=jnp.float64)


@pytest.mark.parametrize("cell_class", mostly_slow(CELLS, [nn.GRUCell]))
def test_lag_norms_before_training_equal_the_adjoint_gain_of_the_product(cell_class):
    task = recall(12)
    recurrence, carry = network(cell_class, task)
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=optax.sgd(0.0),
        key=jax.random.key(2),
        num_updates=1,
        batch_size=3,
        num_records=1,
        held_out_size=4,
    )
    # The same batch and readout, drawn as `train` draws them.
    key, lag_key, _, _ = jax.random.split(jax.random.key(2), 4)
    batch = task.sample(lag_key, 3)
    state = training.start(task, recurrence, carry, optax.sgd(0.0), key=key)
    lags = (0, 1, 5, 12)
    squares = []
    for xs, target in zip(*batch, strict=True):

        def loss_of_last(last, target=target):
            predicted = training.predictions(state.network, carry, last[None], 1)
            return tasks.loss(task, predicted[None], target[None])[0]

        states = jnp.concatenate([ravel_pytree(carry)[0][None], _states(recurrence, carry, xs)])
        cotangent = jax.grad(loss_of_last)(states[-1])
        unravel = ravel_pytree(carry)[1]
        products = [
            jacobian_product(
                recurrence, unravel(states[13 - lag]), xs[13 - lag :], estimate_error=False
            )
            for lag in lags
        ]
        gains = jnp.exp(jnp.stack([product.log_adjoint_growth(cotangent) for product in products]))
        squares.append((gains * jnp.linalg.norm(cotangent)) ** 2)
    expected = np.sqrt(np.mean(squares, axis=0))
    np.testing.assert_allclose(history.gradient_norm_by_lag[0, lags], expected, rtol=1e-10)


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


def _states(recurrence, carry, xs):
    states = []
    for x in xs:
        carry = recurrence.step(recurrence.params, carry, x)
        states.append(ravel_pytree(carry)[0])
    return jnp.stack(states)


def test_a_gru_learns_to_recall_and_is_observed_to():
    task = recall(4)
    recurrence, carry = network(nn.GRUCell, task, width=16)
    calls = []
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=optax.adam(0.01),
        key=jax.random.key(0),
        num_updates=250,
        num_records=5,
        on_progress=lambda *now: calls.append(now),
    )
    assert observe_regime(history).outcome == Outcome.LEARNED
    assert history.validation_skill[0] < 0.3 < history.validation_skill[-1]
    assert history.loss.shape == history.gradient_norm.shape == (250,)
    assert history.gradient_norm_by_lag.shape == (5, 6)
    assert calls == [(50, 250), (100, 250), (150, 250), (200, 250), (250, 250)]
    assert history.lag_updates.tolist() == [0, 50, 100, 150, 200]


@pytest.mark.slow
def test_divergence_is_recorded_and_not_raised():
    task = tasks.adding(8, dtype=jnp.float64)
    recurrence, carry = network(nn.SimpleCell, task)
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=optax.sgd(1e200),
        key=jax.random.key(0),
        num_updates=20,
        num_records=2,
        held_out_size=8,
    )
    assert not np.isfinite(history.loss).all()
    assert observe_regime(history).outcome == Outcome.DIVERGED


def test_gradient_norms_are_recorded_before_clipping_and_updates_after():
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    _, history = training.train(
        task,
        recurrence,
        carry,
        optimizer=clipped,
        key=jax.random.key(0),
        num_updates=3,
        num_records=1,
        held_out_size=4,
    )
    assert np.all(history.gradient_norm > 0.01)
    np.testing.assert_allclose(history.update_norm, 1e-3, rtol=1e-9)


@pytest.mark.slow
def test_first_recorded_gradient_is_that_of_the_mean_loss_by_finite_differences():
    task = recall(3)
    recurrence, carry = network(nn.GRUCell, task, width=3)
    state = training.start(task, recurrence, carry, optax.sgd(1.0), key=jax.random.key(5))
    batch_key = jax.random.split(state.key)[1]
    batch = task.sample(batch_key, 7)
    new, record = training.advance(state, carry, task, optax.sgd(1.0), num_updates=1, batch_size=7)
    flat, unravel = ravel_pytree(state.network)

    def mean_loss(vector):
        return training.evaluate(unravel(vector), carry, task, batch)[1]

    moved = ravel_pytree(new.network)[0] - flat  # minus the gradient
    direction = jnp.cos(jnp.arange(flat.size))
    slope = (mean_loss(flat + 1e-6 * direction) - mean_loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(-moved @ direction, slope, rtol=1e-7)
    np.testing.assert_allclose(record.gradient_norm[0], jnp.linalg.norm(moved), rtol=1e-12)


def test_the_same_key_gives_the_same_numbers_and_a_second_run_compiles_nothing():
    task, optimizer = recall(3), optax.adam(0.01)
    recurrence, carry = network(nn.SimpleCell, task)

    def once(key):
        return training.train(
            task,
            recurrence,
            carry,
            optimizer=optimizer,
            key=jax.random.key(key),
            num_updates=4,
            num_records=2,
            held_out_size=4,
        )[1]

    first = once(0)
    compiled = num_compiled()
    for one, other in zip(first, once(0), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.loss, once(1).loss)
    assert num_compiled() == compiled


def num_compiled():
    return training.loop._advance._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def test_training_takes_many_networks_under_vmap():
    task, optimizer = recall(3), optax.sgd(0.1)
    recurrence, carry = network(nn.SimpleCell, task)
    both = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), recurrence)

    def run(one):
        state = training.start(task, one, carry, optimizer, key=jax.random.key(3))
        return training.advance(state, carry, task, optimizer, num_updates=3, batch_size=4)[1].loss

    together = jax.vmap(run)(both)
    alone = run(recurrence)
    np.testing.assert_allclose(together[0], alone, rtol=1e-12)


@pytest.mark.parametrize("name", ["num_updates", "batch_size", "num_records", "held_out_size"])
def test_counts_below_one_are_refused(name):
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    options: dict[str, Any] = {"num_updates": 2, "num_records": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name}: received 0"):
        training.train(
            task, recurrence, carry, optimizer=optax.sgd(0.1), key=jax.random.key(0), **options
        )


def test_more_records_than_updates_are_refused():
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    with pytest.raises(ValueError, match="num_records: received 5, expected 1 to 2"):
        training.train(
            task,
            recurrence,
            carry,
            optimizer=optax.sgd(0.1),
            key=jax.random.key(0),
            num_updates=2,
            num_records=5,
        )


def test_a_network_for_other_inputs_is_refused_before_training():
    recurrence, carry = network(nn.SimpleCell, tasks.adding(8, dtype=jnp.float64))
    with pytest.raises(ValueError, match="step: failed for carry"):
        training.train(
            recall(3),
            recurrence,
            carry,
            optimizer=optax.sgd(0.1),
            key=jax.random.key(0),
            num_updates=2,
            num_records=1,
        )

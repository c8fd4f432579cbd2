import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import tasks, training, treatments
from tests.networks import make_network, normal
from tests.training.trainings import network, recall


def linear(matrix, h, x):
    return matrix @ h + 0 * x[0]


def test_flossing_adds_up_squares_of_the_first_exponents_of_benettins_method():
    recurrence, carry, xs = make_network("SimpleCell", 4)
    frame = np.linalg.qr(np.asarray(normal(3, (4, 4))))[0]
    logs = []
    for _ in range(2):  # the frame of a second round has settled, as the library's fixed one has
        logs = []
        for jacobian in np.asarray(jrnn.step_jacobians(recurrence, carry, xs)):
            frame, r = np.linalg.qr(jacobian @ frame)
            logs.append(np.log(np.abs(np.diagonal(r))))
    # All exponents together do not depend on the frame.
    found = jrnn.lyapunov_spectrum(recurrence, carry, xs, qr_every=1).exponents
    np.testing.assert_allclose(found.sum(), np.mean(logs, axis=0).sum(), rtol=1e-9)
    loss = treatments.squared_exponents(recurrence, carry, xs, num_exponents=2)
    np.testing.assert_allclose(loss, np.sum(np.asarray(found)[:2] ** 2), rtol=1e-9)


@pytest.mark.parametrize("rate", [0.9, 1.2])
def test_flossing_of_a_scaled_rotation_has_its_closed_form_and_derivative(rate):
    rotation = jnp.array([[0.6, -0.8], [0.8, 0.6]])

    def loss(scale):
        system = jrnn.Recurrence(linear, scale * rotation)
        return treatments.squared_exponents(
            system, jnp.ones(2), jnp.zeros((30, 1)), num_exponents=2
        )

    value, slope = jax.value_and_grad(loss)(jnp.asarray(rate))
    np.testing.assert_allclose(value, 2 * np.log(rate) ** 2, rtol=1e-10)
    np.testing.assert_allclose(slope, 4 * np.log(rate) / rate, rtol=1e-8)


def by_hand(jacobians_of, params, gradients):
    """Add up Pascanu's terms: `gradients[t]` is ∂E/∂states[t], taken for constant."""
    total = 0.0
    for jacobian, gradient in zip(jacobians_of(params), gradients[1:], strict=True):
        total += (jnp.linalg.norm(gradient @ jacobian) / jnp.linalg.norm(gradient) - 1) ** 2
    return total


@pytest.mark.parametrize("cell", ["SimpleCell", "LSTMCell"])
def test_norm_deviation_and_its_immediate_derivative_are_those_of_the_paper(cell):
    recurrence, carry, xs = make_network(cell, 3)

    def loss(states):
        return jnp.sum(states[-1] ** 2) + jnp.sum(jnp.sin(states[5]))  # seen at two times

    states = jrnn.trajectory(recurrence, carry, xs)
    gradients = jrnn.state_gradients(recurrence, carry, xs, loss)
    unravel = jax.flatten_util.ravel_pytree(carry)[1]

    def jacobians_of(params):
        def jacobian(state, x):
            def step(state):
                new = recurrence.step(params, unravel(state), x)
                return jax.flatten_util.ravel_pytree(new)[0]

            return jax.jacrev(step)(state)

        return jax.vmap(jacobian)(states[:-1], xs)

    def ours(params):
        system = dataclasses.replace(recurrence, params=params)
        return treatments.norm_deviation(system, carry, xs, loss)

    value, gradient = jax.value_and_grad(ours)(recurrence.params)
    expected = jax.value_and_grad(lambda params: by_hand(jacobians_of, params, gradients))
    expected_value, expected_gradient = expected(recurrence.params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        gradient,
        expected_gradient,
    )


def test_norm_deviation_underflows_nowhere_and_asks_nothing_before_a_loss_is_seen():
    system = jrnn.Recurrence(linear, 1e-3 * jnp.eye(2))
    for num_steps, at in ((400, -1), (400, 100)):

        def loss(states, at=at):
            return states[at].sum()

        xs = jnp.zeros((num_steps, 1))
        found = treatments.norm_deviation(system, jnp.ones(2), xs, loss)
        num_seen = num_steps if at == -1 else at
        np.testing.assert_allclose(found, num_seen * 0.999**2, rtol=1e-12)
    orthogonal = jrnn.Recurrence(linear, jnp.array([[0.6, -0.8], [0.8, 0.6]]))
    found = treatments.norm_deviation(
        orthogonal, jnp.ones(2), jnp.zeros((50, 1)), lambda states: states[-1].sum()
    )
    np.testing.assert_allclose(found, 0, atol=1e-25)


def test_norm_deviation_sees_the_direction_of_the_gradient_alone():
    system = jrnn.Recurrence(linear, jnp.diag(jnp.array([1.0, 5.0])))
    xs = jnp.zeros((10, 1))
    for axis, expected in ((0, 0.0), (1, 10 * 4.0**2)):
        found = treatments.norm_deviation(
            system, jnp.ones(2), xs, lambda states, axis=axis: states[-1, axis]
        )
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["flossing", "norm"])
def test_as_a_penalty_of_training_it_gets_smaller_and_the_recorded_loss_is_without_it(kind):
    task = recall(6)
    recurrence, carry = network(nn.SimpleCell, task)
    batch = task.sample_held_out(jax.random.key(5), 8, "test")

    def penalty_of(weight):
        if kind == "norm":
            return treatments.norm_penalty(carry, task, weight=weight)
        return treatments.flossing_penalty(
            carry, num_exponents=3, weight=weight, num_warmup=1, num_sequences=8
        )

    def trained(penalty):
        net, history = training.train(
            task,
            recurrence,
            carry,
            optimizer=optax.adam(0.01),
            key=jax.random.key(0),
            num_updates=60,
            batch_size=8,
            records=1,
            penalty=penalty,
        )
        return penalty_of(1.0)(net, batch), history

    without, plain = trained(None)
    with_it, history = trained(penalty_of(5.0))
    assert with_it < 0.5 * without
    np.testing.assert_allclose(history.loss[0], plain.loss[0], rtol=1e-9)
    # Weight times the mean over sequences.
    net = training.start(task, recurrence, carry, optax.sgd(1.0), key=jax.random.key(1)).network
    np.testing.assert_allclose(penalty_of(3.0)(net, batch), 3 * penalty_of(1.0)(net, batch))
    if kind == "flossing":
        each = [
            treatments.squared_exponents(recurrence, carry, xs, num_exponents=3, num_warmup=1)
            for xs in batch.xs
        ]
    else:
        each = [
            treatments.norm_deviation(
                recurrence, carry, xs, training.loss_of_states(net, carry, task, targets)
            )
            for xs, targets in zip(*batch, strict=True)
        ]
    np.testing.assert_allclose(penalty_of(1.0)(net, batch), np.mean(each), rtol=1e-9)


def test_what_does_not_fit_is_refused():
    recurrence, carry, xs = make_network("SimpleCell", 3)
    with pytest.raises(ValueError, match="num_exponents"):
        treatments.squared_exponents(recurrence, carry, xs, num_exponents=4)
    with pytest.raises(TypeError, match="loss: received one that returns"):
        treatments.norm_deviation(recurrence, carry, xs, lambda states: states[-1])
    with pytest.raises(ValueError, match="weight: received -1"):
        treatments.norm_penalty(carry, tasks.delayed_recall(3), weight=-1)
    with pytest.raises(ValueError, match="num_exponents: received 0"):
        treatments.flossing_penalty(carry, num_exponents=0, weight=1.0)

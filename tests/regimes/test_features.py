"""Tests of what is measured before training, against closed forms and plain differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Ridge

from jacobian_rnn import Recurrence, tasks
from jacobian_rnn.regimes import (
    LearningFeatures,
    answer_separation,
    first_update,
    gradient_signal,
    learning_features,
    memory_share,
)
from jacobian_rnn.regimes.separation import RIDGE
from jacobian_rnn.tasks import Batch
from jacobian_rnn.training import Network, apply
from tests.networks import normal

NUM_STEPS = 12


def linear(params, carry, x):
    """Forget by a matrix, and take in by another."""
    return params["a"] @ carry + params["b"] @ x


def tanh(params, carry, x):
    return jnp.tanh(params["a"] @ carry + params["b"] @ x)


def copy(params, carry, x):
    """Show the last input alone."""
    del carry
    return params * x


def recurrence_of(step, *, num_units=3, num_inputs=2, gain=0.9):
    a = gain * np.linalg.qr(normal(0, (num_units, num_units)))[0]
    return Recurrence(
        step, {"a": jnp.asarray(a), "b": jnp.asarray(normal(1, (num_units, num_inputs)))}
    )


def network_of(recurrence, num_outputs=1):
    kernel = jnp.asarray(normal(2, (3, num_outputs)))
    return Network(recurrence, kernel, jnp.asarray(normal(3, num_outputs)))


def batch_of(size=40):
    xs = jnp.asarray(normal(4, (size, NUM_STEPS, 2)))
    return Batch(xs, xs[:, :1, :1] + 0.1 * jnp.asarray(normal(5, (size, 1, 1))))


def loss_of_sequence(network, xs, target):
    state = jnp.zeros(3)
    for x in xs:
        state = network.recurrence.step(network.recurrence.params, state, x)
    return jnp.mean((state @ network.kernel + network.bias - target[-1]) ** 2)


def test_gradient_noise_is_the_spread_of_gradients_of_single_sequences():
    network, batch = network_of(recurrence_of(tanh)), batch_of()
    task = tasks.task_of(batch, horizon=NUM_STEPS)
    found = gradient_signal(network, jnp.zeros(3), task, batch, far=0)

    def gradient(xs, target):
        def loss(params):
            recurrence = Recurrence(tanh, params)
            return loss_of_sequence(network._replace(recurrence=recurrence), xs, target)

        leaves = jax.tree.leaves(jax.grad(loss)(network.recurrence.params))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    every = np.asarray(jax.vmap(gradient)(*batch))
    mean = every.mean(0)
    variance = ((every - mean) ** 2).sum() / (len(every) - 1)
    assert float(found.total_noise) == pytest.approx(np.log(variance) / 2, abs=1e-9)
    # All lags are far, so that the signal is that of the whole gradient.
    signal = np.log(mean @ mean - variance / len(every)) / 2
    assert float(found.far_signal) == pytest.approx(signal, abs=1e-9)


def test_the_share_of_a_lag_is_what_the_step_at_that_lag_adds():
    decay, batch = 0.8, batch_of()
    recurrence = Recurrence(lambda p, c, x: decay * c + p * x[:1], jnp.asarray(0.7))
    network = Network(recurrence, jnp.asarray([[1.5]]), jnp.asarray([0.2]))
    task = tasks.task_of(batch, horizon=NUM_STEPS)
    found = gradient_signal(network, jnp.zeros(1), task, batch, far=NUM_STEPS - 1)
    inputs, targets = np.asarray(batch.xs[:, ::-1, 0]), np.asarray(batch.targets[:, 0, 0])
    weights = decay ** np.arange(NUM_STEPS)
    error = 1.5 * 0.7 * inputs @ weights + 0.2 - targets
    shares = 2 * error[:, None] * 1.5 * weights * inputs
    np.testing.assert_allclose(found.signal, np.log(np.abs(shares.mean(0))), rtol=1e-9)
    np.testing.assert_allclose(found.noise, np.log(shares.std(0, ddof=1)), rtol=1e-9)


def test_a_signal_that_chance_explains_is_no_more_than_a_tenth_of_its_error():
    batch = batch_of()._replace(targets=jnp.asarray(normal(9, (40, 1, 1))))
    network = network_of(recurrence_of(tanh, gain=1e-9))
    task = tasks.task_of(batch, horizon=NUM_STEPS)
    found = gradient_signal(network, jnp.zeros(3), task, batch, far=NUM_STEPS - 1)
    assert float(found.log_ratio) < -15 * (NUM_STEPS - 2)


def test_memory_is_the_power_of_each_input_in_the_output():
    recurrence, xs = recurrence_of(linear), batch_of().xs
    found = memory_share(recurrence, jnp.zeros(3), xs, far=7, key=jax.random.key(0))
    a, b = (np.asarray(recurrence.params[name]) for name in "ab")
    moved = np.asarray(xs - xs.mean(0)[None])[:, ::-1]
    power = []
    for lag in range(NUM_STEPS):
        answer = moved[:, lag] @ (np.linalg.matrix_power(a, lag) @ b).T
        power.append(np.mean(answer**2))
    np.testing.assert_allclose(found.log_power, np.log(power), rtol=1e-9)
    share = np.log(sum(power[7:]) / sum(power)) / 2
    assert float(found.log_share) == pytest.approx(share, abs=1e-9)


def test_memory_of_a_state_far_beyond_the_range_of_floats_stays_finite():
    xs = jnp.asarray(normal(6, (4, 2000, 2)))
    for gain, expected in ((0.5, 1900 * np.log(0.5)), (1.5, 0.0)):
        recurrence = recurrence_of(linear, gain=gain)
        xs_here = xs * 1e-200 if gain > 1 else xs
        found = memory_share(recurrence, jnp.zeros(3), xs_here, far=1900, key=jax.random.key(0))
        assert float(found.log_share) == pytest.approx(expected, abs=3)


def separated(distance):
    """Make a task whose last input is the answer's mean, off by noise of variance one."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 2, 4000)
    last = distance * (2 * classes[:, None] - 1) * np.array([1.0, 0.0]) + generator.standard_normal(
        (4000, 2)
    )
    xs = jnp.asarray(np.stack([np.zeros_like(last), last], axis=1))
    return Batch(xs, jnp.asarray(classes[:, None].astype(np.int32)))


def test_separation_is_the_ratio_of_variances_between_and_within_answers():
    shown = Recurrence(copy, jnp.asarray(1.0))
    for distance in (0.3, 3.0):
        batch = separated(distance)
        task = tasks.task_of(batch, horizon=1)
        found = answer_separation(shown, jnp.zeros(2), task, batch)
        # Between: distance² in one direction. Within: one in each of two.
        assert float(found.log_ratio) == pytest.approx(np.log(distance**2 / 2) / 2, abs=0.05)


def test_the_readouts_skill_is_that_of_a_ridge_regression():
    batch = separated(1.0)
    batch = jax.tree.map(lambda leaf: leaf[:200], batch)
    shown = Recurrence(copy, jnp.asarray(1.0))
    found = answer_separation(shown, jnp.zeros(2), tasks.task_of(batch, horizon=1), batch)
    outputs, answers = np.asarray(batch.xs[:, -1]), np.eye(2)[np.asarray(batch.targets[:, 0])]
    outputs, answers = outputs - outputs.mean(0), answers - answers.mean(0)
    penalty = RIDGE * 100 * np.mean(outputs[::2] ** 2)
    model = Ridge(alpha=penalty, fit_intercept=False).fit(outputs[::2], answers[::2])
    missed = np.sum((answers[1::2] - model.predict(outputs[1::2])) ** 2) / np.sum(
        answers[1::2] ** 2
    )
    assert float(found.readout_skill) == pytest.approx(1 - missed, abs=1e-9)


def test_answers_that_no_state_holds_have_no_separation():
    batch = separated(0.0)
    found = answer_separation(
        Recurrence(copy, jnp.asarray(1.0)),
        jnp.zeros(2),
        tasks.task_of(batch, horizon=1),
        batch,
    )
    assert float(found.log_ratio) < -3
    assert float(found.readout_skill) < 0.01


def test_overshoot_is_the_learning_rate_over_its_critical_value():
    network, batch = network_of(recurrence_of(tanh)), batch_of()
    task, carry = tasks.task_of(batch, horizon=NUM_STEPS), jnp.zeros(3)

    def loss(parameters):
        new = network._replace(
            recurrence=Recurrence(tanh, parameters[0]), kernel=parameters[1], bias=parameters[2]
        )
        return jnp.mean(jnp.square(apply(new, carry, task, batch.xs)[:, -1] - batch.targets[:, -1]))

    parameters = network.recurrence.params, network.kernel, network.bias
    gradient, curved = jax.jvp(jax.grad(loss), (parameters,), (jax.grad(loss)(parameters),))
    pairs = list(zip(jax.tree.leaves(gradient), jax.tree.leaves(curved), strict=True))
    square = sum(float(jnp.sum(g * g)) for g, _ in pairs)
    bent = sum(float(jnp.sum(g * h)) for g, h in pairs)
    rate = 1e-5
    found = first_update(
        network, carry, task, batch, optimizer=optax.sgd(rate), horizon=10, key=jax.random.key(0)
    )
    assert float(found.log_overshoot) == pytest.approx(
        np.log(rate * abs(bent) / (2 * square)), abs=1e-3
    )
    assert float(found.log_gradient_norm) == pytest.approx(np.log(square) / 2, abs=1e-9)
    size = np.sqrt(sum(float(jnp.sum(p**2)) for p in jax.tree.leaves(parameters)))
    assert float(found.log_relative_size) == pytest.approx(
        np.log(rate * np.sqrt(square) / size), abs=1e-9
    )


def test_growth_change_is_zero_without_an_update_and_grows_with_it():
    network, batch = network_of(recurrence_of(tanh)), batch_of()
    task = tasks.task_of(batch, horizon=NUM_STEPS)
    changes = [
        float(
            first_update(
                network,
                jnp.zeros(3),
                task,
                batch,
                optimizer=optax.sgd(rate),
                horizon=10,
                key=jax.random.key(0),
            ).growth_change
        )
        for rate in (0.0, 1e-4, 2e-4)
    ]
    assert changes[0] == 0
    assert changes[2] == pytest.approx(2 * changes[1], rel=0.02)


@pytest.mark.parametrize(
    ("gain", "expected"), [(1e-30, {"growth": -60.0, "memory": -60.0}), (1.0, {}), (50.0, {})]
)
def test_features_are_finite_whatever_the_network_does(gain, expected):
    network = network_of(recurrence_of(tanh, gain=gain))
    task = tasks.task_of(batch_of(), horizon=NUM_STEPS)
    features = learning_features(
        network, jnp.zeros(3), task, optimizer=optax.adam(0.01), key=jax.random.key(0)
    )
    assert all(np.isfinite(float(value)) for value in features)
    for name, value in expected.items():
        assert float(getattr(features, name)) == value


def test_features_of_states_that_overflow_say_exploding():
    task = tasks.task_of(batch_of(), horizon=NUM_STEPS)
    square = Recurrence(
        lambda p, c, x: p["a"] @ (c**2) + 1e30 * (p["b"] @ x), recurrence_of(tanh).params
    )
    features = learning_features(
        network_of(square), jnp.zeros(3), task, optimizer=optax.adam(0.01), key=jax.random.key(0)
    )
    assert isinstance(features, LearningFeatures)
    assert float(features.peak) == 60
    assert all(np.isfinite(float(value)) for value in features)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n, t, b: gradient_signal(n, jnp.zeros(3), t, b, far=NUM_STEPS), "far: received 12"),
        (
            lambda n, t, b: gradient_signal(
                n, jnp.zeros(3), t, jax.tree.map(lambda leaf: leaf[:1], b), far=0
            ),
            "number of sequences: received 1",
        ),
        (
            lambda n, _, b: memory_share(
                n.recurrence, jnp.zeros(3), b.xs[0], far=0, key=jax.random.key(0)
            ),
            "at least 2 sequences",
        ),
        (
            lambda n, t, b: answer_separation(
                n.recurrence, jnp.zeros(3), t, jax.tree.map(lambda leaf: leaf[:7], b)
            ),
            "7 sequences",
        ),
        (
            lambda n, t, b: first_update(
                n,
                jnp.zeros(3),
                t,
                b,
                optimizer=optax.sgd(1.0),
                horizon=NUM_STEPS + 1,
                key=jax.random.key(0),
            ),
            "horizon: received 13",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(call, said):
    batch = batch_of()
    with pytest.raises(ValueError, match=said):
        call(network_of(recurrence_of(tanh)), tasks.task_of(batch, horizon=NUM_STEPS), batch)

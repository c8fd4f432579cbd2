"""Parameters and inputs may be complex where the state is real."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import training
from tests.networks import normal
from tests.training.trainings import recall

# As users have it: their step adds complex numbers to real ones.
pytestmark = pytest.mark.usefixtures("standard_promotion")

EIGENVALUES = 0.9 * np.exp(1j * np.arange(1.0, 5.0))
ZERO = (np.zeros(4), np.zeros(4))


def step(p, pair, x):
    h = p * (pair[0] + 1j * pair[1]) + x
    return h.real, h.imag


def both_parts(pair):
    return jnp.concatenate(pair)


@pytest.fixture
def network():
    return jrnn.Recurrence(step, jnp.asarray(EIGENVALUES), output=both_parts)


@pytest.mark.parametrize("xs", [normal(0, (100, 4)), normal(0, (100, 4)) * (1 + 2j)])
def test_a_rotation_has_the_sizes_of_its_eigenvalues(network, xs):
    product = jrnn.jacobian_product(network, ZERO, xs)
    np.testing.assert_allclose(product.log_singular_values(), 100 * np.log(0.9), rtol=1e-13)
    spectrum = jrnn.lyapunov_spectrum(network, ZERO, xs)
    np.testing.assert_allclose(spectrum.exponents, np.log(0.9), rtol=1e-12)
    prediction = jrnn.predict_regime(network, ZERO, np.stack([xs, xs[::-1]]), horizon=50)
    np.testing.assert_allclose(prediction.log_growth, 50 * np.log(0.9), rtol=1e-10)
    assert jrnn.check_gradients(network, ZERO, xs[:5]).passed


def test_gradients_are_those_of_the_same_numbers_as_pairs_of_reals(network):
    def paired(p, pair, x):
        return step(p[0] + 1j * p[1], pair, x)

    def loss(states):
        return jnp.sum(states[-1] ** 2)

    xs = normal(0, (20, 4))
    found = jrnn.parameter_gradients(network, ZERO, xs, loss)
    pairs = jrnn.Recurrence(paired, jnp.stack([EIGENVALUES.real, EIGENVALUES.imag]))
    expected = jrnn.parameter_gradients(pairs, ZERO, xs, loss)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-12)
    # JAX's convention for the gradient of a real number with respect to a complex one.
    np.testing.assert_allclose(found.total.real, expected.total[0], rtol=1e-12)
    np.testing.assert_allclose(-found.total.imag, expected.total[1], rtol=1e-12)


def test_training_descends_in_both_parts_as_it_does_for_pairs_of_reals(network):
    def paired(p, pair, x):
        return step(p[0] + 1j * p[1], pair, x)

    parts = jnp.stack([EIGENVALUES.real, EIGENVALUES.imag])
    pairs = jrnn.Recurrence(paired, parts, output=both_parts)
    task, optimizer, trained = recall(4), optax.sgd(0.5, momentum=0.5), []
    for recurrence in (network, pairs):
        net, history = training.train(
            task,
            recurrence,
            ZERO,
            optimizer=optimizer,
            key=jax.random.key(0),
            num_updates=20,
            records=1,
            held_out_size=8,
        )
        trained.append((net.recurrence.params, history))
    (found, history), (expected, others) = trained
    np.testing.assert_allclose(history.loss, others.loss, rtol=1e-10)
    np.testing.assert_allclose(history.gradient_norm, others.gradient_norm, rtol=1e-10)
    np.testing.assert_allclose(found.real, expected[0], rtol=1e-10)
    np.testing.assert_allclose(found.imag, expected[1], rtol=1e-10)
    assert np.abs(found - EIGENVALUES).max() > 0.01


def test_a_complex_carry_and_mixed_digits_are_refused():
    def direct(p, h, x):
        return p * h + x

    with pytest.raises(TypeError, match=r"carry: received complex128, .* pair of reals"):
        jrnn.trajectory(jrnn.Recurrence(direct, EIGENVALUES), 0j * EIGENVALUES, normal(0, (5, 4)))
    coarse = jrnn.Recurrence(step, jnp.asarray(EIGENVALUES, jnp.complex64))
    with pytest.raises(TypeError, match=r"params is float32, carry.* is float64"):
        jrnn.trajectory(coarse, ZERO, normal(0, (5, 4)))

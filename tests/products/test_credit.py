import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    from_linen,
    input_jacobians,
    parameter_gradients,
    stack,
    trajectory,
    with_padding,
)
from tests.networks import mostly_slow, random_variables


def decay(params, carry, x):
    return params * carry + x


@pytest.mark.parametrize(
    "name", mostly_slow(["SimpleCell", "LSTMCell", "nnx GRUCell", "MGUCell"], ["LSTMCell"])
)
def test_input_jacobians_are_those_of_automatic_differentiation(network, name):
    recurrence, carry, xs = network(name, 4)
    exact = jax.jacrev(lambda xs: trajectory(recurrence, carry, xs)[-1])(xs)  # (n, T, inputs)
    lags = [12, 1, 5, 5]
    result = input_jacobians(recurrence, carry, xs, lags=lags)
    for i, lag in enumerate(lags):
        matrix = jnp.exp(result.log_norms[i]) * result.matrices[i]
        np.testing.assert_allclose(matrix, exact[:, 12 - lag], atol=1e-12)
        assert float(jnp.linalg.norm(result.matrices[i])) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rate", [0.3, 3.0])
def test_input_jacobians_beyond_the_float_range_keep_their_logs(rate):
    system = Recurrence(decay, jnp.array([rate, rate / 2]))
    result = input_jacobians(system, jnp.zeros(2), jnp.zeros((3000, 2)), lags=[3000])
    assert float(result.log_norms[0]) == pytest.approx(2999 * np.log(rate), rel=1e-13)
    np.testing.assert_allclose(result.matrices[0], [[1, 0], [0, 0]], atol=1e-12)


def test_states_that_overflow_have_no_input_jacobians():
    system = Recurrence(lambda params, carry, x: params * carry**2 + x, jnp.ones(2))
    result = input_jacobians(system, jnp.full(2, 2.0), jnp.zeros((20, 2)), lags=[1, 20])
    assert np.all(np.isnan(result.log_norms))
    assert np.all(np.isnan(result.matrices))


def test_an_input_that_does_not_arrive_has_norm_zero():
    system = Recurrence(decay, jnp.zeros(2))
    result = input_jacobians(system, jnp.zeros(2), jnp.ones((5, 2)), lags=[1, 3])
    np.testing.assert_allclose(result.log_norms[0], np.log(np.sqrt(2)), atol=1e-15)
    assert result.log_norms[1] == -jnp.inf
    assert not np.any(result.matrices[1])


@pytest.mark.parametrize(
    "name", mostly_slow(["SimpleCell", "OptimizedLSTMCell", "nnx LSTMCell", "GRUCell"], ["GRUCell"])
)
def test_the_shares_of_all_lags_sum_to_the_gradient(network, name):
    recurrence, carry, xs = network(name, 4)

    def loss(states):
        return jnp.sum(jnp.sin(states[3:]))  # of many states, not of the last alone

    def loss_of(params):
        return loss(trajectory(Recurrence(recurrence.step, params), carry, xs))

    result = parameter_gradients(recurrence, carry, xs, loss)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-12),
        result.total,
        jax.grad(loss_of)(recurrence.params),
    )
    squares = sum(norms**2 for norms in jax.tree.leaves(result.norms_by_parameter))
    np.testing.assert_allclose(result.norms, jnp.sqrt(squares), rtol=1e-12)


def test_each_share_is_that_of_its_own_lag():
    # h_T = Σ a^(T−1−t) x_t: the share of lag s is a^s h_(T−1−s).
    rate, xs = 0.8, np.arange(1.0, 7.0)
    states = [0.5]
    for x in xs:
        states.append(rate * states[-1] + x)
    result = parameter_gradients(
        Recurrence(decay, jnp.array(rate)),
        jnp.array([0.5]),
        jnp.asarray(xs)[:, None],
        lambda s: s[-1, 0],
    )
    expected = [rate**lag * states[5 - lag] for lag in range(6)]
    np.testing.assert_allclose(result.norms, expected, rtol=1e-14)


def test_a_system_without_input_has_parameter_gradients_too():
    system = Recurrence(lambda p, c, x: p @ c if x is None else c, 0.5 * jnp.eye(2))
    result = parameter_gradients(system, jnp.ones(2), None, lambda s: s[-1].sum(), num_steps=4)
    np.testing.assert_allclose(result.norms, [0.25] * 4, rtol=1e-14)


def test_bad_input_is_named():
    system = Recurrence(decay, jnp.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"lags: received \[0\], expected .* from 1 to 4"):
        input_jacobians(system, jnp.zeros(2), jnp.zeros((4, 2)), lags=[0])
    with pytest.raises(ValueError, match=r"xs: received .* expected one array \(time, inputs\)"):
        input_jacobians(system, jnp.zeros(2), jnp.zeros(4), lags=[1])
    with pytest.raises(ValueError, match="num_steps: received None"):
        parameter_gradients(system, jnp.zeros(2), None, lambda s: s[-1].sum())


@pytest.mark.slow
def test_stacked_layers_are_one_system(network):
    lower, c1, xs = network("GRUCell", 3)
    upper, c2, _ = network("LSTMCell", 2, seed=1)
    both = stack(lower, upper)
    exact = jax.jacrev(lambda xs: trajectory(both, (c1, c2), xs)[-1])(xs)
    result = input_jacobians(both, (c1, c2), xs, lags=[7])
    np.testing.assert_allclose(
        jnp.exp(result.log_norms[0]) * result.matrices[0], exact[:, 5], atol=1e-12
    )


def test_new_numbers_compile_nothing():
    from jacobian_rnn.products.credit import _input_jacobians

    cell = nn.SimpleCell(2)
    carry, xs = jnp.zeros(2, jnp.float32), jnp.ones((5, 3), jnp.float32)
    variables = random_variables(cell, carry, xs[0])
    input_jacobians(from_linen(cell, variables), carry, xs, lags=[1, 2])
    size = _input_jacobians._cache_size()
    input_jacobians(from_linen(nn.SimpleCell(2), variables), carry + 1, 2 * xs, lags=[4, 5])
    assert _input_jacobians._cache_size() == size


def upper_triangle(rotation):
    """Make a system in which the input meets only the decaying one of two directions."""
    matrix = rotation @ jnp.diag(jnp.array([1.5, 0.5])) @ rotation.T
    return Recurrence(lambda p, c, x: p @ c + rotation[:, 1] * x[0], matrix)


def test_an_input_that_misses_the_growing_direction_keeps_its_small_norm():
    system, xs = upper_triangle(jnp.eye(2)), jnp.zeros((2000, 1))
    result = input_jacobians(system, jnp.zeros(2), xs, lags=[300, 2000])
    assert float(result.log_norms[0]) == pytest.approx(299 * np.log(0.5), abs=1e-9)
    assert np.isfinite(result.log_norms[1])  # underflow of the other direction costs it 0.1 nats
    np.testing.assert_allclose(
        result.digits_lost, [299 * np.log10(3), 1999 * np.log10(3)], atol=0.2
    )


def test_digits_that_cancel_are_reported():
    angle = 0.3
    rotation = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    system, xs = upper_triangle(rotation), jnp.zeros((100, 1))
    result = input_jacobians(system, jnp.zeros(2), xs, lags=[1, 11, 100])
    np.testing.assert_allclose(result.digits_lost[:2], [0, 10 * np.log10(3)], atol=1e-2)
    np.testing.assert_allclose(result.log_norms[1], 10 * np.log(0.5), atol=1e-9)
    # Rounding may take the whole of it, and the result says so.
    assert result.digits_lost[2] > 14


def test_shares_too_small_to_square_are_not_zero():
    params = jnp.full(4, 0.5, jnp.float32)
    system = Recurrence(decay, params)
    xs = jnp.ones((100, 4), jnp.float32)
    result = parameter_gradients(system, jnp.ones(4, jnp.float32), xs, lambda s: s[-1].sum())
    expected = [2 * 0.5**lag * (2 - 0.5 ** (99 - lag)) for lag in (70, 90)]
    np.testing.assert_allclose(result.norms[jnp.array([70, 90])], expected, rtol=1e-5)


def test_what_cannot_be_differentiated_for_is_refused():
    plain = Recurrence(lambda _, c, x: c + x, ())
    with pytest.raises(ValueError, match="received one without parameters"):
        parameter_gradients(plain, jnp.zeros(2), jnp.zeros((4, 2)), lambda s: s[-1].sum())
    halving = Recurrence(decay, jnp.full(2, 0.5))
    with pytest.raises(TypeError, match=r"loss: .*float64\[2\], expected .* real scalar"):
        parameter_gradients(halving, jnp.zeros(2), jnp.zeros((4, 2)), lambda s: s[-1])
    inputs = jnp.zeros((4, 2)), jnp.ones(4, bool)
    with pytest.raises(ValueError, match=r"xs: received .*, expected one array \(time, inputs\)"):
        input_jacobians(with_padding(plain), jnp.zeros(2), inputs, lags=[1])

"""What arrives of a gradient on the grid of depth and time, measured and counted."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from tests.networks import normal

LAYERS, STEPS, WIDTH = 4, 12, 32


def turned(params, carry, x):
    """Sum what a layer remembers and what it sees, each turned by a matrix."""
    weight, time, depth = params
    return weight * (time @ carry + depth @ x)


def grid(weight, seed=None, width=WIDTH):
    """Stack layers that add, or that turn at random what they add."""
    layers = []
    for layer in range(LAYERS):
        matrices = [np.eye(width)] * 2
        if seed is not None:
            matrices = np.linalg.qr(normal((seed, layer), (2, width, width)))[0]
        params = (jnp.asarray(weight), *map(jnp.asarray, matrices))
        layers.append(jrnn.Recurrence(turned, params))
    return jrnn.stack(*layers), (jnp.zeros(width),) * LAYERS, jnp.zeros((STEPS, width))


def growth_of(system, num_probes=WIDTH):
    return jrnn.layer_profile(*system, key=jax.random.key(0), num_probes=num_probes)


def test_where_layers_add_what_arrives_is_the_number_of_paths():
    counted = jrnn.log_num_paths(LAYERS, STEPS)
    profile = growth_of(grid(1.0, width=2))
    np.testing.assert_allclose(profile.log_growth, counted, atol=1e-12)
    assert float(jnp.max(profile.sampling_error)) < 1e-12
    # A path of d steps in depth and `lag` in time has d + lag weights.
    down, back = np.arange(LAYERS)[::-1, None], np.arange(1, STEPS + 1)
    halved = growth_of(grid(0.5, width=2)).log_growth
    np.testing.assert_allclose(halved, counted - math.log(2) * (down + back), atol=1e-12)
    assert float(jnp.max(halved)) < 0
    # Straight back in time each weight counts, and the sum over depth hides none of it.
    np.testing.assert_allclose(halved[-1], -math.log(2) * back, atol=1e-12)


def test_the_count_of_paths_is_pascals_triangle():
    counts = np.exp(jrnn.log_num_paths(3, 4))
    np.testing.assert_allclose(counts, [[1, 3, 6, 10], [1, 2, 3, 4], [1, 1, 1, 1]], rtol=1e-14)
    entry = float(jrnn.log_num_paths(3, 3000)[0, -1])
    assert entry == pytest.approx(math.log(3001 * 3000 / 2), rel=1e-14)


def test_where_layers_turn_at_random_paths_add_up_like_noise():
    ratios = []
    for seed in range(4):
        growth = growth_of(grid(1.0, seed)).log_growth
        ratios.append(growth - jrnn.log_num_paths(LAYERS, STEPS) / 2)
    ratios = np.stack(ratios)
    # Far below the coherent sum, which is 2.9 nats more at the longest lag of the lowest layer.
    mean, error = ratios.mean(axis=0), ratios.std(axis=0, ddof=1) / 2
    assert np.all(np.abs(mean) < 0.05 + 4 * error)
    assert np.abs(ratios).max() < 0.25
    np.testing.assert_allclose(ratios[:, -1], 0, atol=1e-12)


def test_shares_of_layers_are_those_of_dense_products():
    network = jrnn.stack(
        jrnn.gated_delta_net(3, 2, key=jax.random.key(0), dtype=jnp.float64),
        jrnn.minimal_rnn(4, 3, key=jax.random.key(1), dtype=jnp.float64),
    )
    xs, carry = jnp.asarray(normal(2, (5, 3))), jrnn.zero_carry(network)
    profile = jrnn.layer_profile(network, carry, xs, key=jax.random.key(0), num_probes=3)
    jacobians = np.asarray(jrnn.step_jacobians(network, carry, xs))
    product = np.eye(7)
    for lag in range(1, 6):
        product = product @ jacobians[5 - lag]
        for layer, states in enumerate((slice(0, 4), slice(4, 7))):
            size = np.sum(product[4:, states] ** 2) / 3
            expected = math.log(size) / 2 if size else -math.inf
            found = float(profile.log_growth[layer, lag - 1])
            assert found == pytest.approx(expected, abs=1e-12)
    alone = jrnn.layer_profile(*grid(1.0, width=2), key=jax.random.key(0), num_probes=1)
    assert np.all(np.isnan(alone.sampling_error))


def test_a_few_cotangents_estimate_what_all_of_them_give():
    system = grid(1.0, 0)
    exact, few = growth_of(system).log_growth, growth_of(system, num_probes=8)
    difference = np.abs(few.log_growth - exact)
    assert np.all(difference < 1e-12 + 4.5 * few.sampling_error)


def test_a_sequence_that_breaks_down_says_nothing():
    def explode(params, carry, _):
        return params * carry**3

    found = jrnn.layer_profile(
        jrnn.Recurrence(explode, jnp.array(1e3)),
        jnp.full(2, 1e3),
        None,
        num_steps=8,
        key=jax.random.key(0),
    )
    assert found.log_growth.shape == (1, 8)
    assert np.all(np.isnan(found.log_growth))


def test_bad_numbers_are_named():
    system = grid(1.0, width=2)
    with pytest.raises(ValueError, match="num_probes: received 0"):
        growth_of(system, 0)
    with pytest.raises(ValueError, match="num_layers: received 0"):
        jrnn.log_num_paths(0, 3)
    with pytest.raises(TypeError, match=r"num_steps: received 2\.5"):
        jrnn.log_num_paths(2, 2.5)

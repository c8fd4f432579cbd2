"""The smallest teacher forcing that keeps a chaotic network on its data is 1 − exp(−λ₁)."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from tests.networks import normal

WIDTH, STEPS = 24, 1200


def free(params, carry, _):
    return jnp.tanh(params @ carry)


def forced(share, params, carry, data):
    """Take a step from the state, moved by a share towards what the data say it should be."""
    return free(params, (1 - share) * carry + share * data, None)


@pytest.fixture(scope="module")
def chaos():
    """A chaotic network and its data, which are a trajectory of its own."""
    with jax.enable_x64(True):
        network = jrnn.Recurrence(free, jnp.asarray(5.0 * normal(3, (WIDTH, WIDTH)) / WIDTH**0.5))
        data = jrnn.trajectory(network, jnp.asarray(normal(1, WIDTH)), None, num_steps=STEPS)
        free_running = jrnn.lyapunov_spectrum(network, data[0], None, num_steps=STEPS, qr_every=1)
    return network, data, free_running


def largest(chaos, share):
    network, data, _ = chaos
    system = dataclasses.replace(network, step=partial(forced, share))
    return jrnn.lyapunov_spectrum(system, data[0], data[:-1], qr_every=1).exponents[0]


def test_forcing_takes_its_share_of_every_exponent(chaos):
    _, _, spectrum = chaos
    first = float(spectrum.exponents[0])
    assert first > 0.1
    smallest = 1 - math.exp(-first)
    for share in (smallest, 1.5 * smallest):  # with less, rounding leads away from the data
        expected = first + math.log1p(-share)
        assert float(largest(chaos, share)) == pytest.approx(expected, abs=1e-6)
    assert abs(float(largest(chaos, smallest))) < 1e-6


@pytest.mark.parametrize(("times", "stays"), [(0.7, False), (1.3, True)])
def test_a_network_that_starts_beside_its_data_comes_to_them_above_the_smallest_forcing(
    chaos, times, stays
):
    network, data, spectrum = chaos
    share = times * (1 - math.exp(-float(spectrum.exponents[0])))
    system = dataclasses.replace(network, step=partial(forced, share))
    beside = data[0] + 1e-6 * jnp.asarray(normal(2, WIDTH))
    states = jrnn.trajectory(system, beside, data[:-1])
    distance = np.linalg.norm(states - data, axis=1)[STEPS // 2 :]
    assert (distance.max() < 1e-9) == stays
    assert stays or distance.max() > 1e-2

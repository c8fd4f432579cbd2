import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import Recurrence
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import back_along, states_of
from tests.networks import normal


def step(weights, state, x):
    return jnp.tanh(weights @ state + x)


def visit(carried, now):
    """Carry what depends on the order of steps, and record all that a step is shown."""
    return jnp.tanh(0.5 * carried + now.state * now.extra), (now.number, now.state, now.x, carried)


@pytest.mark.parametrize("num_steps", [0, 1, 16, 17, 23])
def test_segments_are_visited_as_stored_states_are(num_steps):
    xs, extra = normal(1, (num_steps, 3)), jnp.asarray(normal(2, (num_steps,)))
    system = bind(Recurrence(step, jnp.asarray(normal(0, (3, 3)))), jnp.ones(3), xs)
    states = states_of(system)[:-1]
    stored = back_along(system, visit, jnp.zeros(3), extra=extra, states=states)
    for most_stored in (4, 1000):
        end, records = back_along(system, visit, jnp.zeros(3), extra=extra, most_stored=most_stored)
        np.testing.assert_allclose(end, stored[0], rtol=1e-13)
        for got, expected in zip(records, stored[1], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-13)
    np.testing.assert_array_equal(stored[1][0], np.arange(num_steps))

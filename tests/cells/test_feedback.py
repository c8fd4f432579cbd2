import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from tests.networks import NUM_INPUTS, normal

WIDTH = 4


def readout(num_inputs=NUM_INPUTS):
    return jnp.asarray(normal(5, (WIDTH, num_inputs))), jnp.asarray(normal(6, num_inputs))


@pytest.mark.parametrize("name", ["SimpleCell", "GRUCell", "LSTMCell"])
def test_the_closed_form_of_a_loop_is_its_derivative(name, network):
    recurrence, carry, _ = network(name, WIDTH)
    loop = jrnn.closed_loop(recurrence, readout())
    closed, forward = (
        jrnn.step_jacobians(loop, carry, None, num_steps=3, method=method)
        for method in ("closed_form", "forward")
    )
    np.testing.assert_allclose(closed, forward, atol=1e-13)
    alone = jrnn.step_jacobians(recurrence, carry, np.zeros((3, NUM_INPUTS)))
    assert np.abs(closed - alone).max() > 0.1  # the feedback is in it


def test_a_loop_does_what_feeding_the_output_back_by_hand_does(network):
    recurrence, carry, _ = network("LSTMCell", WIDTH)
    kernel, bias = readout()
    states = jrnn.trajectory(jrnn.closed_loop(recurrence, (kernel, bias)), carry, None, num_steps=5)
    by_hand = carry
    for _ in range(5):
        by_hand = recurrence.step(recurrence.params, by_hand, by_hand[1] @ kernel + bias)
    np.testing.assert_allclose(states[-1], jnp.concatenate(by_hand), rtol=1e-12)


def test_an_input_of_the_loop_follows_what_is_fed_back(network):
    recurrence, carry, xs = network("GRUCell", WIDTH)
    kernel, bias = readout(2)
    loop = jrnn.closed_loop(recurrence, (kernel, bias))
    states = jrnn.trajectory(loop, carry, xs[:1, :1])
    fed = jnp.concatenate([carry @ kernel + bias, xs[0, :1]])
    np.testing.assert_allclose(states[1], recurrence.step(recurrence.params, carry, fed))
    closed, forward = (
        jrnn.step_jacobians(loop, carry, xs[:1, :1], method=method)
        for method in ("closed_form", "forward")
    )
    np.testing.assert_allclose(closed, forward, atol=1e-13)


def add(params, carry, x):
    return params @ carry + x


def test_a_linear_loop_has_the_matrix_of_network_and_feedback_together():
    matrix, kernel = np.diag([0.5, 0.3]), np.array([[0.2, 0.0], [0.1, 0.4]])
    loop = jrnn.closed_loop(jrnn.Recurrence(add, jnp.asarray(matrix)), (kernel, np.zeros(2)))
    jacobian = jrnn.step_jacobians(loop, np.ones(2), None, num_steps=1)[0]
    np.testing.assert_allclose(jacobian, matrix + kernel.T)


def doubled(scale, output):
    return scale * output


def test_a_readout_of_ones_own_replaces_the_affine_one():
    loop = jrnn.closed_loop(jrnn.Recurrence(add, jnp.zeros((2, 2))), jnp.asarray(2.0), read=doubled)
    states = jrnn.trajectory(loop, np.ones(2), None, num_steps=3)
    np.testing.assert_allclose(states[:, 0], [1, 2, 4, 8])


def test_equal_loops_have_equal_steps_and_the_carry_is_that_of_the_network(network):
    recurrence, carry, _ = network("LSTMCell", WIDTH)
    one, other = (jrnn.closed_loop(recurrence, readout()) for _ in range(2))
    assert (one.step, one.jacobian) == (other.step, other.jacobian)
    assert jax.tree.map(jnp.shape, jrnn.zero_carry(one)) == jax.tree.map(jnp.shape, carry)


def test_readouts_that_do_not_fit_are_refused(network):
    recurrence, _, _ = network("GRUCell", WIDTH)
    kernel, bias = readout()
    with pytest.raises(TypeError, match=r"readout: received a .*, expected a pair"):
        jrnn.closed_loop(recurrence, kernel)
    with pytest.raises(ValueError, match=r"readout: received shapes \[\(4, 3\), \(2,\)\]"):
        jrnn.closed_loop(recurrence, (kernel, bias[:2]))
    with pytest.raises(TypeError, match="recurrence: received a str"):
        jrnn.closed_loop("GRU", (kernel, bias))
    with pytest.raises(ValueError, match=r"readout: received a kernel of shape \(2, 3\), expected"):
        jrnn.closed_loop(recurrence, (kernel[:2], bias))
    with pytest.raises(ValueError, match=r"readout\[0\]: received 12 of 12 values that are NaN"):
        jrnn.closed_loop(recurrence, (kernel * np.nan, bias))
    for pair in (
        ("a", "b"),
        (np.asarray(kernel) + 0j, bias),
        (np.ones((4, 3), int), np.ones(3, int)),
    ):
        with pytest.raises(TypeError, match="readout: received"):
            jrnn.closed_loop(recurrence, pair)
    with pytest.raises(TypeError, match="read: received None, expected a function"):
        jrnn.closed_loop(recurrence, (kernel, bias), read=None)


def test_the_loop_of_a_stack_knows_its_carry():
    lower = jrnn.draw(nn.GRUCell(4, param_dtype=float), key=jax.random.key(0), num_inputs=3)
    upper = jrnn.draw(nn.GRUCell(4, param_dtype=float), key=jax.random.key(1), num_inputs=4)
    loop = jrnn.closed_loop(jrnn.stack(lower, upper), (jnp.ones((4, 3)), jnp.zeros(3)))
    carry = jrnn.zero_carry(loop)
    assert jax.tree.map(jnp.shape, carry) == ((4,), (4,))
    rows = jrnn.trajectory(loop, carry, None, num_steps=3)
    assert jrnn.fixed_points(loop, rows, None).states.shape == rows.shape

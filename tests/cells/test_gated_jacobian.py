"""The parts of a Jacobian against the matrix that automatic differentiation gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    Recurrence,
    from_linen,
    jacobian_product,
    stack,
    step_jacobians,
    trajectory,
)
from jacobian_rnn.jacobians.system import bind
from tests.networks import CLOSED_FORMS, MAIN_CELLS, mostly_slow, normal, random_variables

STACKS = {
    "LSTM on GRU": ["GRUCell", "LSTMCell"],
    "three layers": ["MGUCell", "OptimizedLSTMCell", "SimpleCell"],
    "nested": ["GRUCell", ["LSTMCell", "SimpleCell residual"]],
}


def layers(names, network, width):
    if isinstance(names, str):
        recurrence, carry, _ = network(names, width)
        return recurrence, carry
    made = [layers(name, network, width) for name in names]
    return stack(*(one for one, _ in made)), tuple(carry for _, carry in made)


@pytest.fixture(params=mostly_slow([*CLOSED_FORMS, *STACKS], [*MAIN_CELLS, "nested"]))
def differentiated(request, network):
    """Give the parts of one step, and its Jacobians for state and input by `jax.jacfwd`."""
    # Layers read as many inputs as the ones below have units.
    recurrence, carry = layers(STACKS.get(request.param, request.param), network, 3)
    x = normal(5, (3,))
    system = bind(recurrence, carry, x[None])
    parts = recurrence.jacobian.parts(recurrence.params, carry, x)
    return parts, *jax.jacfwd(system.step, argnums=(0, 1))(system.state, x)


def test_parts_form_the_jacobians_for_state_and_input(differentiated):
    parts, of_state, of_input = differentiated
    np.testing.assert_allclose(parts.dense(), of_state, atol=1e-14)
    np.testing.assert_allclose(parts.dense_input(), of_input, atol=1e-14)
    assert parts.num_inputs == 3


def test_tangents_are_pushed_and_cotangents_pulled_without_the_matrix(differentiated):
    parts, of_state, of_input = differentiated
    rows = normal(6, (4, of_state.shape[0]))
    of_inputs = normal(7, (4, 3))
    np.testing.assert_allclose(parts.push(rows), rows @ of_state.T, atol=1e-13)
    np.testing.assert_allclose(parts.pull(rows), rows @ of_state, atol=1e-13)
    np.testing.assert_allclose(parts.push_input(of_inputs), of_inputs @ of_input.T, atol=1e-13)
    np.testing.assert_allclose(parts.pull_input(rows), rows @ of_input, atol=1e-13)


def test_log_determinant_is_that_of_the_matrix(differentiated):
    parts, of_state, _ = differentiated
    expected = np.linalg.slogdet(of_state)[1]
    assert float(parts.log_abs_det()) == pytest.approx(expected, abs=1e-11)


@pytest.mark.slow
def test_log_determinants_of_a_trajectory_add_up_to_that_of_the_product(network):
    recurrence, carry, xs = network("LSTMCell", 6)
    unravel = ravel_pytree(carry)[1]
    total = 0.0
    for state, x in zip(trajectory(recurrence, carry, xs), xs, strict=False):
        total += recurrence.jacobian.parts(recurrence.params, unravel(state), x).log_abs_det()
    product = jacobian_product(recurrence, carry, xs)
    assert float(jnp.sum(product.log_singular_values())) == pytest.approx(float(total), abs=1e-10)


def test_a_closed_gate_gives_minus_infinity_and_no_nan():
    cell = nn.LSTMCell(2, param_dtype=jnp.float64)
    carry = (jnp.ones(2), jnp.ones(2))
    variables = random_variables(cell, carry, jnp.ones(3))
    variables["params"]["hf"]["bias"] = jnp.array([-1e4, 0.0])
    parts = from_linen(cell, variables).jacobian.parts(variables, carry, jnp.ones(3))
    assert parts.log_abs_det() == -jnp.inf


@pytest.mark.parametrize(
    "activation",
    mostly_slow(
        [
            nn.gelu,
            nn.silu,
            nn.softplus,
            nn.leaky_relu,
            nn.elu,
            nn.hard_tanh,
            nn.relu,
            jax.nn.identity,
        ],
        [nn.gelu],
    ),
)
def test_activations_of_single_units_have_closed_forms(activation):
    xs = normal(1, (5, 3))
    for cell in (nn.SimpleCell, nn.LSTMCell, nn.GRUCell, nn.MGUCell):
        instance = cell(4, activation_fn=activation, param_dtype=jnp.float64)
        carry = instance.initialize_carry(jax.random.key(0), (3,))
        carry = jax.tree.map(lambda c: c + 0.3, carry)
        recurrence = from_linen(instance, random_variables(instance, carry, xs[0]))
        np.testing.assert_allclose(
            step_jacobians(recurrence, carry, xs, method="closed_form"),
            step_jacobians(recurrence, carry, xs, method="forward"),
            atol=1e-13,
        )


def test_a_stack_with_a_layer_without_closed_form_has_none(network):
    recurrence, _, _ = network("GRUCell", 3)
    plain = Recurrence(recurrence.step, recurrence.params)
    assert stack(recurrence, recurrence).jacobian is not None
    assert stack(recurrence, plain).jacobian is None
    first = Recurrence(
        recurrence.step, recurrence.params, recurrence.jacobian, lambda carry: 2 * carry
    )
    assert stack(first, recurrence).jacobian is None

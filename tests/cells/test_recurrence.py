import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    Recurrence,
    from_linen,
    from_nnx,
    lru,
    stack,
    step_jacobians,
    trajectory,
    zero_carry,
)
from tests.networks import CELLS, LINEN, MAIN_CELLS, NNX, mostly_slow, normal, random_variables


@pytest.mark.parametrize("name", mostly_slow(CELLS, MAIN_CELLS))
def test_the_step_of_every_flax_cell_is_the_cells_own_call(network, name):
    recurrence, carry, xs = network(name, 3)
    if name in LINEN:
        expected = LINEN[name](3).apply(recurrence.params, carry, xs[0])[0]
    else:
        cell = NNX[name](3)
        nnx.update(cell, recurrence.params)
        expected = cell(carry, xs[0])[0]
    got = recurrence.step(recurrence.params, carry, xs[0])
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-15)


def test_an_lstm_has_twice_its_width_in_states_c_first(network):
    recurrence, carry, xs = network("LSTMCell", 5)
    states = trajectory(recurrence, carry, xs)
    assert states.shape == (13, 10)
    np.testing.assert_array_equal(states[0, :5], carry[0])
    np.testing.assert_array_equal(states[0, 5:], carry[1])
    np.testing.assert_array_equal(recurrence.output(carry), carry[1])


def test_a_carry_may_be_any_pytree_of_arrays():
    def step(params, carry, x):
        return {"a": carry["b"] * params, "b": [carry["a"][0] + x, carry["b"][1]]}

    carry = {"a": jnp.ones((2, 1)), "b": [jnp.ones((2, 1)), jnp.zeros(3)]}

    def legal(params, carry, x):
        return {"a": carry["b"][0] * params, "b": [carry["a"] + x[None], carry["b"][1]]}

    states = trajectory(Recurrence(legal, jnp.array(0.5)), carry, jnp.ones((4, 1)))
    assert states.shape == (5, 7)
    with pytest.raises(ValueError, match="step: "):
        trajectory(Recurrence(step, jnp.array(0.5)), carry, jnp.ones((4, 1)))


def test_a_stack_runs_its_layers_one_on_top_of_the_other(network):
    lower, lower_carry, xs = network("LSTMCell", 3)
    upper, upper_carry, _ = network("GRUCell", 4, seed=1)
    both = stack(lower, upper)
    carry = (lower_carry, upper_carry)
    for x in xs:
        lower_carry = lower.step(lower.params, lower_carry, x)
        upper_carry = upper.step(upper.params, upper_carry, lower_carry[1])
        carry = both.step(both.params, carry, x)
    np.testing.assert_allclose(
        ravel_pytree(carry)[0], ravel_pytree((lower_carry, upper_carry))[0], atol=1e-14
    )
    np.testing.assert_array_equal(both.output(carry), upper_carry)


def test_the_jacobian_of_a_stack_is_block_lower_triangular_with_the_layers_on_its_diagonal(network):
    lower, lower_carry, xs = network("SimpleCell", 3)
    upper, upper_carry, _ = network("SimpleCell", 3, seed=1)
    both = step_jacobians(stack(lower, upper), (lower_carry, upper_carry), xs)
    np.testing.assert_array_equal(both[:, :3, 3:], 0)
    np.testing.assert_allclose(both[:, :3, :3], step_jacobians(lower, lower_carry, xs), atol=1e-15)
    assert np.abs(both[:, 3:, :3]).max() > 0.01
    alone = step_jacobians(upper, upper_carry, trajectory(lower, lower_carry, xs)[1:])
    np.testing.assert_allclose(both[:, 3:, 3:], alone, atol=1e-15)


def test_cells_that_differ_only_in_initialisers_have_equal_steps():
    h, x = jnp.zeros(4, jnp.float32), jnp.zeros(3, jnp.float32)
    for scale in (0.5, 2.0):
        init = nn.initializers.orthogonal(scale)
        linen = nn.GRUCell(4, recurrent_kernel_init=init)
        one = from_linen(linen, random_variables(linen, h, x))
        plain = nn.GRUCell(4)
        other = from_linen(plain, random_variables(plain, h, x))
        assert one.step == other.step
        assert hash(one.step) == hash(other.step)
        nnx_one = from_nnx(nnx.GRUCell(3, 4, recurrent_kernel_init=init, rngs=nnx.Rngs(0)))
        nnx_other = from_nnx(nnx.GRUCell(3, 4, rngs=nnx.Rngs(1)))
        assert nnx_one.step == nnx_other.step
        assert hash(nnx_one.step) == hash(nnx_other.step)
    wider = nn.GRUCell(5)
    assert from_linen(wider, {"params": {}}).step != one.step


def test_a_recurrence_is_a_pytree_of_its_parameters(network):
    recurrence, carry, xs = network("GRUCell", 3)
    assert jax.tree.structure(jax.tree.leaves(recurrence)) == jax.tree.structure(
        jax.tree.leaves(recurrence.params)
    )
    doubled = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), recurrence)
    states = jax.jit(jax.vmap(lambda r: trajectory(r, carry, xs)))(doubled)
    np.testing.assert_allclose(states[0], trajectory(recurrence, carry, xs), atol=1e-15)
    gradient = jax.grad(lambda r: trajectory(r, carry, xs).sum())(recurrence)
    assert isinstance(gradient, Recurrence)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient.params))


@dataclasses.dataclass
class Unhashable:  # as it compares by value and may change
    def __call__(self, x):
        return jnp.tanh(x)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: from_linen(nn.RNN(nn.GRUCell(3)), {"params": {"hn": 0}}),
            ValueError,
            r"received parameters \['hn'\], expected 'cell'",
        ),
        (
            lambda: from_linen(nn.RNN(nn.GRUCell(3), reverse=True), {"params": {"cell": 0}}),
            ValueError,
            "reverse=True",
        ),
        (lambda: zero_carry(Recurrence(len, ())), ValueError, r"one of len\(params.*carry=\.\.\."),
        (lambda: from_linen(nn.GRUCell(3), {"kernel": 0}), ValueError, "expected 'params'"),
        (lambda: from_linen("GRU", {}), TypeError, "received a str"),
        (lambda: from_nnx(nn.GRUCell(3)), TypeError, "received a GRUCell"),
        (
            lambda: from_linen(nn.GRUCell(3, activation_fn=Unhashable()), {"params": {}}),
            TypeError,
            "cell: received an attribute of unhashable type: 'Unhashable', expected .*function",
        ),
        (
            lambda: from_nnx(nnx.GRUCell(3, 3, gate_fn=Unhashable(), rngs=nnx.Rngs(0))),
            TypeError,
            "cell: received an attribute of unhashable type: 'Unhashable', expected .*function",
        ),
        (lambda: stack(), ValueError, "received none"),
        (lambda: stack(nn.GRUCell(3)), TypeError, r"recurrences\[0\]: received a GRUCell"),
    ],
)
def test_what_is_no_cell_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_layers_of_flax_are_taken_as_they_are():
    xs = normal(0, (6, 3))
    layer = nn.RNN(nn.LSTMCell(4, param_dtype=jnp.float64))
    variables = random_variables(layer, xs)
    recurrence = from_linen(layer, variables)
    states = trajectory(recurrence, zero_carry(recurrence), xs)
    np.testing.assert_allclose(states[1:, 4:], layer.apply(variables, xs), atol=1e-14)

    cell = nnx.OptimizedLSTMCell(3, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    recurrence = from_nnx(nnx.RNN(cell))
    states = trajectory(recurrence, zero_carry(recurrence), xs)
    np.testing.assert_allclose(states[1:, 4:], nnx.RNN(cell)(xs), atol=1e-14)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "ConvLSTMCell"])
def test_the_carry_of_zeros_is_that_of_the_cell(network, name):
    recurrence, carry, _ = network(name, 3)
    zeros = zero_carry(recurrence)
    jax.tree.map(np.testing.assert_array_equal, zeros, jax.tree.map(jnp.zeros_like, carry))
    both = stack(recurrence, recurrence)
    assert jax.tree.structure(zero_carry(both)) == jax.tree.structure((carry, carry))


def test_partitioned_parameters_are_taken_out_of_their_boxes():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "units"))
    cell = nn.GRUCell(4, kernel_init=init, param_dtype=jnp.float64)
    carry, xs = jnp.zeros(4), normal(0, (5, 3))
    variables = random_variables(cell, carry, xs[0])
    assert isinstance(variables["params"]["in"]["kernel"], nn.Partitioned)
    recurrence = from_linen(cell, variables)
    np.testing.assert_allclose(
        step_jacobians(recurrence, zero_carry(recurrence), xs, method="closed_form"),
        step_jacobians(recurrence, carry, xs, method="forward"),
        atol=1e-14,
    )


class Scaled(nn.Module):
    alpha_init: float = 1.0

    def __call__(self, carry, x):
        new = self.alpha_init * carry + x
        return new, new


def test_only_initialisers_are_left_out_of_a_step():
    recurrence = from_linen(Scaled(alpha_init=0.25), {"params": {}})
    new = recurrence.step(recurrence.params, jnp.ones(2), jnp.zeros(2))
    np.testing.assert_array_equal(new, [0.25, 0.25])


def test_a_stack_declares_the_units_of_its_layers_if_all_of_them_do(network):
    lower = lru(3, 2, key=jax.random.key(0), dtype=jnp.float64)
    upper = lru(4, 3, key=jax.random.key(1), dtype=jnp.float64)
    top = lru(6, 1, key=jax.random.key(2), dtype=jnp.float64)
    xs = jnp.asarray(normal(0, (4, 3)))
    both = stack(stack(lower, upper), top)
    carry = zero_carry(both)
    blocks = both.unit_jacobians(both.params, carry, xs[0])
    assert [one.shape for one in blocks] == [(2, 2, 2), (2, 2, 3), (2, 2, 1)]
    jacobian, first = step_jacobians(both, carry, xs, method="forward")[0], 0
    for one in blocks:
        matrix = jnp.block([[jnp.diag(block) for block in row] for row in one])
        last = first + len(matrix)
        np.testing.assert_allclose(jacobian[first:last, first:last], matrix, atol=1e-15)
        first = last
    alone = stack(lower)
    assert alone.unit_jacobians(alone.params, carry[0][:1], xs[0]).shape == (2, 2, 2)
    dense, _, _ = network("GRUCell", 3)
    assert stack(lower, dense).unit_jacobians is None


def test_a_recurrence_is_shown_by_its_cell_and_the_shapes_of_its_parameters(network):
    recurrence, _, _ = network("GRUCell", 4)
    shown = repr(recurrence)
    assert shown.startswith("Recurrence(GRUCell, 100 parameters: ['params']['hn']['bias'] (4,), ")
    assert len(shown) < 400
    for two in (stack(recurrence, recurrence), jax.tree.map(lambda _: object(), recurrence)):
        assert repr(two).startswith("Recurrence(")

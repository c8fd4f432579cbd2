"""Each usual mistake in a backward rule, a closed form or Jacobians is found and named."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import check_gradients, training
from tests.contract_cells import CELLS_OF_CONTRACT
from tests.networks import make_network, mostly_slow, normal
from tests.products.test_bordered import border_of_memory, of_memory

WIDTH, NUM_STEPS = 3, 5


@pytest.mark.parametrize("cell", mostly_slow(CELLS_OF_CONTRACT, ["GRUCell", "stack", "lru"]))
@pytest.mark.parametrize("dtype", mostly_slow([jnp.float32, jnp.float64], [jnp.float64]))
def test_the_gradients_of_every_cell_are_right(cell, dtype):
    found = check_gradients(*CELLS_OF_CONTRACT[cell](0, dtype))
    assert found.passed, str(found)
    assert (found.step, found.row, found.num_kinks) == (-1, -1, 0)
    np.testing.assert_allclose(found.log_norm, found.log_norm_by_backpropagation, rtol=1e-4)
    assert str(found).startswith("gradients are right")


def lstm_step(p, carry, x):
    c, h = carry
    i, f, g, o = jnp.split(p["x"] @ x + p["h"] @ h, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def lstm_jacobian(p, carry, x):
    """Differentiate by the chain rule, gate by gate."""
    c, h = carry
    before = p["x"] @ x + p["h"] @ h
    i, f, g, o = jnp.split(before, 4)
    si, sf, so, tg = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
    new = sf * c + si * tg
    of_i, of_f, of_g, of_o = jnp.split(p["h"], 4)
    c_h = (
        (tg * si * (1 - si))[:, None] * of_i
        + (c * sf * (1 - sf))[:, None] * of_f
        + (si * (1 - tg**2))[:, None] * of_g
    )
    slope = so * (1 - jnp.tanh(new) ** 2)
    h_h = slope[:, None] * c_h + (jnp.tanh(new) * so * (1 - so))[:, None] * of_o
    return jnp.block([[jnp.diag(sf), c_h], [jnp.diag(slope * sf), h_h]])


def of_hidden_alone(p, carry, x):
    return lstm_jacobian(p, carry, x)[WIDTH:, WIDTH:]


def with_zeros_for_the_cell_state(p, carry, x):
    return jnp.zeros((2 * WIDTH, 2 * WIDTH)).at[WIDTH:, WIDTH:].set(of_hidden_alone(p, carry, x))


def transposed(p, carry, x):
    return lstm_jacobian(p, carry, x).T


def with_wrong_forget_gate(p, carry, x):
    c, h = carry
    sf = jax.nn.sigmoid(jnp.split(p["x"] @ x + p["h"] @ h, 4)[1])
    # The slope of the gate is taken for 1 instead of 1 - sf.
    extra = (c * sf**2)[:, None] * jnp.split(p["h"], 4)[1]
    return lstm_jacobian(p, carry, x).at[:WIDTH, WIDTH:].add(extra)


def lstm(jacobian):
    p = {"x": jnp.asarray(normal(0, (4 * WIDTH, 2))), "h": jnp.asarray(normal(1, (4 * WIDTH, 3)))}
    carry = jnp.asarray(normal(2, WIDTH)), jnp.asarray(normal(3, WIDTH))
    recurrence = jrnn.Recurrence(lstm_step, p, jacobian, output=lambda carry: carry[1])
    return recurrence, carry, jnp.asarray(normal(4, (NUM_STEPS, 2)))


def truth(recurrence, carry, xs):
    return jrnn.step_jacobians(dataclasses.replace(recurrence, jacobian=None), carry, xs)


def test_a_right_closed_form_passes_and_its_norm_is_that_of_backpropagation():
    recurrence, carry, xs = lstm(lstm_jacobian)
    found = check_gradients(recurrence, carry, xs)
    assert found.passed
    np.testing.assert_allclose(found.log_norm, found.log_norm_by_backpropagation, rtol=1e-12)
    v = np.random.default_rng(0).standard_normal(2 * WIDTH)
    product = np.linalg.multi_dot(np.asarray(truth(recurrence, carry, xs))[::-1])
    expected = np.log(np.linalg.norm(product.T @ v) / np.linalg.norm(v))
    np.testing.assert_allclose(found.log_norm, expected, rtol=1e-12)


@pytest.mark.parametrize("jacobian", [of_hidden_alone, with_zeros_for_the_cell_state])
def test_an_lstm_without_its_cell_state_is_named(jacobian):
    found = check_gradients(*lstm(jacobian))
    assert (found.fault, found.source) == ("missing state", "jacobian")
    assert "carry[0] left out, 3 of 6 entries" in str(found)


def test_a_transposed_closed_form_is_named():
    found = check_gradients(*lstm(transposed))
    assert (found.fault, found.source) == ("transposed", "jacobian")
    assert found.log_norm != pytest.approx(found.log_norm_by_backpropagation)


def test_a_wrong_gate_is_found_with_its_step_and_entry():
    recurrence, carry, xs = lstm(with_wrong_forget_gate)
    found = check_gradients(recurrence, carry, xs)
    assert (found.fault, found.source) == ("wrong values", "jacobian")
    states = jrnn.trajectory(dataclasses.replace(recurrence, jacobian=None), carry, xs)[:-1]
    carries = states[:, :WIDTH], states[:, WIDTH:]
    given = jax.vmap(lambda c, x: with_wrong_forget_gate(recurrence.params, c, x))(carries, xs)
    right = truth(recurrence, carry, xs)
    relative = np.abs(given - right) / (1 + np.abs(right).max((1, 2), keepdims=True))
    worst = np.unravel_index(np.argmax(relative), relative.shape)
    assert (found.step, found.row, found.column) == worst
    np.testing.assert_allclose(found.received, given[worst])
    np.testing.assert_allclose(found.expected, right[worst])
    row, column = found.row, found.column - WIDTH
    assert f"new carry[0][{row}] with respect to old carry[1][{column}]" in found.detail


def test_jacobians_of_ones_own_may_be_reversed_transposed_or_lack_a_state():
    recurrence, carry, xs = lstm(None)
    right = truth(recurrence, carry, xs)
    wrong = right.at[3, 1, 4].add(0.01)
    for jacobians, fault in (
        (right, "none"),
        (right[::-1], "reversed order"),
        (right.swapaxes(1, 2), "transposed"),
        (right[:, :WIDTH, :WIDTH], "missing state"),
        (right[:, 1:, 1:], "missing state"),
        (wrong, "wrong values"),
    ):
        found = check_gradients(recurrence, carry, xs, jacobians=jacobians)
        assert found.fault == fault, str(found)
        assert found.source == ("step" if fault == "none" else "jacobians")
    assert (found.step, found.row, found.column) == (3, 1, 4)
    np.testing.assert_allclose(found.received - found.expected, 0.01)


def test_a_product_of_ones_own_may_be_in_reversed_order():
    recurrence, carry, xs = lstm(None)
    right = np.asarray(truth(recurrence, carry, xs))
    product = np.linalg.multi_dot(right[::-1])
    for given, fault in (
        (product, "none"),
        (np.linalg.multi_dot(right), "reversed order"),
        (product.T, "transposed"),
        (np.linalg.multi_dot(right[::-1, WIDTH:, WIDTH:]), "missing state"),
        (2 * product, "wrong values"),
    ):
        found = check_gradients(recurrence, carry, xs, product=given)
        assert found.fault == fault, str(found)
        assert found.source == ("step" if fault == "none" else "product")


@jax.custom_vjp
def bent_tanh(x):
    return jnp.tanh(x)


bent_tanh.defvjp(
    lambda x: (jnp.tanh(x), jnp.tanh(x)),
    lambda y, cotangent: ((1 - y) * cotangent,),  # the square of y is forgotten
)


def test_a_wrong_backward_rule_is_found_though_all_of_jax_believes_it():
    def step(w, h, x):
        return bent_tanh(w @ h + x)

    w, h = jnp.asarray(normal(0, (4, 4))), jnp.asarray(normal(1, 4))
    xs = jnp.asarray(normal(2, (NUM_STEPS, 4)))
    recurrence = jrnn.Recurrence(step, w)
    found = check_gradients(recurrence, h, xs)
    assert (found.fault, found.source) == ("backward rule", "step")
    # What JAX takes is wrong in the same way on every route.
    np.testing.assert_allclose(found.log_norm, found.log_norm_by_backpropagation, rtol=1e-9)
    states = jrnn.trajectory(recurrence, h, xs)
    slope = 1 - np.asarray(states[found.step + 1]) ** 2
    np.testing.assert_allclose(
        found.expected, slope[found.row] * w[found.row, found.column], rtol=1e-6
    )
    np.testing.assert_allclose(
        found.received,
        (1 - states[found.step + 1][found.row]) * w[found.row, found.column],
        rtol=1e-12,
    )


def test_entries_at_a_kink_are_not_judged():
    def step(w, h, x):
        return jax.nn.relu(w @ h) + 0 * x

    w = jnp.asarray(normal(0, (3, 3)))
    found = check_gradients(jrnn.Recurrence(step, w), jnp.zeros(3), jnp.zeros((2, 3)))
    assert found.passed
    assert found.num_kinks == 2 * 9
    assert "18 entries at kinks are not judged" in str(found)


def test_the_recurrence_of_a_network_is_checked():
    recurrence, carry, xs = lstm(transposed)
    network = training.Network(recurrence, jnp.zeros((WIDTH, 2)), jnp.zeros(2))
    assert check_gradients(network, carry, xs).fault == "transposed"
    recurrence, carry, xs = make_network("GRUCell", 4)
    network = training.Network(recurrence, jnp.zeros((4, 2)), jnp.zeros(2))
    assert check_gradients(network, carry, xs).passed


@pytest.mark.parametrize(
    ("change", "rows", "column"),
    [
        (lambda one: dataclasses.replace(one, kept=1.01 * one.kept), range(5), None),
        (lambda one: dataclasses.replace(one, column=one.column.at[2].add(0.1)), [2], 5),
        (lambda one: dataclasses.replace(one, own=-one.own), [5], 5),
    ],
)
def test_a_wrong_border_is_found_with_its_entry(change, rows, column):
    system, carry, xs = of_memory(num_steps=4)

    def declared(params, carry, x):
        return change(border_of_memory(params, carry, x))

    assert check_gradients(system, carry, xs).passed
    found = check_gradients(dataclasses.replace(system, unit_jacobians=declared), carry, xs)
    assert (found.fault, found.source) == ("wrong values", "unit_jacobians")
    assert found.row in rows
    assert found.column == (found.row if column is None else column)


def test_what_cannot_be_checked_is_refused():
    recurrence, carry, xs = make_network("GRUCell", 3)
    jacobians = jrnn.step_jacobians(recurrence, carry, xs)
    with pytest.raises(ValueError, match="product: received one beside jacobians"):
        check_gradients(recurrence, carry, xs, jacobians=jacobians, product=jacobians[0])
    with pytest.raises(ValueError, match=r"jacobians: received shape \(11, 3, 3\), expected \(12,"):
        check_gradients(recurrence, carry, xs, jacobians=jacobians[1:])
    with pytest.raises(ValueError, match="square matrices"):
        check_gradients(recurrence, carry, xs, jacobians=jacobians[:, :2])
    with pytest.raises(ValueError, match="xs: received no steps"):
        check_gradients(recurrence, carry, xs[:0])
    with pytest.raises(TypeError, match=r"network: received traced values, .* outside jit"):
        jax.jit(lambda xs: check_gradients(recurrence, carry, xs).excess)(xs)
    with pytest.raises(TypeError, match="recurrence: received a GRUCell"):
        check_gradients(nn.GRUCell(3), carry, xs)


def small_network(dtype, scale=0.4, num_steps=40):
    w = jnp.asarray(scale / 2 * normal(0, (4, 4)), dtype)
    system = jrnn.Recurrence(lambda w, h, x: jnp.tanh(w @ h + x), w)
    return system, jnp.asarray(normal(1, 4), dtype), jnp.asarray(normal(2, (num_steps, 4)), dtype)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda right, _: right, "none"),
        (lambda _, reverse: reverse, "reversed order"),
        (lambda right, _: right.T, "transposed"),
        (lambda right, _: 0 * right, "wrong values"),
        (lambda right, _: 1.001 * right, "wrong values"),
    ],
)
def test_a_product_that_vanishes_is_judged_by_its_own_size(change, fault):
    network = small_network(jnp.float64)
    steps = np.asarray(jrnn.step_jacobians(*network))
    right = np.linalg.multi_dot(steps[::-1])
    assert np.abs(right).max() < 1e-15
    found = check_gradients(*network, product=change(right, np.linalg.multi_dot(steps)))
    assert found.fault == fault
    assert np.isclose(found.log_norm, found.log_norm_by_backpropagation) == (fault == "none")


def test_a_product_below_the_range_of_floats_is_refused():
    network = small_network(jnp.float64, scale=1e-3, num_steps=200)
    with pytest.raises(ValueError, match="product: received one of 200 steps, which is e"):
        check_gradients(*network, product=np.zeros((4, 4)))


def test_closed_forms_of_small_weights_are_judged_by_their_own_size():
    network, carry, xs = small_network(jnp.float32, scale=1e-4, num_steps=5)
    assert check_gradients(network, carry, xs).passed
    zero = dataclasses.replace(network, jacobian=lambda w, *_: jnp.zeros_like(w))
    assert check_gradients(zero, carry, xs).fault == "wrong values"


def test_a_derivative_that_is_nan_where_values_are_finite_is_a_wrong_rule():
    def step(w, h, x):
        before = w @ h + x
        return jnp.where(before > 0, jnp.sqrt(before), 0.1 * h)  # both branches have a derivative

    network, carry, xs = small_network(jnp.float64)
    found = check_gradients(dataclasses.replace(network, step=step), carry, xs)
    assert found.fault == "backward rule"
    assert np.isnan(found.received)
    assert np.isfinite(found.expected)


def test_states_that_are_not_finite_are_refused_with_the_step():
    network = jrnn.Recurrence(lambda *now: now[1] ** 2, jnp.ones(1))
    with pytest.raises(ValueError, match="NaN or infinity after step 5"):
        check_gradients(network, jnp.full(3, 1e5), None, num_steps=20)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (slice(None), slice(0, WIDTH), r"the new state depends on old carry\[0\]"),
        (slice(0, WIDTH), slice(WIDTH, None), r"new carry\[0\] depends on old carry\[1\]"),
    ],
)
def test_a_dependence_that_is_left_out_is_named(rows, columns, said):
    network = lstm(None)
    steps = np.array(jrnn.step_jacobians(*network))
    steps[:, rows, columns] = 0
    found = check_gradients(*network, jacobians=steps)
    assert found.fault == "missing state"
    assert re.search(said, found.detail)

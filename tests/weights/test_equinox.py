"""Cells of Equinox, with their own call as the oracle."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import from_equinox, layers_in, step_jacobians, trajectory, zero_carry

INPUTS, UNITS = 3, 5


@pytest.fixture
def equinox(standard_promotion):
    del standard_promotion
    return pytest.importorskip("equinox")


def randomized(cell):
    """Replace all arrays, because Equinox draws small ones, and biases too."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(generator.normal(size=a.shape)), cell)


def inputs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(6, INPUTS)))


def states_of(call, carry, xs):
    states = [carry]
    for x in xs:
        states.append(call(x, states[-1]))
    return states


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_gru_has_the_states_and_jacobians_of_equinox(equinox, use_bias):
    cell = equinox.nn.GRUCell(INPUTS, UNITS, use_bias=use_bias, key=jax.random.key(0))
    cell = randomized(cell)
    network, xs = from_equinox(cell), inputs()
    states = states_of(cell, jnp.zeros(UNITS), xs)
    got = trajectory(network, zero_carry(network), xs)
    np.testing.assert_allclose(got, jnp.stack(states), rtol=1e-12, atol=1e-13)
    closed = step_jacobians(network, zero_carry(network), xs, method="closed_form")
    for x, state, jacobian in zip(xs, states, closed, strict=False):
        expected = jax.jacrev(lambda h, x=x: cell(x, h))(state)
        np.testing.assert_allclose(jacobian, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("use_bias", [True, False])
def test_an_lstm_has_the_states_and_jacobians_of_equinox_with_c_before_h(equinox, use_bias):
    cell = equinox.nn.LSTMCell(INPUTS, UNITS, use_bias=use_bias, key=jax.random.key(0))
    cell = randomized(cell)
    network, xs = from_equinox(cell), inputs()
    states = states_of(cell, (jnp.zeros(UNITS), jnp.zeros(UNITS)), xs)
    states = [jnp.concatenate(state[::-1]) for state in states]
    got = trajectory(network, zero_carry(network), xs)
    np.testing.assert_allclose(got, jnp.stack(states), rtol=1e-12, atol=1e-13)

    def step(state, x):
        c, h = jnp.split(state, 2)
        return jnp.concatenate(cell(x, (h, c))[::-1])

    closed = step_jacobians(network, zero_carry(network), xs, method="closed_form")
    for x, state, jacobian in zip(xs, states, closed, strict=False):
        np.testing.assert_allclose(jacobian, jax.jacrev(step)(state, x), rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(network.output((jnp.zeros(2), jnp.ones(2))), jnp.ones(2))


def make_leaky(equinox):
    """Make a cell of somebody's own, with a number, a function and a linear layer in it."""

    class Leaky(equinox.Module):
        recurrent: equinox.nn.Linear
        read: jax.Array
        leak: float
        function: object = jnp.tanh

        def __call__(self, x, h):
            return (1 - self.leak) * h + self.leak * self.function(
                self.recurrent(h) + self.read @ x
            )

    linear = equinox.nn.Linear(UNITS, UNITS, key=jax.random.key(0), dtype=float)
    return Leaky(linear, jax.random.normal(jax.random.key(1), (UNITS, INPUTS), float), 0.3)


def test_any_module_that_takes_an_input_and_a_state_is_a_recurrence(equinox):
    cell = make_leaky(equinox)
    network, xs, start = from_equinox(cell), inputs(), jnp.ones(UNITS)
    expected = jnp.stack(states_of(cell, start, xs))
    np.testing.assert_allclose(trajectory(network, start, xs), expected, rtol=1e-13)
    assert len(jax.tree.leaves(network.params)) == 3
    # Cells that differ in arrays alone share a step, and so a compiled program.
    other = equinox.tree_at(lambda one: one.read, cell, 2 * cell.read)
    assert from_equinox(other).step == network.step
    assert hash(from_equinox(other).step) == hash(network.step)
    other = equinox.tree_at(lambda one: one.leak, cell, 0.4)
    assert from_equinox(other).step != network.step


def call_with_a_pair(module, carry, x):
    return module.cell(x, carry)


def make_wrapped(equinox):
    class Wrapped(equinox.Module):
        cell: equinox.nn.GRUCell
        others: dict

        def __call__(self, xs):
            return xs

    cell = randomized(equinox.nn.GRUCell(INPUTS, UNITS, key=jax.random.key(0)))
    lstm = equinox.nn.LSTMCell(UNITS, 2, key=jax.random.key(1))
    return Wrapped(cell, {"up": [lstm]})


def test_a_module_that_is_called_in_another_way_needs_to_be_told_how(equinox):
    module = make_wrapped(equinox)
    match = r"a Wrapped that is not called so .*\.cell, \.others\['up'\]\[0\], or pass call="
    with pytest.raises(TypeError, match=match):
        from_equinox(module)
    network, xs = from_equinox(module, call=call_with_a_pair), inputs()
    got, expected = (
        trajectory(one, jnp.zeros(UNITS), xs) for one in (network, from_equinox(module.cell))
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert from_equinox(module, call=call_with_a_pair).step == network.step


def test_the_cells_of_a_module_are_listed_with_the_way_to_them(equinox):
    module = make_wrapped(equinox)
    first, second = layers_in(module)
    assert (first.prefix, first.kind, first.num_inputs, first.num_units) == (
        ".cell",
        "GRUCell",
        3,
        5,
    )
    assert first.dtype == "float64"
    assert second.prefix == ".others['up'][0]"
    assert layers_in(module.cell)[0].prefix == ""


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda cell: {"cell": cell}, TypeError, "cell: received a dict, expected a module"),
        (
            lambda cell: dataclasses.replace(cell, function={1}),
            TypeError,
            "an attribute that cannot be hashed",
        ),
        (
            lambda cell: dataclasses.replace(cell, read=cell.read * jnp.nan),
            ValueError,
            r"cell\.read: received 15 of 15 values",
        ),
    ],
)
def test_what_is_no_cell_is_refused(equinox, change, error, match):
    with pytest.raises(error, match=match):
        from_equinox(change(make_leaky(equinox)))


def test_call_has_to_be_a_function(equinox):
    with pytest.raises(TypeError, match="call: received 3, expected a function"):
        from_equinox(make_leaky(equinox), call=3)


def test_without_equinox_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r"pip install 'jacobian_rnn\[equinox\]'"):
        from_equinox(None)

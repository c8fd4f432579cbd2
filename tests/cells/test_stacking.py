"""Layers of a stack can be had one by one, and what a layer shows is never guessed in silence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import Recurrence, stack, training, unstack
from tests.networks import make_network, normal
from tests.training.trainings import recall

WIDTH = 4


def lstm(params, carry, x):
    """Step with a carry (h, c), h first."""
    h, c = carry
    i, f, g, o = jnp.split(params["i"] @ x + params["h"] @ h, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def hidden(carry):
    return carry[0]


def two_layers(**options):
    layers = [
        {
            "i": jnp.asarray(normal(n, (4 * WIDTH, n))),
            "h": jnp.asarray(normal(9 + n, (4 * WIDTH, WIDTH))) / 3,
        }
        for n in (3, WIDTH + 1)
    ]
    layers[1]["i"] = layers[1]["i"][:, :WIDTH]
    return [Recurrence(lstm, params, **options) for params in layers]


def as_linen(recurrence):
    """Make Flax's LSTM of the same weights, whose carry is (c, h)."""
    inputs, recurrent = recurrence.params["i"], recurrence.params["h"]
    params = {}
    for letter, rows in zip("ifgo", np.split(np.arange(4 * WIDTH), 4), strict=True):
        params[f"i{letter}"] = {"kernel": inputs[rows].T}
        params[f"h{letter}"] = {"kernel": recurrent[rows].T, "bias": jnp.zeros(WIDTH)}
    cell = nn.OptimizedLSTMCell(WIDTH, param_dtype=jnp.float64)
    return jrnn.from_linen(cell, {"params": params})


ZERO = (np.zeros(WIDTH), np.zeros(WIDTH))
XS = normal(5, (10, 3))


def test_layers_whose_output_is_named_are_flax_layers_of_the_same_weights():
    layers = two_layers(output=hidden)
    found = jrnn.jacobian_product(stack(*layers), (ZERO, ZERO), XS).log_singular_values()
    expected = jrnn.jacobian_product(stack(*map(as_linen, layers)), (ZERO, ZERO), XS)
    np.testing.assert_allclose(found[:4], expected.log_singular_values()[:4], rtol=1e-9)


def test_a_guess_among_several_arrays_is_neither_stacked_nor_read_out():
    layers, said = two_layers(), r"^output: received none for a carry of 2 arrays, carry\[0\] and "
    with pytest.raises(ValueError, match=said):
        jrnn.trajectory(stack(*layers), (ZERO, ZERO), XS)
    task = recall(3)
    layer = dataclasses.replace(layers[0], params=layers[0].params | {"i": jnp.ones((16, 4))})
    optimizer = optax.sgd(0.1)
    options = {"optimizer": optimizer, "key": jax.random.key(0), "num_updates": 1, "records": 1}
    for recurrence, carry in (
        (layer, ZERO),
        (stack(layer), (ZERO,)),
        (jrnn.with_padding(layer), ZERO),
    ):
        with pytest.raises(ValueError, match=said):
            training.start(task, recurrence, carry, optimizer, key=jax.random.key(0))
    with pytest.raises(ValueError, match=said):
        training.train(task, layer, ZERO, **options)
    network = training.Network(layer, jnp.zeros((WIDTH, 4)), jnp.zeros(4))
    batch = task.sample(jax.random.key(0), 2)
    for read in (
        lambda net: training.apply(net, ZERO, task, batch.xs),
        lambda net: training.lag_norms(net, ZERO, task, batch),
    ):
        with pytest.raises(ValueError, match=said):
            read(network)
        # What the error says to do.
        assert read(network._replace(recurrence=dataclasses.replace(layer, output=hidden))).size
    named = dataclasses.replace(layer, output=hidden)
    training.train(task, named, ZERO, **options)


def test_a_prediction_says_which_array_it_took():
    layer, batch = two_layers()[0], np.stack([XS, XS[::-1]])
    with pytest.warns(UserWarning, match=r"the regime is that of the last one: name it"):
        guessed = jrnn.predict_regime(layer, ZERO, batch, horizon=5)
    named = dataclasses.replace(layer, output=lambda carry: carry[1])
    same = jrnn.predict_regime(named, ZERO, batch, horizon=5)
    np.testing.assert_allclose(guessed.log_growth, same.log_growth, rtol=0.2)


class HiddenFirst(nn.RNNCellBase):
    """A cell of one's own, whose carry is (h, c)."""

    @nn.compact
    def __call__(self, carry, x):
        (c, h), y = nn.OptimizedLSTMCell(WIDTH, param_dtype=jnp.float64)(carry[::-1], x)
        return (h, c), y


def test_the_output_of_a_flax_cell_of_ones_own_is_asked_for_too():
    cell = HiddenFirst()
    variables = cell.init(jax.random.key(0), ZERO, XS[0])
    recurrence = jrnn.from_linen(cell, variables)
    top = make_network("GRUCell", 3)[0]
    with pytest.raises(ValueError, match="output: received none"):
        jrnn.trajectory(stack(recurrence, top), (ZERO, jnp.zeros(3)), XS)
    # Flax's own cells have h last.
    for name in ("LSTMCell", "nnx OptimizedLSTMCell"):
        lower, carry, xs = make_network(name, 3)
        jrnn.trajectory(stack(lower, top), (carry, jnp.zeros(3)), xs)


@pytest.mark.parametrize("name", ["LSTMCell", "nnx GRUCell"])
def test_a_stack_comes_apart_into_its_layers(name):
    layers = [make_network(name, 3, seed)[0] for seed in (0, 1)]
    apart = unstack(stack(*layers))
    assert [one.step for one in apart] == [one.step for one in layers]
    assert [one.jacobian for one in apart] == [one.jacobian for one in layers]
    jax.tree.map(
        np.testing.assert_array_equal, [r.params for r in apart], [r.params for r in layers]
    )
    with pytest.raises(TypeError, match="recurrence: received a LinenStep, expected a stack"):
        unstack(make_network("LSTMCell", 3)[0])


def test_a_stack_is_changed_layer_by_layer():
    layers = [make_network("LSTMCell", 3, seed)[0] for seed in (0, 1)]
    both = stack(*layers)
    for change in (
        lambda one: jrnn.with_gain(one, 1.7),
        lambda one: jrnn.with_gate_bias(one, "forget", 3.0),
    ):
        found, expected = change(both), stack(*map(change, layers))
        assert found.step == expected.step
        assert found.jacobian == expected.jacobian
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    # One layer alone.
    lower, upper = unstack(both)
    changed = stack(lower, jrnn.with_gate_bias(upper, "forget", 3.0))
    jax.tree.map(np.testing.assert_array_equal, changed.params[0], layers[0].params)
    np.testing.assert_array_equal(changed.params[1]["params"]["hf"]["bias"], 3.0)
    chrono = jrnn.with_chrono_biases(both, 50, key=jax.random.key(0))
    biases = [one.params["params"]["hf"]["bias"] for one in unstack(chrono)]
    assert not np.allclose(*biases)
    for one, bias in zip(unstack(chrono), biases, strict=True):
        np.testing.assert_array_equal(one.params["params"]["hi"]["bias"], -bias)

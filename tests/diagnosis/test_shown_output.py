"""A cell of one's own is judged by the array that it returns, wherever in its carry that is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis import record_layers
from tests.networks import normal

XS = normal(0, (3, 8, 2))


def memory_step(dense, carry, x):
    """Keep a slow array beside the fast one that depends on it."""
    fast, slow = carry
    slow = 0.9 * slow + 0.1 * jnp.tanh(dense(x) + fast)
    return jnp.sin(slow), slow


class Own(nn.RNNCellBase):
    """Returns one array of its carry (fast, slow), or a sum of both."""

    shown: int | None

    @nn.compact
    def __call__(self, carry, x):
        new = memory_step(nn.Dense(4, param_dtype=float), carry, x)
        return new, sum(new) if self.shown is None else new[self.shown]

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        del rng
        return (jnp.zeros((*input_shape[:-1], 4)),) * 2

    @property
    def num_feature_axes(self):
        return 1


class OwnNNX(nnx.RNNCellBase):
    """The same for nnx, which returns the first array of its carry."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 4, param_dtype=float, rngs=rngs)

    def __call__(self, carry, x):
        new = memory_step(self.dense, carry, x)
        return new, new[0]

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        del rngs, carry_init
        return (jnp.zeros((*input_shape[:-1], 4)),) * 2

    @property
    def num_feature_axes(self):
        return 1


def linen_layer(shown):
    model = nn.RNN(Own(shown))
    return record_layers(model, XS, variables=model.init(jax.random.key(0), XS))[0]


@pytest.mark.parametrize("shown", [0, 1])
def test_the_output_is_the_array_that_a_linen_cell_returns(shown):
    layer = linen_layer(shown)
    arrays = jnp.zeros(4), jnp.ones(4)
    np.testing.assert_array_equal(layer.recurrence.output(arrays), arrays[shown])
    assert layer.notes == ()


def test_the_output_is_the_array_that_an_nnx_cell_returns():
    (layer,) = record_layers(nnx.RNN(OwnNNX(nnx.Rngs(0))), XS)
    arrays = jnp.zeros(4), jnp.ones(4)
    np.testing.assert_array_equal(layer.recurrence.output(arrays), arrays[0])


def test_a_cell_that_returns_something_else_is_judged_by_its_last_array_and_the_page_says_so():
    layer = linen_layer(None)
    assert "none of the arrays of its carry" in layer.notes[0]
    model = nn.RNN(Own(None))
    variables = model.init(jax.random.key(0), XS)
    diagnosis = jrnn.diagnose(model, XS, variables=variables, horizon=6)
    assert "none of the arrays" in " ".join(str(diagnosis).split())

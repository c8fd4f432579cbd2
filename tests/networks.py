"""The Flax cells that many tests share, drawn without Flax's initialisers, which are slow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jacobian_rnn import Recurrence, draw, from_linen, from_nnx

NUM_INPUTS = 3


def normal(seed, shape):
    """Draw standard normal numbers from numpy, for which nothing has to be compiled."""
    return np.random.default_rng(seed).standard_normal(shape)


def randomized(tree, generator):
    """Draw every parameter, biases included, in place of what the cell has drawn or would draw."""
    return jax.tree.map(
        lambda a: jnp.asarray(0.5 * generator.standard_normal(a.shape), a.dtype), tree
    )


def random_variables(cell, *inputs, generator=None):
    """Draw the variables of a Linen module without its initialisers, which compile for long."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0), *inputs)
    return randomized(shapes, generator or np.random.default_rng(0))


def linen_network(cell, generator):
    shape = (4, 4, 2) if isinstance(cell, nn.ConvLSTMCell) else (NUM_INPUTS,)
    carry = cell.initialize_carry(jax.random.key(0), shape)
    x = jnp.zeros(shape, cell.param_dtype)
    variables = random_variables(cell, carry, x, generator=generator)
    return from_linen(cell, variables), randomized(carry, generator)


def nnx_network(cell, generator):
    carry = cell.initialize_carry((NUM_INPUTS,), nnx.Rngs(0))
    recurrence = from_nnx(cell)
    params = randomized(recurrence.params, generator)
    return Recurrence(recurrence.step, params, recurrence.jacobian), randomized(carry, generator)


def double(cell_class, *arguments, **options):
    return cell_class(*arguments, param_dtype=jnp.float64, **options)


def linen_cell(cell_class, **options):
    """Return a function that makes a linen cell of a width, in a dtype."""

    def make(width, dtype=jnp.float64):
        return cell_class(width, param_dtype=dtype, **options)

    return make


def nnx_cell(cell_class):
    """Return a function that makes an nnx cell of a width, in a dtype."""
    blank = nnx.initializers.zeros  # which costs nothing to compile

    def make(width, dtype=jnp.float64):
        return cell_class(
            NUM_INPUTS, width, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0),
            kernel_init=blank, recurrent_kernel_init=blank,
        )  # fmt: skip

    return make


LINEN = {
    "SimpleCell": linen_cell(nn.SimpleCell),
    "SimpleCell residual": linen_cell(nn.SimpleCell, residual=True),
    "LSTMCell": linen_cell(nn.LSTMCell),
    "OptimizedLSTMCell": linen_cell(nn.OptimizedLSTMCell),
    "GRUCell": linen_cell(nn.GRUCell),
    "MGUCell": linen_cell(nn.MGUCell),
    "MGUCell no reset": linen_cell(nn.MGUCell, reset_gate=False),
    "ConvLSTMCell": linen_cell(nn.ConvLSTMCell, kernel_size=[3, 3]),
}
NNX = {
    f"nnx {cell.__name__}": nnx_cell(cell)
    for cell in (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
}
CELLS = [*LINEN, *NNX]
CLOSED_FORMS = [name for name in CELLS if name != "ConvLSTMCell"]
MAIN_CELLS = ["SimpleCell", "LSTMCell", "GRUCell", "nnx OptimizedLSTMCell"]


def mostly_slow(values, quick):
    """Give values as parameters of a test that runs by default for the quick ones alone.

    A tuple stands for several parameters.
    """
    return [
        pytest.param(
            *(value if type(value) is tuple else (value,)),
            marks=[] if value in quick else [pytest.mark.slow],
        )
        for value in values
    ]


@functools.cache
def make_network(name, width, seed=0, dtype=jnp.float64):
    """Make `(recurrence, carry, xs)` of a named cell, with random biases and a random carry."""
    generator = np.random.default_rng(seed)
    if name in LINEN:
        recurrence, carry = linen_network(LINEN[name](width, dtype), generator)
    else:
        recurrence, carry = nnx_network(NNX[name](width, dtype), generator)
    shape = (4, 4, 2) if name == "ConvLSTMCell" else (NUM_INPUTS,)
    return recurrence, carry, jnp.asarray(generator.standard_normal((12, *shape)), dtype)


def random_network(cell, seed=0, num_inputs=3):
    """Draw a network of a linen cell by its own initialisers, as a user does."""
    return draw(cell, key=jax.random.key(seed), num_inputs=num_inputs)

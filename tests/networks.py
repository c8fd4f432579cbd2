"""The Flax cells that many tests share, drawn without Flax's initialisers, which are slow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jacobian_rnn import Recurrence, from_linen, from_nnx

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
    variables = random_variables(cell, carry, jnp.zeros(shape), generator=generator)
    return from_linen(cell, variables), randomized(carry, generator)


def nnx_network(cell, generator):
    carry = cell.initialize_carry((NUM_INPUTS,), nnx.Rngs(0))
    recurrence = from_nnx(cell)
    params = randomized(recurrence.params, generator)
    return Recurrence(recurrence.step, params, recurrence.jacobian), randomized(carry, generator)


def double(cell_class, *arguments, **options):
    return cell_class(*arguments, param_dtype=jnp.float64, **options)


def double_nnx(cell_class, width):
    blank = nnx.initializers.zeros  # which costs nothing to compile
    return double(
        cell_class, NUM_INPUTS, width, dtype=jnp.float64, rngs=nnx.Rngs(0),
        kernel_init=blank, recurrent_kernel_init=blank,
    )  # fmt: skip


LINEN = {
    "SimpleCell": lambda n: double(nn.SimpleCell, n),
    "SimpleCell residual": lambda n: double(nn.SimpleCell, n, residual=True),
    "LSTMCell": lambda n: double(nn.LSTMCell, n),
    "OptimizedLSTMCell": lambda n: double(nn.OptimizedLSTMCell, n),
    "GRUCell": lambda n: double(nn.GRUCell, n),
    "MGUCell": lambda n: double(nn.MGUCell, n),
    "MGUCell no reset": lambda n: double(nn.MGUCell, n, reset_gate=False),
    "ConvLSTMCell": lambda n: double(nn.ConvLSTMCell, n, kernel_size=[3, 3]),
}
NNX = {
    f"nnx {cell.__name__}": lambda n, cell=cell: double_nnx(cell, n)
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
def make_network(name, width, seed=0):
    """Make `(recurrence, carry, xs)` of a named cell, with random biases and a random carry."""
    generator = np.random.default_rng(seed)
    if name in LINEN:
        recurrence, carry = linen_network(LINEN[name](width), generator)
    else:
        recurrence, carry = nnx_network(NNX[name](width), generator)
    shape = (4, 4, 2) if name == "ConvLSTMCell" else (NUM_INPUTS,)
    return recurrence, carry, jnp.asarray(generator.standard_normal((12, *shape)))

"""Small networks and tasks, and what trainings of them have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jacobian_rnn import from_linen, tasks
from tests.networks import random_variables


def network(cell_class, task, width=6):
    cell = cell_class(width, param_dtype=jnp.float64)
    carry = cell.initialize_carry(jax.random.key(0), (task.input_size,))
    variables = random_variables(cell, carry, jnp.zeros(task.input_size))
    return from_linen(cell, variables), carry


def ensemble(task, factors, width=6):
    """Make networks whose weights are those of one, times each of the factors."""
    recurrence, carry = network(nn.SimpleCell, task, width)
    factors = jnp.asarray(factors, float)

    def scaled(leaf):
        return factors.reshape(*factors.shape, *(1,) * leaf.ndim) * leaf[(None,) * factors.ndim]

    return jax.tree.map(scaled, recurrence), carry


@functools.cache
def recall(delay):
    return tasks.delayed_recall(delay, dtype=jnp.float64)


def one_of(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_close(tree, expected, tolerance):
    pairs = zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (tree, expected)), strict=True)
    for (path, one), (_, other) in pairs:
        name = jax.tree_util.keystr(path)
        assert one.shape == other.shape, name
        np.testing.assert_allclose(one, other, tolerance, tolerance, err_msg=name)

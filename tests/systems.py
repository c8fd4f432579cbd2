"""Small systems that several files of tests share, and batches of inputs for them."""

import jax.numpy as jnp

from jacobian_rnn import Recurrence
from tests.networks import normal


def linear(matrix, carry, x):
    return matrix @ carry + 0 * x.sum()


def chosen_matrix(matrices, carry, x):
    return matrices[x[0].astype(int)] @ carry


def rotation(scale):
    return Recurrence(linear, scale * jnp.array([[0.6, -0.8], [0.8, 0.6]]))


def batch(num_steps=40, size=4):
    return normal(0, (size, num_steps, 3))


def given(matrices, carry, x):
    """Multiply by the matrix that is the input."""
    del matrices
    return x @ carry


def through(measure, matrices, **options):
    """Measure along given matrices, one for each step."""
    matrices = jnp.asarray(matrices)
    start = jnp.zeros(matrices.shape[-1], matrices.dtype)
    return measure(Recurrence(given, ()), start, matrices, **options)

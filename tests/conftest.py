"""Settings under which all tests run, and the Flax cells that many of them share."""

import os

from experiments import environment

# XLA's CPU pool of two threads can wait for itself forever when two batched LAPACK calls meet in
# it; one thread cannot.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile more than they compute.
environment.compile_fast(optimize=False)

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jacobian_rnn import Recurrence, from_linen, from_nnx

NUM_INPUTS = 3


@pytest.fixture(autouse=True)
def in_float64():
    """Run in double precision; JAX's default is single."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """Compile with optimisation, for a test that computes for longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def without_what_other_modules_compiled():
    """Free compiled programs: each keeps memory maps, and Linux allows a process 65,530."""
    yield
    jax.clear_caches()


def randomized(tree, key):
    """Add noise to every parameter, biases included, so that none of them is zero."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        a + 0.4 * jax.random.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def linen_network(cell, key):
    carry_key, init_key, noise_key, state_key = jax.random.split(key, 4)
    shape = (4, 4, 2) if isinstance(cell, nn.ConvLSTMCell) else (NUM_INPUTS,)
    carry = cell.initialize_carry(carry_key, shape)
    variables = cell.init(init_key, carry, jnp.zeros(shape))
    return from_linen(cell, randomized(variables, noise_key)), randomized(carry, state_key)


def nnx_network(cell, key):
    noise_key, state_key = jax.random.split(key)
    carry = cell.initialize_carry((NUM_INPUTS,), nnx.Rngs(0))
    recurrence = from_nnx(cell)
    params = randomized(recurrence.params, noise_key)
    return Recurrence(recurrence.step, params, recurrence.jacobian), randomized(carry, state_key)


def double(cell_class, *arguments, **options):
    return cell_class(*arguments, param_dtype=jnp.float64, **options)


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
    f"nnx {cell.__name__}": lambda n, cell=cell: double(
        cell, NUM_INPUTS, n, dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    for cell in (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
}
CELLS = [*LINEN, *NNX]
CLOSED_FORMS = [name for name in CELLS if name != "ConvLSTMCell"]


def make_network(name, width, seed=0):
    """Make `(recurrence, carry, xs)` of a named cell, with random biases and a random carry."""
    key, xs_key = jax.random.split(jax.random.key(seed))
    if name in LINEN:
        recurrence, carry = linen_network(LINEN[name](width), key)
    else:
        recurrence, carry = nnx_network(NNX[name](width), key)
    shape = (4, 4, 2) if name == "ConvLSTMCell" else (NUM_INPUTS,)
    return recurrence, carry, jax.random.normal(xs_key, (12, *shape))


@pytest.fixture
def network():
    """Give `make_network(name, width, seed=0)`."""
    return make_network


@pytest.fixture
def axes():
    """Give an Axes, and draw what the test left on it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what was drawn can be drawn
    plt.close(figure)

"""Forming step Jacobians: closed forms against automatic differentiation, and against writing."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments.benchmarks.timing import Row, compare, timed_row
from experiments.benchmarks.workloads import INPUT_SIZE, Sizes
from jacobian_rnn.jacobians.system import bind

WRITE = "write as many numbers"
METHODS = ("closed_form", "forward", "reverse")


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    return [
        (f"Jacobians: {cell} N={width}", partial(measure, cell, width, sizes))
        for cell in sizes.jacobian_cells
        for width in sizes.jacobian_widths
    ]


def measure(cell: str, width: int, sizes: Sizes) -> list[Row]:
    """Time the Jacobians of `sizes.jacobian_steps` steps at once, from given states."""
    num_steps = sizes.jacobian_steps
    instance = getattr(nn, cell)(width, param_dtype=sizes.dtype)
    generator = np.random.default_rng(width)
    xs = jnp.asarray(generator.standard_normal((num_steps, INPUT_SIZE)), sizes.dtype)
    carry = instance.initialize_carry(jax.random.key(0), (INPUT_SIZE,))
    network = jrnn.from_linen(instance, instance.init(jax.random.key(1), carry, xs[0]))
    states = jrnn.trajectory(network, carry, xs)[1:]

    def jacobians(method, params, states, xs):
        system = jrnn.Recurrence(network.step, params, network.jacobian)
        jacobian = partial(bind(system, carry, xs).jacobian, method=method)
        return jax.vmap(jacobian)(states, xs)

    functions: dict[str, Callable] = {
        WRITE: partial(jax.jit(_written), states),
        **{
            method: partial(jax.jit(partial(jacobians, method)), network.params, states, xs)
            for method in METHODS
        },
    }
    timings = compare(functions, 4 * sizes.repeats, max_seconds=sizes.max_seconds)
    n = states.shape[1]
    row = Row("Jacobians", f"{cell} {width}", "", n, n, num_steps)
    exact = np.asarray(timings.outputs["forward"])
    errors = {
        method: float(np.abs(np.asarray(timings.outputs[method]) - exact).max())
        for method in METHODS
        if method != "forward"
    }
    return [
        timed_row(row._replace(name=name), timings, error=errors.get(name, float("nan")))
        for name in functions
    ]


def _written(states):
    """Make an array of one matrix per state, at the least cost."""
    num_steps, n = states.shape
    return jnp.broadcast_to(states[:, :, None], (num_steps, n, n)) + 1

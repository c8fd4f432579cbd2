"""What a verdict costs: against the gradient of a loss over the same sequences, and by memory.

The reference is what a training update takes at least: `jax.value_and_grad` of the mean squared
output. Memory is what XLA plans for a compiled program, beside its arguments and results.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.benchmarks.timing import Row, compare, timed_row
from experiments.benchmarks.workloads import INPUT_SIZE, Sizes

GRADIENT = "value_and_grad of a loss"
MEGABYTE = 2.0**20
# Cells whose units see themselves alone, drawn with a number of states.
UNITS: dict[str, Callable[..., jrnn.Recurrence]] = {
    "lru": lambda n, **options: jrnn.lru(INPUT_SIZE, n // 2, **options),
    "min_gru": partial(jrnn.min_gru, INPUT_SIZE),
    "s6": lambda n, **options: jrnn.s6(INPUT_SIZE, n // 16, num_states=16, **options),
}


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    listed = [
        (f"verdict: {cell} N={width} T={steps}", partial(verdict, cell, width, steps, sizes))
        for cell in sizes.verdict_cells
        for width in sizes.verdict_widths
        for steps in sizes.verdict_steps
    ]
    listed += [(f"profile: T={steps}", partial(by_length, steps, sizes)) for steps in sizes.lengths]
    listed += [(f"leading: N={n}", partial(leading, n, sizes)) for n in sizes.leading_widths]
    return listed + [
        (f"units: {cell} n={n}", partial(units, cell, n, sizes))
        for cell in sizes.unit_cells
        for n in sizes.unit_states
    ]


def verdict(cell: str, width: int, num_steps: int, sizes: Sizes) -> list[Row]:
    """Time a prediction over half of the sequences, by probes and, for small cells, exactly."""
    network, carry, xs = _driven(cell, width, num_steps, sizes)
    functions = {
        GRADIENT: partial(_value_and_grad, network, carry, xs),
        "predict_regime, probes": partial(_predict, network, carry, xs, method="probes"),
    }
    case = f"{cell} {width}, T={num_steps}"
    row = Row("verdict", case, "", _size(carry), 8, num_steps, len(xs))
    if row.n <= sizes.exact_states:
        functions["predict_regime, exact"] = partial(_predict, network, carry, xs, method="exact")
    return _rows(functions, row, sizes)


def by_length(num_steps: int, sizes: Sizes) -> list[Row]:
    """Time a profile of one sequence, whose memory is to stay flat."""
    network, carry, xs = _driven("GRUCell", 64, num_steps, sizes)
    functions: dict[str, Callable] = {
        GRADIENT: partial(_value_and_grad, network, carry, xs[:1]),
        "backward_profile": partial(_profile, network, carry, xs[0]),
    }
    return _rows(functions, Row("profile", "GRUCell", "", 64, 8, num_steps), sizes)


def leading(width: int, sizes: Sizes) -> list[Row]:
    """Time the eight largest singular values of the product of 200 steps."""
    network, carry, xs = _driven("GRUCell", width, 200, sizes)
    functions: dict[str, Callable] = {
        "leading_singular_values": partial(_leading, network, carry, xs[0])
    }
    if width <= sizes.exact_states:
        functions["jacobian_product, one pass"] = partial(_exact, network, carry, xs[0])
    outputs = compare(functions, 1).outputs
    error = float("nan")
    if len(outputs) == 2:
        ours, exact = outputs.values()
        error = float(np.abs(np.asarray(ours - exact, np.float64)).max())
    rows = _rows(functions, Row("leading", "GRUCell", "", width, 8, 200), sizes)
    return [rows[0]._replace(error=error), *rows[1:]]


def units(cell: str, num_states: int, sizes: Sizes) -> list[Row]:
    """Time what there is for a cell whose units see themselves alone, and compare with matrices.

    Their blocks are numbers, or turn and shrink alike. So the exponents are the logs of the
    singular values by the step.
    """
    network = UNITS[cell](num_states, key=jax.random.key(0), dtype=jnp.dtype(sizes.dtype))
    carry = jrnn.zero_carry(network)
    xs = np.random.default_rng(0).standard_normal((2, 1000, INPUT_SIZE))
    xs = jnp.asarray(xs, sizes.dtype)
    functions: dict[str, Callable] = {
        GRADIENT: partial(_value_and_grad, network, carry, xs[:1]),
        "lyapunov_spectrum": partial(_spectrum, network, carry, xs[0]),
        "jacobian_product": partial(_product, network, carry, xs[0]),
        "backward_profile": partial(_profile, network, carry, xs[0]),
        "predict_regime, 2 sequences": partial(_predict, network, carry, xs, method="probes"),
    }
    errors = {}
    if num_states <= sizes.exact_states:
        dense = dataclasses.replace(network, unit_jacobians=None)
        functions["jacobian_product, matrices"] = partial(_product, dense, carry, xs[0])
        outputs = compare(functions, 1).outputs
        exact = np.asarray(outputs["jacobian_product, matrices"], np.float64) / xs.shape[1]
        rates = {
            "lyapunov_spectrum": outputs["lyapunov_spectrum"],
            "jacobian_product": outputs["jacobian_product"] / xs.shape[1],
        }
        errors = {name: float(np.abs(rate - exact).max()) for name, rate in rates.items()}
    row = Row("units", cell, "", num_states, num_states, xs.shape[1])
    rows = _rows(functions, row, sizes)
    return [row._replace(error=errors.get(row.name, float("nan"))) for row in rows]


@jax.jit
def _value_and_grad(network, carry, xs):
    def loss(params):
        def one_step(carry, x):
            carry = network.step(params, carry, x)
            return carry, network.output(carry)

        outputs = jax.vmap(lambda xs: jax.lax.scan(one_step, carry, xs)[1])(xs)
        return jnp.mean(outputs**2)

    return jax.value_and_grad(loss)(network.params)


@partial(jax.jit, static_argnames="method")
def _predict(network, carry, xs, method):
    prediction = jrnn.predict_regime(
        network, carry, xs, horizon=max(1, xs.shape[1] // 2), method=method
    )
    return prediction.log_growth, prediction.profile, prediction.exponent


@jax.jit
def _profile(network, carry, xs):
    return jrnn.backward_profile(network, carry, xs, key=jax.random.key(0))


@jax.jit
def _leading(network, carry, xs):
    return jrnn.leading_singular_values(network, carry, xs, num=8).log_singular_values


@jax.jit
def _exact(network, carry, xs):
    product = jrnn.jacobian_product(network, carry, xs, estimate_error=False)
    return product.log_singular_values()[:8]


@jax.jit
def _product(network, carry, xs):
    return jrnn.jacobian_product(network, carry, xs).log_singular_values()


@jax.jit
def _spectrum(network, carry, xs):
    return jrnn.lyapunov_spectrum(network, carry, xs, num_warmup=0).exponents


def _driven(cell, width, num_steps, sizes):
    """Draw a cell, its carry of zeros, and eight sequences of normal numbers."""
    network = drawing.draw(cell, width, 1.0, INPUT_SIZE, dtype=sizes.dtype, key=jax.random.key(1))
    xs = np.random.default_rng(width).standard_normal((8, num_steps, INPUT_SIZE))
    carry = drawing.zero_carry(cell, width, sizes.dtype)
    return network, carry, jnp.asarray(xs, sizes.dtype)


def _rows(functions: dict[str, Any], row: Row, sizes: Sizes) -> list[Row]:
    """Time functions against the first, and ask XLA for the memory that each plans for."""
    timings = compare(functions, sizes.repeats, max_seconds=sizes.max_seconds)
    rows = []
    for name, call in functions.items():
        plan = call.func.lower(*call.args, **call.keywords).compile().memory_analysis()
        megabytes = plan.temp_size_in_bytes / MEGABYTE if plan else float("nan")
        rows.append(timed_row(row._replace(name=name), timings, megabytes=megabytes))
    return rows


def _size(carry):
    return sum(leaf.size for leaf in jax.tree.leaves(carry))

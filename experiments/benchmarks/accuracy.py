"""Error of log singular values, on chains of matrices that were built to have known ones.

In float32 the matrices themselves are rounded, which alone moves small singular values of a step by
eps times its condition number: no method can be better than that.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jacobian_rnn as jrnn
from experiments.benchmarks.timing import Row, compare, timed_row
from experiments.benchmarks.workloads import ChainCase, Sizes, chain_of, frame_of, qr_of_jacobians

GROUP = "accuracy"
ONE_PASS, WITH_ERROR = "product_of, one pass", "product_of, with its error"


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    return [(f"{GROUP}: {case.name}", partial(measure, case, sizes)) for case in sizes.chains]


def measure(case: ChainCase, sizes: Sizes) -> list[Row]:
    """Measure error and time of every method on one chain."""
    chain = chain_of(case)
    jacobians = jnp.asarray(chain.jacobians, sizes.dtype)
    frame = frame_of(case.n, case.n, sizes.dtype)
    functions: dict[str, Callable] = {
        "diagonal of one QR pass": partial(qr_log_values, jacobians, frame),
        "naive product, SVD": partial(naive_log_values, jacobians),
        "rescaled product, SVD": partial(rescaled_log_values, jacobians),
        ONE_PASS: partial(log_values_of, jacobians, estimate_error=False),
        WITH_ERROR: partial(log_values_of, jacobians, estimate_error=True),
    }
    timings = compare(functions, sizes.repeats, max_seconds=sizes.max_seconds)
    exact = chain.log_singular_values
    rows = []
    for name in functions:
        log_values, own_error = timings.outputs[name]
        rows.append(
            timed_row(
                Row(GROUP, case.name, name, case.n, case.n, case.num_steps),
                timings,
                error=largest_error(np.asarray(log_values), exact),
                own_error=float(own_error),
                log_range=float(exact[0] - exact[-1]),
            )
        )
    return rows


def largest_error(log_values: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"]) -> float:
    """Return the largest error; infinite where a value was lost to overflow or underflow."""
    errors = np.abs(log_values.astype(np.float64) - exact)
    return float(np.where(np.isnan(errors), np.inf, errors).max())


def log_values_of(jacobians: Array, *, estimate_error: bool) -> tuple[Array, Array]:
    """Return the package's log singular values, and its own estimate of their error."""
    product = jrnn.product_of(jacobians, estimate_error=estimate_error)
    return product.log_singular_values(), product.log_error


def qr_log_values(jacobians: Array, frame: Array) -> tuple[Array, float]:
    """Take the growth of a QR scan, sorted, for the singular values, which it only tends to."""
    return jnp.sort(qr_of_jacobians(jacobians, frame))[::-1] * jacobians.shape[0], np.nan


def naive_log_values(jacobians: Array) -> tuple[Array, float]:
    """Multiply everything and take one SVD."""
    return _naive(jacobians), np.nan


def rescaled_log_values(jacobians: Array) -> tuple[Array, float]:
    """Multiply, divide by the norm after each step, and take one SVD."""
    return _rescaled(jacobians), np.nan


@jax.jit
def _naive(jacobians):
    start = jnp.eye(jacobians.shape[1], dtype=jacobians.dtype)
    product = jax.lax.scan(lambda product, jacobian: (jacobian @ product, None), start, jacobians)
    return jnp.log(jnp.linalg.svd(product[0], compute_uv=False))


@jax.jit
def _rescaled(jacobians):
    def one_step(carried, jacobian):
        product, log_scale = carried
        product = jacobian @ product
        norm = jnp.linalg.norm(product)
        return (product / norm, log_scale + jnp.log(norm)), None

    start = (jnp.eye(jacobians.shape[1], dtype=jacobians.dtype), jnp.zeros((), jacobians.dtype))
    product, log_scale = jax.lax.scan(one_step, start, jacobians)[0]
    return jnp.log(jnp.linalg.svd(product, compute_uv=False)) + log_scale

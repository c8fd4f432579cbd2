"""The largest singular values of the product, with their vectors, without forming a Jacobian."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_count, check_key, check_lags, check_number, check_precision
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import along, back_along, run
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.factored_form import (
    columns_form,
    orthonormalize,
    renew,
    singular_triplets_of,
)
from jacobian_rnn.linalg.frames import positive_qr
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.linalg.rounding import CAUTION, mixed, rounding_factors

MORE_COLUMNS = 8  # than values are asked for: they decide how fast the iteration converges


class LeadingSingularValues(NamedTuple):
    """The k largest singular values of P = J[T-1] ··· J[0] and their vectors.

    Attributes:
        log_singular_values: nats, `(k,)`, descending; −inf for a direction that was lost. NaN where
            a Jacobian or a state is not finite.
        left_vectors: columns, `(n, k)`, in the space of the last state.
        right_vectors: rows, `(k, n)`, in the space of the first. A gradient v of the last state
            arrives at the first along `right_vectors[i]` by σ_i times v · `left_vectors[:, i]`.
        log_error: estimated error of each value, nats, `(k,)`.
        num_rounds: number of rounds of the iteration, int32 scalar.
    """

    log_singular_values: Float[Array, " k"]
    left_vectors: Float[Array, "n k"]
    right_vectors: Float[Array, "k n"]
    log_error: Float[Array, " k"]
    num_rounds: Int[Array, ""]


def leading_singular_values(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num: int,
    key: Array | None = None,
    num_steps: int | None = None,
    max_rounds: int = 20,
    tolerance: float = 1e-8,
) -> LeadingSingularValues:
    """Compute the largest singular values of the product of all Jacobians, matrix-free.

    A few more columns than values are asked for are pushed forwards through all steps, and the
    result is pulled backwards, until the values stay what they are: subspace iteration on PᵀP. The
    columns are kept in factored form with their scales in logs, so values far apart and far beyond
    the float range come out as those of `jacobian_product`. After many steps the singular values
    lie far apart, and two or three rounds do.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num: number k of values, from 1 to n. Static.
        key: for the columns to start from. There is a fixed one by default.
        num_steps: number of steps T where `xs` is None.
        max_rounds: the iteration ends after so many rounds at the latest. Static.
        tolerance: it ends when `log_error` is at most this for all values, nats, or what the
            rounding of T steps allows.

    Returns:
        Values, vectors and errors. Where the iteration has not converged, `log_error` says so.

    Raises:
        ValueError: `num` outside 1 … n, no rounds, a negative tolerance; shapes that do not fit;
            values that are not finite.
        TypeError: float dtypes that differ, a step that computes in fewer bits than its state has,
            counts that are no integers, or a key that is none.

    Cost: for each round two passes over the sequence with k + 8 tangents and as many cotangents,
    and a factorisation of `(n, k + 8)` at each step. Memory: (T + k) n, or (2√T + k) n beyond 4096
    steps. Works under `jit`, `vmap` and `grad`: the values have derivatives, the vectors have none.

    Each pass changes every entry of its columns at every step by up to four roundings. The error is
    five times the largest disagreement of a value with the two passes before, and more where they
    converge slowly. It is at least what a direction that no column has found could still add, which
    after so many rounds from a random start is ln n / (2 rounds) above the least of the k + 8
    values (Kuczyński and Woźniakowski 1992). So values in a dense cluster have a large error.

    References:
        N. Halko, P. G. Martinsson and J. A. Tropp, "Finding structure with randomness", SIAM Review
        53 (2011), section 4.5.
        J. Kuczyński and H. Woźniakowski, "Estimating the largest eigenvalue by the power and
        Lanczos algorithms with a random start", SIAM J. Matrix Anal. Appl. 13 (1992).

    Example:
        >>> import jax.numpy as jnp
        >>> def shrink(params, carry, x):
        ...     return params * carry
        >>> system = Recurrence(shrink, jnp.linspace(0.5, 0.9, 100))
        >>> leading = leading_singular_values(system, jnp.ones(100), None, num=2, num_steps=1000)
        >>> print((leading.log_singular_values / 1000 / jnp.log(0.9)).round(2))
        [1.   1.04]
    """
    system = bind(recurrence, carry, xs, num_steps)
    _check(system, num, max_rounds, tolerance)
    return _leading(system, _start(system, num, key), jnp.int32(0), num, max_rounds, tolerance)


def leading_singular_values_by_lag(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num: int,
    lags: Sequence[int] | np.ndarray,
    key: Array | None = None,
    num_steps: int | None = None,
    max_rounds: int = 20,
    tolerance: float = 1e-8,
) -> LeadingSingularValues:
    """Compute the largest singular values of the product of the last `lag` steps, matrix-free.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num: as in `leading_singular_values`.
        lags: numbers of steps, each from 0 to T. Any order.
        key: as in `leading_singular_values`.
        num_steps: as in `leading_singular_values`.
        max_rounds: as in `leading_singular_values`.
        tolerance: as in `leading_singular_values`.

    Returns:
        The result of `leading_singular_values` with a first axis for the lags.

    Raises:
        ValueError: as in `leading_singular_values`, or lags beyond the sequence.
        TypeError: as in `leading_singular_values`, or lags that are no integers.

    Cost: that of `leading_singular_values` for each lag. Steps that do not count take as long.

    Example:
        >>> import jax.numpy as jnp
        >>> def shrink(params, carry, x):
        ...     return params * carry
        >>> system = Recurrence(shrink, jnp.array([0.5, 0.1]))
        >>> leading = leading_singular_values_by_lag(
        ...     system, jnp.ones(2), None, num=1, lags=[1, 10], num_steps=100
        ... )
        >>> print((leading.log_singular_values[:, 0] / jnp.log(0.5)).round(2))
        [ 1. 10.]
    """
    system = bind(recurrence, carry, xs, num_steps)
    _check(system, num, max_rounds, tolerance)
    firsts = system.num_steps - check_lags(lags, 0, system.num_steps)
    start = _start(system, num, key)
    return _leading_by_lag(system, start, jnp.asarray(firsts), num, max_rounds, tolerance)


def _check(system, num, max_rounds, tolerance):
    check_precision(system.state.dtype)
    advice = "n is the size of the state"
    check_count("num", num, least=1, most=system.num_states, advice=advice)
    check_count("max_rounds", max_rounds, least=1)
    check_number("tolerance", tolerance, least=0)


def _start(system, num, key):
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    shape = system.num_states, min(num + MORE_COLUMNS, system.num_states)
    return jax.random.normal(key, shape, system.state.dtype)


STATIC = ("num", "max_rounds")


@partial(jax.jit, static_argnames=STATIC)
def _leading_by_lag(system, start, firsts, num, max_rounds, tolerance):
    def of_lag(first):
        return _leading(system, start, first, num, max_rounds, tolerance)

    return lax.map(of_lag, firsts)


@partial(jax.jit, static_argnames=STATIC)
def _leading(system, start, first, num, max_rounds, tolerance):
    """Iterate on the product of the steps from `first` on."""
    refuse_coarse_step(system)
    n, num_columns = start.shape

    def one_round(system, carried):
        right, before, _, rounds = carried
        pushed, left, _ = _multiply(system, right, first, 2 * rounds, forwards=True)
        pulled, right, _ = _multiply(system, left, first, 2 * rounds + 1, forwards=False)
        error = _error(before[:num], pushed[:num], pulled[:num], rounding_of(pulled[:num]))
        if num_columns < n:
            # A direction that no column has found yet can be larger than the least of them, by no
            # more than so many rounds would have shown of a random start.
            unseen = pulled[-1] + math.log(n) / (2 * (rounds + 1).astype(pulled.dtype))
            error = jnp.maximum(error, unseen - pulled[:num])
        return right, pulled, error, rounds + 1

    def rounding_of(values):
        sizes = jnp.where(jnp.isfinite(values), jnp.abs(values), 0)
        return 8 * jnp.finfo(start.dtype).eps * (1 + sizes + math.sqrt(system.num_steps))

    def goes_on(carried):
        _, values, error, rounds = carried
        within_reach = jnp.maximum(tolerance, 2 * CAUTION * rounding_of(values[:num]))
        return (rounds < max_rounds) & jnp.any(error > within_reach)

    right = positive_qr(start)[0]
    unknown = jnp.full(start.shape[1], jnp.inf, start.dtype)
    carried = lax.stop_gradient((right, unknown, unknown[:num], jnp.int32(0)))
    still = lax.stop_gradient(system)
    right, _, error, rounds = lax.while_loop(
        goes_on, lambda carried: one_round(still, carried), carried
    )
    # Once more, to differentiate: at singular vectors the derivative of a value needs none of them.
    values, left, turn = _multiply(system, right, first, 2 * rounds, forwards=True)
    right = matmul(right, turn.T)
    finite = run(still, most_stored=0).num_finite == system.num_steps
    values = jnp.where(finite, values, jnp.nan)
    return LeadingSingularValues(
        values[:num],
        left[:, :num],
        right[:, :num].T,
        jnp.where(jnp.isnan(values[:num]), jnp.nan, error),
        rounds,
    )


def _error(before, pushed, pulled, rounding):
    """Estimate the error of the last of three values from how the two changes compare."""
    latest = jnp.stack([before, pushed, pulled])
    highest = jnp.max(latest, axis=0)
    spread = jnp.where(jnp.isneginf(highest), 0, highest - jnp.min(latest, axis=0))
    # Changes that shrink by a factor r add up to 1 / (1 − r) of the first. Those of rounding do not
    # shrink, and are not held against a value.
    first, second = jnp.abs(pushed - before), jnp.abs(pulled - pushed)
    ratio = jnp.where(first > 0, jnp.minimum(second / jnp.where(first > 0, first, 1), 0.95), 0.95)
    return CAUTION * spread / jnp.where(spread > rounding, 1 - ratio, 1)


def _multiply(system, columns, first, number, *, forwards):
    """Multiply orthonormal columns by the product, or by its transpose.

    Return log singular values of the result, its left vectors as columns, and its right vectors as
    rows in the basis of the columns.
    """

    def renewed(form, now, new_columns):
        # Another pass, another rounding.
        draw = mixed(now.number + number * system.num_steps)
        factors = rounding_factors(draw, columns.shape, columns.dtype)
        extended, _ = renew(form, new_columns * factors, jnp.zeros((), bool))
        return jax.tree.map(lambda a, b: jnp.where(now.number >= first, a, b), extended, form)

    def push(form, now):
        state, rows = system.push(now.state, form.left.T, now.x)
        return state, renewed(form, now, rows.T), None

    def pull(form, now):
        rows = system.pull(now.state, form.left.T, now.x)
        return renewed(form, now, rows.T), None

    start = columns_form(columns)
    form = along(system, push, start)[1] if forwards else back_along(system, pull, start)[0]
    form, _ = orthonormalize(form)
    return singular_triplets_of(form.left, form.log_scale, form.right)

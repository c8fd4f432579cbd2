"""Credit assignment through time: what the input at each lag does to the last state."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_lags, check_precision, refuse
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import back_along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.factored_form import orthonormalize
from jacobian_rnn.linalg.graded_svd import flushed_exp, matmul, row_norms
from jacobian_rnn.products.by_lag import (
    backward_form,
    ends_are_finite,
    keep_at_lag,
    keep_none,
)


class InputJacobians(NamedTuple):
    """∂states[T]/∂xs[T − lag] = exp(log_norm) · matrix, for several lags.

    Attributes:
        matrices: `(lags, n, inputs)`, each of Frobenius norm one, or zero where nothing arrives.
        log_norms: log Frobenius norm of ∂states[T]/∂xs[T − lag], nats, `(lags,)`, −inf for zero.
        digits_lost: how far the norm is below what the product makes of an input of the same size
            in its fastest direction, decimal digits, `(lags,)`. Where it nears the digits of the
            dtype, an input that points away from that direction is lost to rounding.
    """

    matrices: Float[Array, "lags n inputs"]
    log_norms: Float[Array, " lags"]
    digits_lost: Float[Array, " lags"]


def input_jacobians(
    recurrence: Recurrence,
    carry: PyTree,
    xs: Float[Array, "steps inputs"],
    *,
    lags: Sequence[int] | np.ndarray,
) -> InputJacobians:
    """Differentiate the last state with respect to the inputs at several lags.

    ∂states[T]/∂xs[T − lag] is J[T−1] ··· J[T−lag+1] ∂step/∂x, with the last derivative at step
    T − lag. The product of the lag − 1 step Jacobians is kept in logs, in its factored form.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, inputs)`.
        lags: from 1 (the last input) to T, in any order. Static.

    Returns:
        Matrices of norm one and their log norms, one for each of `lags`. They are NaN for lags that
        reach a state that is not finite.

    Raises:
        ValueError: lags beyond the sequence, xs that are not one array `(time, inputs)`, shapes
            that do not fit, or values that are not finite.
        TypeError: no lags or not integers, float dtypes that differ, or a step in too few bits.

    Cost: it takes one pass over the sequence, and a QR of size n per step. Memory holds n² per lag,
    and T n for the states. Beyond 4096 steps it holds 2√T n, and each step is taken twice. Where
    units see themselves alone, as the `unit_jacobians` say, a step and a lag cost O(n).

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array(0.5))
        >>> result = input_jacobians(system, jnp.zeros(1), jnp.ones((2000, 1)), lags=[2, 2000])
        >>> print((result.log_norms / jnp.log(0.5)).round(2))
        [1.000e+00 1.999e+03]
    """
    system = bind(recurrence, carry, xs)
    arrays = jax.tree.leaves(system.xs)
    floating = [x for x in arrays if x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.floating)]
    if len(arrays) != 1 or len(floating) != 1:
        received = [f"{x.dtype}{list(x.shape)}" for x in arrays]
        refuse("xs", received, "one array (time, inputs) of real numbers")
    wanted = check_lags(lags, 1, system.num_steps)
    check_precision(system.state.dtype)
    ascending, row_of = np.unique(wanted, return_inverse=True)
    return jax.tree.map(lambda a: a[row_of], _input_jacobians(system, ascending))


@jax.jit
def _input_jacobians(system, lags):
    """Extend (J[T-1] ··· J[T-lag+1])ᵀ backwards in time and keep it at each of the sorted lags."""
    refuse_coarse_step(system)

    start, lengthen = backward_form(system)

    def visit(carried, now):
        form, is_finite, kept = carried
        is_finite &= ends_are_finite(system, now)
        here = form, is_finite, now.state, now.x
        kept = keep_at_lag(kept, here, system.num_steps - now.number, lags)
        return (lengthen(form, now), is_finite, kept), None

    (x,) = jax.tree.leaves(system.xs)
    yes = jnp.bool_(True)
    kept = keep_none((start, yes, system.state, x[0]), lags)
    (_, _, kept), _ = back_along(system, visit, (start, yes, kept))

    def of_lag(form, is_finite, state, x):
        derivative = system.input_jacobian(state, x)
        if not system.has_units:
            matrix, log_norm, possible = _through(form, derivative)
        else:
            (places,) = system.unit_places()
            # One product may be that of several units.
            forms = jax.tree.map(
                lambda a: jnp.broadcast_to(a, (places.num_units, *a.shape[1:])), form
            )
            of_units = jnp.transpose(places.cut(derivative.T), (2, 1, 0))
            matrices, log_norms, possible = jax.vmap(_through)(forms, of_units)
            log_norm, possible = jax.nn.logsumexp(2 * log_norms) / 2, jnp.max(possible)
            shift = jnp.where(jnp.isneginf(log_norm), 0, log_norm)
            matrices = matrices * flushed_exp(log_norms - shift)[:, None, None]
            matrix = places.join(jnp.transpose(matrices, (2, 1, 0))).T
        possible += jnp.log(jnp.linalg.norm(derivative))
        lost = jnp.where(jnp.isneginf(log_norm), 0, jnp.maximum(possible - log_norm, 0))
        found = matrix, log_norm, lost / math.log(10)
        return jax.tree.map(lambda a: jnp.where(is_finite, a, jnp.nan), found)

    return InputJacobians(*jax.vmap(of_lag)(*kept))


def _through(form, derivative):
    """Return Pᵀ times a derivative, of norm one, its log norm, and that of the rows of P."""
    form, _ = orthonormalize(form)
    log_scale = form.log_scale
    shown = matmul(form.left.T, derivative)
    sizes = jnp.max(jnp.abs(shown), axis=1)
    reached = log_scale + jnp.log(sizes)
    largest = jnp.max(reached)
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    # The input may miss the fastest direction, so the largest row decides, not the largest scale.
    rows = shown / jnp.where(sizes > 0, sizes, 1)[:, None]
    matrix = matmul(form.right.T, jnp.exp(reached - largest)[:, None] * rows)
    norm = jnp.linalg.norm(matrix)
    possible = jnp.max(log_scale + jnp.log(row_norms(form.right)))
    return matrix / jnp.where(norm > 0, norm, 1), largest + jnp.log(norm), possible

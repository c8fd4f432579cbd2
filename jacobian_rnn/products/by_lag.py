"""Singular values of the products that backpropagation from the end of a sequence meets, by lag."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_lags, check_precision
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import Moment, back_along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.factored_form import (
    FactoredForm,
    extend,
    identity_form,
    orthonormalize,
)
from jacobian_rnn.linalg.graded_svd import graded_singular_values
from jacobian_rnn.products.bordered import (
    entries_of_step,
    extend_bordered,
    finish_bordered,
    start_bordered,
)


def log_singular_values_by_lag(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    lags: Sequence[int] | np.ndarray,
    num_steps: int | None = None,
) -> Float[Array, "lags n"]:
    """Compute the spectrum of the product of the last `lag` steps, for several lags in one pass.

    Backpropagation from the end of the sequence meets this product `lag` steps before the end. The
    product is extended backwards in time, as (J[T−1] ··· J[T−lag])ᵀ.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        lags: numbers of steps, each from 0 to T, in any order. Static.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Log singular values, nats, descending, `(len(lags), n)`, a row for each of `lags`. They are
        NaN for lags that reach a state that is not finite: `jacobian_product` names the first step.

    Raises:
        ValueError: lags beyond the sequence, shapes that do not fit, or values that are not finite.
        TypeError: lags that are none or not integers, float dtypes that differ, or a step that
            computes in fewer bits than its state has.

    Cost: it takes one pass over the sequence, and one graded SVD per lag. Memory holds n² per lag,
    and T n for the states. Beyond 4096 steps it holds 2√T n, and each step is taken twice. Where
    the recurrence declares its `unit_jacobians`, for one layer, a step and a lag cost O(n).

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array([0.5, 0.1]))
        >>> xs = jnp.zeros((100, 2))
        >>> log_values = log_singular_values_by_lag(system, jnp.zeros(2), xs, lags=[1, 10])
        >>> print((log_values[:, 0] / jnp.log(0.5)).round(2))
        [ 1. 10.]
    """
    system = bind(recurrence, carry, xs, num_steps)
    wanted = check_lags(lags, 0, system.num_steps)
    check_precision(system.state.dtype)
    ascending, row_of = np.unique(wanted, return_inverse=True)
    by_lag = _of_border_by_lag if system.has_border else _log_singular_values_by_lag
    return by_lag(system, ascending)[row_of]


@jax.jit
def _log_singular_values_by_lag(system, lags):
    """Extend (J[T-1] ··· J[T-lag])ᵀ backwards in time and keep it at each of the sorted lags."""
    refuse_coarse_step(system)

    start, lengthen = backward_form(system)

    def visit(carried, now):
        (form, is_finite), kept = carried
        product = lengthen(form, now), is_finite & ends_are_finite(system, now)
        return (product, keep_at_lag(kept, product, system.num_steps - now.number, lags)), None

    # A lag of zero is not visited, so the empty product is in its place from the beginning.
    start = start, jnp.bool_(True)
    kept = jax.tree.map(lambda one: jnp.broadcast_to(one, (lags.shape[0], *one.shape)), start)
    (_, (kept, is_finite)), _ = back_along(system, visit, (start, kept))

    def log_values(form):
        form, _ = orthonormalize(form)
        return graded_singular_values(form.log_scale, form.right)[0]

    if not system.has_units:
        return jnp.where(is_finite[:, None], jax.vmap(log_values)(kept), jnp.nan)
    of_units = jax.vmap(jax.vmap(log_values))(kept).reshape(len(lags), -1)
    # One block may be that of several units.
    of_all = jnp.repeat(of_units, system.num_states // of_units.shape[1], axis=1)
    return jnp.where(is_finite[:, None], -jnp.sort(-of_all, axis=1), jnp.nan)


@jax.jit
def _of_border_by_lag(system, lags):
    """Do the same for a memory with a border, whose J[T-1] ··· J[T-lag] is extended backwards."""
    refuse_coarse_step(system)

    def visit(carried, now):
        (passes, is_finite), kept = carried
        entries = entries_of_step(system, now.state, now.x)
        passes = extend_bordered(passes, entries[None], backwards=True)
        product = passes, is_finite & ends_are_finite(system, now)
        return (product, keep_at_lag(kept, product, system.num_steps - now.number, lags)), None

    start = start_bordered(1, system.num_states, system.state.dtype), jnp.bool_(True)
    kept = jax.tree.map(lambda one: jnp.broadcast_to(one, (lags.shape[0], *one.shape)), start)
    (_, (kept, is_finite)), _ = back_along(system, visit, (start, kept))
    values = jax.vmap(lambda one: finish_bordered(one).log_singular_values())(kept)
    return jnp.where(is_finite[:, None], values, jnp.nan)


def backward_form(
    system: System,
) -> tuple[FactoredForm, Callable[[FactoredForm, Moment], FactoredForm]]:
    """Return the empty product of transposed Jacobians, and what multiplies it by that of a step.

    If the system has units, there is a product for each block that is declared, with a first axis
    for them.
    """
    if not system.has_units:
        start = identity_form(jnp.eye(system.num_states, dtype=system.state.dtype))
        return start, lambda form, now: extend(form, system.jacobian(now.state, now.x).T)[0]
    blocks = jax.eval_shape(system.unit_jacobians, system.state, system.one_input)
    size, _, num_blocks = blocks.shape
    start = identity_form(jnp.eye(size, dtype=system.state.dtype))
    start = jax.tree.map(lambda one: jnp.broadcast_to(one, (num_blocks, *one.shape)), start)

    def lengthen(form, now):
        blocks = system.unit_jacobians(now.state, now.x)
        return jax.vmap(extend)(form, jnp.transpose(blocks, (2, 1, 0)))[0]

    return start, lengthen


def ends_are_finite(system: System, now: Moment) -> Bool[Array, ""]:
    """Tell whether the states before and after a step are finite."""
    after = system.step(now.state, now.x)
    return jnp.all(jnp.isfinite(now.state)) & jnp.all(jnp.isfinite(after))


def keep_none(like: PyTree, lags: Int[Array, " lags"]) -> PyTree:
    """Return zeros in place of what is to be kept at each lag."""
    return jax.tree.map(lambda one: jnp.zeros((lags.shape[0], *one.shape), one.dtype), like)


def keep_at_lag(
    kept: PyTree, now: PyTree, lag: Int[Array, ""], lags: Int[Array, " lags"]
) -> PyTree:
    """Put the present value in its place, if `lag` is one of the ascending `lags`."""
    slot = jnp.searchsorted(lags, lag)
    slot = jnp.where(lags[slot] == lag, slot, lags.shape[0])
    return jax.tree.map(lambda all_, one: all_.at[slot].set(one), kept, now)

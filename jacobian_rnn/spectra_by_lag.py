"""The singular values that backpropagation from the end of a sequence meets, lag by lag."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_lags, check_precision, check_system
from jacobian_rnn.factored_form import extended, identity_form, orthonormalize
from jacobian_rnn.graded_svd import graded_singular_values
from jacobian_rnn.jacobians import jacobian_of_step, ravelled_step, trajectory
from jacobian_rnn.traced_steps import refuse_coarse_step


def log_singular_values_by_lag(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    lags: Sequence[int],
    num_steps: int | None = None,
) -> Float[Array, "lags n"]:
    """Compute the spectrum of the product of the last `lag` steps, for several lags in one pass.

    This is what backpropagation from the end of the sequence meets `lag` steps before it. The
    product is extended backwards in time, as (J[T−lag] ··· J[T−1])ᵀ.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        lags: numbers of steps, each from 0 to T; static. Any order.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Log singular values, nats, descending, `(len(lags), n)`, a row for each of `lags`.

    Raises:
        ValueError: lags that are none, or beyond the sequence; shapes that do not fit; values
            that are not finite.
        TypeError: lags that are not integers; float dtypes that differ; a step that computes in
            fewer bits than its state has.

    Cost: one pass over the sequence, and one graded SVD per lag; memory T n for the states and n²
    per lag.

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
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    wanted = check_lags(lags, 0, num_steps)
    check_precision(ravel_pytree(carry)[0].dtype)
    ascending, row_of = np.unique(wanted, return_inverse=True)
    spectra = _log_singular_values_by_lag(recurrence, carry, xs, ascending, num_steps)
    return spectra[row_of]


@partial(jax.jit, static_argnames="num_steps")
def _log_singular_values_by_lag(recurrence, carry, xs, lags, num_steps):
    """Extend (J[T-lag] ··· J[T-1])ᵀ backwards in time and keep it at each of the sorted lags."""
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)
    refuse_coarse_step(step, state, xs)
    jacobian = jacobian_of_step(recurrence, unravel)
    states = trajectory(recurrence, carry, xs, num_steps=num_steps)
    n = states.shape[1]

    def one_step(carried, step):
        form, kept = carried
        state, x, lag = step
        form, _ = extended(form, jacobian(state, x).T)
        slot = jnp.searchsorted(lags, lag)
        slot = jnp.where(lags[slot] == lag, slot, lags.shape[0])
        return (form, jax.tree.map(lambda all_, one: all_.at[slot].set(one), kept, form)), None

    start = identity_form(jnp.eye(n, dtype=states.dtype))
    kept = jax.tree.map(lambda one: jnp.broadcast_to(one, (lags.shape[0], *one.shape)), start)
    lag_of_step = jnp.arange(num_steps, 0, -1, dtype=lags.dtype)
    steps = (states[:-1], xs, lag_of_step)
    (_, kept), _ = lax.scan(one_step, (start, kept), steps, reverse=True)

    def log_values(form):
        form = orthonormalize(form)
        return graded_singular_values(form.log_scale, form.right)[0]

    return jax.vmap(log_values)(kept)

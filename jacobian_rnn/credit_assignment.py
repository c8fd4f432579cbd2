"""Credit assignment through time: what inputs and parameters at each lag do to the end."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_lags, check_precision, check_system
from jacobian_rnn.factored_form import extended, identity_form, orthonormalize
from jacobian_rnn.graded_svd import matmul, row_norms, scaled_norm
from jacobian_rnn.jacobians import (
    derivative_of,
    jacobian_of_step,
    ravelled_step,
    state_gradients,
    trajectory,
)
from jacobian_rnn.traced_steps import refuse_coarse_step


class InputJacobians(NamedTuple):
    """∂states[T]/∂xs[T − lag] = exp(log_norm) · matrix, for several lags.

    Attributes:
        matrices: `(lags, n, inputs)`, each of Frobenius norm one; zero where nothing arrives.
        log_norms: nats, `(lags,)`: log Frobenius norm of ∂states[T]/∂xs[T − lag]; −inf for zero.
        digits_lost: decimal digits, `(lags,)`: how much smaller the norm is than what the product
            makes of the same input in its fastest direction. Where it nears the digits of the
            dtype, an input that points away from that direction is lost to rounding.
    """

    matrices: Float[Array, "lags n inputs"]
    log_norms: Float[Array, " lags"]
    digits_lost: Float[Array, " lags"]


class ParameterGradients(NamedTuple):
    """∂loss/∂θ and the share of every step in it.

    The share of a lag is (∂loss/∂states[T − lag])ᵀ ∂step/∂θ, with the derivative of that one step
    alone; a lag of 0 is the last step.

    Attributes:
        total: ∂loss/∂θ, the sum of all shares, like the parameters.
        norms: `(T,)`, `[lag]` is the Euclidean norm of that share over all parameters.
        norms_by_parameter: the same for each array of parameters, `(T,)` each.
    """

    total: PyTree
    norms: Float[Array, " steps"]
    norms_by_parameter: PyTree


def input_jacobians(
    recurrence: Recurrence, carry: PyTree, xs: Float[Array, "steps inputs"], *, lags: Sequence[int]
) -> InputJacobians:
    """Differentiate the last state with respect to the inputs at several lags.

    ∂states[T]/∂xs[T − lag] = J[T−1] ··· J[T−lag+1] ∂step/∂x at step T − lag: the product of the
    last lag − 1 step Jacobians, kept in logs in its factored form, applied to one more derivative.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, inputs)`.
        lags: from 1 (the last input) to T; static. Any order.

    Returns:
        Matrices of norm one and their log norms, one for each of `lags`.

    Raises:
        ValueError: lags beyond the sequence; xs that are not one array `(time, inputs)`; shapes
            that do not fit; values that are not finite.
        TypeError: lags that are not integers; float dtypes that differ.

    Cost: one pass over the sequence, a QR of size n per step; memory T n for the states and n² per
    lag.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array(0.5))
        >>> result = input_jacobians(system, jnp.zeros(1), jnp.ones((2000, 1)), lags=[2, 2000])
        >>> print((result.log_norms / jnp.log(0.5)).round(2))
        [1.000e+00 1.999e+03]
    """
    carry, xs, num_steps = check_system(recurrence, carry, xs, None)
    arrays = jax.tree.leaves(xs)
    floating = [x for x in arrays if x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.floating)]
    if len(arrays) != 1 or len(floating) != 1:
        received = [f"{x.dtype}{list(x.shape)}" for x in arrays]
        msg = f"xs: received {received}, expected one array (time, inputs) of real numbers"
        raise ValueError(msg)
    (xs,) = floating
    wanted = check_lags(lags, 1, num_steps)
    check_precision(ravel_pytree(carry)[0].dtype)
    ascending, row_of = np.unique(wanted, return_inverse=True)
    return jax.tree.map(lambda a: a[row_of], _input_jacobians(recurrence, carry, xs, ascending))


def parameter_gradients(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    loss: Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]],
    *,
    num_steps: int | None = None,
) -> ParameterGradients:
    """Differentiate a loss of the states with respect to the parameters, lag by lag.

    The shares are computed as training computes them, and underflow and overflow as they do there.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        loss: scalar function of the states `(T + 1, n)`; static: each new function compiles anew.
        num_steps: number of steps T where `xs` is None.

    Returns:
        The gradient, and the norm of the share of each lag in it.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a loss that is no real scalar.

    Cost: twice that of backpropagation; memory T n, and twice that of the parameters.

    References:
        R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
        networks", ICML 2013, equations 3 to 5.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array(0.5))
        >>> xs = jnp.array([[1.0], [0.0], [0.0]])
        >>> result = parameter_gradients(system, jnp.zeros(1), xs, lambda s: s[-1].sum())
        >>> print(result.total, result.norms)
        1.0 [0.5 0.5 0. ]
    """
    if not jax.tree.leaves(getattr(recurrence, "params", 0)):
        msg = "recurrence: received one without parameters, expected some to differentiate for"
        raise ValueError(msg)
    gradients = state_gradients(recurrence, carry, xs, loss, num_steps=num_steps)
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    return _parameter_gradients(recurrence, carry, xs, gradients, num_steps)


@jax.jit
def _input_jacobians(recurrence, carry, xs, lags):
    """Extend (J[T-1] ··· J[T-lag+1])ᵀ backwards in time and keep it at each of the sorted lags."""
    state, unravel = ravel_pytree(carry)
    refuse_coarse_step(ravelled_step(recurrence, unravel), state, xs)
    jacobian = jacobian_of_step(recurrence, unravel)
    parts = getattr(recurrence.jacobian, "parts", None)

    def for_input(state, x):
        if parts is not None:
            return parts(recurrence.params, unravel(state), x).dense_input()
        return derivative_of(ravelled_step(recurrence, unravel), argnums=1)(state, x)

    states = trajectory(recurrence, carry, xs)
    num_steps, (_, n) = xs.shape[0], states.shape

    def one_step(carried, step):
        form, kept = carried
        state, x, lag = step
        slot = jnp.searchsorted(lags, lag)
        slot = jnp.where(lags[slot] == lag, slot, lags.shape[0])
        here = form, state, x
        kept = jax.tree.map(lambda all_, one: all_.at[slot].set(one), kept, here)
        return (extended(form, jacobian(state, x).T)[0], kept), None

    start = identity_form(jnp.eye(n, dtype=states.dtype))
    kept = jax.tree.map(
        lambda one: jnp.zeros((lags.shape[0], *one.shape), one.dtype), (start, states[0], xs[0])
    )
    lag_of_step = jnp.arange(num_steps, 0, -1, dtype=lags.dtype)
    (_, kept), _ = lax.scan(one_step, (start, kept), (states[:-1], xs, lag_of_step), reverse=True)

    def of_lag(form, state, x):
        form = orthonormalize(form)
        log_scale = form.log_scale
        derivative = for_input(state, x)
        shown = matmul(form.left.T, derivative)
        sizes = jnp.max(jnp.abs(shown), axis=1)
        reached = log_scale + jnp.log(sizes)
        largest = jnp.max(reached)
        largest = jnp.where(jnp.isneginf(largest), 0, largest)
        # The input may miss the fastest direction: the largest row decides, not the largest scale.
        rows = shown / jnp.where(sizes > 0, sizes, 1)[:, None]
        matrix = matmul(form.right.T, jnp.exp(reached - largest)[:, None] * rows)
        norm = jnp.linalg.norm(matrix)
        log_norm = largest + jnp.log(norm)
        possible = jnp.max(log_scale + jnp.log(row_norms(form.right)))
        possible += jnp.log(jnp.linalg.norm(derivative))
        lost = jnp.where(norm > 0, jnp.maximum(possible - log_norm, 0), 0) / math.log(10)
        return matrix / jnp.where(norm > 0, norm, 1), log_norm, lost

    return InputJacobians(*jax.vmap(of_lag)(*kept))


@partial(jax.jit, static_argnames="num_steps")
def _parameter_gradients(recurrence, carry, xs, gradients, num_steps):
    unravel = ravel_pytree(carry)[1]
    states = trajectory(recurrence, carry, xs, num_steps=num_steps)

    def of_step(total, step):
        state, x, cotangent = step

        def new_state(params):
            return ravel_pytree(recurrence.step(params, unravel(state), x))[0]

        (share,) = jax.vjp(new_state, recurrence.params)[1](cotangent)
        norms = jax.tree.map(scaled_norm, share)
        return jax.tree.map(jnp.add, total, share), norms

    total = jax.tree.map(jnp.zeros_like, recurrence.params)
    steps = (states[:-1], xs, gradients[1:])
    total, by_parameter = lax.scan(of_step, total, steps, length=num_steps, reverse=True)
    by_parameter = jax.tree.map(lambda norms: norms[::-1], by_parameter)
    norms = jax.vmap(scaled_norm, in_axes=1)(jnp.stack(jax.tree.leaves(by_parameter)))
    return ParameterGradients(total, norms, by_parameter)

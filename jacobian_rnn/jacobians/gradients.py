"""Gradients by plain backpropagation, for every state, and for the parameters at every lag."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import refuse
from jacobian_rnn.jacobians.system import bind, check_loss
from jacobian_rnn.jacobians.time_loop import back_along, states_of
from jacobian_rnn.linalg.graded_svd import scaled_norm


class ParameterGradients(NamedTuple):
    """∂loss/∂θ and the share of every step in it.

    The share of a lag is (∂loss/∂states[T − lag])ᵀ ∂step/∂θ, with the derivative of only the step
    that leads to states[T − lag]. A lag of 0 is the last step.

    Attributes:
        total: ∂loss/∂θ, the sum of all shares, in the structure of the parameters.
        norms: Euclidean norm of the share of each lag over all parameters, `(T,)`.
        norms_by_parameter: the same for each array of parameters, `(T,)` each.
    """

    total: PyTree
    norms: Float[Array, " steps"]
    norms_by_parameter: PyTree


def state_gradients(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    loss: Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]],
    *,
    num_steps: int | None = None,
) -> Float[Array, "steps_plus_1 n"]:
    """Backpropagate a loss to every state: `[t]` is ∂loss/∂states[t], through all later steps.

    For a loss of the last state alone, row T − lag is Pᵀ v, with v = ∂loss/∂states[T] and P the
    product of the last `lag` Jacobians. `JacobianProduct.log_adjoint_growth` measures the growth of
    this vector by another route. Plain backpropagation underflows and overflows as in training.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        loss: scalar function of the states `(T + 1, n)`. Static, and a new function compiles anew.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Gradients of shape `(T + 1, n)`.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a loss that is no real scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array(0.5))
        >>> xs = jnp.ones((2, 1))
        >>> print(state_gradients(system, jnp.zeros(1), xs, lambda s: s[-1].sum())[:, 0])
        [0.25 0.5  1.  ]
    """
    system = bind(recurrence, carry, xs, num_steps)
    check_loss(loss, system)
    return _state_gradients(system, loss)


@partial(jax.jit, static_argnames="loss")
def _state_gradients(system, loss):
    states = states_of(system)
    own = jax.grad(loss)(states)

    def visit(gradient, now):
        gradient = system.pull(now.state, gradient[None], now.x)[0] + now.extra
        return gradient, gradient

    _, gradients = back_along(system, visit, own[-1], extra=own[:-1], states=states[:-1])
    return jnp.concatenate([gradients, own[-1:]])


def parameter_gradients(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    loss: Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]],
    *,
    num_steps: int | None = None,
) -> ParameterGradients:
    """Differentiate a loss of the states with respect to the parameters, lag by lag.

    The shares are computed as in training, and they underflow and overflow as they do there.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        loss: scalar function of the states `(T + 1, n)`. Static, and a new function compiles anew.
        num_steps: number of steps T where `xs` is None.

    Returns:
        The gradient, and the norm of the share of each lag in it.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a loss that is no real scalar.

    Cost: it takes twice as long as backpropagation. Memory holds T n, and the parameters twice.

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
    system = bind(recurrence, carry, xs, num_steps)
    if not jax.tree.leaves(recurrence.params):
        refuse("recurrence", "one without parameters", "some to differentiate for")
    check_loss(loss, system)
    return _parameter_gradients(system, loss)


@partial(jax.jit, static_argnames="loss")
def _parameter_gradients(system, loss):
    states = states_of(system)
    own = jax.grad(loss)(states)

    def visit(carried, now):
        gradient, total = carried
        share = system.params_share(now.state, gradient, now.x)
        gradient = system.pull(now.state, gradient[None], now.x)[0] + now.extra
        return (gradient, jax.tree.map(jnp.add, total, share)), jax.tree.map(scaled_norm, share)

    start = own[-1], jax.tree.map(jnp.zeros_like, system.recurrence.params)
    (_, total), by_step = back_along(system, visit, start, extra=own[:-1], states=states[:-1])
    by_parameter = jax.tree.map(lambda norms: norms[::-1], by_step)
    norms = jax.vmap(scaled_norm, in_axes=1)(jnp.stack(jax.tree.leaves(by_parameter)))
    return ParameterGradients(total, norms, by_parameter)

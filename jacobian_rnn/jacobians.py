"""Trajectories, the Jacobian of every step, and gradients by plain backpropagation.

Index convention: `states[t]` is the state before step t, `jacobians[t]` is
∂states[t+1]/∂states[t] with rows as outputs, and the product of a sequence is
`jacobians[T-1] @ ... @ jacobians[0]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_loss, check_system
from jacobian_rnn.graded_svd import matmul
from jacobian_rnn.traced_steps import has_forward_mode

Method = Literal["auto", "forward", "reverse", "closed_form"]


def trajectory(
    recurrence: Recurrence, carry: PyTree, xs: PyTree, *, num_steps: int | None = None
) -> Float[Array, "steps_plus_1 n"]:
    """Run a recurrence and return its states, the initial one included.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num_steps: number of steps T where `xs` is None.

    Returns:
        States of shape `(T + 1, n)`: the carry ravelled, `states[0]` is the initial one.

    Raises:
        ValueError: shapes, structures or time axes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(decay, jnp.array(0.5))
        >>> print(trajectory(system, jnp.zeros(1), jnp.ones((2, 1)))[:, 0])
        [0.  1.  1.5]
    """
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    return _trajectory(recurrence, carry, xs, num_steps)


def step_jacobians(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    method: Method = "auto",
    num_steps: int | None = None,
) -> Float[Array, "steps n n"]:
    """Differentiate every step along a trajectory: `[t]` is ∂states[t+1]/∂states[t].

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        method: "forward" (`jax.jacfwd`), "reverse" (`jax.jacrev`), "closed_form", or "auto": the
            closed form where there is one, else forward mode, or reverse mode where a `custom_vjp`
            leaves no other.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Jacobians of shape `(T, n, n)`, rows are outputs. Memory T n²: for long sequences use
        `jacobian_product`, which streams.

    Raises:
        ValueError: unknown `method`; "closed_form" where there is none; shapes that do not fit;
            values that are not finite.
        TypeError: float dtypes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> print(step_jacobians(Recurrence(decay, jnp.array(0.5)), jnp.zeros(1), jnp.ones((2, 1))))
        [[[0.5]]
        <BLANKLINE>
         [[0.5]]]
    """
    if method not in get_args(Method):
        msg = f"method: received {method!r}, expected one of {', '.join(get_args(Method))}"
        raise ValueError(msg)
    if method == "closed_form" and recurrence.jacobian is None:
        msg = (
            f"method='closed_form': {type(recurrence.step).__name__} has no closed-form Jacobian "
            "(unknown cell, or a custom activation): use 'auto', 'forward' or 'reverse'"
        )
        raise ValueError(msg)
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    return _step_jacobians(recurrence, carry, xs, method, num_steps)


def state_gradients(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    loss: Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]],
    *,
    num_steps: int | None = None,
) -> Float[Array, "steps_plus_1 n"]:
    """Backpropagate a loss to every state: `[t]` is ∂loss/∂states[t], through all later steps.

    Plain reverse-mode differentiation through the scan. For a loss of the last state alone, row
    T − lag is Pᵀ v, with v = ∂loss/∂states[T] and P the product of the last `lag` Jacobians: the
    same quantity as `JacobianProduct.log_adjoint_gain` measures, by another route. It underflows
    and overflows as the gradients of training do.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        loss: scalar function of the states `(T + 1, n)`; static: each new function compiles anew.
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
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    state = ravel_pytree(carry)[0]
    check_loss(loss, jax.ShapeDtypeStruct((num_steps + 1, state.size), state.dtype))
    return _state_gradients(recurrence, carry, xs, loss, num_steps)


def ravelled_step(
    recurrence: Recurrence, unravel: Callable[[Array], PyTree]
) -> Callable[[Array, PyTree], Array]:
    """Give the step as a function of the state vector: `step(state, x) -> state`.

    Its matrix products have all bits of their dtype: devices that take fewer by themselves (TF32)
    are told not to, unless the step asks for it.
    """

    def step(state, x):
        with jax.default_matmul_precision("highest"):
            return ravel_pytree(recurrence.step(recurrence.params, unravel(state), x))[0]

    return step


def jacobian_of_step(
    recurrence: Recurrence, unravel: Callable[[Array], PyTree], method: Method = "auto"
) -> Callable[[Array, PyTree], Float[Array, "n n"]]:
    """Give the dense step Jacobian as a function of the state vector: `jacobian(state, x)`."""
    closed_form = recurrence.jacobian
    if closed_form is not None and method in ("auto", "closed_form"):

        def of_closed_form(state, x):
            with jax.default_matmul_precision("highest"):
                return closed_form(recurrence.params, unravel(state), x)

        return of_closed_form
    step = ravelled_step(recurrence, unravel)
    if method == "auto":
        return derivative_of(step)
    return (jax.jacrev if method == "reverse" else jax.jacfwd)(step)


def derivative_of(function: Callable, argnums: int = 0) -> Callable[..., Array]:
    """Differentiate in forward mode, or in reverse mode where a `custom_vjp` leaves no other."""

    def derivative(*args):
        forward = has_forward_mode(function, *args)
        return (jax.jacfwd if forward else jax.jacrev)(function, argnums=argnums)(*args)

    return derivative


def tangents_of_step(
    recurrence: Recurrence, unravel: Callable[[Array], PyTree]
) -> Callable[[Array, Float[Array, "k n"], PyTree], tuple[Array, Float[Array, "k n"]]]:
    """Give the step with tangents, one a row: `push(state, rows, x) -> (state, rows)`.

    No Jacobian is formed, unless the step has no forward mode.
    """
    step = ravelled_step(recurrence, unravel)
    jacobian = jacobian_of_step(recurrence, unravel)

    def push(state, rows, x):
        if has_forward_mode(step, state, x):
            state, differential = jax.linearize(lambda state: step(state, x), state)
            return state, jax.vmap(differential)(rows)
        return step(state, x), matmul(rows, jacobian(state, x).T)

    return push


@partial(jax.jit, static_argnames="num_steps")
def _trajectory(recurrence, carry, xs, num_steps):
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)

    def one_step(state, x):
        new = step(state, x)
        return new, new

    _, later = lax.scan(one_step, state, xs, length=num_steps)
    return jnp.concatenate([state[None], later])


@partial(jax.jit, static_argnames=("method", "num_steps"))
def _step_jacobians(recurrence, carry, xs, method, num_steps):
    _, unravel = ravel_pytree(carry)
    states = _trajectory(recurrence, carry, xs, num_steps)
    jacobian = jacobian_of_step(recurrence, unravel, method)
    one_input = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    if method == "forward" and not has_forward_mode(
        ravelled_step(recurrence, unravel), states[0], one_input
    ):
        msg = "method='forward': the step holds a custom_vjp, expected 'auto' or 'reverse' for it"
        raise ValueError(msg)
    return jax.vmap(jacobian, axis_size=num_steps)(states[:-1], xs)


@partial(jax.jit, static_argnames=("loss", "num_steps"))
def _state_gradients(recurrence, carry, xs, loss, num_steps):
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)

    def loss_of_shifted(shifts):
        def one_step(state, inputs):
            x, shift = inputs
            new = step(state, x) + shift
            return new, new

        first = state + shifts[0]
        _, later = lax.scan(one_step, first, (xs, shifts[1:]), length=num_steps)
        return loss(jnp.concatenate([first[None], later]))

    return jax.grad(loss_of_shifted)(jnp.zeros((num_steps + 1, state.size), state.dtype))

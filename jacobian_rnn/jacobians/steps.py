"""Trajectories and the Jacobian of every step along them.

`states[t]` is the state before step t. `jacobians[t]` is ∂states[t+1]/∂states[t], with rows as
outputs. The product of a sequence is `jacobians[T-1] @ ... @ jacobians[0]`.
"""

from functools import partial
from typing import get_args

import jax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_choice
from jacobian_rnn.jacobians.system import Method, bind
from jacobian_rnn.jacobians.time_loop import states_of
from jacobian_rnn.jacobians.traced_steps import has_forward_mode


def trajectory(
    recurrence: Recurrence, carry: PyTree, xs: PyTree, *, num_steps: int | None = None
) -> Float[Array, "steps_plus_1 n"]:
    """Run a recurrence and return its states, including the initial one.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_steps: number of steps T where `xs` is None.

    Returns:
        States of shape `(T + 1, n)`, which are ravelled carries. `states[0]` is the initial one.

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
    return _trajectory(bind(recurrence, carry, xs, num_steps))


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
        xs: one sequence, `(time, ...)`, or None for a system without input.
        method: "forward" (`jax.jacfwd`), "reverse" (`jax.jacrev`), "closed_form" or "auto". "auto"
            takes the closed form where there is one. Otherwise it takes forward mode, or reverse
            mode where a `custom_vjp` leaves no other. Static.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Jacobians of shape `(T, n, n)`, rows as outputs. They take memory T n². For long sequences
        there is `jacobian_product`, which holds one Jacobian at a time.

    Raises:
        ValueError: unknown `method`, "closed_form" where there is none, "forward" where a
            `custom_vjp` excludes it, shapes that do not fit, or values that are not finite.
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
    check_choice("method", method, get_args(Method))
    system = bind(recurrence, carry, xs, num_steps)
    if method == "closed_form" and recurrence.jacobian is None:
        msg = (
            f"method='closed_form': {type(recurrence.step).__name__} has no closed-form Jacobian "
            "(unknown cell, or a custom activation): use 'auto', 'forward' or 'reverse'"
        )
        raise ValueError(msg)
    return _step_jacobians(system, method)


@jax.jit
def _trajectory(system):
    return states_of(system)


@partial(jax.jit, static_argnames="method")
def _step_jacobians(system, method):
    states = states_of(system)
    if method == "forward" and not has_forward_mode(system.step, states[0], system.one_input):
        msg = "method='forward': the step holds a custom_vjp, expected 'auto' or 'reverse' for it"
        raise ValueError(msg)
    jacobian = partial(system.jacobian, method=method)
    return jax.vmap(jacobian, axis_size=system.num_steps)(states[:-1], system.xs)

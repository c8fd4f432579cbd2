"""Lyapunov exponents: rates, in nats per step, at which tangent vectors grow on a trajectory."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.frames import generic_frames
from jacobian_rnn.jacobians import check_system, ravelled_step


def largest_exponent(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    num_warmup: int = 0,
) -> Float[Array, ""]:
    """Measure the largest Lyapunov exponent along one trajectory, without forming a Jacobian.

    A fixed generic tangent vector is pushed through every step and normalised; the mean of its log
    growth after the warm-up is the finite-time estimate of λ₁ (Benettin et al. 1980). Its bias
    from the finite time is of order 1/T.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num_steps: number of steps T where `xs` is None; includes the warm-up.
        num_warmup: number of first steps that settle state and vector and are not counted.

    Returns:
        λ₁ in nats per step; −inf if a step maps the vector to zero.

    Raises:
        ValueError: nothing left to count after the warm-up; shapes that do not fit; values that
            are not finite.
        TypeError: float dtypes that differ.

    References:
        G. Benettin, L. Galgani, A. Giorgilli and J.-M. Strelcyn, "Lyapunov characteristic
        exponents for smooth dynamical systems and for Hamiltonian systems", Meccanica 15 (1980).

    Example:
        >>> import jax.numpy as jnp
        >>> def logistic(r, carry, x):
        ...     return r * carry * (1 - carry)
        >>> system = Recurrence(logistic, jnp.array(3.2))
        >>> rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=2000, num_warmup=1000)
        >>> print(round(float(rate), 4))
        -0.9163
    """
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    if not 0 <= num_warmup < num_steps:
        msg = (
            f"num_warmup: received {num_warmup} for a sequence of {num_steps} steps, expected at "
            "least 0 and fewer than the steps: a rate needs steps to count; give longer xs"
        )
        raise ValueError(msg)
    return _largest_exponent(recurrence, carry, xs, num_steps, num_warmup)


@partial(jax.jit, static_argnames=("num_steps", "num_warmup"))
def _largest_exponent(recurrence, carry, xs, num_steps, num_warmup):
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)

    def push(carried, x):
        state, tangent = carried
        state, tangent = jax.jvp(lambda s: step(s, x), (state,), (tangent,))
        norm = jnp.linalg.norm(tangent)
        return (state, tangent / jnp.where(norm > 0, norm, 1)), jnp.log(norm)

    tangent = jnp.asarray(generic_frames(state.size)[0, :, 0], state.dtype)
    _, growth = lax.scan(push, (state, tangent), xs, length=num_steps)
    return jnp.mean(growth[num_warmup:])

"""The product along a trajectory, for those who have a system at hand."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import along, back_along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.products._passes import extend_passes, start_passes
from jacobian_rnn.products.product import JacobianProduct, finish, transpose


def product_along(
    system: System,
    frames: Float[Array, "passes n n"],
    *,
    next_states: Float[Array, "steps n"] | None = None,
) -> JacobianProduct:
    """Multiply the Jacobians of all steps of a system, in one pass for each starting frame.

    `passes_along` says what `next_states` are.
    """
    start = start_passes(frames)
    of_step = system.jacobian, system.rough_jacobian
    return finish(passes_along(system, start, of_step, extend_passes, len(frames), next_states))


def product_back_along(system: System, frames: Float[Array, "passes n n"]) -> JacobianProduct:
    """Multiply the transposed Jacobians, that of the last step first, and transpose the product.

    It is the same product. Rounding errors grow in other directions than forwards.
    """
    refuse_coarse_step(system)
    of_step = system.jacobian, system.rough_jacobian

    def visit(passes, now):
        jacobians = jnp.swapaxes(_jacobians_of_passes(of_step, len(frames), now, now.x), 1, 2)
        is_finite = jnp.all(jnp.isfinite(system.step(now.state, now.x)))
        return extend_passes(passes, jacobians, is_finite, backwards=True), None

    return transpose(finish(back_along(system, visit, start_passes(frames))[0]))


def passes_along(
    system: System,
    start: PyTree,
    of_step: tuple[Callable[..., Array], Callable[..., Array]],
    extend: Callable[..., PyTree],
    num_passes: int,
    next_states: Float[Array, "steps n"] | None,
) -> PyTree:
    """Extend the passes of a product by all steps of a system.

    The states after each step may be given. A chaotic system that is run again in another program
    rounds otherwise, and soon takes another way.

    Args:
        system: at its first state.
        start: the empty product.
        of_step: `(state, x) -> Jacobian`, and `(state, x, number) -> Jacobian` with last digits
            changed, for all passes but the first.
        extend: `(passes, Jacobians of all passes, whether the new state is finite) -> passes`.
        num_passes: how many there are.
        next_states: the state after each step, or None.
    """
    refuse_coarse_step(system)

    def visit(passes, now):
        x, new = now.x if next_states is not None else (now.x, system.step(now.state, now.x))
        jacobians = _jacobians_of_passes(of_step, num_passes, now, x)
        return new, extend(passes, jacobians, jnp.all(jnp.isfinite(new))), None

    if next_states is not None:
        system = dataclasses.replace(system, xs=(system.xs, next_states))
    return along(system, visit, start)[1]


def _jacobians_of_passes(of_step, num_passes, now, x):
    """Return the Jacobian of a step, and that with last digits changed for all further passes."""
    jacobian, rough_jacobian = of_step
    jacobians = jacobian(now.state, x)[None]
    if num_passes == 1:
        return jacobians
    changed = rough_jacobian(now.state, x, now.number)[None]
    changed = jnp.broadcast_to(changed, (num_passes - 1, *changed.shape[1:]))
    return jnp.concatenate([jacobians, changed])

"""The product along a trajectory, for those who have a system at hand."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.products._passes import extend_passes, start_passes
from jacobian_rnn.products.product import JacobianProduct, finish


def product_along(
    system: System,
    frames: Float[Array, "passes n n"],
    *,
    next_states: Float[Array, "steps n"] | None = None,
) -> JacobianProduct:
    """Multiply the Jacobians of all steps of a system, in one pass for each starting frame.

    The states after each step may be given. A chaotic system that is run again in another program
    rounds otherwise, and soon takes another way.
    """
    refuse_coarse_step(system)

    def visit(passes, now):
        x, new = now.x if next_states is not None else (now.x, system.step(now.state, now.x))
        jacobians = system.jacobian(now.state, x)[None]
        if len(frames) > 1:
            changed = system.rough_jacobian(now.state, x, now.number)[None]
            changed = jnp.broadcast_to(changed, (len(frames) - 1, *changed.shape[1:]))
            jacobians = jnp.concatenate([jacobians, changed])
        return new, extend_passes(passes, jacobians, jnp.all(jnp.isfinite(new))), None

    if next_states is not None:
        system = dataclasses.replace(system, xs=(system.xs, next_states))
    return finish(along(system, visit, start_passes(frames))[1])

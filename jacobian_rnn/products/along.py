"""The product along a trajectory, for those who have a system at hand."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.products._passes import extend_passes, start_passes
from jacobian_rnn.products.product import JacobianProduct, finish


def product_along(system: System, frames: Float[Array, "passes n n"]) -> JacobianProduct:
    """Multiply the Jacobians of all steps of a system, in one pass for each starting frame."""
    refuse_coarse_step(system)

    def visit(passes, now):
        new = system.step(now.state, now.x)
        jacobian = system.jacobian(now.state, now.x)
        return new, extend_passes(passes, jacobian, jnp.all(jnp.isfinite(new))), None

    return finish(along(system, visit, start_passes(frames))[1])

"""The product of Jacobians of units that see themselves alone: a small product for each unit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.graded_svd import row_norms, scaled_norm
from jacobian_rnn.products._passes import PASSES, extend_passes, start_passes
from jacobian_rnn.products.product import JacobianProduct, finish


class BlockProduct(NamedTuple):
    """P = J[T-1] ··· J[0] of a state of c arrays of N units, where each unit sees itself alone.

    Its methods are those of a `JacobianProduct`. `whole()` makes one of it, with all there is, for
    small n = c N.

    Attributes:
        units: the product of every unit, a `JacobianProduct` with a first axis of N.
    """

    units: JacobianProduct

    @property
    def num_steps(self) -> Int[Array, ""]:
        """The number of steps T."""
        return self.units.num_steps[0]

    @property
    def first_nonfinite_step(self) -> Int[Array, ""]:
        """The first step whose Jacobian or new state held NaN or inf, −1 if none."""
        return self.units.first_nonfinite_step[0]

    def log_singular_values(self) -> Float[Array, " n"]:
        """Return log σ_i(P), nats, descending; −inf for lost directions."""
        return -jnp.sort(-_of_units(self.units).reshape(-1))

    def singular_values(self) -> Float[Array, " n"]:
        """Return σ_i(P), descending; 0 or inf where the float range ends."""
        return jnp.exp(self.log_singular_values())

    def log_norm(self) -> Float[Array, ""]:
        """Return log σ₁(P), nats."""
        return jnp.max(_of_units(self.units)[:, 0])

    def log_abs_det(self) -> Float[Array, ""]:
        """Return log|det P|, nats."""
        return jnp.sum(self.units.log_scale[:, 0])

    def log_rms_growth(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats: the growth of a random cotangent, root mean square."""
        growths = jax.vmap(JacobianProduct.log_rms_growth)(self.units)
        return (jax.nn.logsumexp(2 * growths) - jnp.log(len(growths))) / 2

    def log_adjoint_growth(self, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
        """Return log(‖Pᵀv‖ / ‖v‖), nats, for a cotangent v of shape `(n,)`."""
        cotangent = jnp.asarray(cotangent)
        num_units, _, c = self.units.log_scale.shape
        check_shape("cotangent", cotangent.shape, (c * num_units,), "the ravelled state")
        own = cotangent.reshape(c, num_units).T
        norms = row_norms(own)
        rows = jnp.where(norms > 0, own.T, 1).T
        growths = jax.vmap(JacobianProduct.log_adjoint_growth)(self.units, rows)
        arriving = jnp.where(norms > 0, growths + jnp.log(norms), -jnp.inf)
        return jax.nn.logsumexp(2 * arriving) / 2 - jnp.log(scaled_norm(cotangent))

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats; NaN without further passes."""
        return jnp.max(jax.vmap(lambda unit: unit.log_error)(self.units))

    @property
    def log_growth_error(self) -> Float[Array, ""]:
        """Estimated error of `log_rms_growth` and `log_norm`, nats; NaN without further passes."""
        return jnp.max(jax.vmap(lambda unit: unit.log_growth_error)(self.units))

    def whole(self) -> JacobianProduct:
        """Return the same as a product of whole matrices, with memory n²."""
        units = self.units
        num_units, passes, c = units.log_scale.shape
        by_array = jnp.eye(num_units, dtype=units.left.dtype)

        def spread(matrices):
            spread_out = jnp.einsum("upab,uv->paubv", matrices, by_array)
            return spread_out.reshape(passes, c * num_units, c * num_units)

        def first(steps):
            never = jnp.iinfo(jnp.int32).max
            earliest = jnp.min(jnp.where(steps >= 0, steps, never))
            return jnp.where(earliest == never, -1, earliest)

        return JacobianProduct(
            left=spread(units.left),
            log_scale=jnp.moveaxis(units.log_scale, 0, 2).reshape(passes, -1),
            right=spread(units.right),
            num_steps=self.num_steps,
            first_lost_step=first(units.first_lost_step),
            first_underflow_step=first(units.first_underflow_step),
            first_nonfinite_step=self.first_nonfinite_step,
            right_cut=jnp.any(units.right_cut, axis=0),
        )

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        return self.whole().dense()

    def singular_vectors(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """Return the singular vectors of P, as `JacobianProduct.singular_vectors` does."""
        return self.whole().singular_vectors()

    def __matmul__(self, earlier: "BlockProduct") -> "BlockProduct":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compose `later @ earlier`: the product over both stretches of time."""
        if not isinstance(earlier, BlockProduct):
            return NotImplemented
        if self.units.left.shape != earlier.units.left.shape:
            received = f"blocks of shapes {self.units.left.shape} and {earlier.units.left.shape}"
            refuse("later @ earlier", received, "two products of the same system")
        return BlockProduct(jax.vmap(JacobianProduct.__matmul__)(self.units, earlier.units))


@jax.jit
def _of_units(units):
    return jax.vmap(JacobianProduct.log_singular_values)(units)


@partial(jax.jit, static_argnames="estimate_error")
def block_product(system: System, *, estimate_error: bool) -> BlockProduct:
    """Multiply the blocks of all steps of a system."""
    refuse_coarse_step(system)
    c, _, num_units = jax.eval_shape(system.unit_jacobians, system.state, system.one_input).shape
    eye = jnp.eye(c, dtype=system.state.dtype)
    frames = jnp.broadcast_to(eye, (PASSES if estimate_error else 1, c, c))

    def visit(passes, now):
        new = system.step(now.state, now.x)
        blocks = system.unit_jacobians(now.state, now.x)[None]
        if estimate_error:
            changed = system.rough_unit_jacobians(now.state, now.x, now.number)[None]
            changed = jnp.broadcast_to(changed, (PASSES - 1, *changed.shape[1:]))
            blocks = jnp.concatenate([blocks, changed])
        blocks = jnp.moveaxis(blocks, -1, 0)
        finite = jnp.all(jnp.isfinite(new)) & jnp.all(jnp.isfinite(blocks))
        return new, jax.vmap(extend_passes, in_axes=(0, 0, None))(passes, blocks, finite), None

    start = jax.tree.map(
        lambda one: jnp.broadcast_to(one, (num_units, *one.shape)), start_passes(frames)
    )
    return BlockProduct(jax.vmap(finish)(along(system, visit, start)[1]))

"""The product of all step Jacobians, P = J[T-1] ··· J[0], with every singular value in logs.

P is held as `left @ diag(exp log_scale) @ right`. `left` and `right` are of order one and well
conditioned, and all growth and decay is in `log_scale`. One factorisation per step keeps that form.
Nothing overflows, small singular values survive beside large ones, and memory is constant in T.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.linalg.factored_form import (
    FactoredForm,
    compose,
    log_growth_through_of,
    log_rms_growth_of,
    orthonormalize,
    singular_vectors_of,
)
from jacobian_rnn.linalg.graded_svd import flushed_exp, graded_singular_values, matmul
from jacobian_rnn.linalg.rounding import CAUTION, least_error
from jacobian_rnn.products._passes import Passes


class JacobianProduct(NamedTuple):
    """P = J[T-1] ··· J[0] in factored form, once for each of `passes`.

    The first pass gives every result. Two more change every entry of every Jacobian at random by up
    to four roundings. The error is estimated from the differences of the three. They show what the
    product makes of an uncertain last digit, and the rounding of the passes.

    Attributes:
        left: orthogonal, `(passes, n, n)`.
        log_scale: nats, `(passes, n)`, −inf for a direction that was lost.
        right: `(passes, n, n)`, with |det| = 1.
        num_steps: T, int32 scalar.
        first_lost_step: first step at which a direction was lost to rounding (its pivot below
            n·eps of what cancelled to leave it), int32 scalar, −1 if none. Exact zeros do not
            count. A backward product meets later steps first, and loses a direction there.
        first_underflow_step: first step at which a direction fell behind another by more than the
            float range holds and may catch up again, int32 scalar, −1 if none.
        first_nonfinite_step: first step whose Jacobian or new state held NaN or inf, int32 scalar,
            −1 if none. After such a step the product has no meaning.
        right_cut: whether entries of `right` fell below half the float range and were set to zero,
            bool `(passes,)`. They do not count here, but they may count in `later @ earlier`.
    """

    left: Float[Array, "passes n n"]
    log_scale: Float[Array, "passes n"]
    right: Float[Array, "passes n n"]
    num_steps: Int[Array, ""]
    first_lost_step: Int[Array, ""]
    first_underflow_step: Int[Array, ""]
    first_nonfinite_step: Int[Array, ""]
    right_cut: Bool[Array, " passes"]

    def log_singular_values(self) -> Float[Array, " n"]:
        """Return log σ_i(P), nats, descending, −inf for lost directions."""
        return _log_singular_values(self.log_scale[0], self.right[0])

    def singular_values(self) -> Float[Array, " n"]:
        """Return σ_i(P), descending, 0 or inf where the float range ends."""
        return jnp.exp(self.log_singular_values())

    def log_norm(self) -> Float[Array, ""]:
        """Return log σ₁(P), the log of the spectral norm, nats."""
        return self.log_singular_values()[0]

    def log_abs_det(self) -> Float[Array, ""]:
        """Return log|det P|, nats, which is the sum of all log singular values by another route."""
        return jnp.sum(self.log_scale[0])

    def singular_vectors(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """Return left singular vectors as columns and right ones as rows, as `jnp.linalg.svd` does.

        A gradient v at the last state arrives at the first as Pᵀv. Its component along `right[i]`
        is σ_i times that of v along `left[:, i]`. So the first columns of `left` are the gradients
        that survive, and they become the first rows of `right`. Vectors of lost directions are
        zero. Those of equal singular values are any basis of their space. They have no derivative.
        """
        return singular_vectors_of(self.left[0], self.log_scale[0], self.right[0])

    def log_rms_growth(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats, the root mean square growth of a random cotangent."""
        return log_rms_growth_of(self.log_scale[0], self.right[0])

    def log_adjoint_growth(self, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
        """Return log(‖Pᵀv‖ / ‖v‖), nats, for a cotangent v of shape `(n,)`.

        Backpropagation multiplies the norm of a gradient v at the last state by ‖Pᵀv‖ / ‖v‖ on its
        way to the first.
        """
        cotangent = jnp.asarray(cotangent)
        check_shape("cotangent", cotangent.shape, (self.left.shape[-1],), "the ravelled state")
        return self.log_growth_through(cotangent[None])

    def log_growth_through(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Return log(‖R P‖_F / ‖R‖_F), nats, for rows R of shape `(m, n)`.

        With R = ∂output/∂state at the last state, it is the root mean square growth of a random
        gradient of the output. Directions of the state that no output shows do not count.
        """
        rows = jnp.asarray(rows)
        check_shape("rows", rows.shape, ("m", self.left.shape[-1]), "in the ravelled state")
        return log_growth_through_of(rows, self.left[0], self.log_scale[0], self.right[0])

    def log_growth_through_error(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Estimate the error of `log_growth_through`, nats, NaN without further passes."""
        if self.log_scale.shape[0] == 1:
            return jnp.full((), jnp.nan, self.log_scale.dtype)
        growths = jax.vmap(partial(log_growth_through_of, rows))(
            self.left, self.log_scale, self.right
        )
        return growth_error(growths, self.first_underflow_step >= 0, self.num_steps)

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        log_norm = self.log_norm()
        finite = jnp.where(jnp.isneginf(log_norm), 0, log_norm)
        weights = flushed_exp(self.log_scale[0] - finite)
        return matmul(self.left[0] * weights[None], self.right[0]), log_norm

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats, NaN without further passes.

        It is five times the largest difference of the passes, never less than rounding explains,
        and infinite where a direction was lost or underflowed. In tests on the 500 products of
        `tests/product_zoo.py`, whole and composed of halves, in float64 and float32, an estimate
        below 1e-2 is at least a tenth of the error. Errors above 0.1 have estimates above 1e-2. It
        is no bound: all passes may round a pivot alike. Of 3173 other products, many coupled one
        way, one had an error of 3e-6 and an estimate of 2e-10.
        """
        if self.log_scale.shape[0] == 1:
            return jnp.full((), jnp.nan, self.log_scale.dtype)
        return _log_error(self)

    @property
    def log_growth_error(self) -> Float[Array, ""]:
        """Estimated error of `log_rms_growth` and `log_norm`, nats, NaN without further passes.

        The small singular values of a product may have lost their digits while its growth has not.
        """
        if self.log_scale.shape[0] == 1:
            return jnp.full((), jnp.nan, self.log_scale.dtype)
        return _log_growth_error(self)

    def __matmul__(self, earlier: "JacobianProduct") -> "JacobianProduct":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compose `later @ earlier`, the product over both stretches of time."""
        if not isinstance(earlier, JacobianProduct):
            return NotImplemented
        if self.left.shape[-1] != earlier.left.shape[-1]:
            sizes = f"products of {self.left.shape[-1]} and {earlier.left.shape[-1]} states"
            refuse("later @ earlier", sizes, "two of the same system")
        return _compose(self, earlier)


def finish(passes: Passes) -> JacobianProduct:
    """Return the product that passes have reached."""
    forms, cut = jax.vmap(orthonormalize)(passes.forms)
    return JacobianProduct(
        forms.left,
        forms.log_scale,
        forms.right,
        passes.num_steps,
        passes.first_lost_step,
        passes.first_underflow_step,
        passes.first_nonfinite_step,
        passes.right_cut | cut,
    )


def transpose(product: JacobianProduct) -> JacobianProduct:
    """Return Pᵀ, whose steps are the transposed ones, the last one first.

    What was cut from `right` is in `left` then, where nobody looks for it. So a product that was
    cut counts as one whose directions underflowed, at its first step.
    """

    def transposed(left, log_scale, right):
        zeros = jnp.zeros_like(log_scale)
        return orthonormalize(FactoredForm(right.T, log_scale, zeros, left.T))

    forms, cut = jax.vmap(transposed)(product.left, product.log_scale, product.right)
    is_cut = jnp.any(product.right_cut | cut)

    def from_the_end(step):
        return jnp.where(step >= 0, product.num_steps - 1 - step, -1)

    return product._replace(
        left=forms.left,
        log_scale=forms.log_scale,
        right=forms.right,
        first_lost_step=from_the_end(product.first_lost_step),
        first_underflow_step=jnp.where(is_cut, 0, from_the_end(product.first_underflow_step)),
        first_nonfinite_step=from_the_end(product.first_nonfinite_step),
    )


@jax.jit
def _compose(later, earlier):
    def form(product):
        return FactoredForm(
            product.left, product.log_scale, jnp.zeros_like(product.log_scale), product.right
        )

    offset = earlier.num_steps
    forms, underflowed = jax.vmap(compose)(form(later), form(earlier), later.right_cut)
    of_earlier = jnp.where(
        jnp.any(underflowed) & (earlier.first_underflow_step < 0),
        offset,
        earlier.first_underflow_step,
    )

    def first(of_earlier, of_later):
        return jnp.where(
            of_earlier >= 0, of_earlier, jnp.where(of_later >= 0, of_later + offset, -1)
        )

    return finish(
        Passes(
            forms,
            offset + later.num_steps,
            first(earlier.first_lost_step, later.first_lost_step),
            first(of_earlier, later.first_underflow_step),
            first(earlier.first_nonfinite_step, later.first_nonfinite_step),
            earlier.right_cut | later.right_cut,
        )
    )


@jax.jit
def _log_singular_values(log_scale, right):
    return graded_singular_values(log_scale, right)[0]


@jax.jit
def _log_error(product):
    values = jax.vmap(_log_singular_values)(product.log_scale, product.right)
    # Each step rounds each entry.
    n, dtype = product.log_scale.shape[1], product.log_scale.dtype
    rounding = jnp.max(least_error(values, n**2 * (1 + product.num_steps.astype(dtype))))
    error = jnp.maximum(CAUTION * jnp.max(_disagreement(values)), rounding)
    lost = (product.first_lost_step >= 0) | (product.first_underflow_step >= 0)
    return jnp.where(lost, jnp.inf, error)


@jax.jit
def _log_growth_error(product):
    growths = jax.vmap(log_rms_growth_of)(product.log_scale, product.right)
    norms = jax.vmap(_log_singular_values)(product.log_scale, product.right)[:, 0]
    together = jnp.stack([growths, norms], axis=1)
    underflowed = product.first_underflow_step >= 0
    return jnp.max(growth_error(together, underflowed, product.num_steps))


def growth_error(
    growths: Float[Array, "passes *any"],
    underflowed: Bool[Array, ""],
    num_steps: Int[Array, ""],
) -> Float[Array, "*any"]:
    """Estimate the error of growths from what the passes say, nats.

    What underflowed stands in the passes at its largest possible size. Where they are a nat apart,
    nothing is known of it.
    """
    rounding = least_error(growths[0], 1 + num_steps)
    error = jnp.maximum(CAUTION * _disagreement(growths), rounding)
    return jnp.where(underflowed & (error > 1), jnp.inf, error)


def _disagreement(values):
    """Return largest minus smallest of the passes, 0 where all are −inf, as for exact zeros."""
    highest, lowest = jnp.max(values, axis=0), jnp.min(values, axis=0)
    return jnp.where(jnp.isneginf(highest), 0, highest - lowest)

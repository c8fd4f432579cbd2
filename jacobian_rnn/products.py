"""The product of all step Jacobians, P = J[T-1] ··· J[0], with every singular value in logs.

P is held as `left @ diag(exp log_scale) @ right`: `left` orthogonal, `right` of order one and well
conditioned, and all growth and decay in `log_scale`. One QR per step keeps that form, so nothing
overflows, small singular values survive beside large ones, and memory does not grow with T.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_jacobians, check_precision, check_system
from jacobian_rnn.factored_form import (
    FactoredForm,
    composed,
    extended,
    identity_form,
    log_adjoint_gain_of,
    log_rms_gain_of,
    singular_vectors_of,
)
from jacobian_rnn.frames import check_frame, generic_frames
from jacobian_rnn.graded_svd import flushed_exp, graded_singular_values, matmul
from jacobian_rnn.jacobians import jacobian_of_step, ravelled_step

CAUTION = 5  # over a zoo of products, two passes agreed to a twentieth of their error by chance


class JacobianProduct(NamedTuple):
    """P = J[T-1] ··· J[0] in factored form, once for each of `passes` starting frames.

    The first pass gives every result; a second one, from another frame, rounds differently, and
    what the two disagree about is the estimate of the error.

    Attributes:
        left: orthogonal, `(passes, n, n)`.
        log_scale: nats, `(passes, n)`; −inf for a direction that was lost.
        right: `(passes, n, n)`, with |det| = 1.
        num_steps: T, int32 scalar.
        first_lost_step: first step at which a direction was lost to rounding (its pivot below
            n·eps of the rows that made it), int32 scalar, −1 if none. Exact zeros do not count.
        first_nonfinite_step: first step whose Jacobian held NaN or inf, int32 scalar, −1 if none.
    """

    left: Float[Array, "passes n n"]
    log_scale: Float[Array, "passes n"]
    right: Float[Array, "passes n n"]
    num_steps: Int[Array, ""]
    first_lost_step: Int[Array, ""]
    first_nonfinite_step: Int[Array, ""]

    def log_singular_values(self) -> Float[Array, " n"]:
        """Return log σ_i(P), nats, descending; −inf for lost directions."""
        return _log_singular_values(self.log_scale[0], self.right[0])

    def singular_values(self) -> Float[Array, " n"]:
        """Return σ_i(P), descending; 0 or inf where the float range ends."""
        return jnp.exp(self.log_singular_values())

    def log_norm(self) -> Float[Array, ""]:
        """Return log σ₁(P), the log of the spectral norm, nats."""
        return self.log_singular_values()[0]

    def log_abs_det(self) -> Float[Array, ""]:
        """Return log|det P|, nats: the sum of all log singular values, by another route."""
        return jnp.sum(self.log_scale[0])

    def singular_vectors(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """Return the singular vectors of P: left as columns, right as rows, as `jnp.linalg.svd`.

        A gradient v at the last state arrives at the first as Pᵀv: along `right[i]`, by σ_i times
        what v has of `left[:, i]`. So the first columns of `left` are the gradients that survive,
        and the first rows of `right` what becomes of them. Vectors of lost directions are zero;
        those of equal singular values are any basis of their space. No derivative.
        """
        return singular_vectors_of(self.left[0], self.log_scale[0], self.right[0])

    def log_rms_gain(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats: the gain of a random cotangent, root mean square."""
        return log_rms_gain_of(self.log_scale[0], self.right[0])

    def log_adjoint_gain(self, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
        """Return log(‖Pᵀv‖ / ‖v‖), nats, for a cotangent v of shape `(n,)`.

        This is what backpropagation multiplies the gradient v at the last state by on its way to
        the first.
        """
        cotangent = jnp.asarray(cotangent)
        n = self.left.shape[-1]
        if cotangent.shape != (n,):
            msg = (
                f"cotangent: received shape {cotangent.shape}, expected ({n},), the ravelled state"
            )
            raise ValueError(msg)
        return log_adjoint_gain_of(self.left[0], self.log_scale[0], self.right[0], cotangent)

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        log_norm = self.log_norm()
        finite = jnp.where(jnp.isneginf(log_norm), 0, log_norm)
        weights = flushed_exp(self.log_scale[0] - finite)
        return matmul(self.left[0] * weights, self.right[0]), log_norm

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats; NaN without a second pass.

        Five times the largest disagreement of the two passes, which may agree by chance, and never
        less than rounding explains. Directions lost in either pass are reported by
        `first_lost_step` instead. In practice it bounds the error where that is small; where digits
        are lost it says only so, and by chance it has been a third of an error of 1e-2 nats.
        """
        if self.log_scale.shape[0] == 1:
            return jnp.full((), jnp.nan, self.log_scale.dtype)
        return _log_error(self.log_scale, self.right, self.num_steps)

    @property
    def log_gain_error(self) -> Float[Array, ""]:
        """Estimated error of `log_rms_gain` and `log_norm`, nats; NaN without a second pass.

        The small singular values of a product may have lost their digits while its gain has not.
        """
        if self.log_scale.shape[0] == 1:
            return jnp.full((), jnp.nan, self.log_scale.dtype)
        return _log_gain_error(self.log_scale, self.right)

    def __matmul__(self, earlier: "JacobianProduct") -> "JacobianProduct":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compose `later @ earlier`: the product over both stretches of time."""
        if not isinstance(earlier, JacobianProduct):
            return NotImplemented
        if self.left.shape[-1] != earlier.left.shape[-1]:
            msg = (
                f"later @ earlier: received products of {self.left.shape[-1]} and "
                f"{earlier.left.shape[-1]} states, expected the same system"
            )
            raise ValueError(msg)
        return _compose(self, earlier)


def jacobian_product(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    estimate_error: bool = True,
    frame: Float[Array, "n n"] | None = None,
) -> JacobianProduct:
    """Multiply the Jacobians of all steps along a trajectory, streaming.

    One QR per step keeps the factored form, as `factored_form.extended` says.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num_steps: number of steps T where `xs` is None.
        estimate_error: make a second pass from another frame, for `log_error`; doubles the cost.
        frame: starting frame Q₀, orthogonal `(n, n)`; a fixed generic one by default.

    Returns:
        The product. T = 0 gives the identity.

    Raises:
        ValueError: shapes, structures or time axes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ.

    Cost: per step one Jacobian, and a matrix product, a QR and a matrix product of size n for each
    pass; memory O(n²), whatever T is. Works under `jit` and `vmap`; reverse-mode `grad` stores
    O(T n²). Derivatives hold a lost direction at zero: what would revive it counts for nothing.

    References:
        J. Oliveira and D. E. Stewart, "Exponential splittings of products of matrices and
        accurately computing singular values of long products", Linear Algebra Appl. 309 (2000).

    Example:
        >>> import jax.numpy as jnp
        >>> def rotate_and_shrink(params, carry, x):
        ...     return params @ carry
        >>> matrix = 0.5 * jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> system = Recurrence(rotate_and_shrink, matrix)
        >>> product = jacobian_product(system, jnp.ones(2), None, num_steps=10_000)
        >>> bool(jnp.allclose(product.log_singular_values(), 10_000 * jnp.log(0.5)))
        True
    """
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    state = ravel_pytree(carry)[0]
    frames = _starting_frames(state.size, state.dtype, estimate_error, frame)
    return _jacobian_product(recurrence, carry, xs, frames, num_steps)


def product_of(
    jacobians: Float[Array, "steps n n"],
    *,
    estimate_error: bool = True,
    frame: Float[Array, "n n"] | None = None,
) -> JacobianProduct:
    """Multiply given matrices: `jacobians[T-1] @ ... @ jacobians[0]`.

    Args:
        jacobians: shape `(T, n, n)`, rows are outputs, earliest first.
        estimate_error: make a second pass from another frame, for `log_error`; doubles the cost.
        frame: starting frame Q₀, orthogonal `(n, n)`; a fixed generic one by default.

    Returns:
        The product, as `jacobian_product` returns it.

    Raises:
        ValueError: not of shape `(T, n, n)`, or values that are not finite.
        TypeError: not real floating-point numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> product = product_of(jnp.tile(jnp.diag(jnp.array([2.0, 0.5])), (1000, 1, 1)))
        >>> bool(jnp.allclose(product.log_singular_values(), 693.147 * jnp.array([1.0, -1.0])))
        True
    """
    jacobians = check_jacobians(jacobians)
    frames = _starting_frames(jacobians.shape[1], jacobians.dtype, estimate_error, frame)
    return _product_of(jacobians, frames)


@partial(jax.jit, static_argnames="num_steps")
def _jacobian_product(recurrence, carry, xs, frames, num_steps):
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)
    jacobian = jacobian_of_step(recurrence, unravel)

    def one_step(carried, x):
        state, growing = carried
        return (step(state, x), _extended(growing, jacobian(state, x))), None

    (_, growing), _ = lax.scan(one_step, (state, _empty(frames)), xs, length=num_steps)
    return _finished(growing)


@jax.jit
def _product_of(jacobians, frames):
    def one_step(growing, jacobian):
        return _extended(growing, jacobian), None

    return _finished(lax.scan(one_step, _empty(frames), jacobians)[0])


class _Growing(NamedTuple):
    forms: FactoredForm
    num_steps: Array
    first_lost_step: Array
    first_nonfinite_step: Array


def _empty(frames):
    never = jnp.full((), -1, jnp.int32)
    return _Growing(jax.vmap(identity_form)(frames), never + 1, never, never)


def _extended(growing, jacobian):
    forms, lost, broken = jax.vmap(extended, in_axes=(0, None))(growing.forms, jacobian)
    now = growing.num_steps

    def first(step, happened):
        return jnp.where((step < 0) & happened, now, step)

    return _Growing(
        forms,
        now + 1,
        first(growing.first_lost_step, jnp.any(lost)),
        first(growing.first_nonfinite_step, jnp.any(broken)),
    )


def _finished(growing):
    forms = growing.forms
    return JacobianProduct(
        forms.left,
        forms.log_scale + forms.rounding,
        forms.right,
        growing.num_steps,
        growing.first_lost_step,
        growing.first_nonfinite_step,
    )


@jax.jit
def _compose(later, earlier):
    def form(product):
        return FactoredForm(
            product.left, product.log_scale, jnp.zeros_like(product.log_scale), product.right
        )

    offset = earlier.num_steps

    def first(of_earlier, of_later):
        return jnp.where(
            of_earlier >= 0, of_earlier, jnp.where(of_later >= 0, of_later + offset, -1)
        )

    return _finished(
        _Growing(
            jax.vmap(composed)(form(later), form(earlier)),
            offset + later.num_steps,
            first(earlier.first_lost_step, later.first_lost_step),
            first(earlier.first_nonfinite_step, later.first_nonfinite_step),
        )
    )


@jax.jit
def _log_singular_values(log_scale, right):
    return graded_singular_values(log_scale, right)[0]


@jax.jit
def _log_error(log_scale, right, num_steps):
    values = jax.vmap(_log_singular_values)(log_scale, right)
    values = jnp.where(jnp.any(jnp.isneginf(values), axis=0), 0, values)
    n, dtype = log_scale.shape[1], log_scale.dtype
    # Each step rounds each direction, with errors that add up like a random walk.
    steps = n * jnp.sqrt(1 + num_steps.astype(dtype))
    rounding = jnp.finfo(dtype).eps * jnp.maximum(steps, jnp.max(jnp.abs(values)))
    return jnp.maximum(CAUTION * jnp.max(jnp.abs(values[0] - values[1])), rounding)


@jax.jit
def _log_gain_error(log_scale, right):
    gains = jax.vmap(log_rms_gain_of)(log_scale, right)
    norms = jax.vmap(_log_singular_values)(log_scale, right)[:, 0]
    both = jnp.stack([gains, norms], axis=1)
    zero = jnp.any(jnp.isneginf(both), axis=0)
    return CAUTION * jnp.max(jnp.abs(jnp.where(zero, 0, both[0] - both[1])))


def _starting_frames(n, dtype, estimate_error, frame):
    check_precision(dtype)
    generic = generic_frames(n).astype(dtype)
    if frame is not None:
        generic = jnp.stack([check_frame(frame, (n, n), dtype), jnp.asarray(generic[1])])
    return jnp.asarray(generic[: 2 if estimate_error else 1])

"""The product of all step Jacobians, P = J[T-1] ··· J[0], with every singular value in logs.

P is held as `left @ diag(exp log_scale) @ right`: `left` orthogonal, `right` of order one and well
conditioned, and all growth and decay in `log_scale`. One QR per step keeps that form, so nothing
overflows, small singular values survive beside large ones, and memory does not grow with T.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.graded_svd import flushed_exp, graded_singular_values, matmul, row_norms
from jacobian_rnn.jacobians import check_finite, check_system, jacobian_of_step, ravelled_step


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

    def log_rms_gain(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats: the gain of a random cotangent, root mean square."""
        return _log_rms_gain(self.log_scale[0], self.right[0])

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
        return _log_adjoint_gain(self.left[0], self.log_scale[0], self.right[0], cotangent)

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        log_norm = self.log_norm()
        finite = jnp.where(jnp.isneginf(log_norm), 0, log_norm)
        weights = flushed_exp(self.log_scale[0] - finite)
        return matmul(self.left[0] * weights, self.right[0]), log_norm

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats; NaN without a second pass.

        The largest disagreement of the two passes, and never less than rounding explains.
        Directions lost in either pass are reported by `first_lost_step` instead. Below 1e-2 nats
        it has the size of the error; above, it says only that digits are lost.
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

    At each step A = J Q is factored anew, its columns in descending order of exp(d_j)‖A_j‖ and its
    rows in descending order of norm (which keeps strongly graded, saturated Jacobians accurate:
    Cox and Higham 1998), and with A = Q'R

        P = Q' diag(exp d') V',   d' = d + log R_ii,   V' = (I + N) V,
        N_ij = R_ij / R_ii exp(d_j − d_i),   i < j.

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
    O(T n²).

    References:
        J. Oliveira and D. E. Stewart, "Exponential splittings of products of matrices and
        accurately computing singular values of long products", Linear Algebra Appl. 309 (2000).
        A. J. Cox and N. J. Higham, "Stability of Householder QR factorization for weighted least
        squares problems", Numerical Analysis 1997 (1998).
        Z. Bai, C. Lee, R.-C. Li and S. Xu, "Stable solutions of linear systems involving long
        chain of matrix multiplications", Linear Algebra Appl. 435 (2011).

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
    jacobians = jnp.asarray(jacobians)
    if jacobians.ndim != 3 or jacobians.shape[1] != jacobians.shape[2] or jacobians.shape[1] == 0:
        msg = (
            f"jacobians: received shape {jacobians.shape}, expected (time, n, n): one square "
            "matrix per step, earliest first, no batch axis (use jax.vmap)"
        )
        raise ValueError(msg)
    if not jnp.issubdtype(jacobians.dtype, jnp.floating):
        msg = f"jacobians: received {jacobians.dtype}, expected real floating-point numbers"
        raise TypeError(msg)
    check_finite("jacobians", jacobians)
    frames = _starting_frames(jacobians.shape[1], jacobians.dtype, estimate_error, frame)
    return _product_of(jacobians, frames)


@functools.partial(jax.jit, static_argnames="num_steps")
def _jacobian_product(recurrence, carry, xs, frames, num_steps):
    state, unravel = ravel_pytree(carry)
    step = ravelled_step(recurrence, unravel)
    jacobian = jacobian_of_step(recurrence, unravel)

    def one_step(carried, x):
        state, product, rounding = carried
        return (step(state, x), *_extended(product, rounding, jacobian(state, x))), None

    start = (state, *_identity(frames))
    (_, product, rounding), _ = lax.scan(one_step, start, xs, length=num_steps)
    return _finished(product, rounding)


@jax.jit
def _product_of(jacobians, frames):
    def one_step(carried, jacobian):
        product, rounding = carried
        return _extended(product, rounding, jacobian), None

    (product, rounding), _ = lax.scan(one_step, _identity(frames), jacobians)
    return _finished(product, rounding)


def _identity(frames):
    """Return the empty product, and the rounding errors of its log scales, none yet."""
    passes, n, _ = frames.shape
    log_scale = jnp.zeros((passes, n), frames.dtype)
    never = jnp.full((), -1, jnp.int32)
    right = jnp.swapaxes(frames, 1, 2)
    return JacobianProduct(frames, log_scale, right, never + 1, never, never), log_scale


def _finished(product, rounding):
    return product._replace(log_scale=product.log_scale + rounding)


def _extended(product, rounding, jacobian):
    """Multiply a product by the Jacobian of the next step, from the left."""
    left, log_scale, rounding, right, lost = jax.vmap(_one_step, in_axes=(None, 0, 0, 0, 0))(
        jacobian, product.left, product.log_scale, rounding, product.right
    )
    now = product.num_steps

    def first(step, happened):
        return jnp.where((step < 0) & happened, now, step)

    product = JacobianProduct(
        left,
        log_scale,
        right,
        now + 1,
        first(product.first_lost_step, jnp.any(lost)),
        first(product.first_nonfinite_step, ~jnp.all(jnp.isfinite(jacobian))),
    )
    return product, rounding


def _one_step(jacobian, left, log_scale, rounding, right):
    columns = matmul(jacobian, left)
    column_norms = row_norms(columns.T)
    reached = log_scale + jnp.log(column_norms)
    order = jnp.argsort(-reached)
    columns, column_norms, reached = columns[:, order], column_norms[order], reached[order]
    log_scale, rounding, right = log_scale[order], rounding[order], right[order]

    sizes = row_norms(columns)
    rows = jnp.argsort(-sizes)
    q, r = positive_qr(columns[rows])
    left = jnp.zeros_like(q).at[rows].set(q)

    pivots = jnp.diagonal(r)
    noise = r.shape[0] * jnp.finfo(r.dtype).eps * sizes[rows]
    gone = pivots <= noise
    lost = gone & (pivots > 0) & ~jnp.isneginf(log_scale)
    log_pivots = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(gone, 1, pivots)))
    log_scale, rounding = _compensated_sum(log_scale, rounding, log_pivots)
    r = r / jnp.where(column_norms > 0, column_norms, 1)
    return left, log_scale, rounding, _absorbed(r, reached, log_scale, right), lost


def positive_qr(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Factor a matrix as Q R with a diagonal of R that is not negative."""
    q, r = jnp.linalg.qr(matrix)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * signs, r * signs[:, None]


def _absorbed(r, column_scale, row_scale, right):
    """Move the strict upper triangle of diag(exp row_scale)⁻¹ R diag(exp column_scale) into V."""
    alive = ~(jnp.isneginf(column_scale) | jnp.isneginf(row_scale)[:, None])
    counts = alive & jnp.triu(jnp.ones_like(alive), 1)
    gaps = jnp.where(counts, column_scale, 0) - jnp.where(counts, row_scale[:, None], 0)
    return right + matmul(jnp.where(counts, r * flushed_exp(gaps), 0), right)


def _compensated_sum(total, rounding, term):
    """Add a term to a sum and keep what rounding loses (Neumaier 1974); −inf stays −inf."""
    new = total + term
    lost = jnp.where(jnp.abs(total) >= jnp.abs(term), (total - new) + term, (term - new) + total)
    return new, jnp.where(jnp.isfinite(new), rounding + lost, 0)


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
    return jnp.maximum(jnp.max(jnp.abs(values[0] - values[1])), rounding)


@jax.jit
def _log_gain_error(log_scale, right):
    gains = jax.vmap(_log_rms_gain)(log_scale, right)
    norms = jax.vmap(_log_singular_values)(log_scale, right)[:, 0]
    both = jnp.stack([gains, norms], axis=1)
    zero = jnp.any(jnp.isneginf(both), axis=0)
    return jnp.max(jnp.abs(jnp.where(zero, 0, both[0] - both[1])))


@jax.jit
def _log_rms_gain(log_scale, right):
    n = log_scale.shape[0]
    return (jax.nn.logsumexp(2 * (log_scale + jnp.log(row_norms(right)))) - jnp.log(n)) / 2


@jax.jit
def _log_adjoint_gain(left, log_scale, right, cotangent):
    components = matmul(left.T, cotangent)
    logs = log_scale + jnp.log(jnp.abs(components))
    shift = jnp.max(logs)
    shift = jnp.where(jnp.isneginf(shift), 0, shift)
    pulled = matmul(jnp.sign(components) * flushed_exp(logs - shift), right)
    return shift + jnp.log(jnp.linalg.norm(pulled)) - jnp.log(jnp.linalg.norm(cotangent))


@jax.jit
def _compose(later, earlier):
    left, log_scale, right = jax.vmap(_compose_one)(
        (later.left, later.log_scale, later.right), (earlier.left, earlier.log_scale, earlier.right)
    )
    offset = earlier.num_steps

    def first(of_earlier, of_later):
        return jnp.where(
            of_earlier >= 0, of_earlier, jnp.where(of_later >= 0, of_later + offset, -1)
        )

    return JacobianProduct(
        left,
        log_scale,
        right,
        offset + later.num_steps,
        first(earlier.first_lost_step, later.first_lost_step),
        first(earlier.first_nonfinite_step, later.first_nonfinite_step),
    )


def _compose_one(later, earlier):
    """Factor diag(exp d₂) M diag(exp d₁), M = V₂Q₁, by elimination with complete pivoting in logs.

    Both sides are graded, so the pivot is the largest of log|M_ij| + d₂ᵢ + d₁ⱼ: the multipliers,
    in the scales of their rows and columns, are then at most one.
    """
    q2, d2, v2 = later
    q1, d1, v1 = earlier
    n = d1.shape[0]

    def eliminate(k, carried):
        remaining, lower, upper, log_pivots = carried
        logs = jnp.log(jnp.abs(remaining)) + d2[:, None] + d1
        i, j = jnp.divmod(jnp.argmax(logs), n)
        alive = ~jnp.isneginf(logs[i, j])
        pivot = jnp.where(alive, remaining[i, j], 1)
        column, row = remaining[:, j] / pivot, remaining[i]
        shift = jnp.where(alive, logs[i, j], 0)
        return (
            (remaining - column[:, None] * row).at[i].set(0).at[:, j].set(0),
            lower.at[:, k].set(jnp.sign(column) * flushed_exp(logs[:, j] - shift)),
            upper.at[k].set(jnp.sign(row) * flushed_exp(logs[i] - shift)),
            log_pivots.at[k].set(logs[i, j]),
        )

    zeros = jnp.zeros((n, n), d1.dtype)
    start = (matmul(v2, q1), zeros, zeros, jnp.zeros((n,), d1.dtype))
    _, lower, upper, log_pivots = lax.fori_loop(0, n, eliminate, start)
    # diag(exp d₂) M diag(exp d₁) = lower diag(exp log_pivots) upper, both factors of order one.
    left, r = positive_qr(matmul(q2, lower))
    log_scale = log_pivots + jnp.log(jnp.diagonal(r))
    return left, log_scale, _absorbed(r, log_pivots, log_scale, matmul(upper, v1))


def _starting_frames(n, dtype, estimate_error, frame):
    if dtype not in (jnp.float32, jnp.float64):
        msg = f"dtype: received {dtype}, expected float32 or float64: products need their digits"
        raise TypeError(msg)
    generic = generic_frames(n).astype(dtype)
    if frame is not None:
        frame = jnp.asarray(frame)
        if frame.shape != (n, n):
            msg = f"frame: received shape {frame.shape}, expected ({n}, {n}), an orthogonal matrix"
            raise ValueError(msg)
        check_finite("frame", frame)
        if not isinstance(frame, Tracer):
            skew = float(np.abs(np.asarray(frame) @ np.asarray(frame).T - np.eye(n)).max())
            if skew > 1e3 * n * jnp.finfo(dtype).eps:
                msg = f"frame: received |F Fᵀ − 1| up to {skew:.1e}, expected an orthogonal matrix"
                raise ValueError(msg)
        generic = jnp.stack([frame.astype(dtype), jnp.asarray(generic[1])])
    return jnp.asarray(generic[: 2 if estimate_error else 1])


@functools.lru_cache(maxsize=32)
def generic_frames(n: int) -> np.ndarray:
    """Return two fixed generic orthogonal matrices, `(2, n, n)`, float64.

    The Q factors of matrices of standard normal numbers from numpy's PCG64 generator with seed n.
    """
    return np.linalg.qr(np.random.Generator(np.random.PCG64(n)).standard_normal((2, n, n)))[0]

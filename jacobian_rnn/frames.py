"""Frames of tangent vectors: fixed ones to start from, and the factorisations that renew them.

A frame F `(n, k)` pushed through steps loses the independence of its columns. A factorisation of
the pushed columns, A = F' R, gives a well-conditioned frame F' and the growth, on the diagonal of
the upper triangle R. Which factorisation is used, on which device, is decided here alone.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jacobian_rnn.graded_svd import matmul, row_norms

Factorization = Literal["elimination", "householder", "cholesky"]


class Factored(NamedTuple):
    """Columns A = F' R in factored form.

    Attributes:
        frame: F', `(n, k)`.
        pivots: |R_ii|, `(k,)`.
        sizes: what had to cancel to leave each pivot, `(k,)`: its rounding error is about eps times
            that. No derivative.
    """

    frame: Float[Array, "n k"]
    pivots: Float[Array, " k"]
    sizes: Float[Array, " k"]


def factorized(columns: Float[Array, "n k"], factorization: Factorization) -> Factored:
    """Factor pushed columns as F' R.

    "elimination" is Gaussian elimination with row pivoting (the Treppeniteration of Bauer 1957):
    F' is a permuted unit lower triangle, three times cheaper than Householder QR, and its rounding
    errors respect rows of different sizes. "householder" and "cholesky" give orthonormal F', the
    latter from matrix products alone, with "householder" standing in where it breaks down.

    Args:
        columns: A, shape `(n, k)`, k ≤ n.
        factorization: one of the three.

    Returns:
        The factors. The volume of the first i columns of A is the product of the first i pivots
        times the volume of the first i columns of F', whichever factorisation made them.

    References:
        F. L. Bauer, "Das Verfahren der Treppeniteration und verwandte Verfahren zur Lösung
        algebraischer Eigenwertprobleme", ZAMP 8 (1957).
        Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, "Roundoff error analysis of the
        CholeskyQR2 algorithm", ETNA 44 (2015).
    """
    if factorization == "elimination":
        frame, upper, _, sizes = _eliminated(columns)
    else:
        factor = positive_qr if factorization == "householder" else _cholesky_qr
        frame, upper = factor(columns)
        sizes = row_norms(upper.T)
    return Factored(frame, jnp.abs(jnp.diagonal(upper)), lax.stop_gradient(sizes))


@jax.custom_jvp
def _eliminated(columns):
    """Return F' and U, F' U = columns; the rows of F' with its unit triangle L; diag(|L||U|)."""
    n, k = columns.shape
    factors, _, rows = lax.linalg.lu(columns)
    lower = jnp.tril(factors, -1) + jnp.eye(n, k, dtype=columns.dtype)
    frame = lower[_inverse(rows)]
    top = factors[:k]
    sizes = jnp.sum(jnp.tril(jnp.abs(top * top.T), -1), axis=1) + jnp.abs(jnp.diagonal(top))
    return frame, jnp.triu(top), rows[:k], sizes


@_eliminated.defjvp
def _eliminated_jvp(primals, tangents) -> tuple[Any, Any]:
    """With C = L⁻¹ dA U⁻¹ on the pivot rows: dU = L⁻¹ dA − stril(C) U, dF' = dA U⁻¹ − F' triu(C).

    Here stril is the strict lower triangle, and columns of U⁻¹ with a zero pivot are zero.
    """
    (columns_dot,) = tangents
    frame, upper, rows, sizes = _eliminated(*primals)
    along = _right_solve(columns_dot, upper)

    def inner(columns):
        return lax.linalg.triangular_solve(
            frame[rows], columns[rows], left_side=True, lower=True, unit_diagonal=True
        )

    between = inner(along)
    upper_dot = jnp.triu(inner(columns_dot) - matmul(jnp.tril(between, -1), upper))
    frame_dot = along - matmul(frame, jnp.triu(between))
    no_rows = np.zeros(rows.shape, jax.dtypes.float0)
    # Nothing that is differentiated depends on the sizes.
    tangents_out = (frame_dot, upper_dot, no_rows, jnp.zeros_like(sizes))
    return (frame, upper, rows, sizes), tangents_out


@jax.custom_jvp
def positive_qr(columns: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """Factor columns as Q R with a diagonal of R that is not negative.

    Its derivative holds a direction whose pivot is exactly zero, which has none, in its place.
    """
    q, r = jnp.linalg.qr(columns)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * signs, r * signs[:, None]


def _right_solve(columns, upper):
    """Return columns @ inv(upper), with zero columns where the pivot is zero."""
    dead = jnp.diagonal(upper) == 0
    safe = upper + jnp.diag(dead.astype(upper.dtype))
    solved = lax.linalg.triangular_solve(safe, columns, left_side=False, lower=False)
    return jnp.where(dead, 0, solved)


@jax.custom_jvp
def _cholesky_qr(columns):
    """Factor as Q R by two rounds of Cholesky; by Householder where the first one breaks down."""
    k = columns.shape[1]
    scales = jnp.max(jnp.abs(columns), axis=0)
    scales = jnp.where(scales > 0, scales, 1)

    def one_round(columns):
        r = jnp.linalg.cholesky(matmul(columns.T, columns), upper=True)
        return lax.linalg.triangular_solve(r, columns, left_side=False, lower=False), r

    q, first = one_round(columns / scales)
    # The Gram matrix squares the condition number; below this pivot it has no digits left.
    tall_enough = jnp.diagonal(first) > 8 * jnp.sqrt(k * jnp.finfo(columns.dtype).eps)

    def again(_):
        orthonormal, second = one_round(q)
        return orthonormal, matmul(second, first) * scales

    return lax.cond(jnp.all(tall_enough), again, lambda _: positive_qr(columns), None)


def descending_order(values: Float[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Return the order that sorts values downwards, and its inverse (the rank of each value).

    All pairs are compared: two to four times faster than a sort for up to 64 values, slower beyond
    two hundred, where it no longer counts beside a QR. NaN comes first.
    """
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    index = jnp.arange(values.shape[0])
    above = (values[:, None] > values) | ((values[:, None] == values) & (index[:, None] < index))
    ranks = jnp.sum(above, axis=0, dtype=index.dtype)
    return _inverse(ranks), ranks


def _qr_jvp(factor, primals, tangents):
    """With C = Qᵀ dA R⁻¹, Ω = stril(C) − stril(C)ᵀ: dR = QᵀdA − Ω R, dQ = QΩ + (1 − QQᵀ) dA R⁻¹.

    Here stril is the strict lower triangle, and columns of R⁻¹ with a zero pivot are zero.
    """
    (columns_dot,) = tangents
    q, r = factor(*primals)
    along = _right_solve(columns_dot, r)
    inner = matmul(q.T, along)
    below = jnp.tril(inner, -1)
    rotation = below - below.T
    r_dot = jnp.triu(matmul(q.T, columns_dot) - matmul(rotation, r))
    return (q, r), (along + matmul(q, rotation - inner), r_dot)


positive_qr.defjvp(functools.partial(_qr_jvp, positive_qr))
_cholesky_qr.defjvp(functools.partial(_qr_jvp, _cholesky_qr))


def _inverse(permutation):
    index = jnp.arange(permutation.shape[0], dtype=permutation.dtype)
    return jnp.zeros_like(index).at[permutation].set(index, unique_indices=True)


@functools.lru_cache(maxsize=32)
def generic_frames(n: int) -> np.ndarray:
    """Return two fixed generic orthogonal matrices, `(2, n, n)`, float64.

    The Q factors of matrices of standard normal numbers from numpy's PCG64 generator with seed n.
    """
    return np.linalg.qr(np.random.Generator(np.random.PCG64(n)).standard_normal((2, n, n)))[0]


def check_frame(
    frame: Float[Array, "n k"], shape: tuple[int, int], dtype: jnp.dtype
) -> Float[Array, "n k"]:
    """Check a caller's starting frame; return it in the dtype of the run.

    Raises:
        ValueError: another shape, values that are not finite, or columns that are not orthonormal.
    """
    frame = jnp.asarray(frame)
    if frame.shape != shape:
        msg = f"frame: received shape {frame.shape}, expected {shape}, orthonormal columns"
        raise ValueError(msg)
    if not isinstance(frame, Tracer):
        columns = np.asarray(frame)
        skew = float(np.abs(columns.T @ columns - np.eye(shape[1])).max())
        if not skew <= 1e3 * shape[0] * jnp.finfo(dtype).eps:
            msg = f"frame: received |FᵀF − 1| up to {skew:.1e}, expected orthonormal columns"
            raise ValueError(msg)
    return frame.astype(dtype)

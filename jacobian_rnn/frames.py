"""Frames of tangent vectors: fixed ones to start from, and the factorisations that renew them.

A frame F `(n, k)` pushed through steps loses the independence of its columns. A factorisation of
the pushed columns, A = F' R, gives a well-conditioned frame F' and the growth, on the diagonal of
the upper triangle R. Which factorisation is used, on which device, is decided here alone.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.graded_svd import matmul, row_norms

Factorization = Literal["elimination", "householder", "cholesky"]


class Factored(NamedTuple):
    """Columns A = F' R in factored form.

    Attributes:
        frame: F', `(n, k)`.
        log_pivots: log|R_ii|, nats, `(k,)`; −inf for a lost direction.
        log_loss: nats, `(k,)`: log of what had to cancel for the pivot over the pivot. Rounding
            errors in the pivot are about eps·exp(log_loss).
        lost: whether rounding alone took the direction, `(k,)`; exact zeros do not count.
    """

    frame: Float[Array, "n k"]
    log_pivots: Float[Array, " k"]
    log_loss: Float[Array, " k"]
    lost: Bool[Array, " k"]


def factorized(
    columns: Float[Array, "n k"], factorization: Factorization, peak: Float[Array, " k"]
) -> Factored:
    """Factor pushed columns as F' R.

    "elimination" is Gaussian elimination with row pivoting (the Treppeniteration of Bauer 1957):
    F' is a permuted unit lower triangle, three times cheaper than Householder QR, and its rounding
    errors respect rows of different sizes. "householder" and "cholesky" give orthonormal F', the
    latter from matrix products alone, with "householder" standing in where it breaks down.

    Args:
        columns: A, shape `(n, k)`, k ≤ n.
        factorization: one of the three.
        peak: largest entry of each column on its way here, `(k,)`.

    Returns:
        The factors. The volume of the first i columns is exp(log_pivots[:i]) times that of the
        first i columns of F', whichever factorisation made them.

    References:
        F. L. Bauer, "Das Verfahren der Treppeniteration und verwandte Verfahren zur Lösung
        algebraischer Eigenwertprobleme", ZAMP 8 (1957).
        Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, "Roundoff error analysis of the
        CholeskyQR2 algorithm", ETNA 44 (2015).
    """
    if factorization == "elimination":
        frame, upper, rows = _eliminated(columns)
        sizes = jnp.sum(jnp.abs(frame[rows]) * jnp.abs(upper).T, axis=1)
    else:
        factor = positive_qr if factorization == "householder" else _cholesky_qr
        frame, upper = factor(columns)
        sizes = row_norms(upper.T)
    pivots = jnp.abs(jnp.diagonal(upper))
    sizes = lax.stop_gradient(jnp.maximum(sizes, peak))
    gone = pivots <= columns.shape[0] * jnp.finfo(columns.dtype).eps * sizes
    log_pivots = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(gone, 1, pivots)))
    log_loss = jnp.log(sizes) - log_pivots
    return Factored(frame, log_pivots, jnp.where(sizes > 0, log_loss, 0), gone & (pivots > 0))


@jax.custom_jvp
def _eliminated(columns):
    """Return F', U and the rows of F' that hold its unit triangle, with F' U = columns."""
    n, k = columns.shape
    factors, _, rows = lax.linalg.lu(columns)
    lower = jnp.tril(factors, -1) + jnp.eye(n, k, dtype=columns.dtype)
    frame = jnp.zeros_like(lower).at[rows].set(lower, unique_indices=True)
    return frame, jnp.triu(factors[:k]), rows[:k]


@_eliminated.defjvp
def _eliminated_jvp(primals, tangents):
    """With C = L⁻¹ dA U⁻¹ on the pivot rows: dU = triu(C) U and dL = dA U⁻¹ − L triu(C)."""
    (columns_dot,) = tangents
    frame, upper, rows = _eliminated(*primals)
    along = _right_solve(columns_dot, upper)
    lower = frame[rows]
    inner = lax.linalg.triangular_solve(
        lower, along[rows], left_side=True, lower=True, unit_diagonal=True
    )
    inner = jnp.triu(inner)
    no_rows = np.zeros(rows.shape, jax.dtypes.float0)
    primal_out = (frame, upper, rows)
    return primal_out, (along - matmul(frame, inner), matmul(inner, upper), no_rows)


@jax.custom_jvp
def positive_qr(columns: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """Factor columns as Q R with a diagonal of R that is not negative.

    Its derivative leaves out the directions whose pivot is exactly zero, which have none.
    """
    q, r = jnp.linalg.qr(columns)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * signs, r * signs[:, None]


@positive_qr.defjvp
def _positive_qr_jvp(primals, tangents):
    """With C = Qᵀ dA R⁻¹ and Ω = tril(C) − tril(C)ᵀ: dR = (C − Ω) R and dQ = dA R⁻¹ − Q (C − Ω)."""
    (columns_dot,) = tangents
    q, r = positive_qr(*primals)
    along = _right_solve(columns_dot, r)
    inner = matmul(q.T, along)
    below = jnp.tril(inner, -1)
    inner = inner - below + below.T
    return (q, r), (along - matmul(q, inner), matmul(inner, r))


def _right_solve(columns, upper):
    """Return columns @ inv(upper), with zero columns where the pivot is zero."""
    dead = jnp.diagonal(upper) == 0
    safe = upper + jnp.diag(dead.astype(upper.dtype))
    solved = lax.linalg.triangular_solve(safe, columns, left_side=False, lower=False)
    return jnp.where(dead, 0, solved)


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

    All pairs are compared, which for hundreds of values is several times faster than a sort. NaN
    comes first.
    """
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    index = jnp.arange(values.shape[0])
    above = (values[:, None] > values) | ((values[:, None] == values) & (index[:, None] < index))
    ranks = jnp.sum(above, axis=0, dtype=index.dtype)
    return jnp.zeros_like(index).at[ranks].set(index, unique_indices=True), ranks


@functools.lru_cache(maxsize=32)
def generic_frames(n: int) -> np.ndarray:
    """Return two fixed generic orthogonal matrices, `(2, n, n)`, float64.

    The Q factors of matrices of standard normal numbers from numpy's PCG64 generator with seed n.
    """
    return np.linalg.qr(np.random.Generator(np.random.PCG64(n)).standard_normal((2, n, n)))[0]

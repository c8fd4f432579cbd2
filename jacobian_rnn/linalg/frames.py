"""Frames of tangent vectors: fixed ones to start from, and factorisations that renew them.

When a frame F `(n, k)` is pushed through steps, its columns become nearly dependent. A
factorisation A = F' R of the pushed columns gives a well-conditioned frame F'. The growth is on the
diagonal of the upper triangle R.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.linalg.graded_svd import matmul, row_norms

Factorization = Literal["elimination", "householder", "cholesky"]


class Factored(NamedTuple):
    """Columns A = F' R in factored form.

    Attributes:
        frame: F', `(n, k)`.
        pivots: |R_ii|, `(k,)`.
        sizes: what had to cancel to leave each pivot, `(k,)`. The rounding error of the pivot is
            about eps times that. It has no derivative.
    """

    frame: Float[Array, "n k"]
    pivots: Float[Array, " k"]
    sizes: Float[Array, " k"]


def factor_columns(columns: Float[Array, "n k"], factorization: Factorization) -> Factored:
    """Factor pushed columns as F' R.

    "elimination" is Gaussian elimination with row pivoting (the Treppeniteration of Bauer 1957). It
    is three times cheaper than Householder QR. F' is a permuted unit lower triangle. Rounding
    errors respect rows of different sizes. "householder" and "cholesky" give orthonormal F'.
    "cholesky" uses only operations on columns, and matrix products where the columns allow it.

    Args:
        columns: A, shape `(n, k)`, k ≤ n.
        factorization: one of the three. Static.

    Returns:
        The factors. In each factorisation, the volume of the first i columns of A is the product of
        the first i pivots times the volume of the first i columns of F'.

    References:
        F. L. Bauer, "Das Verfahren der Treppeniteration und verwandte Verfahren zur Lösung
        algebraischer Eigenwertprobleme", ZAMP 8 (1957).
        T. Terao, K. Ozaki and T. Ogita, "LU-Cholesky QR algorithms for thin QR decomposition",
        Parallel Computing 92 (2020).
    """
    if factorization == "elimination":
        frame, upper, _, sizes = eliminate(columns)
    else:
        factor = positive_qr if factorization == "householder" else orthonormal_qr
        frame, upper = factor(columns)[:2]
        sizes = row_norms(upper.T)
    return Factored(frame, jnp.abs(jnp.diagonal(upper)), lax.stop_gradient(sizes))


@jax.custom_jvp
def eliminate(
    columns: Float[Array, "n k"],
) -> tuple[Float[Array, "n k"], Float[Array, "k k"], Int[Array, " k"], Float[Array, " k"]]:
    """Eliminate with row pivoting: columns = F' U, and F' is a permuted unit lower triangle.

    The results are F', U, the rows of F' that hold its unit triangle L, and diag(|L||U|), which is
    what had to cancel to leave each pivot.
    """
    n, k = columns.shape
    factors, _, rows = lax.linalg.lu(columns)
    lower = jnp.tril(factors, -1) + jnp.eye(n, k, dtype=columns.dtype)
    frame = lower[_inverse(rows)]
    top = factors[:k]
    sizes = jnp.sum(jnp.tril(jnp.abs(top * top.T), -1), axis=1) + jnp.abs(jnp.diagonal(top))
    return frame, jnp.triu(top), rows[:k], sizes


@eliminate.defjvp
def _eliminate_jvp(primals, tangents) -> tuple[Any, Any]:
    """Use C = L⁻¹ dA U⁻¹ on the pivot rows: dU = L⁻¹ dA − stril(C) U, dF' = dA U⁻¹ − F' triu(C).

    Here stril is the strict lower triangle, and columns of U⁻¹ with a zero pivot are zero.
    """
    (columns_dot,) = tangents
    frame, upper, rows, sizes = eliminate(*primals)
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

    A direction whose pivot is exactly zero has no derivative, and the rule keeps it in place.
    """
    q, r = jnp.linalg.qr(columns)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    return q * signs[None], r * signs[:, None]


def _right_solve(columns, upper):
    """Return columns @ inv(upper), with zero columns where the pivot is zero."""
    dead = jnp.diagonal(upper) == 0
    safe = upper + jnp.diag(dead.astype(upper.dtype))
    solved = lax.linalg.triangular_solve(safe, columns, left_side=False, lower=False)
    return jnp.where(dead, 0, solved)


@jax.custom_jvp
def column_qr(
    columns: Float[Array, "n k"],
) -> tuple[Float[Array, "n k"], Float[Array, "k k"], Bool[Array, " k"]]:
    """Factor columns as Q R by operations on columns alone.

    R is the Cholesky factor of the Gram matrix, and Q = A R⁻¹. An entry of Q that is small in its
    row stays accurate, since nothing of order one is added to it. Householder reflections add rows
    to each other and lose such entries. Where the Gram matrix has too few digits, Gaussian
    elimination A = L U comes first, and the well-conditioned triangle L is factored.

    Args:
        columns: A, shape `(n, k)`, k ≤ n, of any scales.

    Returns:
        q: orthonormal to about 1e-2, or better where A is well conditioned.
        r: its diagonal is not negative. A = Q R to rounding, relative to the entries of each row.
        gone: pivots that rounding may have made, below n·eps of what cancelled to leave them.

    References:
        T. Terao, K. Ozaki and T. Ogita, "LU-Cholesky QR algorithms for thin QR decomposition",
        Parallel Computing 92 (2020).
    """
    n, k = columns.shape
    eps = jnp.finfo(columns.dtype).eps
    scales = jnp.max(jnp.abs(columns), axis=0)
    scales = jnp.where(scales > 0, scales, 1)
    q, r = _cholesky_round(columns / scales[None])
    # The Gram matrix squares the condition number. Below this pivot it has too few digits left.
    tall_enough = jnp.all(jnp.diagonal(r) > 8 * jnp.sqrt(eps * n**0.5))
    # NaN in the columns is no reason to begin again.
    broken = ~jnp.isfinite(jnp.max(scales))

    def eliminate_first(carried):
        lower, upper, _, sizes = eliminate(carried[1])
        pivots = jnp.diagonal(upper)
        gone = jnp.abs(pivots) <= n * eps * sizes
        q, r = _cholesky_round(lower)
        signs = jnp.where(pivots < 0, -1, 1).astype(columns.dtype)
        return jnp.zeros((), bool), q * signs[None], signs[:, None] * matmul(r, upper), gone

    # This loop runs at most once. Under `vmap`, `lax.cond` would always run both branches. The
    # columns are carried, and replaced by Q, so that XLA keeps the elimination inside the loop.
    again = ~(tall_enough | broken)
    start = (again, columns, r * scales[None], jnp.zeros(k, bool))
    _, eliminated, r, gone = lax.while_loop(lambda carried: carried[0], eliminate_first, start)
    return jnp.where(again, eliminated, q), r, gone


@column_qr.defjvp
def _column_qr_jvp(primals, tangents) -> tuple[Any, Any]:
    q, r, gone = column_qr(*primals)
    tangents_out = _qr_tangents(q, r, *tangents)
    return (q, r, gone), (*tangents_out, np.zeros(gone.shape, jax.dtypes.float0))


def orthonormal_qr(
    columns: Float[Array, "n k"],
) -> tuple[Float[Array, "n k"], Float[Array, "k k"], Bool[Array, " k"]]:
    """Factor as `column_qr` does, but in two rounds, which make Q orthonormal to rounding."""
    q, first, gone = column_qr(columns)
    q, second, _ = column_qr(q)
    return q, matmul(second, first), gone


def _cholesky_round(columns):
    gram = matmul(columns.T, columns)
    lower = lax.linalg.cholesky(gram, symmetrize_input=False)
    q = lax.linalg.triangular_solve(lower, columns, left_side=False, lower=True, transpose_a=True)
    return q, lower.T


def descending_order(values: Float[Array, " n"]) -> Int[Array, " n"]:
    """Return the order that sorts values downwards.

    All pairs are compared. This is two to four times faster than a sort for up to 64 values. It is
    slower beyond two hundred, but negligible next to a factorisation there. NaN comes first.
    """
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    index = jnp.arange(values.shape[0])
    equal, before = values[:, None] == values[None], index[:, None] < index[None]
    above = (values[:, None] > values[None]) | (equal & before)
    return _inverse(jnp.sum(above, axis=0, dtype=index.dtype))


@positive_qr.defjvp
def _positive_qr_jvp(primals, tangents) -> tuple[Any, Any]:
    factors = positive_qr(*primals)
    return factors, _qr_tangents(*factors, *tangents)


def _qr_tangents(q, r, columns_dot):
    """Use C = Qᵀ dA R⁻¹, Ω = stril(C) − stril(C)ᵀ: dR = QᵀdA − Ω R, dQ = QΩ + (1 − QQᵀ) dA R⁻¹.

    Here stril is the strict lower triangle, and columns of R⁻¹ with a zero pivot are zero.
    """
    along = _right_solve(columns_dot, r)
    inner = matmul(q.T, along)
    below = jnp.tril(inner, -1)
    rotation = below - below.T
    r_dot = jnp.triu(matmul(q.T, columns_dot) - matmul(rotation, r))
    return along + matmul(q, rotation - inner), r_dot


def _inverse(permutation):
    index = jnp.arange(permutation.shape[0], dtype=permutation.dtype)
    return jnp.zeros_like(index).at[permutation].set(index, unique_indices=True)


@functools.lru_cache(maxsize=32)
def generic_columns(n: int, k: int, draw: int = 0) -> np.ndarray:
    """Return k fixed generic orthonormal columns, `(n, k)`, float64; others for another `draw`.

    They are the Q factor of standard normal columns from numpy's PCG64 generator with the seed
    (n, draw). The first columns do not depend on k.
    """
    normal = np.random.Generator(np.random.PCG64((n, draw))).standard_normal((k, n)).T
    return np.linalg.qr(normal)[0]


def check_frame(
    frame: Float[Array, "n k"], shape: tuple[int, int], dtype: jnp.dtype
) -> Float[Array, "n k"]:
    """Check a caller's starting frame, and return it in the dtype of the run.

    Raises:
        ValueError: another shape, values that are not finite, or columns that are not orthonormal.
    """
    frame = jnp.asarray(frame)
    check_shape("frame", frame.shape, shape, "give orthonormal columns")
    if not isinstance(frame, Tracer):
        columns = np.asarray(frame)
        skew = float(np.abs(columns.T @ columns - np.eye(shape[1])).max())
        if not skew <= 1e3 * shape[0] * jnp.finfo(dtype).eps:
            refuse("frame", f"|FᵀF − 1| up to {skew:.1e}", "orthonormal columns")
    return frame.astype(dtype)

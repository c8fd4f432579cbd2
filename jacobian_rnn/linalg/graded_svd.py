"""Singular values of diag(exp d) V in logs: no overflow, and full relative accuracy for each one.

A product of many Jacobians has singular values that differ by thousands of nats. Written as
`diag(exp d) @ V` with a well-conditioned `V`, all of them are determined to full relative accuracy
(Demmel and Veselić 1992), but an ordinary SVD keeps only those within 16 digits of the largest.
One-sided Jacobi rotations of the rows keep them all, and a rotation of two rows needs only their
cosine and the ratio of their lengths, so every row can carry its own log scale.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from jacobian_rnn.checks import check_shape

MAX_SWEEPS = 40
matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def graded_singular_values(
    log_scales: Float[Array, " n"], factor: Float[Array, "n n"]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    r"""Compute the SVD of `diag(exp(log_scales)) @ factor`: log singular values, right vectors.

    With the rows sorted by scale, two steps of "QR of the transpose, rescale" (the graded QR
    iteration of G. W. Stewart 1995) bring the matrix near to orthogonal rows. One-sided Jacobi then
    makes n/2 rotations at once, in round-robin order. For two rows exp(s_p) w_p and exp(s_q) w_q
    with unit w and s_p ≥ s_q, put ρ = exp(s_q − s_p) ≤ 1 and c = w_p·w_q. Then

        τ = 2c / (1 − ρ² + sqrt((1 − ρ²)² + 4ρ²c²)),   w_p ← w_p + ρ²τ w_q,   w_q ← w_q − τ w_p

    and a common cosine 1/sqrt(1 + ρ²τ²) make them orthogonal. Nothing here can overflow.

    Args:
        log_scales: natural logs of the row scales, shape `(n,)`. A row that is zero has −inf.
        factor: shape `(n, n)`, of order one and well conditioned for an accurate result.

    Returns:
        log_singular_values: shape `(n,)`, nats, descending, −inf for a lost direction.
        right_vectors: shape `(n, n)`, where row i belongs to the i-th value. Rows of lost
            directions are zero.

    Raises:
        ValueError: shapes that are not `(n,)` and `(n, n)`.

    Cost: it takes 2 to 10 sweeps of O(n³), for any range of `log_scales`. The values are
    differentiable in both arguments by a rule of their own (∂ log σ_i in scaled form). The rule is
    exact for simple singular values. For repeated ones only the sum over equal values is exact. The
    right vectors carry no derivative, and where a value is −inf its derivative is zero.

    References:
        J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal.
        Appl. 13 (1992).
        Z. Drmač, "Implementation of Jacobi rotations for accurate singular value computation in
        floating point arithmetic", SIAM J. Sci. Comput. 18 (1997).
        G. W. Stewart, "On graded QR decompositions of products of matrices", ETNA 3 (1995).

    Example:
        >>> import jax.numpy as jnp
        >>> log_values, _ = graded_singular_values(jnp.array([3000.0, -3000.0]), jnp.eye(2))
        >>> print(log_values)
        [ 3000. -3000.]
    """
    check_shape("log_scales", log_scales.shape, ("n",))
    check_shape("factor", factor.shape, 2 * log_scales.shape)
    log_values, vectors = _graded_singular_values(log_scales, factor)
    broken = jnp.any(jnp.isnan(log_scales)) | jnp.any(jnp.isnan(factor))
    return jnp.where(broken, jnp.nan, log_values), jnp.where(broken, jnp.nan, vectors)


@jax.custom_jvp
def _graded_singular_values(log_scales, factor):
    d, v, _, basis = _rescaled_qr_of_transpose(log_scales, factor)
    d, v, rows, _ = _rescaled_qr_of_transpose(d, v)
    # The matrix is transposed twice, so right vectors are those of the input, in the first basis.
    log_values, vectors = _one_sided_jacobi(d, v)
    return log_values, matmul(vectors, basis[:, rows].T)


@_graded_singular_values.defjvp
def _graded_singular_values_jvp(primals, tangents):
    """Use ∂ log σ_i = x_iᵀ dM y_i / σ_i, M = diag(exp d) V, where x_i exp(d) / σ_i = V⁻ᵀ y_i."""
    (d, v), (d_dot, v_dot) = primals, tangents
    log_values, vectors = _graded_singular_values(*primals)
    lost = jnp.isneginf(log_values)
    scaled_left = jnp.linalg.solve(v.T, vectors.T).T
    of_scales = jnp.where(jnp.isneginf(d), 0, d_dot)[None]
    along = matmul(vectors, v.T) * of_scales + matmul(vectors, v_dot.T)
    log_values_dot = jnp.where(lost, 0, jnp.sum(scaled_left * along, axis=1))
    return (log_values, vectors), (log_values_dot, jnp.zeros_like(vectors))


def _rescaled_qr_of_transpose(d, v):
    """Write diag(exp d) v[rows] = (diag(exp d') v')ᵀ basisᵀ with v' nearer to orthogonal rows."""
    rows = jnp.argsort(-d)
    d, v = d[rows], v[rows]
    basis, r = jnp.linalg.qr(v.T)
    pivots = jnp.abs(jnp.diagonal(r))
    v = r / jnp.where(pivots > 0, pivots, 1)[:, None] * flushed_exp(descents(d))
    return d + jnp.log(pivots), v, rows, basis


def descents(d: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Tabulate d_j − d_i for i < j and descending d, −inf where d_j is −inf, and zero below."""
    finite = jnp.where(jnp.isneginf(d), 0, d)
    differences = jnp.where(jnp.isneginf(d), -jnp.inf, d[None] - finite[:, None])
    return jnp.triu(jnp.minimum(differences, 0), 1)


def _one_sided_jacobi(log_scales, rows):
    """Rotate the rows exp(s_i) w_i until they are orthogonal, and return log lengths and w."""
    n = rows.shape[0]
    padding = n % 2
    rows = jnp.pad(rows, ((0, padding), (0, 0)))
    s = jnp.pad(log_scales, (0, padding), constant_values=-jnp.inf)
    s, w = _normalize(s, rows)
    half = (n + padding) // 2
    tolerance = n * jnp.finfo(rows.dtype).eps

    def rotate_pairs(_, carry):
        s, w, largest_cosine = carry
        s_a, s_b, w_a, w_b = s[:half], s[half:][::-1], w[:half], w[half:][::-1]
        cosine = jnp.sum(w_a * w_b, axis=1)
        a_is_larger = s_a >= s_b
        log_ratio = jnp.minimum(s_a, s_b) - jnp.maximum(s_a, s_b)
        ratio = flushed_exp(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio))
        gap = (1 - ratio) * (1 + ratio)
        denominator = gap + jnp.hypot(gap, 2 * ratio * cosine)
        tau = 2 * cosine / jnp.where(denominator > 0, denominator, 1)
        # ρ²τ times the smaller row is added to the larger, and τ times the larger is taken from it.
        norm = jnp.sqrt(1 + (ratio * tau) ** 2)
        to_a = jnp.where(a_is_larger, ratio**2, -1) * tau / norm
        to_b = jnp.where(a_is_larger, -1, ratio**2) * tau / norm
        new_a = w_a / norm[:, None] + to_a[:, None] * w_b
        new_b = w_b / norm[:, None] + to_b[:, None] * w_a
        s, w = _normalize(s, jnp.append(new_a, new_b[::-1], axis=0))
        # The first row stays, and the others move on by one. After 2·half − 1 rounds all have met.
        s = jnp.append(s[:1], jnp.roll(s[1:], 1))
        w = jnp.append(w[:1], jnp.roll(w[1:], 1, axis=0), axis=0)
        return s, w, jnp.maximum(largest_cosine, jnp.max(jnp.abs(cosine), initial=0))

    def sweep(carry):
        num_sweeps, s, w, _ = carry
        zero = jnp.zeros((), w.dtype)
        return num_sweeps + 1, *lax.fori_loop(0, 2 * half - 1, rotate_pairs, (s, w, zero))

    def unfinished(carry):
        num_sweeps, _, _, largest_cosine = carry
        return (num_sweeps < MAX_SWEEPS) & (largest_cosine > tolerance)

    start = (0, s, w, jnp.full((), jnp.inf, w.dtype))
    _, s, w, _ = lax.while_loop(unfinished, sweep, start)
    # Padding is the lowest row at first, and it sorts behind the rest, also behind lost directions.
    order = jnp.argsort(-s)[:n]
    return s[order], w[order]


def _normalize(log_scales, rows):
    norms = row_norms(rows)
    alive = norms > 0
    rows = rows / jnp.where(alive, norms, 1)[:, None]
    return log_scales + jnp.log(norms), jnp.where(jnp.isneginf(log_scales)[:, None], 0, rows)


def row_norms(matrix: Float[Array, "n m"]) -> Float[Array, " n"]:
    """Compute the Euclidean norms of the rows without under- or overflow of their squares."""
    largest = jnp.max(jnp.abs(matrix), axis=1)
    safe = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum((matrix / safe[:, None]) ** 2, axis=1))


def scaled_norm(array: Inexact[Array, "..."]) -> Float[Array, ""]:
    """Compute the Euclidean norm of all entries without under- or overflow of their squares.

    Its derivative is zero where all entries are zero.
    """
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.abs(array)
    largest = lax.stop_gradient(jnp.max(jnp.abs(array), initial=0))
    tiny = jnp.finfo(array.dtype).tiny
    # Between these bounds the scale has an inverse that is neither zero nor infinite, so XLA may
    # multiply by it instead of dividing.
    scale = jnp.clip(largest, tiny, 1 / tiny)
    squares = jnp.sum((array / scale) ** 2)
    return scale * jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))


def flushed_exp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute exp, cut to zero where it is below eps^2.25 (−81 nats in float64, −36 in float32).

    Such entries are added to entries of order one and cannot change a digit. If they were kept,
    their products would reach the subnormal range, where processors are a hundred times slower.
    """
    cut = 2.25 * jnp.log(jnp.finfo(x.dtype).eps)
    return jnp.where(x > cut, jnp.exp(jnp.maximum(x, cut)), 0)

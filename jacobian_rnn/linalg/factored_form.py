"""The factored form P = left @ diag(exp log_scale) @ right of a product: how it grows and composes.

`right` is of order one with |det| = 1, and all growth and decay is in `log_scale`. So nothing
overflows, and small singular values survive beside large ones. While a product grows, it is enough
that `left` is orthogonal to a few digits. `orthonormalize` gives it all digits at the end.

Everything is done by operations on columns. A small entry of `left` stays accurate until it leaves
the float range, since nothing of order one is added to it. That matters where directions do not
mix. A direction that has fallen far behind leaves tiny entries, and they decide what happens when
it catches up again. Householder reflections add rows to each other and lose such entries.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jacobian_rnn.linalg.frames import column_qr, descending_order, orthonormal_qr
from jacobian_rnn.linalg.graded_svd import (
    flushed_exp,
    graded_singular_values,
    matmul,
    row_norms,
    scaled_norm,
)
from jacobian_rnn.linalg.rounding import compensated_sum


class FactoredForm(NamedTuple):
    """P F = left @ diag(exp(log_scale + rounding)) @ right.

    F is the identity for a whole product. For a part of it, F has k columns.

    Attributes:
        left: well conditioned, `(n, k)`.
        log_scale: nats, `(k,)`, −inf for a direction that was lost.
        rounding: what rounding took from the sums in `log_scale`, nats, `(k,)`.
        right: `(k, k)`.
    """

    left: Float[Array, "n k"]
    log_scale: Float[Array, " k"]
    rounding: Float[Array, " k"]
    right: Float[Array, "k k"]


class StepFaults(NamedTuple):
    """What went wrong in one step.

    Attributes:
        lost: rounding took a direction, whose pivot is below n·eps of what cancelled to leave it.
        underflow: largest size of what each entry of `left` lost as it became too small for the
            float range, `(n, k)`. It is zero where that can never count again, and above where it
            may, once the direction catches up.
        right_cut: an entry of `right` became too small for half the float range.
        broken: the Jacobian held NaN or inf.
    """

    lost: Bool[Array, ""]
    underflow: Float[Array, "n k"]
    right_cut: Bool[Array, ""]
    broken: Bool[Array, ""]


def identity_form(frame: Float[Array, "n n"]) -> FactoredForm:
    """Return the empty product, held in an orthogonal frame."""
    return columns_form(frame)._replace(right=frame.T)


def columns_form(columns: Float[Array, "n k"]) -> FactoredForm:
    """Return the empty product times orthonormal columns."""
    zeros = jnp.zeros(columns.shape[1], columns.dtype)
    return FactoredForm(columns, zeros, zeros, jnp.eye(columns.shape[1], dtype=columns.dtype))


def extend(form: FactoredForm, jacobian: Float[Array, "n n"]) -> tuple[FactoredForm, StepFaults]:
    """Multiply by the Jacobian of the next step.

    With A = J Q, columns of A in descending order of exp(d_j)|A_j|^½, and A = Q'R,

        P = Q' diag(exp d') V',   d' = d + log R_ii,   V' = (I + N) V,
        N_ij = R_ij / R_ii exp(d_j − d_i),   i < j.

    The error of `column_qr` in each row is relative to the entries of that row. This keeps accuracy
    for Jacobians whose rows differ in size (saturated units) and for directions that do not mix.

    References:
        J. Oliveira and D. E. Stewart, "Exponential splittings of products of matrices and
        accurately computing singular values of long products", Linear Algebra Appl. 309 (2000).
    """
    if jacobian.shape == (1, 1):
        return _extend_by_number(form, jacobian)
    zeros_are_exact = _smallest_log(jacobian) + _smallest_log(form.left) > _log_tiny(jacobian.dtype)
    return renew(form, matmul(jacobian, form.left), zeros_are_exact)


def _extend_by_number(form, number):
    """Do the same for one unit alone, whose product is a sign and a log."""
    size = jnp.abs(number[0])
    gone = size == 0
    log_size = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(gone, 1, size)))
    log_scale, rounding = compensated_sum(form.log_scale, form.rounding, log_size)
    none = jnp.zeros((), bool)
    faults = StepFaults(none, jnp.zeros_like(number), none, ~jnp.isfinite(size[0]))
    left = jnp.where(number < 0, -form.left, form.left)
    return FactoredForm(left, log_scale, rounding, form.right), faults


def renew(
    form: FactoredForm, columns: Float[Array, "n k"], zeros_are_exact: Bool[Array, ""]
) -> tuple[FactoredForm, StepFaults]:
    """Do the same with the columns A = J Q, which need not be square.

    A zero among them can be an entry that was lost to underflow, unless `zeros_are_exact`.
    """
    column_sizes = jnp.max(lax.stop_gradient(jnp.abs(columns)), axis=0)
    reached = form.log_scale + jnp.log(column_sizes)
    # If all growth of a step counted, columns with scales near each other would change places at
    # every step, and `right` would grow without bound. Half of it is enough to follow growth.
    order = descending_order((form.log_scale + reached) / 2)
    left, r, gone = column_qr(columns[:, order])

    column_sizes, before = column_sizes[order], form.log_scale[order]
    pivots = jnp.diagonal(r)
    log_pivots = jnp.where(gone, -jnp.inf, jnp.log(jnp.where(gone, 1, pivots)))
    alive = ~jnp.isneginf(before)
    # A row without a pivot is dropped, and so are its entries for the columns that live on behind.
    survivors = jnp.cumsum((alive & ~gone)[::-1])[::-1]
    lost = jnp.any(gone & alive & ((pivots > 0) | (survivors > 0)))
    log_scale, rounding = compensated_sum(before, form.rounding[order], log_pivots)
    # In units of its column, no entry under- or overflows.
    r = r / jnp.where(column_sizes > 0, column_sizes, 1)[None]
    right, right_cut = absorb(r, reached[order], log_scale, form.right[order])
    left, underflow = _flush(left, log_scale, pivots, zeros_are_exact)
    broken = ~jnp.isfinite(jnp.max(column_sizes))
    faults = StepFaults(lost, underflow, right_cut, broken)
    return FactoredForm(left, log_scale, rounding, right), faults


def _smallest_log(matrix):
    """Return the log of the smallest size that is not zero."""
    sizes = lax.stop_gradient(jnp.abs(matrix))
    return jnp.log(jnp.min(jnp.where(sizes > 0, sizes, jnp.inf)))


def _log_tiny(dtype):
    return jnp.log(jnp.finfo(dtype).tiny)


def _flush(left, log_scale, pivots, zeros_are_exact):
    """Set entries near the end of the float range to zero, and say what may count of them.

    Row k of the product is the sum of exp(d_j) left_kj V_j. An entry that adds less than rounding
    to the largest of these terms can never count again. A zero can also be an entry that was lost
    to underflow, if the factors were that small. What was lost was then divided by its pivot.
    """
    info = jnp.finfo(left.dtype)
    cut = info.tiny / info.eps
    sizes = lax.stop_gradient(jnp.abs(left))
    tiny = (sizes < cut) & ((sizes > 0) | ~zeros_are_exact)
    # Some entry of a row of an orthogonal matrix is at least 1 / sqrt(n).
    large = sizes > 0.5 / sizes.shape[0] ** 0.5
    of_row = jnp.max(jnp.where(large, log_scale, -jnp.inf), axis=1, keepdims=True)
    shrinkage = jnp.where(pivots > 0, jnp.minimum(pivots / (len(left) * info.eps), 1), 1)
    lost = jnp.where(zeros_are_exact, cut, cut / lax.stop_gradient(shrinkage))[None]
    counts = log_scale[None] - of_row > jnp.log(info.eps) - jnp.log(lost)
    return jnp.where(tiny, 0, left), jnp.where(tiny & counts, lost, 0)


def orthonormalize(form: FactoredForm) -> tuple[FactoredForm, Bool[Array, ""]]:
    """Return the same product with an orthogonal `left`, and whether `right` was cut."""
    log_scale = form.log_scale + form.rounding
    order = descending_order(log_scale)
    before = log_scale[order]
    left, r, _ = orthonormal_qr(form.left[:, order])
    log_scale = before + jnp.log(jnp.diagonal(r))
    right, cut = absorb(r, before, log_scale, form.right[order])
    return FactoredForm(left, log_scale, jnp.zeros_like(log_scale), right), cut


def absorb(
    r: Float[Array, "n n"],
    column_scale: Float[Array, " n"],
    row_scale: Float[Array, " n"],
    right: Float[Array, "n n"],
) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """Move the strict upper triangle of diag(exp row_scale)⁻¹ R diag(exp column_scale) into V.

    The results are V, and whether an entry was cut to zero.
    """
    n = row_scale.shape[0]
    index = jnp.arange(n)
    alive = ~(jnp.isneginf(column_scale)[None] | jnp.isneginf(row_scale)[:, None])
    counts = alive & (index[:, None] < index[None])

    def scaled(rows, columns):
        here = counts[rows, columns]
        high = jnp.where(here, column_scale[columns], 0)
        low = jnp.where(here, row_scale[rows, None], 0)
        factors = jnp.where(here, _exp_in_range(high - low), 0)
        cut = here & (factors == 0) & (r[rows, columns] != 0)
        return r[rows, columns] * factors, jnp.any(cut)

    # A quarter of the matrix is empty, so two thin products cost less than one.
    upper, lower, everything = slice(n // 2), slice(n // 2, n), slice(n)
    (up, up_cut), (down, down_cut) = scaled(upper, everything), scaled(lower, lower)
    right = right + jnp.concatenate([matmul(up, right), matmul(down, right[lower])])
    tiny = jnp.abs(right) < jnp.sqrt(jnp.finfo(right.dtype).tiny)
    return jnp.where(tiny, 0, right), up_cut | down_cut | jnp.any(tiny & (right != 0))


def _exp_in_range(x):
    """Compute exp, cut to zero below the root of the smallest float, so products of two are normal.

    Entries far below eps are kept. They count in compositions of products whose directions do not
    mix.
    """
    cut = _log_tiny(x.dtype) / 2
    return jnp.where(x > cut, jnp.exp(jnp.maximum(x, cut)), 0)


def compose(
    later: FactoredForm, earlier: FactoredForm, right_cut: Bool[Array, ""]
) -> tuple[FactoredForm, Bool[Array, ""]]:
    """Multiply two products: factor diag(exp d₂) M diag(exp d₁), with M = V₂ Q₁.

    The second result is whether entries that were cut from the later `right` may count.

    Both sides are graded, so the pivot of the elimination is the largest of log|M_ij| + d₂ᵢ + d₁ⱼ.
    Then the multipliers, in the scales of their rows and columns, are at most one.

    References:
        Z. Bai, C. Lee, R.-C. Li and S. Xu, "Stable solutions of linear systems involving long
        chain of matrix multiplications", Linear Algebra Appl. 435 (2011).
    """
    d2, d1 = later.log_scale + later.rounding, earlier.log_scale + earlier.rounding
    n = d1.shape[0]

    def eliminate(k, carried):
        remaining, lower, upper, log_pivots = carried
        # The derivative of log at zero would be NaN even where nothing depends on it.
        there = remaining != 0
        sizes = jnp.where(there, jnp.abs(remaining), 1)
        logs = jnp.where(there, jnp.log(sizes) + d2[:, None] + d1[None], -jnp.inf)
        i, j = jnp.divmod(jnp.argmax(logs), n)
        alive = ~jnp.isneginf(logs[i, j])
        pivot = jnp.where(alive, remaining[i, j], 1)
        column, row = remaining[:, j] / pivot, remaining[i]
        shift = jnp.where(alive, logs[i, j], 0)
        return (
            (remaining - jnp.outer(column, row)).at[i].set(0).at[:, j].set(0),
            lower.at[:, k].set(jnp.sign(column) * _exp_in_range(logs[:, j] - shift)),
            upper.at[k].set(jnp.sign(row) * _exp_in_range(logs[i] - shift)),
            log_pivots.at[k].set(logs[i, j]),
        )

    zeros = jnp.zeros((n, n), d1.dtype)
    middle = matmul(later.right, earlier.left)
    # In units of the product, `sizes` are its entries, and a cut entry can have added `possible`.
    sizes = d2[:, None] + jnp.log(jnp.abs(middle)) + d1[None]
    log_cut = _log_tiny(d1.dtype) / 2
    possible = d2[:, None] + log_cut + d1[None]
    empty = jnp.abs(middle) <= n * jnp.exp(log_cut)
    largest = jnp.minimum(
        jnp.max(sizes, axis=1, keepdims=True), jnp.max(sizes, axis=0, keepdims=True)
    )
    counts = empty & (possible > largest + jnp.log(jnp.finfo(d1.dtype).eps))
    start = (middle, zeros, zeros, jnp.zeros((n,), d1.dtype))
    _, lower, upper, log_pivots = lax.fori_loop(0, n, eliminate, start)
    # diag(exp d₂) M diag(exp d₁) = lower diag(exp log_pivots) upper, with factors of order one.
    left, right = matmul(later.left, lower), matmul(upper, earlier.right)
    # What is cut here is far below rounding, and both products said so if they were cut.
    form, _ = orthonormalize(FactoredForm(left, log_pivots, jnp.zeros_like(log_pivots), right))
    return form, right_cut & jnp.any(counts)


@jax.jit
def singular_vectors_of(
    left: Float[Array, "n k"], log_scale: Float[Array, " k"], right: Float[Array, "k k"]
) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """Return the singular vectors of a product: left as columns, right as rows."""
    return singular_triplets_of(left, log_scale, right)[1:]


def singular_triplets_of(
    left: Float[Array, "n k"], log_scale: Float[Array, " k"], right: Float[Array, "k k"]
) -> tuple[Float[Array, " k"], Float[Array, "n k"], Float[Array, "k k"]]:
    """Return log singular values, nats, left vectors as columns and right vectors as rows."""
    values, vectors = graded_singular_values(log_scale, right)
    left, log_scale, right, log_values, vectors = lax.stop_gradient(
        (left, log_scale, right, values, vectors)
    )
    # Component j of left vector i, in the basis of columns of `left`, is (V y_i)_j exp(d_j) / σ_i
    # and also (V⁻ᵀ y_i)_j σ_i / exp(d_j). The one whose factor is at most one has all its digits.
    gaps = log_scale[:, None] - jnp.where(jnp.isneginf(log_values), jnp.inf, log_values)[None]
    direct = matmul(right, vectors.T) * flushed_exp(jnp.minimum(gaps, 0))
    inverse = jnp.linalg.solve(right.T, vectors.T) * flushed_exp(-jnp.maximum(gaps, 0))
    return values, matmul(left, jnp.where(gaps <= 0, direct, inverse)), vectors


@jax.jit
def log_rms_growth_of(
    log_scale: Float[Array, " n"], right: Float[Array, "n n"]
) -> Float[Array, ""]:
    """Return ½ log(‖P‖²_F / n), nats."""
    n = log_scale.shape[0]
    return (jax.nn.logsumexp(2 * (log_scale + jnp.log(row_norms(right)))) - jnp.log(n)) / 2


@jax.jit
def log_growth_through_of(
    rows: Float[Array, "m n"],
    left: Float[Array, "n n"],
    log_scale: Float[Array, " n"],
    right: Float[Array, "n n"],
) -> Float[Array, ""]:
    """Return log(‖rows P‖_F / ‖rows‖_F), nats."""
    components = matmul(rows, left)
    sizes = jnp.max(jnp.abs(components), axis=0)
    # The rows may miss the fastest direction, so what they reach decides, not the largest scale.
    reached = log_scale + jnp.log(sizes)
    shift = jnp.max(reached)
    shift = jnp.where(jnp.isneginf(shift), 0, shift)
    scaled = components / jnp.where(sizes > 0, sizes, 1)[None] * flushed_exp(reached - shift)[None]
    norm = scaled_norm(matmul(scaled, right))
    size = scaled_norm(rows)
    # Where the rows show nothing, nothing arrives.
    growth = shift + jnp.log(norm) - jnp.log(jnp.where(size > 0, size, 1))
    return jnp.where(size > 0, growth, -jnp.inf)

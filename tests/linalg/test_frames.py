import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jacobian_rnn.linalg.frames import (
    check_frame,
    column_qr,
    descending_order,
    factor_columns,
    generic_columns,
    positive_qr,
)
from tests.networks import mostly_slow, normal

FACTORIZATIONS = ["elimination", "householder", "cholesky"]


def volumes(columns):
    """Log volumes of the first 1, 2, … columns."""
    return np.cumsum(np.log(np.abs(np.diag(np.linalg.qr(columns)[1]))))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("shape", mostly_slow([[6, 6], [9, 4], [5, 1], [300, 3]], [[9, 4]]))
def test_pivots_multiply_the_volumes_and_frames_span_the_same(factorization, shape):
    columns = normal(0, shape)
    factored = factor_columns(jnp.asarray(columns), factorization)
    grown = volumes(np.asarray(factored.frame)) + np.cumsum(np.log(factored.pivots))
    np.testing.assert_allclose(grown, volumes(columns), atol=1e-12)
    projector = np.linalg.pinv(columns) @ np.asarray(factored.frame)
    np.testing.assert_allclose(columns @ projector, factored.frame, atol=1e-11)
    assert np.all(factored.sizes >= factored.pivots * (1 - 1e-12))


@pytest.mark.parametrize("factorization", ["householder", "cholesky"])
def test_orthonormal_factorizations_are(factorization):
    columns = normal(0, (9, 4)) * jnp.array([[1, 1e100, 1e-100, 1]])
    frame = factor_columns(columns, factorization).frame
    np.testing.assert_allclose(frame.T @ frame, np.eye(4), atol=1e-14)


def test_elimination_keeps_entries_at_most_one_and_rows_of_all_sizes():
    rows = jnp.exp(jnp.array([0.0, -40.0, -80.0, -120.0]))[:, None]
    columns = rows * normal(2, (4, 4))
    factored = factor_columns(columns, "elimination")
    assert float(jnp.max(jnp.abs(factored.frame))) == 1
    exact = np.linalg.slogdet(np.asarray(columns / rows))[1] - 240
    assert float(jnp.sum(jnp.log(factored.pivots))) == pytest.approx(exact, abs=1e-12)
    assert float(jnp.max(jnp.log(factored.sizes / factored.pivots))) < 6


def test_cholesky_gives_way_to_elimination_where_the_gram_matrix_has_too_few_digits():
    columns = jnp.asarray(normal(0, (6, 3)))
    nearly = columns.at[:, 1].set(columns[:, 0] + 1e-12 * columns[:, 1])
    expected = factor_columns(nearly, "householder")
    factored = factor_columns(nearly, "cholesky")
    np.testing.assert_allclose(factored.frame.T @ factored.frame, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(factored.pivots, expected.pivots, rtol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_cholesky_takes_a_row_of_zeros_beside_columns_of_all_sizes(seed):
    generator = np.random.default_rng(seed)
    columns = generator.normal(size=(5, 5)) * np.exp(3 * generator.normal(size=5))
    columns[2] = 0
    factored = factor_columns(jnp.asarray(columns), "cholesky")
    assert bool(jnp.all(jnp.isfinite(factored.frame)))
    assert float(factored.pivots[4]) < 1e-12 * float(factored.pivots.max())
    log_volume = np.linalg.slogdet(columns[:, :4].T @ columns[:, :4])[1] / 2
    assert float(jnp.sum(jnp.log(factored.pivots[:4]))) == pytest.approx(log_volume, abs=1e-9)


@pytest.mark.parametrize("spread", [0.0, 40.0])
def test_columns_alone_keep_entries_that_rounding_of_their_column_would_drown(spread):
    # Rows of the second block are 1e-40 of the first: whatever the elimination, they come back.
    columns = np.asarray(normal(0, (6, 6))) * np.exp(-spread * np.arange(6) / 6)[:, None]
    columns[3:, :3] *= 1e-40
    q, r, gone = column_qr(jnp.asarray(columns))
    assert not bool(jnp.any(gone))
    with mpmath.workdps(120):
        exact = mpmath.matrix(columns.tolist()) * mpmath.matrix(np.asarray(r).tolist()) ** -1
        exact = np.array(exact.tolist(), float)
    np.testing.assert_allclose(q[3:, :3], exact[3:, :3], rtol=1e-10)
    assert np.abs(q[3:, :3]).max() < 1e-38


def test_under_vmap_a_bad_member_leaves_the_others_as_they_are():
    good = normal(0, (5, 5))
    bad = np.exp(-12.0 * np.arange(5))[:, None] * normal(1, (5, 5))
    together = jax.vmap(column_qr)(jnp.stack([good, bad]))
    for member, columns in enumerate((good, bad)):
        alone = column_qr(jnp.asarray(columns))
        for array, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(array[member], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_derivatives_agree_with_finite_differences(factorization):
    columns = normal(0, (6, 4))
    direction = normal(1, (6, 4))

    def function(columns):
        factored = factor_columns(columns, factorization)
        return jnp.concatenate([factored.frame.ravel(), jnp.log(factored.pivots)])

    _, slope = jax.jvp(function, (columns,), (direction,))
    step = 1e-6
    above, below = function(columns + step * direction), function(columns - step * direction)
    np.testing.assert_allclose(slope, (above - below) / (2 * step), atol=1e-7)
    assert bool(jnp.all(jnp.isfinite(jax.jacrev(function)(columns))))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_derivatives_are_finite_where_a_column_vanishes(factorization):
    columns = jnp.asarray(normal(0, (5, 3))).at[:, 2].set(0)

    def first_pivots(columns):
        return jnp.sum(jnp.log(factor_columns(columns, factorization).pivots[:2]))

    gradient = jax.grad(first_pivots)(columns)
    reference = jax.grad(lambda c: jnp.sum(jnp.log(jnp.diagonal(positive_qr(c)[1]))))
    assert bool(jnp.all(jnp.isfinite(gradient)))
    if factorization != "elimination":
        np.testing.assert_allclose(gradient[:, :2], reference(columns[:, :2]), atol=1e-12)


def test_descending_order_keeps_ties_and_puts_nan_first():
    values = jnp.array([2.0, -jnp.inf, 7.0, 2.0, jnp.nan])
    np.testing.assert_array_equal(descending_order(values), [4, 2, 0, 3, 1])


def test_generic_columns_are_orthonormal_and_fixed_and_the_first_do_not_depend_on_their_number():
    frames = generic_columns(7, 7), generic_columns(7, 7, 1)
    for frame in frames:
        np.testing.assert_allclose(frame @ frame.T, np.eye(7), atol=1e-14)
    generic_columns.cache_clear()
    np.testing.assert_array_equal(frames[0], generic_columns(7, 7))
    np.testing.assert_allclose(frames[0][:, :3], generic_columns(7, 3), atol=1e-14)
    assert np.abs(frames[0] - frames[1]).max() > 0.1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.ones((3, 2)), "expected orthonormal columns"),
        (np.eye(3), "received shape"),
        (np.full((3, 2), np.nan), "expected orthonormal columns"),
    ],
)
def test_frames_that_are_none_are_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        check_frame(frame, (3, 2), jnp.float64)

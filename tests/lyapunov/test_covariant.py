from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles

import jacobian_rnn as jrnn
from jacobian_rnn.lyapunov import covariant
from tests.networks import normal


def henon(params, carry, x):
    del params, x
    return jnp.array([1 - 1.4 * carry[0] ** 2 + carry[1], 0.3 * carry[0]])


def along_henon(**options):
    options = {"num_steps": 600, "num_warmup": 100, "num_cooldown": 100} | options
    return jrnn.covariant_vectors(jrnn.Recurrence(henon, ()), np.array([0.1, 0.1]), None, **options)


def same_up_to_signs(one, other):
    """Return the largest sine between equal columns."""
    overlap = np.abs(np.sum(np.asarray(one) * np.asarray(other), axis=-2))
    return np.sqrt(np.maximum(1 - overlap**2, 0)).max()


def a_matrix_with_known_eigenvectors():
    values, basis = np.array([1.5, 1.1, 0.7, 0.2]), normal(3, (4, 4))
    basis /= np.linalg.norm(basis, axis=0)
    return values, basis, basis @ np.diag(values) @ np.linalg.inv(basis)


of_constant = partial(jrnn.covariant_vectors_of, num_warmup=150, num_cooldown=150)


def test_vectors_of_a_constant_matrix_are_its_eigenvectors():
    values, basis, matrix = a_matrix_with_known_eigenvectors()
    found = of_constant(np.tile(matrix, (310, 1, 1)))
    assert same_up_to_signs(found.vectors, np.tile(basis, (10, 1, 1))) < 1e-7
    largest = np.abs(np.abs(found.vectors[5]) - np.abs(basis)).max()
    assert largest < 1e-12
    np.testing.assert_allclose(found.exponents, np.log(values), atol=1e-12)
    np.testing.assert_allclose(found.log_growth, np.tile(np.log(values), (10, 1)), atol=1e-12)
    assert int(found.num_unstable) == 2
    assert float(found.errors.max()) < 1e-12
    expected = subspace_angles(basis[:, :2], basis[:, 2:]).min()
    np.testing.assert_allclose(found.angles, expected, rtol=1e-10)


def test_the_two_spaces_can_be_cut_elsewhere_and_fewer_vectors_are_the_first_ones():
    _, basis, matrix = a_matrix_with_known_eigenvectors()
    jacobians = np.tile(matrix, (310, 1, 1))
    found = of_constant(jacobians, num_unstable=1)
    expected = subspace_angles(basis[:, :1], basis[:, 1:]).min()
    np.testing.assert_allclose(found.angles, expected, rtol=1e-10)
    assert np.all(np.isnan(of_constant(jacobians, num_unstable=0).angles))
    two = of_constant(jacobians, num_vectors=2)
    np.testing.assert_allclose(np.abs(two.vectors[4]), np.abs(basis[:, :2]), atol=1e-12)
    assert np.all(np.isnan(two.angles))  # both grow


def test_vectors_of_the_henon_map_are_invariant_under_its_jacobian():
    found = along_henon()
    x = np.asarray(found.states)[:, 0]
    jacobians = np.stack([[-2.8 * x, 1 + 0 * x], [0.3 + 0 * x, 0 * x]]).transpose(2, 0, 1)
    pushed = jacobians @ np.asarray(found.vectors)
    norms = np.linalg.norm(pushed, axis=1)
    gap = pushed[:-1] / norms[:-1, None]
    next_ones = np.asarray(found.vectors)[1:]
    gap -= next_ones * np.sign(np.sum(gap * next_ones, axis=1))[:, None]
    assert np.abs(gap).max() < 1e-8
    np.testing.assert_allclose(found.log_growth, np.log(norms), atol=1e-10)
    assert float(found.errors.max()) < 1e-8
    # The area shrinks by 0.3 in every step.
    np.testing.assert_allclose(found.exponents.sum(), np.log(0.3), atol=0.02)
    later = np.sin(found.angles[1:]) / np.sin(found.angles[:-1])
    np.testing.assert_allclose(found.log_growth.sum(axis=1)[:-1], np.log(0.3 / later), atol=1e-8)
    directions = np.asarray(found.vectors[7])
    expected = subspace_angles(directions[:, :1], directions[:, 1:])[0]
    np.testing.assert_allclose(found.angles[7], expected, rtol=1e-9)


def test_their_growth_is_that_of_the_lyapunov_spectrum():
    found = along_henon(num_steps=4000)
    start = np.asarray(found.states[0])
    spectrum = jrnn.lyapunov_spectrum(
        jrnn.Recurrence(henon, ()), start, None, num_steps=3800, num_warmup=0, qr_every=1
    )
    # Ends of the run differ by the log of an angle.
    np.testing.assert_allclose(found.exponents, spectrum.exponents, atol=0.005)
    ratio = np.asarray(found.standard_errors / spectrum.standard_errors)
    assert np.all((ratio > 0.5) & (ratio < 2))


def test_checkpoints_and_fewer_stored_vectors_change_no_number(monkeypatch):
    found = along_henon()
    monkeypatch.setattr(covariant, "MOST_STORED_NUMBERS", 100)
    checkpointed = along_henon(num_steps=600, store_every=7)
    np.testing.assert_allclose(checkpointed.vectors, found.vectors[::7], atol=1e-12)
    np.testing.assert_array_equal(checkpointed.steps, found.steps[::7])
    np.testing.assert_allclose(checkpointed.angles, found.angles, rtol=1e-9)
    np.testing.assert_allclose(found.steps[:2], [100, 101])


def test_vectors_that_have_not_settled_have_large_errors():
    found = along_henon(num_cooldown=0)
    assert float(found.errors[-1, 1]) > 1e-3
    assert float(found.errors[:300].max()) < 1e-8


def test_a_recurrence_with_parts_gives_what_its_jacobians_give(network):
    recurrence, carry, xs = network("LSTMCell", 2)
    xs = np.tile(xs, (10, 1))
    counts = {"num_warmup": 40, "num_cooldown": 40, "num_vectors": 3}
    found = jrnn.covariant_vectors(recurrence, carry, xs, **counts)
    given = jrnn.covariant_vectors_of(jrnn.step_jacobians(recurrence, carry, xs), **counts)
    np.testing.assert_allclose(found.log_growth, given.log_growth, atol=1e-8)
    assert int(found.num_unstable) == np.sum(np.asarray(found.exponents) > 0)


def test_a_step_of_rank_one_ends_the_slower_vectors_and_is_named():
    jacobians = np.tile(np.diag([2.0, 1.0, 0.5]), (120, 1, 1))
    jacobians[60] = np.outer(normal(4, 3), normal(5, 3))
    found = jrnn.covariant_vectors_of(jacobians, num_warmup=40, num_cooldown=40)
    assert int(found.first_lost_step) == 60
    lost = np.any(np.isnan(np.asarray(found.vectors)), axis=1)
    # Steps 40 to 60 look into it. The fastest direction goes through.
    assert not lost[:, 0].any()
    assert lost[:21, 1:].all()
    assert not lost[21:].any()
    assert np.isneginf(np.asarray(found.exponents)).tolist() == [False, True, True]
    assert not np.isnan(np.asarray(found.log_growth)).any()


def test_a_direction_that_is_lost_leaves_the_exponents_of_the_others_as_they_are():
    jacobians = np.tile(np.diag([2.0, 1.0, 0.5]), (120, 1, 1))
    jacobians[60, 2, 2] = 0
    found = jrnn.covariant_vectors_of(jacobians, num_warmup=40, num_cooldown=40)
    np.testing.assert_allclose(found.exponents, [np.log(2), 0, -np.inf], atol=1e-6)
    assert np.flatnonzero(np.isneginf(np.asarray(found.log_growth)[:, 2])).tolist() == [20]
    later = jacobians[::-1][:75]  # the loss is in the cool-down, at step 59
    found = jrnn.covariant_vectors_of(later, num_warmup=20, num_cooldown=30)
    assert int(found.first_lost_step) == 59
    np.testing.assert_allclose(found.exponents, np.log([2, 1, 0.5]), atol=1e-6)


def squared(params, carry, x):
    del params, x
    return carry**2


@pytest.mark.parametrize("num_warmup", [2, 40])
def test_a_run_that_diverges_is_refused_and_named_where_it_is_traced(num_warmup):
    """From 2 on, 2^(2^t) is the largest number of float64 at t = 10."""
    counts = {"num_steps": 60, "num_warmup": num_warmup, "num_cooldown": 5}
    system = jrnn.Recurrence(squared, ())
    with pytest.raises(ValueError, match="NaN or infinity in the state or the Jacobian of step 9"):
        jrnn.covariant_vectors(system, np.array([2.0, 0.5]), None, **counts)

    def first(carry):
        return jrnn.covariant_vectors(system, carry, None, **counts).first_nonfinite_step

    carries = np.array([[2.0, 0.5], [1.0, 1.0], [16.0, 0.5]])
    assert jax.vmap(first)(carries).tolist() == [9, -1, 7]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_warmup": 600}, "num_warmup: received 600"),
        ({"num_cooldown": -1}, "num_cooldown: received -1"),
        ({"num_cooldown": 500}, "num_cooldown: received 500 after a warm-up of 100, of 600 steps"),
        ({"num_vectors": 3}, "num_vectors: received 3, expected 1 to 2"),
        ({"num_unstable": 3}, "num_unstable: received 3, expected 0 to 2"),
        ({"store_every": 0}, "store_every: received 0"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        along_henon(**options)


def test_the_unstable_vectors_are_those_of_the_exponents_that_are_told():
    drifting = [np.diag([1.5 * np.exp(0.3 * t), np.exp(0.2 * t), 0.4]) for t in normal(2, 200)]
    for cooldown in (20, 80):
        found = jrnn.covariant_vectors_of(np.stack(drifting), num_warmup=20, num_cooldown=cooldown)
        assert int(found.num_unstable) == int(np.sum(np.asarray(found.exponents) > 0))

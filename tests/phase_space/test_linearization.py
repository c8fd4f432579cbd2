import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from tests.networks import normal
from tests.phase_space.maps import affine, hopfield, magnetization, tanh_units


def linear(matrix):
    return jrnn.Recurrence(affine, jnp.asarray(matrix))


def near_origin(matrix, **options):
    """Linearise a linear network at zero."""
    n = len(matrix)
    return jrnn.linearize(linear(matrix), np.zeros((1, n)), np.zeros(n), **options)


def decay(params, carry, x):
    del x
    return params * carry


def test_eigenvalues_of_a_linear_network_are_those_of_its_matrix():
    matrix = normal(0, (6, 6))
    near = near_origin(matrix)
    expected = np.linalg.eigvals(matrix)
    distances = np.abs(np.asarray(near.eigenvalues[0])[:, None] - expected[None])
    assert distances.min(axis=1).max() < 1e-12
    assert distances.min(axis=0).max() < 1e-12
    sizes = np.abs(near.eigenvalues[0])
    assert np.all(np.diff(sizes) <= 1e-14)
    np.testing.assert_allclose(near.exponents[0], np.log(sizes))
    np.testing.assert_allclose(near.time_constants[0], -1 / np.log(sizes))
    np.testing.assert_allclose(near.margin[0], 1 - sizes[0])
    assert int(near.num_unstable[0]) == np.sum(sizes > 1)


def test_both_sets_of_vectors_belong_to_their_eigenvalues_and_to_each_other():
    matrix = normal(0, (5, 5))
    near = near_origin(matrix)
    values, right, left = (np.asarray(a[0]) for a in near[:1] + near[2:4])
    np.testing.assert_allclose(right @ matrix.T, values[:, None] * right, atol=1e-12)
    np.testing.assert_allclose(left @ matrix, values[:, None] * left, atol=1e-12)
    np.testing.assert_allclose(left @ right.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1)
    # x enters as it is.
    np.testing.assert_allclose(near.input_jacobian[0], np.eye(5))
    np.testing.assert_allclose(near.input_directions()[0], left, atol=1e-13)


def test_eigenvalues_at_the_nine_points_of_two_tanh_units_are_the_analytic_ones():
    size = magnetization(2.0)
    points = np.array(list(itertools.product([-size, 0, size], repeat=2)))
    network = jrnn.Recurrence(tanh_units, 2 * jnp.eye(2))
    near = jrnn.linearize(network, points, np.zeros(2))
    expected = -np.sort(-2 * (1 - points**2), axis=1)
    np.testing.assert_allclose(near.eigenvalues.real, expected, atol=1e-10)
    np.testing.assert_array_equal(near.num_unstable, np.sum(points == 0, axis=1))
    np.testing.assert_array_equal(near.is_stable, np.all(points != 0, axis=1))


def test_eigenvalues_at_the_patterns_of_a_hopfield_network_are_the_analytic_ones():
    network, patterns = hopfield()
    size = magnetization(2.0)
    near = jrnn.linearize(network, size * patterns, np.zeros(16))
    decay = 2 * (1 - size**2)
    expected = np.tile([decay] * 3 + [0] * 13, (3, 1))
    np.testing.assert_allclose(near.eigenvalues.real, expected, atol=1e-10)
    np.testing.assert_allclose(near.eigenvalues.imag, 0, atol=1e-10)
    assert np.all(near.is_stable)


def test_a_rotation_is_neither_stable_nor_unstable_and_turns_at_its_frequency():
    angle = 2 * np.pi / 5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    near = near_origin(turn)
    np.testing.assert_allclose(near.frequencies[0], [0.2, -0.2])
    assert (int(near.num_unstable[0]), int(near.num_marginal[0])) == (0, 2)
    assert not near.is_stable[0]
    assert "2 undecided" in str(near)
    slower = near_origin(0.9 * turn, period=2)
    np.testing.assert_allclose(slower.exponents[0], 2 * [np.log(0.9)])
    np.testing.assert_allclose(slower.frequencies[0], [0.2, -0.2])


def test_a_defective_matrix_has_finite_error_bounds_that_hold():
    jordan = 0.5 * np.eye(3) + np.eye(3, k=1)
    basis = normal(1, (3, 3))
    matrix = basis @ jordan @ np.linalg.inv(basis)
    near = near_origin(matrix)
    errors = np.abs(np.asarray(near.eigenvalues[0]) - 0.5)
    assert errors.max() > 1e-8  # rounding has moved them
    assert np.all(errors <= np.asarray(near.eigenvalue_errors[0]))
    assert near.is_stable[0]
    simple = near_origin(np.diag([0.5, 0.2, 0.1]))
    assert float(simple.eigenvalue_errors.max()) < 1e-14


def test_exponents_at_a_stable_point_are_those_of_a_trajectory_that_stays_there(network):
    recurrence, carry, xs = network("GRUCell", 3)
    held = np.tile(xs[0], (600, 1))
    point = jrnn.trajectory(recurrence, carry, held)[-1]
    near = jrnn.linearize(recurrence, point[None], xs[0])
    assert near.is_stable[0]
    spectrum = jrnn.lyapunov_spectrum(recurrence, point, held, num_warmup=300, qr_every=1)
    differences, errors = near.excess_over(spectrum)
    np.testing.assert_allclose(differences, 0, atol=1e-3)
    np.testing.assert_allclose(errors[0], spectrum.standard_errors)
    with pytest.raises(ValueError, match="spectrum: received exponents"):
        near_origin(np.eye(2)).excess_over(spectrum)


def test_the_derivative_of_a_simple_eigenvalue_is_that_of_perturbation_theory():
    matrix, change = normal(0, (4, 4)), normal(1, (4, 4))

    def exponents(t):
        return near_origin(matrix + t * change).exponents

    _, derivative = jax.jvp(exponents, (jnp.asarray(0.0),), (jnp.asarray(1.0),))
    step = 1e-6
    difference = (exponents(jnp.asarray(step)) - exponents(jnp.asarray(-step))) / (2 * step)
    np.testing.assert_allclose(derivative, difference, rtol=1e-6, atol=1e-8)


def test_both_jacobians_of_two_steps_are_those_of_automatic_differentiation(network):
    recurrence, carry, xs = network("LSTMCell", 3)
    row = jnp.concatenate(jax.tree.leaves(carry))
    near = jrnn.linearize(recurrence, row[None], xs[0], period=2)

    def two_steps(x, row=row):
        return jrnn.trajectory(recurrence, (row[:3], row[3:]), jnp.stack([x, x]))[-1]

    of_state = jax.jacfwd(two_steps, argnums=1)(xs[0], row)
    np.testing.assert_allclose(near.jacobian[0], of_state, atol=1e-12)
    np.testing.assert_allclose(near.input_jacobian[0], jax.jacfwd(two_steps)(xs[0]), atol=1e-12)
    without = jrnn.linearize(jrnn.Recurrence(decay, jnp.asarray(0.5)), np.zeros((1, 2)), None)
    assert without.input_jacobian.shape == (1, 2, 0)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="period: received 0"):
        near_origin(np.eye(2), period=0)
    system = jrnn.Recurrence(decay, jnp.asarray(0.5))
    with pytest.raises(TypeError, match=r"x: received int32, .*embedding of a token"):
        jrnn.linearize(system, np.zeros((1, 2)), np.zeros(2, np.int32))


def test_a_jacobian_that_is_not_known_is_not_stable():
    def step(_, carry, x):
        del x
        return 2 * jnp.linalg.norm(carry) * jnp.ones(2) + 0 * carry

    found = jrnn.linearize(jrnn.Recurrence(step, ()), jnp.zeros((1, 2)), None)
    assert not bool(found.is_stable[0])
    assert "not known" in str(found)


def test_the_bounds_at_a_cycle_hold_where_its_steps_cancel():
    turn = jnp.asarray(np.linalg.qr(normal(0, (2, 2)))[0])
    shears = jnp.stack([jnp.array([[1, 1e6], [0, 1]]), jnp.array([[0.5, -5e5], [0, 0.5]])])
    shears = turn @ shears @ turn.T

    def step(shears, carry, x):
        """Shear and turn back by turns, as the last entry of the state says."""
        del x
        number = (carry[2] > 0.5).astype(jnp.int32)
        return jnp.append(shears[number] @ carry[:2], 1 - carry[2])

    found = jrnn.linearize(jrnn.Recurrence(step, shears), jnp.zeros((1, 3)), None, period=2)
    values, errors = found.eigenvalues[0], found.eigenvalue_errors[0]
    of_plane = jnp.abs(values - 0.5) < 0.1
    assert int(of_plane.sum()) == 2
    assert float(jnp.abs(values - 0.5)[of_plane].max()) > 1e-9
    assert bool(jnp.all((jnp.abs(values - 0.5) <= errors)[of_plane]))

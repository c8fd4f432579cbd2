"""Five linearisations of a recurrence against dense systems and sequential runs."""

import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from experiments.spectra import _linearizations as linearizations
from tests.networks import normal

LENGTH, WIDTH = 13, 3


def linear(params, carry, x):
    return params @ carry + x


def tanh(params, carry, x):
    return jnp.tanh(params @ carry + x)


def solved(step, weights, scheme, tolerance=1e-10, length=LENGTH):
    """Solve a network from a random guess, and run it one step after the other."""
    network = jrnn.Recurrence(step, jnp.asarray(weights))
    xs, guess = jnp.asarray(normal(0, (2, length, WIDTH)))
    states = jrnn.trajectory(network, jnp.ones(WIDTH), xs)[1:]
    solution = linearizations.solve(
        network, jnp.ones(WIDTH), xs, guess, tolerance=tolerance, scheme=scheme
    )
    return solution, states


@pytest.mark.parametrize("form", ["linear_recurrence", "diagonal_recurrence"])
def test_parallel_scans_solve_the_linear_recurrence(form):
    matrices, offsets = normal(1, (LENGTH, WIDTH, WIDTH)), jnp.asarray(normal(2, (LENGTH, WIDTH)))
    if form == "diagonal_recurrence":
        matrices *= np.eye(WIDTH)
        factors = np.diagonal(matrices, axis1=1, axis2=2)
    else:
        factors = matrices
    found = getattr(linearizations, form)(jnp.asarray(factors), offsets)
    state = np.zeros(WIDTH)
    for matrix, offset, at in zip(matrices, offsets, np.asarray(found), strict=True):
        state = matrix @ state + offset
        np.testing.assert_allclose(at, state, rtol=1e-10)


@pytest.mark.parametrize("damping", [10.0, 0.3, 1e-8])
def test_the_kalman_smoother_is_the_damped_least_squares_solution(damping):
    matrices, offsets = normal(3, (LENGTH, WIDTH, WIDTH)), normal(4, (LENGTH, WIDTH))
    whole = np.eye(LENGTH * WIDTH)
    for t in range(1, LENGTH):
        here = slice(t * WIDTH, (t + 1) * WIDTH)
        whole[here, (t - 1) * WIDTH : t * WIDTH] = -matrices[t]
    rows = np.concatenate([whole, np.sqrt(damping) * np.eye(len(whole))])
    expected = np.linalg.lstsq(rows, np.append(offsets, np.zeros(len(whole))), rcond=None)[0]
    found = linearizations.kalman_smoother(*map(jnp.asarray, (matrices, offsets, damping)))
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [
        ("newton", normal(5, (WIDTH, WIDTH))),
        ("diagonal", np.diag([0.5, -0.9, 0.1])),
        ("picard", np.eye(WIDTH)),
        ("jacobi", np.zeros((WIDTH, WIDTH))),
    ],
)
def test_a_linear_network_with_the_matrix_of_a_scheme_is_solved_in_one_iteration(scheme, weights):
    solution, states = solved(linear, weights, scheme)
    assert solution.num_iterations == 1
    np.testing.assert_allclose(solution.states, states, rtol=1e-9)
    if scheme != "newton":
        assert solved(linear, weights + 0.1, scheme)[0].num_iterations > 3


@pytest.mark.parametrize("scheme", [one for one in linearizations.SCHEMES if one != "damped"])
@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_without_damping_t_iterations_reach_the_states_of_a_sequential_run(scheme, gain):
    """Each makes one more of the first states exact."""
    solution, states = solved(tanh, gain * normal(6, (WIDTH, WIDTH)), scheme, tolerance=0.0)
    assert solution.num_iterations <= LENGTH
    # What is exact was a sum with states that were far off.
    np.testing.assert_allclose(solution.states, states, atol=1e-6)


def test_damping_falls_where_steps_help_and_ends_at_the_sequential_run():
    solution, states = solved(tanh, 0.4 * normal(6, (WIDTH, WIDTH)), "damped")
    assert float(solution.residual) < 1e-10
    assert float(solution.damping) == pytest.approx(
        linearizations.FACTOR ** -float(solution.num_iterations)
    )
    np.testing.assert_allclose(solution.states, states, atol=1e-9)


def test_damping_grows_where_a_step_makes_it_worse():
    def cliff(params, carry, x):
        """Jump away wherever the guess is moved."""
        return jnp.where(jnp.abs(carry) < 0.5, 0.1, 1e6) + params * carry + x

    network = jrnn.Recurrence(cliff, jnp.asarray(0.0))
    guess = 0.4 * jnp.ones((4, 1))
    solution = linearizations.solve(
        network, jnp.zeros(1), jnp.full((4, 1), 5.0), guess, tolerance=1e-10, scheme="damped"
    )
    assert float(solution.damping) > 1
    # Newton's own step would go to 5.5 and over the edge.
    assert jnp.max(jnp.abs(solution.states)) < 0.5

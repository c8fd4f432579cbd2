import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from tests.networks import normal
from tests.phase_space.maps import (
    affine,
    ghost,
    hopfield,
    logistic,
    magnetization,
    sorted_rows,
    tanh_units,
)

ORIGIN = np.zeros(2)
STARTS = normal(0, (64, 2))  # for most tests, so that the search is compiled once


def two_units(slope=2.0):
    return jrnn.Recurrence(tanh_units, slope * jnp.eye(2))


def test_a_linear_network_has_the_fixed_point_of_the_linear_equation():
    matrix, x = 0.4 * normal(0, (5, 5)), normal(1, 5)
    found = jrnn.fixed_points(jrnn.Recurrence(affine, matrix), normal(2, (8, 5)), x).distinct()
    assert found.num_starts.tolist() == [8]
    expected = np.linalg.solve(np.eye(5) - matrix, x)
    np.testing.assert_allclose(found.states[0], expected, rtol=1e-12)


def test_all_nine_fixed_points_of_two_tanh_units_are_found():
    found = jrnn.fixed_points(two_units(), STARTS, ORIGIN)
    size = magnetization(2.0)
    expected = sorted_rows(list(itertools.product([-size, 0, size], repeat=2)))
    np.testing.assert_allclose(sorted_rows(found.distinct("fixed").states), expected, atol=1e-9)
    sizes = np.abs(found.distinct("fixed").states)
    assert np.all((sizes < 1e-14) | (np.abs(sizes - size) < 1e-14))
    assert float(found.distinct("fixed").residuals.max()) < 1e-25
    # Every start is in exactly one row, and the row that it joined is the same point.
    np.testing.assert_array_equal(found.num_starts.sum(), found.is_fixed.sum())
    joined = found.states[found.same_as]
    assert np.all(np.linalg.norm(joined - found.states, axis=1)[found.is_fixed] < 1e-9)
    assert np.all(found.num_starts[found.same_as][found.is_fixed] > 0)


def test_all_stored_patterns_of_a_hopfield_network_are_found():
    network, patterns = hopfield()
    both = np.concatenate([patterns, -patterns])
    starts = np.tile(both, (3, 1)) + 0.3 * normal(0, (18, 16))
    found = jrnn.fixed_points(network, starts, np.zeros(16)).distinct("fixed")
    expected = magnetization(2.0) * both
    distances = np.linalg.norm(expected[:, None] - np.asarray(found.states)[None], axis=2)
    assert distances.min(axis=1).max() < 1e-10
    assert float(found.residuals.max()) < 1e-25


def test_an_lstm_is_searched_from_rows_and_from_carries_alike(network):
    recurrence, _, xs = network("LSTMCell", 3)
    rows = normal(0, (6, 6))
    found = jrnn.fixed_points(recurrence, rows, xs[0])
    of_carries = jrnn.fixed_points(recurrence, (rows[:, :3], rows[:, 3:]), xs[0])
    np.testing.assert_array_equal(found.states, of_carries.states)
    fixed = np.asarray(found.states)[np.asarray(found.is_fixed)]
    assert len(fixed)
    after = jrnn.trajectory(recurrence, (fixed[0, :3], fixed[0, 3:]), np.tile(xs[0], (5, 1)))
    np.testing.assert_allclose(after, np.tile(fixed[0], (6, 1)), atol=1e-11)


def test_cycles_are_found_once_each_with_their_least_periods():
    system = jrnn.Recurrence(logistic, jnp.asarray(3.83))
    starts = np.linspace(0.05, 0.99, 48)[:, None]
    found = jrnn.fixed_points(system, starts, None, period=3).distinct("fixed")
    assert sorted(found.periods.tolist()) == [1, 1, 3, 3]
    points = np.sort(np.asarray(found.states)[np.asarray(found.periods) == 1, 0])
    np.testing.assert_allclose(points, [0, 1 - 1 / 3.83], atol=1e-12)
    slopes = jrnn.linearize(system, found.states, None, period=3).eigenvalues[:, 0].real
    for state, period, slope in zip(found.states, found.periods, slopes, strict=True):
        orbit = np.asarray(jrnn.trajectory(system, state, None, num_steps=3))[:, 0]
        assert abs(orbit[3] - orbit[0]) < 1e-12
        assert (abs(orbit[1] - orbit[0]) > 0.01) == (period == 3)
        np.testing.assert_allclose(slope, np.prod(3.83 * (1 - 2 * orbit[:3])), rtol=1e-9)
    # One of the two cycles attracts, and the other does not.
    cycles = np.asarray(found.periods) == 3
    assert sorted(np.abs(slopes[cycles]) < 1) == [False, True]


def test_a_ghost_of_fixed_points_is_slow_and_the_tolerance_says_how_slow():
    system = jrnn.Recurrence(ghost, jnp.asarray(1e-3))
    starts = np.linspace(-0.5, 0.5, 11)[:, None]
    found = jrnn.fixed_points(system, starts, None)
    assert not np.any(found.is_fixed)
    slow = found.distinct("slow")
    np.testing.assert_allclose(slow.states[0], 0, atol=1e-3)
    np.testing.assert_allclose(slow.speeds[0], 1e-3, rtol=1e-3)
    assert not np.any(jrnn.fixed_points(system, starts, None, slow_speed=2e-3).is_slow)
    wide = jrnn.fixed_points(system, starts, None, fixed_speed=5e-3)
    assert np.any(wide.is_fixed)
    assert "slow: of at most 1.0e-02" in str(found)
    assert "0 fixed points and " in str(found)
    assert len(found.distinct().speeds) == len(slow.speeds)
    assert len(found.distinct("fixed").speeds) == 0
    with pytest.raises(ValueError, match="kind: received 'saddle', expected one of"):
        found.distinct("saddle")
    both = jax.tree.map(lambda a: jnp.stack([a, a]), found)
    assert "2 searches" in str(both)
    with pytest.raises(ValueError, match="points: received a batch of searches"):
        both.distinct()


def test_points_nearer_than_the_tolerance_are_one():
    assert (
        len(jrnn.fixed_points(two_units(), STARTS, ORIGIN, same_within=3.0).distinct().speeds) < 4
    )
    alone = jrnn.fixed_points(two_units(), STARTS, ORIGIN, same_within=1e-300).distinct()
    assert len(alone.speeds) > 9


def one_far_away(_, carry, x):
    """Stand still at 0, at 1 and at 1000."""
    del x
    return carry + 1e-3 * carry * (1 - carry) * (carry / 1000 - 1)


def test_outliers_are_named_and_left_out():
    system = jrnn.Recurrence(one_far_away, ())
    starts = np.append(np.linspace(-1, 2, 40), 1010)[:, None]
    found = jrnn.fixed_points(system, starts, None)
    assert np.flatnonzero(found.is_outlier).tolist() == [40]
    near = np.sort(found.distinct("fixed").states[:, 0])
    np.testing.assert_allclose(near, [0, 1], atol=1e-8)
    assert "not listed: those of starts 40" in str(found)
    more = jrnn.fixed_points(system, starts, None, outlier_scale=1e4)
    every = np.sort(more.distinct("fixed").states[:, 0])
    np.testing.assert_allclose(every, [0, 1, 1000], atol=1e-8)


def test_the_only_point_is_no_outlier_however_far_it_is():
    system = jrnn.Recurrence(affine, jnp.diag(jnp.array([0.5, 0.999])))
    found = jrnn.fixed_points(system, normal(0, (4, 2)), np.array([0.0, 1.0]))
    np.testing.assert_allclose(found.distinct("fixed").states, [[0, 1000]], atol=1e-8)


def test_a_search_that_was_stopped_says_so_and_batches_change_nothing():
    stopped = jrnn.fixed_points(two_units(), STARTS, ORIGIN, max_iterations=1, slow_speed=1e-11)
    assert not np.any(stopped.converged)
    assert "stopped: raise max_iterations" in str(stopped)
    found = jrnn.fixed_points(two_units(), STARTS, ORIGIN)
    assert np.all(found.converged)
    assert np.all(found.num_iterations > 1)
    one_by_one = jrnn.fixed_points(two_units(), STARTS, ORIGIN, num_at_once=1)
    np.testing.assert_allclose(one_by_one.states, found.states, atol=1e-12)


def test_fixed_points_have_the_derivative_of_the_implicit_function():
    size = magnetization(2.0)

    def point(slope, x):
        system = jrnn.Recurrence(tanh_units, slope[None, None])
        return jrnn.fixed_points(system, jnp.array([[0.8]]), x[None]).states[0, 0]

    by_slope, by_input = jax.jit(jax.grad(point, argnums=(0, 1)))(
        jnp.asarray(2.0), jnp.asarray(0.0)
    )
    decay = 1 - size**2
    np.testing.assert_allclose(by_input, decay / (1 - 2 * decay), rtol=1e-9)
    np.testing.assert_allclose(by_slope, size * decay / (1 - 2 * decay), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"period": 0}, "period: received 0, expected at least 1"),
        ({"max_iterations": 0}, "max_iterations: received 0"),
        ({"num_at_once": 0}, "num_at_once: received 0"),
        ({"slow_speed": -1.0}, "slow_speed: received -1"),
        ({"same_within": 0.0}, "same_within: received 0"),
        ({"outlier_scale": 0.0}, "outlier_scale: received 0"),
        (
            {"fixed_speed": 0.1},
            "slow_speed: received 0.01, expected a finite number, at least 0.1: fixed_speed",
        ),
        ({"states": np.zeros((0, 2))}, "states: received \\[0\\] of them"),
        ({"states": np.zeros(())}, "states: received no axis of states"),
        ({"states": np.full((1, 2), np.nan)}, "states: received 2 of 2 values that are NaN"),
        ({"states": np.zeros((3, 5))}, "step: failed for carry"),
        ({"states": np.zeros(2)}, r"states: received one of shape \(2,\), expected several"),
        ({"x": np.zeros((4, 2))}, r"x: received float64\[4, 2\].*expected one.*float64\[2\]"),
        ({"x": np.full(2, np.nan)}, "x: received 2 of 2 values that are NaN"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    arguments = {"states": np.zeros((1, 2)), "x": ORIGIN} | options
    with pytest.raises(ValueError, match=match):
        jrnn.fixed_points(two_units(), **arguments)


def test_without_the_solver_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optimistix", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jacobian_rnn\[analysis\]'"):
        jrnn.fixed_points(two_units(), np.zeros((1, 2)), ORIGIN)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"states": [[0.0, 0.0]]}, "states: received a list with a float in it, expected arrays"),
        ({"states": "abc"}, "states: received a str"),
        ({"states": np.zeros((1, 2), int)}, "states: received int64, expected real floating-point"),
        ({"states": np.zeros((1, 2), complex)}, "states: received complex128, expected real"),
        ({"states": np.zeros((1, 2), np.float32)}, "dtypes: received params"),
        ({"x": [0.0, 0.0]}, "x: received a list with a float in it, expected arrays of numbers"),
        ({"period": 1.5}, "period: received 1.5, expected a Python int"),
    ],
)
def test_arguments_of_another_kind_are_refused(options, match):
    arguments = {"states": np.zeros((1, 2)), "x": ORIGIN} | options
    with pytest.raises(TypeError, match=match):
        jrnn.fixed_points(two_units(), **arguments)


def test_shapes_that_a_cell_was_not_built_for_are_named_without_its_own_words(network):
    recurrence, _, xs = network("GRUCell", 4)
    rows = np.zeros((5, 4))
    with pytest.raises(
        ValueError, match=r"states: received shape \(5, 9\), expected \(states, 4\)"
    ):
        jrnn.fixed_points(recurrence, np.zeros((5, 9)), xs[0])
    with pytest.raises(
        ValueError, match=r"x: received float64.*with an axis more than a step takes"
    ):
        jrnn.fixed_points(recurrence, rows, xs[:5])
    for x in (xs[0, :-1], None):
        with pytest.raises(ValueError, match=r"x: received .* of the size that the recurrence was"):
            jrnn.fixed_points(recurrence, rows, x)


def test_states_are_drawn_along_trajectories_with_noise_of_the_wanted_size():
    visited = normal(0, (2, 50, 3))
    drawn = jrnn.draw_states(visited, 400, key=jax.random.key(0))
    rows = {tuple(row) for row in visited.reshape(-1, 3)}
    assert {tuple(np.asarray(row)) for row in drawn} <= rows
    assert len({tuple(np.asarray(row)) for row in drawn}) > 80
    noisy = jrnn.draw_states(visited, 400, key=jax.random.key(0), noise_std=0.1)
    np.testing.assert_allclose(np.std(noisy - drawn), 0.1, rtol=0.1)
    with pytest.raises(ValueError, match=r"states: received shape \(3,\)"):
        jrnn.draw_states(np.zeros(3), 4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="noise_std: received -1"):
        jrnn.draw_states(visited, 4, key=jax.random.key(0), noise_std=-1.0)
    with pytest.raises(TypeError, match="key: received None"):
        jrnn.draw_states(visited, 4, key=None)
    with pytest.raises(ValueError, match=r"key: received keys of shape \(3,\), expected one"):
        jrnn.draw_states(visited, 4, key=jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="states: received 4 of 4 values that are NaN"):
        jrnn.draw_states(np.full((2, 2), np.nan), 4, key=jax.random.key(0))
    for states in (None, (np.zeros((3, 2)), np.zeros((2, 2))), np.zeros((2, 2), int)):
        with pytest.raises(TypeError, match="states: received"):
            jrnn.draw_states(states, 4, key=jax.random.key(0))


def in_other_units(params, carry, x):
    del x
    scale, weights = params
    return scale * jnp.tanh(weights @ (carry / scale))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", [2 * np.eye(2), np.diag([2.0, 0.995])])
def test_points_are_told_apart_alike_in_any_unit_of_the_state(dtype, weights):
    def search(scale):
        params = jnp.asarray(scale, dtype), jnp.asarray(weights, dtype)
        starts = (scale * STARTS).astype(dtype)
        return jrnn.fixed_points(jrnn.Recurrence(in_other_units, params), starts, None)

    size = magnetization(2.0)
    along = [-size, 0, size]
    expected = list(itertools.product(along, along if weights[1, 1] == 2 else [0]))
    for scale in (1e-5, 1.0, 1e5):
        found = search(scale)
        assert np.all(found.is_fixed)
        assert not np.any(found.is_degenerate)
        points = found.distinct()
        accuracy = 1e-3 if dtype == np.float32 else 1e-9
        rows = np.asarray(points.states, float) / scale
        assert len(rows) == len(expected)
        gaps = np.linalg.norm(rows[:, None] - np.asarray(expected)[None], axis=2)
        assert gaps.min(axis=0).max() < accuracy
        relative = np.asarray(points.speeds) / np.asarray(points.sizes)
        np.testing.assert_allclose(points.relative_speeds, relative)
    assert f"fixed: of at most {float(found.fixed_speed):.1e}, or what rounding" in str(found)


def power(order, carry, x):
    """Return to zero in the second unit, where 1 − J is singular in the first."""
    del x
    return jnp.stack([carry[0] - jnp.abs(carry[0]) ** order, 0.5 * carry[1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", [2.0, 3.0, 4.0, 5.0])
def test_degenerate_points_are_reached_and_said(order, dtype):
    system = jrnn.Recurrence(power, jnp.asarray(order, dtype))
    found = jrnn.fixed_points(system, np.abs(STARTS[:8]).astype(dtype), None)
    assert np.all(found.is_fixed & found.is_degenerate)
    # At rest but for rounding, |h|^q is below eps.
    eps = float(np.finfo(dtype).eps)
    assert float(jnp.abs(found.states[:, 0]).max()) < 2 * eps ** (1 / order)
    assert "degenerate: 1 − J is singular" in str(found)


LINE = np.diag([1.0, 0.5, 0.3, 0.2, 0.1])


def times(matrix, carry, x):
    del x
    return matrix @ carry


@pytest.mark.parametrize("seed", [0, 1])
def test_each_start_ends_on_its_own_point_of_a_line_of_fixed_points(seed):
    turn = np.linalg.qr(normal(seed, (5, 5)))[0]
    starts = normal(seed + 10, (6, 5))
    system = jrnn.Recurrence(times, jnp.asarray(turn @ LINE @ turn.T))
    found = jrnn.fixed_points(system, starts, None)
    assert np.all(found.is_fixed)
    np.testing.assert_allclose(found.states @ turn[:, 0], starts @ turn[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.states @ turn[:, 1:], 0, atol=1e-4)
    assert len(found.distinct("fixed").speeds) == 6
    assert np.all(found.is_degenerate)


def test_where_one_minus_j_is_singular_the_state_is_known_and_its_derivative_is_not():
    def state(matrix):
        system, start = jrnn.Recurrence(times, matrix), jnp.array([[0.3, 0.2]])
        return jrnn.fixed_points(system, start, None).states.sum()

    matrix = jnp.diag(jnp.array([1.0, 0.5]))
    assert float(state(matrix)) == pytest.approx(0.3, abs=1e-4)
    assert not np.isfinite(jax.grad(state)(matrix)).all()


def test_second_derivatives_of_a_fixed_point_are_those_of_its_closed_form():
    def state(rate):
        system = jrnn.Recurrence(logistic, rate)
        return jrnn.fixed_points(system, jnp.array([[0.5]]), None).states[0, 0]

    rate = jnp.asarray(3.3)  # h = 1 − 1 / r
    assert float(jax.grad(state)(rate)) == pytest.approx(3.3**-2, rel=1e-9)
    assert float(jax.grad(jax.grad(state))(rate)) == pytest.approx(-2 * 3.3**-3, rel=1e-9)


@pytest.mark.parametrize("starts", [np.full((7, 1), 0.1), 0.6 + 1e-3 * normal(0, (20, 1))])
def test_starts_that_are_close_together_find_no_outliers(starts):
    def step(gain, carry, x):
        return jnp.tanh(gain * carry + x)

    found = jrnn.fixed_points(jrnn.Recurrence(step, jnp.asarray(2.0)), starts, jnp.zeros(1))
    assert not np.any(found.is_outlier)
    assert len(found.distinct("fixed").speeds) >= 1


def test_a_cycle_that_is_small_is_no_fixed_point():
    rate = jnp.asarray(3.0000004)
    starts = np.linspace(0.6, 0.72, 40)[:, None]
    system = jrnn.Recurrence(logistic, rate)
    found = jrnn.fixed_points(system, starts, None, period=2, same_within=1e-6)
    fixed = found.distinct("fixed")
    moves = np.abs(logistic(rate, fixed.states, None) - fixed.states)[:, 0]
    np.testing.assert_array_equal(np.asarray(fixed.periods) == 1, moves < 1e-8)
    assert 2 in fixed.periods.tolist()

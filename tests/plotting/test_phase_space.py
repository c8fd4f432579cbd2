import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

import jacobian_rnn as jrnn
from jacobian_rnn import plotting
from tests.networks import normal
from tests.phase_space.maps import affine
from tests.plotting.drawings import labels, marked


def found(states, is_fixed):
    """Return a search that ended at given states."""
    k, is_fixed = len(states), np.asarray(is_fixed)
    fields = dict.fromkeys(jrnn.FixedPoints._fields, np.zeros(k))
    given = {"states": states, "is_fixed": is_fixed, "is_slow": ~is_fixed}
    return jrnn.FixedPoints(**(fields | given))


def linearized(*diagonals):
    """Linearise linear maps with given eigenvalues."""
    parts = [
        jrnn.linearize(
            jrnn.Recurrence(affine, jnp.diag(jnp.asarray(values))),
            np.zeros((1, len(values))),
            np.zeros(len(values)),
        )
        for values in diagonals
    ]
    joined = jax.tree.map(lambda *a: jnp.concatenate(a) if jnp.ndim(a[0]) else a[0], *parts)
    return joined._replace(period=parts[0].period)


def test_points_lie_where_the_plane_of_visited_states_has_them(axes):
    # Most of the spread is along the third axis, then along the first.
    visited = normal(0, (2, 50, 3)) * np.array([1.0, 0.01, 5.0])
    points = found(np.array([[0.0, 0.0, 4.0], [2.0, 0.0, 0.0]]), [True, False])
    plotting.points_in_plane(axes, points, visited)
    assert labels(axes) == ["visited", "fixed", "slow"]
    centre = visited.reshape(-1, 3).mean(axis=0)
    for label, expected in (("fixed", 4 - centre[2]), ("slow", -centre[2])):
        place = marked(axes, label).get_xdata()
        np.testing.assert_allclose(np.abs(place), abs(expected), atol=0.3)
    assert to_hex(marked(axes, "slow").get_markerfacecolor()) == "#ffffff"
    assert axes.get_xlabel().startswith("first component (9")


def test_points_are_told_apart_by_their_unstable_directions(axes):
    points = found(normal(1, (3, 2)), [True, True, True])
    near = linearized([0.5, 0.2], [2.0, 0.1], [2.0, 3.0])
    plotting.points_in_plane(axes, points, normal(0, (20, 2)), linearization=near)
    assert labels(axes)[1:] == ["no unstable direction", "1 unstable", "2 unstable"]
    with pytest.raises(ValueError, match="linearization: received shape"):
        plotting.points_in_plane(
            axes, points, normal(0, (20, 2)), linearization=linearized([0.5, 0.2])
        )
    with pytest.raises(ValueError, match=r"states: received shape \(3,\)"):
        plotting.points_in_plane(axes, points, normal(0, (20, 3)))
    with pytest.raises(ValueError, match="states: received 2 of size 2"):
        plotting.points_in_plane(axes, points, normal(0, (2, 2)))


def test_eigenvalues_inside_on_and_outside_of_the_circle_look_different(axes):
    near = linearized([0.5, 1.0, -2.0])
    plotting.eigenvalues_on_circle(axes, near)
    for label, expected in (("decays", 0.5), ("grows", -2.0), ("undecided", 1.0)):
        assert marked(axes, label).get_xdata().tolist() == [expected]
    assert axes.get_aspect() == 1
    with pytest.raises(ValueError, match="linearization: received a batch"):
        plotting.eigenvalues_on_circle(axes, jax.tree.map(lambda a: jnp.stack([a, a]), near))


def test_times_of_growth_are_told_from_those_of_decay_and_infinite_ones_stand_on_the_edge(axes):
    plotting.time_constants(axes, linearized([2.0, 1.0, 0.5]))
    np.testing.assert_allclose(marked(axes, "decays").get_data(), [[3], [1 / np.log(2)]])
    np.testing.assert_allclose(marked(axes, "grows").get_data(), [[1], [1 / np.log(2)]])
    assert marked(axes, "infinite").get_xdata().tolist() == [2]
    assert axes.get_yscale() == "log"
    with pytest.raises(ValueError, match="most: received 0"):
        plotting.time_constants(axes, linearized([0.5]), most=0)


def test_fewer_times_are_those_of_the_largest_eigenvalues(axes):
    plotting.time_constants(axes, linearized([0.2, 0.9, 0.5]), most=1)
    np.testing.assert_allclose(marked(axes, "decays").get_ydata(), -1 / np.log(0.9))

"""Pictures of fixed points: in the plane of principal components, and their eigenvalues."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.phase_space import FixedPoints, Linearization
from jacobian_rnn.plotting.marks import (
    BLACK,
    BLUE,
    COLOURS,
    MARKERS,
    VERMILION,
    check_axes,
    check_result,
    mark_edge,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyArray = Array | np.ndarray


def points_in_plane(
    axes: "Axes",
    points: FixedPoints,
    states: Float[AnyArray, "*trajectories n"],
    *,
    linearization: Linearization | None = None,
) -> "Axes":
    """Plot fixed and slow points over visited states, in the plane of these states' components.

    The plane is that of the first two principal components of the visited states, and its axes say
    which share of their variance each has. Points that are far apart can be near in a plane.

    Args:
        axes: where to draw.
        points: those of `FixedPoints.distinct`. Slow points are open.
        states: of one trajectory, `(T + 1, n)`, or of several, `(sequences, T + 1, n)`.
        linearization: at the same points. With it, stable points are discs, and the others have a
            marker and a colour for each number of unstable directions.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no points.
        ValueError: a batch of searches, states of another size, too few to span a plane, or a
            linearisation at other points.

    Example:
        >>> import jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from jacobian_rnn import Recurrence, fixed_points, trajectory
        >>> def units(params, carry, x):
        ...     return jnp.tanh(params * carry + x)
        >>> system = Recurrence(units, jnp.array(2.0))
        >>> states = trajectory(system, jnp.array([0.1, 0.2]), jnp.zeros((20, 2)))
        >>> found = fixed_points(system, states, jnp.zeros(2)).distinct()
        >>> _, axes = plt.subplots()
        >>> _ = points_in_plane(axes, found, states)
        >>> axes.get_legend_handles_labels()[1]
        ['visited', 'fixed']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("points", points, FixedPoints, "speeds", 1)
    visited = np.asarray(states, float)
    n = points.states.shape[1]
    check_shape("states", visited.shape[-1:], (n,), "those of the same recurrence")
    rows = visited.reshape(-1, n)
    if len(rows) < 3 or n < 2:
        refuse("states", f"{len(rows)} of size {n}", "at least 3 of size 2, for a plane")
    centre = rows.mean(axis=0)
    _, sizes, directions = np.linalg.svd(rows - centre, full_matrices=False)
    plane, shares = directions[:2].T, sizes**2 / np.sum(sizes**2)
    for line in visited.reshape(-1, *visited.shape[-2:]) if visited.ndim > 1 else [rows]:
        axes.plot(*((line - centre) @ plane).T, color="0.75", linewidth=0.5, zorder=1)
    axes.lines[-1].set_label("visited")
    places = (np.asarray(points.states, float) - centre) @ plane
    is_fixed = np.asarray(points.is_fixed)
    for name, these, colour, marker in _groups(points, linearization):
        for shown, face, kind in (
            (these & is_fixed, colour, ""),
            (these & ~is_fixed, "white", ", slow"),
        ):
            if shown.any():
                axes.plot(
                    *places[shown].T,
                    marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=6,
                    label=("slow" if name == "fixed" and kind else f"{name}{kind}"),
                    zorder=3,
                )
    axes.set(
        xlabel=f"first component ({100 * shares[0]:.0f} % of variance)",
        ylabel=f"second component ({100 * shares[1]:.0f} % of variance)",
    )
    return axes


def eigenvalues_on_circle(axes: "Axes", linearization: Linearization) -> "Axes":
    """Plot the eigenvalues at all points in the complex plane, with the unit circle.

    Those outside of the circle by more than their error grow, and are triangles. Those that cannot
    be told from the circle are open.

    Args:
        axes: where to draw.
        linearization: at one or more points.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no linearisation.
        ValueError: a batch of linearisations.

    Example:
        >>> import jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from jacobian_rnn import Recurrence, linearize
        >>> system = Recurrence(lambda params, carry, x: params * carry, jnp.array([0.5, 2.0]))
        >>> _, axes = plt.subplots()
        >>> _ = eigenvalues_on_circle(axes, linearize(system, jnp.zeros((1, 2)), None))
        >>> axes.get_legend_handles_labels()[1]
        ['|λ| = 1', 'decays', 'grows']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("linearization", linearization, Linearization, "eigenvalues", 2)
    values = np.asarray(linearization.eigenvalues).ravel()
    excess, errors = np.abs(values) - 1, np.asarray(linearization.eigenvalue_errors).ravel()
    turns = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turns), np.sin(turns), color="0.5", linewidth=0.8, label="|λ| = 1", zorder=1)
    for name, these, colour, marker, face in (
        ("decays", excess < -errors, BLUE, "o", BLUE),
        ("grows", excess > errors, VERMILION, "^", VERMILION),
        ("undecided", np.abs(excess) <= errors, BLACK, "s", "white"),
    ):
        if these.any():
            axes.plot(
                np.real(values[these]),
                np.imag(values[these]),
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=3.5,
                label=name,
                zorder=2,
            )
    axes.set(xlabel="real part of λ", ylabel="imaginary part of λ", aspect="equal")
    return axes


def time_constants(axes: "Axes", linearization: Linearization, *, most: int = 10) -> "Axes":
    """Plot the longest times |p/ln|λ|| at each point, in steps, against their place.

    Times of decay are discs, and those of growth are triangles. Infinite ones stand on the upper
    edge.

    Args:
        axes: where to draw. The axis of times becomes logarithmic.
        linearization: at one or more points.
        most: number of eigenvalues drawn at most, the largest |λ| first.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no linearisation.
        ValueError: a batch of linearisations, or none to draw.

    Example:
        >>> import jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from jacobian_rnn import Recurrence, linearize
        >>> system = Recurrence(lambda params, carry, x: params * carry, jnp.array([0.5, 2.0]))
        >>> _, axes = plt.subplots()
        >>> time_constants(axes, linearize(system, jnp.zeros((1, 2)), None)).get_ylabel()
        'time constant (steps)'
        >>> plt.close()
    """
    check_axes(axes)
    check_result("linearization", linearization, Linearization, "eigenvalues", 2)
    if most < 1:
        refuse("most", most, "at least 1")
    times = np.asarray(linearization.time_constants, float)[:, :most]
    places = np.broadcast_to(1 + np.arange(times.shape[1]), times.shape)
    for name, these, colour, marker in (
        ("decays", np.isfinite(times) & (times > 0), BLUE, "o"),
        ("grows", times < 0, VERMILION, "^"),
    ):
        if these.any():
            axes.plot(
                places[these], np.abs(times[these]), marker, color=colour, markersize=4, label=name
            )
    mark_edge(axes, places[np.isinf(times)], "infinite", upper=True)
    axes.set(yscale="log", xlabel="place of λ, largest |λ| first", ylabel="time constant (steps)")
    return axes


def _groups(points, linearization):
    """List name, rows, colour and marker of points with equal numbers of unstable directions."""
    if linearization is None:
        yield "fixed", np.ones(len(points.speeds), bool), BLUE, "o"
        return
    check_result("linearization", linearization, Linearization, "eigenvalues", 2)
    shape = (len(points.speeds), points.states.shape[1])
    check_shape("linearization", linearization.eigenvalues.shape, shape, "at the same points")
    num_unstable = np.asarray(linearization.num_unstable)
    for place, number in enumerate(np.unique(num_unstable)):
        name = "no unstable direction" if number == 0 else f"{number} unstable"
        yield name, num_unstable == number, COLOURS[place % 7], MARKERS[place % 7]

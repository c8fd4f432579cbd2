"""What the pictures share: colours, checks, and marks for what has no place on an axis."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jacobian_rnn.checks import check_type, refuse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# M. Okabe and K. Ito, "Color Universal Design" (2008): told apart by colour-blind readers. Each
# comes with a marker and a line style of its own, for readers in grey.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
SEQUENCE = "cividis"  # colour map of what has an order
EDGE = 0.03  # of the axis, from its edge to the marks there


class Line(NamedTuple):
    """How one of several is drawn."""

    colour: str
    marker: str
    style: Any


def line(number: int) -> Line:
    """Return colour, marker and line style of the `number`-th of several."""
    return Line(*(kinds[number % len(COLOURS)] for kinds in (COLOURS, MARKERS, LINES)))


def check_axes(axes: Any) -> None:
    """Raise a TypeError for what is no Axes: a grid of them, a figure, pyplot."""
    if not hasattr(axes, "get_xaxis_transform"):
        advice = "as `_, axes = plt.subplots()` returns it"
        refuse("axes", f"a {type(axes).__name__}", "a matplotlib Axes", advice, error=TypeError)


def check_result(name: str, result: Any, kind: type, field: str, rank: int) -> None:
    """Raise unless `result` is one result of its kind, told by the rank of a field.

    Raises:
        TypeError: another type.
        ValueError: a batch of results.
    """
    check_type(name, result, kind, f"one {kind.__name__}")
    if np.ndim(getattr(result, field)) != rank:
        advice = "index it with jax.tree.map(lambda a: a[i], ...)"
        refuse(name, "a batch", f"one {kind.__name__}", advice)


def check_logs(name: str, values: np.ndarray, advice: str) -> None:
    """Raise a ValueError for logs of which one is NaN or +inf."""
    if np.any(np.isnan(values) | (values == np.inf)):
        refuse(name, "NaN or infinity", "numbers or −inf", advice)


def mark_edge(
    axes: "Axes", places: np.ndarray, label: str, *, upper: bool = False, colour: str = BLACK
) -> None:
    """Draw an open triangle on the lower (or upper) edge at each place of the horizontal axis."""
    if np.size(places):
        axes.plot(
            places,
            np.full(np.shape(places), 1 - EDGE if upper else EDGE),
            "^" if upper else "v",
            transform=axes.get_xaxis_transform(),
            color=colour,
            markerfacecolor="white",
            markersize=5,
            label=label,
            zorder=4,
        )


def draw_points(
    axes: "Axes",
    places: np.ndarray,
    values: np.ndarray,
    errors: np.ndarray | None,
    trusted: np.ndarray,
    *,
    colour: str,
    marker: str,
    label: str,
    distrusted: str,
) -> None:
    """Draw points with error bars (half widths), filled where trusted and open elsewhere."""
    # A white rim keeps filled points apart where they are dense.
    for these, face, rim, text in (
        (trusted, colour, "white", label),
        (~trusted, "white", colour, distrusted),
    ):
        these = these & np.isfinite(values)
        if these.any():
            bars = None if errors is None else np.nan_to_num(errors[these])
            axes.errorbar(
                places[these],
                values[these],
                yerr=bars,
                fmt=marker,
                color=colour,
                markerfacecolor=face,
                markeredgecolor=rim,
                markersize=3.8,
                markeredgewidth=0.4 if rim == "white" else 0.8,
                elinewidth=0.9,
                label=text,
                zorder=3,
            )


def choose(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the indices 0 … count − 1, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def ordinal(symbol: str, number: int) -> str:
    """Write a symbol with a number below it, as λ₁₂."""
    return symbol + str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))

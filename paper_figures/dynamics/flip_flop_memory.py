"""Fixed points of networks that hold three bits, and the eigenvalues there."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from paper_figures import style
from paper_figures.claims import Claim

PAPER = "Sussillo and Barak 2013"
NUM_CORNERS = 8
NUM_EDGES = 12  # of a cube
MOST_RESIDUAL = 1e-10
MOST_TIMES = 10
# One look for each number of unstable directions.
KINDS = ("stable", "1 unstable direction", "2 or more")
CAPTION = (
    "Networks of {width} units that hold three bits, without input. Left: visited states (grey) "
    "and fixed points, in the plane of the visited\nstates' first two principal components. "
    "Middle: eigenvalues at these points, and the unit circle. Right: the {most} slowest times\n"
    "|1/ln|λ|| at each point. Network 0 of {n_network} of each cell."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one network of each cell: plane, eigenvalues, and times."""
    cells = dataset["cell"].values
    figure, panels = plt.subplots(
        len(cells),
        3,
        figsize=(style.WIDTH, 0.7 + 2.2 * len(cells)),
        layout="constrained",
        squeeze=False,
    )
    for row, cell in zip(panels, cells, strict=True):
        _draw_network(row, dataset.sel(cell=cell).isel(network=0), str(cell))
    handles = [handle for axes in panels.flat for handle in axes.get_legend_handles_labels()[0]]
    text = style.caption(dataset, CAPTION, most=MOST_TIMES)
    style.legend_below(figure, handles, text, num_columns=5)
    return figure


def _draw_network(row, one, cell):
    plane, eigenvalues, times = row
    visited = one["visited_plane"].to_numpy()
    plane.plot(*visited.T, ".", color="0.8", markersize=1.5, label="visited", zorder=1)
    turns = np.linspace(0, 2 * np.pi, 200)
    eigenvalues.plot(np.cos(turns), np.sin(turns), color="0.5", linewidth=0.8, label="|λ| = 1")
    num_unstable = one["num_unstable"].to_numpy()
    constants = np.abs(one["time_constant"].to_numpy()[:, :MOST_TIMES])
    places = np.broadcast_to(1 + np.arange(constants.shape[1]), constants.shape)
    kinds = (num_unstable == 0, num_unstable == 1, num_unstable > 1)
    for number in (0, 1, 2):
        these, colour, marker = kinds[number], style.COLOURS[number], style.MARKERS[number]
        if not these.any():
            continue
        look = {
            "color": colour,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
            "label": KINDS[number],
            "zorder": 5 - number,
        }
        plane.plot(*one["point_plane"].to_numpy()[these].T, marker, markersize=6, **look)
        real, imaginary = (
            one[f"eigenvalue_{part}"].to_numpy()[these].ravel() for part in ("real", "imaginary")
        )
        eigenvalues.plot(real, imaginary, marker, markersize=3.5, **look)
        beside = places[these].ravel() + 0.22 * (number - 1)
        times.plot(beside, constants[these].ravel(), marker, markersize=3.5, **look)
    share = 100 * float(one["plane_share"])
    counts = f"{int(one['num_corners'])} memories, {int(one['num_saddles'])} saddles"
    plane.set(
        xlabel="first component",
        ylabel="second component",
    )
    plane.set_title(f"{cell}: {counts}, {share:.0f} % of variance", loc="left")
    eigenvalues.set(xlabel="real part of λ", ylabel="imaginary part of λ", aspect="equal")
    times.set(yscale="log", xlabel="place of λ, largest |λ| first", ylabel="time (steps)")
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter("{x:g}")
    times.yaxis.set_minor_formatter(NullFormatter())


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check that memories are stable fixed points, and that saddles lie between them."""
    worst = {name: float(dataset[name].min()) for name in ("num_corners", "num_edges")}
    num = dataset["num_points"].size
    return [
        Claim(
            "A network that holds three bits has a stable fixed point for each of the eight "
            "memories.",
            PAPER,
            f"memories with a stable fixed point, fewest of {num} networks",
            "within",
            NUM_CORNERS,
            0,
            worst["num_corners"],
        ),
        Claim(
            "Points that are called fixed are fixed.",
            "this package",
            f"largest ½‖F(h) − h‖² of all fixed points of {num} networks",
            "at most",
            MOST_RESIDUAL,
            0,
            float(dataset["largest_residual"].max()),
            kind="finding",
        ),
        Claim(
            "Between memories that differ in one bit lies a saddle, whose only unstable direction "
            "leads to one of them on each side.",
            PAPER,
            f"pairs of memories that a saddle leads to, fewest of {num} networks; a cube has "
            f"{NUM_EDGES} edges",
            "within",
            NUM_EDGES,
            0,
            worst["num_edges"],
        ),
    ]

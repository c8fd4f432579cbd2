"""How long units that see themselves alone remember as they are drawn, and what their gates do."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import style
from paper_figures.claims import Claim, Relation, standard_error

MARKERS = "sov^D"  # of widths
SHORT, LONG = 5, 100  # steps
CAPTION = """\
{num_networks} networks drawn afresh per point, by the initialisations of the papers. Input: \
white, Gaussian, unit variance, as many
channels as units. (a) memory −1/λ₁, bars: 95 % interval over networks; an arrow: unbounded. \
(b) bars from the smallest to the largest
exponent, ticks: median, means over networks. (c) sizes of eigenvalues of single steps, smallest \
to largest. IndRNN: a unit that
rectifies to 0 forgets at once, so λ = −∞."""


def draw(dataset: xr.Dataset) -> Figure:
    """Draw memory, exponents and eigenvalues: one row per cell, one line for each width."""
    figure, (memory, rates, sizes) = plt.subplots(
        1, 3, figsize=(style.WIDTH, 3.6), sharey=True, layout="constrained"
    )
    cells = dataset["cell"].to_numpy()
    num_widths = dataset.sizes["width"]
    offsets = np.linspace(-0.28, 0.28, num_widths) if num_widths > 1 else np.zeros(1)
    for place, cell in enumerate(cells):
        for width, offset, marker in zip(range(num_widths), offsets, MARKERS, strict=False):
            one, line = dataset.sel(cell=cell).isel(width=width), place + offset
            _memory(memory, one, line, marker)
            _rates(rates, one, line)
            low, high = (
                float(one[f"{end}_eigenvalue"].reduce(reduce, "network"))
                for end, reduce in (("smallest", np.min), ("largest", np.max))
            )
            sizes.plot([low, high], [line, line], color=style.BLUE, linewidth=1.5)
    memory.set_yticks(range(len(cells)), list(cells))
    memory.invert_yaxis()
    memory.set(xscale="log", xlabel="memory −1/λ₁ (steps)", title="(a) memory")
    rates.set(xlabel="λ (nats per step)", title="(b) exponents")
    rates.set_xscale("symlog", linthresh=1e-3)
    rates.set_xlim(-10, max(5e-4, 2 * float(dataset["exponent"].max())))
    rates.set_xticks([-10, -1, -0.1, -0.01, -0.001, 0], ["−10", "−1", "−0.1", "−0.01", "", "0"])
    sizes.set(xlabel="|eigenvalue| of one step", title="(c) eigenvalues", xlim=(-0.03, 1.1))
    for axes, x in ((rates, 0), (sizes, 1)):
        axes.axvline(x, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    for axes in (memory, rates, sizes):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    handles = [
        Line2D(
            [],
            [],
            color=style.BLUE,
            marker=marker,
            linestyle="",
            markersize=4,
            label=f"N = {width}",
        )
        for marker, width in zip(MARKERS, dataset["width"].to_numpy(), strict=False)
    ]
    style.legend_below(figure, handles, style.caption(dataset, CAPTION))
    return figure


def _memory(axes, one, line, marker):
    """Draw a memory with its interval, an arrow where it is unbounded, a word where it is none."""
    value, (low, high) = float(one["memory"]), one["memory_interval"].to_numpy()
    if value == 0:
        axes.annotate(
            "0", (0.02, line), xycoords=("axes fraction", "data"), va="center", fontsize=6
        )
    elif np.isfinite(value):
        axes.plot([low, high], [line, line], color=style.BLUE, linewidth=0.9)
        axes.plot(value, line, marker, color=style.BLUE, markersize=4, markeredgewidth=0)
    elif np.isinf(value):
        axes.plot(low, line, ">", color=style.BLUE, markersize=4, markeredgewidth=0)


def _rates(axes, one, line):
    """Draw the range of exponents and their median, where they are finite."""
    mean = one[["exponent", "spread", "median_exponent"]].mean("network")
    top, spread, median = (float(mean[name]) for name in mean)
    if np.isfinite(top) and np.isfinite(spread):
        axes.plot([top - spread, top], [line, line], color=style.BLUE, linewidth=1.5)
    if np.isfinite(median):
        axes.plot(median, line, "|", color=style.BLACK, markersize=5)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say which cells forget at once and which remember, and that no gate is saturated."""
    made = [
        Claim(
            "no Lyapunov exponent of S6 is above zero",
            "Halloran et al. 2025",
            "largest λ₁ of all networks and widths, nats per step",
            "at most",
            0,
            0,
            float(dataset["exponent"].sel(cell="S6").max()),
        )
    ]
    forgetful: tuple[Relation, int] = ("at most", SHORT)
    lasting: tuple[Relation, int] = ("at least", LONG)
    expected = dict.fromkeys(("minGRU", "minLSTM", "ParaGRU"), forgetful)
    expected |= dict.fromkeys(("RG-LRU", "S5", "S6"), lasting)
    for cell, (relation, bound) in expected.items():
        memory = dataset[["memory", "memory_interval"]].sel(cell=cell).isel(width=-1)
        verb = "forgets within" if relation == "at most" else "remembers for at least"
        made.append(
            Claim(
                f"{cell} as drawn {verb} {bound} steps",
                "this package",
                "memory −1/λ₁ at the largest width, steps",
                relation,
                bound,
                0,
                float(memory["memory"]),
                standard_error(*memory["memory_interval"].to_numpy().tolist()),
                "finding",
            )
        )
    share = dataset["saturated"].max(("cell", "width", "network"))
    made.append(
        Claim(
            "gates of new networks are not saturated",
            "this package",
            "largest share of gates within 0.01 of 0 or 1",
            "at most",
            0.01,
            0,
            float(share),
            kind="finding",
        )
    )
    return made

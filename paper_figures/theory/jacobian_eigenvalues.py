"""Eigenvalues of one step's Jacobian of random GRUs and LSTMs, and the edge of theory."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import style
from paper_figures.claims import Claim

SOURCE = "Can, Krishnamurthy and Schwab (2020)"
GATES = {"GRUCell": "update", "LSTMCell": "forget"}
NAMES = {"GRUCell": "GRU", "LSTMCell": "LSTM"}
TOLERANCE = 0.02  # of the edge
CAPTION = (
    "Flax linen cells of width N = {width}, Gaussian recurrent kernels of standard deviation "
    "{gain:g}/√N in each gate; white Gaussian\ninput adds noise of standard deviation "
    "{input_std:.2f} to each gate. Jacobian of the step after {num_warmup} steps; states of an "
    "LSTM: c and h.\nSlow modes: eigenvalues within {radius:g} of one, in the small black circle; "
    "mean over {n_network} networks drawn afresh,\nbars: standard error."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw one network's eigenvalues for each cell and bias, and slow modes against bias."""
    radius = style.configuration(dataset)["radius"]
    cells, biases = dataset["cell"].to_numpy(), dataset["bias"].to_numpy()
    figure, grid = plt.subplots(
        len(cells),
        len(biases) + 1,
        figsize=(style.WIDTH, 1.35 + 1.45 * len(cells)),
        layout="constrained",
        squeeze=False,
    )
    everything = dataset["eigenvalue"].isel(network=0)
    right = max(float(everything.sel(part="real").max()), float(dataset["mean_field_edge"].max()))
    top = 1.1 * max(1.0, float(everything.sel(part="imaginary").max()))
    for (*row, last), cell in zip(grid, cells, strict=True):
        name, gate, one = NAMES[str(cell)], GATES[str(cell)], dataset.sel(cell=cell)
        for axes, bias in zip(row, biases, strict=True):
            _cloud(axes, one.sel(bias=bias), radius)
            axes.set(xlim=(-1.1, max(1.1, 1.1 * right)), ylim=(-top, top), aspect="equal")
            axes.set_title(f"{name}, {gate} bias {bias:g}", fontsize=7)
            if bias != biases[0]:
                axes.set_yticklabels([])
        row[0].set_ylabel("imaginary part")
        look = style.CELLS[str(cell)]
        last.errorbar(
            biases,
            one["near_one_mean"],
            yerr=one["near_one_error"],
            marker=look.marker,
            linestyle=look.line,
            color=look.colour,
            markersize=3.5,
            linewidth=0.8,
            elinewidth=0.8,
        )
        last.set(ylim=(0, None), box_aspect=1)
        last.margins(x=0.12)
        last.set_title(f"{name}, slow modes / N", fontsize=7)
    for axes in grid[-1, :-1]:
        axes.set_xlabel("real part")
    grid[-1, -1].set_xlabel("gate bias")
    dots: dict[str, Any] = {"color": style.BLUE, "marker": ".", "linestyle": "", "markersize": 5}
    diamond: dict[str, Any] = {
        "color": style.GREEN,
        "marker": "D",
        "linestyle": "",
        "markerfacecolor": "none",
    }
    handles = [
        Line2D([], [], label="eigenvalues of one network", **dots),
        Line2D([], [], color=style.VERMILION, linewidth=1.2, label="edge, given its gates"),
        Line2D([], [], label="real edge, mean field", markersize=5, **diamond),
        Line2D([], [], color="0.5", linewidth=0.7, linestyle="--", label="unit circle"),
    ]
    style.legend_below(figure, handles, style.caption(dataset, CAPTION))
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the edge of each cell's spectrum, and that open gates gather eigenvalues at one."""
    configuration = style.configuration(dataset)
    made = []
    for cell in dataset["cell"].to_numpy():
        one, gate = dataset.sel(cell=cell), GATES[str(cell)]
        for quantity, words, source in (
            ("ratio_mean", "that random-matrix theory gives its gates,", SOURCE),
            ("mean_field_ratio", "of mean-field theory,", "theory, after " + SOURCE),
        ):
            error = one[quantity.replace("_mean", "") + "_error"]
            worst = int(np.argmax(abs(one[quantity].to_numpy() - 1)))
            made.append(
                Claim(
                    f"Eigenvalues of the {NAMES[str(cell)]}'s Jacobian end at the edge {words} "
                    f"at every {gate} bias",
                    source,
                    "spectral radius over that of the edge, mean over networks, at bias "
                    f"{float(one['bias'][worst]):g}, the worst",
                    "within",
                    1,
                    TOLERANCE,
                    float(one[quantity][worst]),
                    float(error[worst]),
                )
            )
        farthest = int(np.argmax(one["outside_mean"].to_numpy()))
        made.append(
            Claim(
                f"Eigenvalues of the {NAMES[str(cell)]}'s Jacobian outside that edge are no more "
                "than those of a Gaussian matrix of this width outside its circle, 1/√(2πN)",
                "theory",
                "fraction outside, mean over networks, at bias "
                f"{float(one['bias'][farthest]):g}, the worst",
                "at most",
                # The density of eigenvalues ends as erfc does, over a distance of order 1/√N.
                1 / np.sqrt(2 * np.pi * configuration["width"]),
                0,
                float(one["outside_mean"][farthest]),
                float(one["outside_error"][farthest]),
            )
        )
        steps = one["near_one_mean"].diff("bias").to_numpy()
        least = int(steps.argmin())
        errors = one["near_one_error"].to_numpy()
        made.append(
            Claim(
                f"Eigenvalues of the {NAMES[str(cell)]} gather near one as the {gate} bias grows",
                SOURCE,
                f"least increase, from one bias to the next, of the number within "
                f"{configuration['radius']:g} of one per unit",
                "at least",
                0,
                0,
                float(steps[least]),
                float(np.hypot(errors[least], errors[least + 1])),
            )
        )
    return made


def _cloud(axes, one, radius):
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.5", linewidth=0.7, linestyle="--", zorder=1)
    real, imaginary = one["eigenvalue"].isel(network=0).dropna("index").to_numpy()
    axes.plot(real, imaginary, ".", color=style.BLUE, markersize=1.6, zorder=2, rasterized=True)
    real, imaginary = one["edge"].isel(network=0).to_numpy()
    for sign in (1, -1):
        axes.plot(real, sign * imaginary, color=style.VERMILION, linewidth=1.2, zorder=3)
    axes.plot(
        float(one["mean_field_edge"]),
        0,
        "D",
        color=style.GREEN,
        markerfacecolor="none",
        markersize=5,
        zorder=4,
    )
    axes.plot(
        1 + radius * np.cos(angle), radius * np.sin(angle), color="0.2", linewidth=0.6, zorder=3
    )

"""Default initialisations: scale and orthogonality of each gate's kernel, and λ₁ with memory."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.claims import Claim, standard_error

# Okabe and Ito's colours, one for each library, and a marker for each width.
COLOURS = {"linen": "#0072B2", "nnx": "#56B4E9", "PyTorch": "#D55E00", "Keras": "#009E73"}
TITLES = {"linen": "Flax linen", "nnx": "Flax nnx"}
ORTHOGONAL = ("linen", "nnx", "Keras")  # those that ask for orthogonal recurrent kernels
FORGOTTEN = 5  # steps
MARKERS = "sov^D"
MEMORIES = (1, 1.25, 1.5, 2, 3, 5, 10)  # steps that the upper axis may show
GAP = 0.7  # between cells, in lines


def draw(dataset: xr.Dataset) -> Figure:
    """Draw three panels that share their rows: one row per cell, one line per gate in (a), (b)."""
    configuration = json.loads(dataset.attrs["configuration"])
    places, labels, height = _rows(dataset)
    figure, (scale, shape, rate) = plt.subplots(
        1,
        3,
        figsize=(7.2, 1.7 + 0.15 * height),
        sharey=True,
        layout="constrained",
        width_ratios=(1, 1, 1.6),
    )
    for scheme, lines in places.items():
        one = dataset.sel(scheme=scheme)
        colour = COLOURS[str(one["library"].values)]
        for axes, name in ((scale, "scaled_variance"), (shape, "nonorthogonality")):
            for gate, line in lines.items():
                of_gate = one[name].sel(gate=gate)
                spread = of_gate.std("network", ddof=1)
                _points(axes, of_gate.mean("network"), spread, line, 0.7, colour)
        low, high = one["exponent_interval"].transpose("end", "width").to_numpy()
        half = (high - low) / 2
        middle = np.mean(list(lines.values()))
        _points(rate, one["mean_exponent"], half, middle, 1.0, colour)
        rate.annotate(
            _memory(one.isel(width=-1)),
            (1.02, middle),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            annotation_clip=False,
        )
    rate.annotate(
        f"steps, N = {int(dataset['width'][-1])}",
        (1.02, 0),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=6,
        annotation_clip=False,
    )
    _finish(scale, shape, rate, labels, height)
    handles = [
        Line2D([], [], color="0.3", marker=marker, linestyle="", markersize=4)
        for marker in MARKERS[: dataset.sizes["width"]]
    ]
    figure.legend(
        handles,
        [f"width {width}" for width in dataset["width"].to_numpy()],
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=(
            "W: recurrent kernel of a gate, c = ‖W‖² / N. "
            f"{configuration['num_networks']} networks drawn afresh per point. "
            "Bars in (a), (b): standard deviation between\n"
            "networks; in (c): 95 % interval of the mean over networks; numbers beside it: memory "
            f"at width {int(dataset['width'][-1])}.\n"
            "Input: white, Gaussian, unit variance, as many channels as hidden units."
        ),
        title_fontsize=7,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Take the default with the longest memory, and each library's least orthogonal gate."""
    memory = dataset["memory"]
    # A memory that is not a number belongs to a network that grows: it forgets nothing.
    longest = memory.fillna(np.inf).argmax(...)
    interval = dataset["memory_interval"].isel(longest).to_numpy().tolist()
    made = [
        Claim(
            f"Every default initialisation of Flax, PyTorch and Keras forgets within {FORGOTTEN} "
            "steps",
            "predicted for weights of variance 1/N and less",
            f"longest memory −1/λ₁ ({dataset['scheme'].isel(scheme=longest['scheme']).item()}), "
            "steps",
            "at most",
            FORGOTTEN,
            0,
            float(memory.fillna(np.inf).isel(longest)),
            standard_error(*interval),
        )
    ]
    for library in ORTHOGONAL:
        gates = dataset["nonorthogonality"].sel(scheme=dataset["library"] == library)
        made.append(
            Claim(
                f"Recurrent kernels of {TITLES.get(library, library)} are orthogonal by default, "
                "gate by gate",
                "documentation of the library",
                "largest ‖WWᵀ − cI‖ / (c√N) of a gate, mean over networks",
                "at most",
                0.01,
                0,
                float(gates.mean("network").max()) if gates.size else np.nan,
            )
        )
    return made


def _rows(dataset):
    """Place cells from the top down: lines of their gates, and labels (place, text, weight)."""
    places, labels, line, last = {}, [], 0.0, ""
    for scheme in dataset["scheme"].to_numpy():
        one = dataset.sel(scheme=scheme)
        library = str(one["library"].values)
        if library != last:
            line += 0.6 if last else 0.0
            labels.append((line, TITLES.get(library, library), "bold"))
            line, last = line + 1.2, library
        present = one["scaled_variance"].notnull().any(("width", "network"))
        lines = {}
        for gate in dataset["gate"].to_numpy()[present.to_numpy()]:
            name = f"{one['cell'].values}  " if not lines else ""
            labels.append((line, f"{name}{gate}", "normal"))
            lines[gate] = line
            line += 1
        places[scheme] = lines
        line += GAP
    return places, labels, line


def _memory(one):
    """Write a memory; the row's label beside panel (c)."""
    value = float(one["memory"])
    if np.isnan(value):
        return "grows"
    low, high = one["memory_interval"].to_numpy()
    return "unbounded" if np.isinf(value) else f"{value:.2f} ± {(high - low) / 2:.2f}"


def _points(axes, values, halves, middle, extent, colour):
    """Draw one point for each width, from the top of a row's extent to its bottom."""
    num = values.sizes["width"]
    offsets = np.linspace(-0.5, 0.5, num) * extent if num > 1 else np.zeros(1)
    for value, half, offset, marker in zip(
        values.to_numpy(), np.asarray(halves), offsets, MARKERS, strict=False
    ):
        axes.errorbar(
            value,
            middle + offset,
            xerr=half,
            fmt=marker,
            color=colour,
            markersize=3,
            markeredgewidth=0,
            elinewidth=0.9,
        )


def _finish(scale, shape, rate, labels, height):
    """Label axes, and draw what theory says about them."""
    scale.set_yticks([place for place, _, _ in labels], [text for _, text, _ in labels], fontsize=7)
    for tick, (_, _, weight) in zip(scale.get_yticklabels(), labels, strict=True):
        tick.set_fontweight(weight)
    for axes in (scale, shape, rate):
        axes.tick_params(axis="y", length=0)
        for place, _, weight in labels:
            if weight == "bold":
                axes.axhspan(place - 0.55, place + 0.55, color="0.93", linewidth=0, zorder=0)
    scale.set_ylim(height, -0.8)
    scale.set(xlim=(0, 1.15), xlabel="N × variance of entries", title="(a) scale of each gate")
    scale.set_xticks([0, 1 / 4, 1 / 3, 1], ["0", "¼ ", " ⅓", "1"])
    scale.axvline(1, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    shape.set(xlim=(-0.08, 1.15), xlabel="‖WWᵀ − cI‖ / (c√N)", title="(b) not orthogonal")
    shape.set_xticks([0, 1], ["0\northogonal", "1\nrandom"])
    for x in (0, 1):
        shape.axvline(x, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    low, high = rate.get_xlim()
    rate.set_xlim(low, max(high, 0.05))
    rate.set(xlabel="λ₁ (nats per step)", title="(c) largest exponent and memory")
    rate.axvline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    memory = rate.secondary_xaxis("top")
    shown = [steps for steps in MEMORIES if low <= -1 / steps]
    memory.set_xticks(
        [*(-1 / steps for steps in shown), 0], [*(f"{steps:g}" for steps in shown), "∞"]
    )
    memory.set_xlabel("memory −1/λ₁ (steps)", fontsize=7)
    rate.grid(axis="x", color="0.9", linewidth=0.5)
    rate.set_axisbelow(True)

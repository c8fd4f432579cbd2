"""Default initialisations: scale and orthogonality of each gate's kernel, and λ₁ with memory."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import style
from paper_figures.claims import Claim, standard_error

TITLES = {"linen": "Flax linen", "nnx": "Flax nnx"}
ORTHOGONAL = ("linen", "nnx", "Keras")  # those that ask for orthogonal recurrent kernels
FUSED = ("nnx OptimizedLSTMCell", "nnx GRUCell", "Keras LSTM", "Keras GRU")  # one for all gates
FORGOTTEN = 5  # steps
MARKERS = "sov^D"  # of widths
MEMORIES = (1, 1.25, 1.5, 2, 3, 5, 10)  # steps that the upper axis may show
GAP = 0.7  # between cells, in lines
CAPTION = """\
W: recurrent kernel of a gate, c = ‖W‖² / N. {num_networks} networks drawn afresh per point. \
Bars in (a), (b): standard deviation between
networks; in (c): 95 % interval of the mean over networks; numbers beside it: memory at width \
{widest}.
Input: white, Gaussian, unit variance, as many channels as hidden units. Colours: kinds of cells."""


def draw(dataset: xr.Dataset) -> Figure:
    """Draw three panels that share their rows: one row per cell, one line per gate in (a), (b)."""
    places, labels, height = _rows(dataset)
    figure, (scale, shape, rate) = plt.subplots(
        1,
        3,
        figsize=(style.WIDTH, 1.7 + 0.15 * height),
        sharey=True,
        layout="constrained",
        width_ratios=(1, 1, 1.6),
    )
    for scheme, lines in places.items():
        one = dataset.sel(scheme=scheme)
        colour = _colour(str(scheme))
        for axes, name in ((scale, "scaled_variance"), (shape, "nonorthogonality")):
            for gate, line in lines.items():
                of_gate = one[name].sel(gate=gate)
                spread = of_gate.std("network", ddof=1)
                _points(axes, of_gate.mean("network"), spread, line, 0.7, colour)
        low, high = one["exponent_interval"].transpose("end", "width").to_numpy()
        middle = float(np.mean(list(lines.values())))
        _points(rate, one["mean_exponent"], (high - low) / 2, middle, 1.0, colour)
        _beside(rate, middle, _memory(one.isel(width=-1)))
    widest = int(dataset["width"][-1])
    _beside(rate, 0, f"steps, N = {widest}")
    _finish(scale, shape, rate, labels, height)
    handles = [
        Line2D(
            [], [], color="0.3", marker=marker, linestyle="", markersize=4, label=f"width {width}"
        )
        for marker, width in zip(MARKERS, dataset["width"].to_numpy(), strict=False)
    ]
    style.legend_below(figure, handles, style.caption(dataset, CAPTION, widest=widest))
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say how long defaults remember, and which recurrent kernels are orthogonal gate by gate."""
    memory = dataset["memory"]
    # A memory that is not a number belongs to a network that grows: it forgets nothing.
    longest = memory.fillna(np.inf).argmax(...)
    interval = dataset["memory_interval"].isel(longest).to_numpy().tolist()
    made = [
        Claim(
            f"every default initialisation of Flax, PyTorch and Keras forgets within {FORGOTTEN} "
            "steps",
            "this package",
            f"longest memory −1/λ₁ ({dataset['scheme'].isel(scheme=longest['scheme']).item()}), "
            "steps",
            "at most",
            FORGOTTEN,
            0,
            float(memory.fillna(np.inf).isel(longest)),
            standard_error(*interval),
            "finding",
        )
    ]
    off = dataset["nonorthogonality"]
    fused = dataset["scheme"].isin(FUSED)
    for library in ORTHOGONAL:
        gates = off.sel(scheme=(dataset["library"] == library) & ~fused)
        made.append(
            Claim(
                f"recurrent kernels of {TITLES.get(library, library)} that are drawn gate by gate "
                "are orthogonal",
                "documentation of the library",
                "largest ‖WWᵀ − cI‖ / (c√N) of a gate, mean over networks",
                "at most",
                0.01,
                0,
                float(gates.mean("network").max()) if gates.size else np.nan,
            )
        )
    blocks = off.sel(scheme=fused)
    # A block of a random orthogonal matrix, by free compression.
    num_gates = blocks.notnull().any(("width", "network")).sum("gate")
    apart = (blocks - np.sqrt(1 - 1 / num_gates)).stack(point=("scheme", "width", "gate"))
    mean, error = apart.mean("network"), apart.std("network", ddof=1) / off.sizes["network"] ** 0.5
    worst = int(abs(mean).argmax("point")) if mean.notnull().any() else None
    made.append(
        Claim(
            "where one orthogonal kernel is drawn for G gates (nnx, Keras), that of a gate is not "
            "orthogonal, but √(1 − 1/G) off",
            "this package",
            "‖WWᵀ − cI‖ / (c√N) minus √(1 − 1/G), of the gate and width where it is largest",
            "within",
            0,
            0.05,
            np.nan if worst is None else float(mean[worst]),
            np.nan if worst is None else float(error[worst]),
            "finding",
        )
    )
    for scheme, statement in (
        ("nnx OptimizedLSTMCell", "so nnx's fused LSTM forgets faster than linen's"),
        ("nnx GRUCell", "so nnx's GRU forgets faster than linen's"),
        ("Keras LSTM", "Keras's LSTM, fused too but with a forget bias of 1, forgets more slowly"),
    ):
        other = "linen GRUCell" if "GRU" in scheme else "linen OptimizedLSTMCell"
        slower = scheme == "Keras LSTM"
        made.append(_comparison(dataset, scheme, other, statement, slower=slower))
    return made


def _comparison(dataset, scheme, other, statement, *, slower):
    """Claim that λ₁ of two schemes differs by a tenth of what a step takes, 0.05 nats."""
    measured = error = np.nan
    if {scheme, other} <= set(dataset["scheme"].to_numpy()):
        one, two = (dataset.isel(width=-1).sel(scheme=name) for name in (scheme, other))
        measured = float(one["mean_exponent"] - two["mean_exponent"])
        error = float(np.hypot(one["error_over_networks"], two["error_over_networks"]))
    return Claim(
        statement,
        "this package",
        f"λ₁ minus that of {other}, at the largest width, nats per step",
        "at least" if slower else "at most",
        0.05 if slower else -0.05,
        0,
        measured,
        error,
        "finding",
    )


def _colour(scheme):
    """Return the colour of a kind of cell, whatever its library calls it."""
    for part, cell in {"LSTM": "LSTMCell", "GRU": "GRUCell", "RNN": "SimpleCell"}.items():
        if part in scheme:
            return style.CELLS[cell].colour
    return style.CELLS["SimpleCell"].colour if "Simple" in scheme else style.GREY


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


def _beside(axes, place, text):
    axes.annotate(
        text,
        (1.02, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=7,
        annotation_clip=False,
    )


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
    shape.set(xlim=(-0.08, 1.15), xlabel="‖WWᵀ − cI‖ / (c√N)", title="(b) not orthogonal")
    shape.set_xticks([0, 1], ["0\northogonal", "1\nrandom"])
    low, high = rate.get_xlim()
    rate.set_xlim(low, max(high, 0.05))
    rate.set(xlabel="λ₁ (nats per step)", title="(c) largest exponent and memory")
    for axes, x in ((scale, 1), (shape, 0), (shape, 1), (rate, 0)):
        axes.axvline(x, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    memory = rate.secondary_xaxis("top")
    shown = [steps for steps in MEMORIES if low <= -1 / steps]
    memory.set_xticks(
        [*(-1 / steps for steps in shown), 0], [*(f"{steps:g}" for steps in shown), "∞"]
    )
    memory.set_xlabel("memory −1/λ₁ (steps)", fontsize=7)
    rate.grid(axis="x", color="0.9", linewidth=0.5)
    rate.set_axisbelow(True)

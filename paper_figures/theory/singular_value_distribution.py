"""Singular values of deep networks' Jacobians, and how their variance grows with depth."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.theory.singular_value_distribution import ENSEMBLES, ORDERS
from paper_figures.claims import Claim
from paper_figures.style import COLOURS, LINES, MARKERS, WIDTH

SOURCE = "Pennington, Schoenholz and Ganguli (2017)"
NUM_DEPTHS = 3  # whose densities are drawn
RANGE = (-4.0625, 1.5625)  # of log₁₀ σ; zero is the centre of a bin
NUM_BINS = 45


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the density of log σ for each ensemble, and below the variance of σ² against depth."""
    configuration = json.loads(dataset.attrs["configuration"])
    names = dataset["ensemble"].to_numpy()
    figure = plt.figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.15))[:, 0]
    row = upper.subplots(1, len(names), sharey=True, squeeze=False)[0]
    depths = dataset["depth"].to_numpy()
    shown = depths[np.unique(np.linspace(0, len(depths) - 1, NUM_DEPTHS).round().astype(int))]
    for axes, name in zip(row, names, strict=True):
        _densities(axes, dataset.sel(ensemble=name), shown)
        axes.set_title(_title(str(name)), fontsize=6.5)
    row[0].set_ylabel("density of log₁₀ σ")
    upper.supxlabel("log₁₀ of a singular value σ of the Jacobian of L layers", fontsize=8)
    variance, moments = lower.subplots(1, 2)
    _variances(variance, dataset)
    _moments(moments, dataset)
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.2)
        for _, colour, line in zip(shown, COLOURS, LINES, strict=False)
    ]
    labels = [f"L = {depth}" for depth in shown]
    if "linear_gaussian" in names:
        handles.append(Line2D([], [], color="0.35", linewidth=0.8))
        labels.append("infinite width (Fuss–Catalan)")
    upper.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
    num_networks = dataset.sizes["network"]
    lower.legend(
        *variance.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=7,
        columnspacing=1.2,
        title=(
            f"{num_networks} networks of width {configuration['width']} per ensemble; bars: "
            "standard error over networks. Lines: theory at infinite width; dotted, for linear "
            f"Gaussian\nlayers: exact at width {configuration['width']}. Variance: of σ², over its "
            "squared mean. Values of σ below 10⁻⁴ are not drawn. Linear orthogonal\n"
            "layers have σ = 1 and no variance."
        ),
        title_fontsize=6.5,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the moments of linear Gaussian layers, and the growth of the variance of σ²."""
    configuration = json.loads(dataset.attrs["configuration"])
    made = []
    shallow = dataset["depth"] <= configuration["moment_depth"]
    for theory, words, source in (
        ("fuss_catalan", "are Fuss-Catalan numbers", "Penson and Życzkowski (2011)"),
        ("gaussian_moment", f"are exact at width {configuration['width']}", "James (1964)"),
    ):
        measured = np.nan
        if "linear_gaussian" in dataset["ensemble"]:
            one = dataset.sel(ensemble="linear_gaussian").sel(depth=shallow)
            apart = abs(one["moment_mean"] - one[theory]) / one["moment_error"]
            measured = float(apart.max())
        made.append(
            Claim(
                f"Moments 1 to {ORDERS[-1]} of σ² of up to {configuration['moment_depth']} linear "
                f"Gaussian layers {words}",
                source,
                "largest |measured − theory|, in standard errors over networks",
                "at most",
                4,
                0,
                measured,
            )
        )
    for name in ("tanh_gaussian", "tanh_orthogonal", "tanh_orthogonal_small"):
        if name not in dataset["ensemble"]:
            continue
        one = dataset.sel(ensemble=name)
        expected = float(one["slope_theory"])
        made.append(
            Claim(
                f"The variance of σ² grows by {expected:.4f} per layer: {_words(name)}",
                SOURCE,
                "normalised variance per layer, least squares through the origin over L ≤ "
                f"{configuration['slope_depth']}",
                "within",
                expected,
                0.05 * expected,
                float(one["slope"]),
                float(one["slope_error"]),
            )
        )
    if "linear_orthogonal" in dataset["ensemble"]:
        values = dataset["log_singular_value"].sel(ensemble="linear_orthogonal")
        made.append(
            Claim(
                "Linear orthogonal layers have singular values of one at every depth",
                SOURCE,
                "largest |log σ|, nats",
                "at most",
                0,
                1e-10,
                float(abs(values).max()),
            )
        )
    return made


def fuss_catalan_density(depth: int, num_points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return log₁₀ σ and its density for `depth` linear Gaussian layers at infinite width.

    In parametric form: U. Haagerup and S. Möller, "The law of large numbers for the free
    multiplicative convolution" (2013); T. Neuschel, "Plancherel–Rotach formulae for average
    characteristic polynomials of products of Ginibre random matrices" (2014).
    """
    s = depth
    angle = np.linspace(0, np.pi / (s + 1), num_points + 2)[1:-1]
    square = np.sin((s + 1) * angle) ** (s + 1) / (np.sin(angle) * np.sin(s * angle) ** s)
    density = (
        np.sin(angle) ** 2 * np.sin(s * angle) ** (s - 1) / (np.pi * np.sin((s + 1) * angle) ** s)
    )
    # d(σ²) = 2 ln 10 σ² d(log₁₀ σ)
    return np.log10(square) / 2, 2 * np.log(10) * square * density


def _densities(axes, one, shown):
    centres = np.linspace(*RANGE, NUM_BINS + 1)
    for depth, colour, line in zip(shown, COLOURS, LINES, strict=False):
        values = (one["log_singular_value"].sel(depth=depth) / np.log(10)).to_numpy().ravel()
        # Over all values, those out of range included.
        counts, _ = np.histogram(values, centres)
        density = counts / (values.size * np.diff(centres))
        axes.stairs(density, centres, color=colour, linestyle=line, linewidth=1.2, zorder=3)
        if str(one["ensemble"].values) == "linear_gaussian":
            axes.plot(*fuss_catalan_density(int(depth)), color="0.35", linewidth=0.8, zorder=4)
    axes.set(xlim=(-4, 1.5), yscale="log", ylim=(0.01, 20))
    axes.set_xticks([-4, -2, 0])


def _variances(axes, dataset):
    depths = dataset["depth"].to_numpy()
    for number, name in enumerate(dataset["ensemble"].to_numpy()):
        one = dataset.sel(ensemble=name)
        if not (one["variance_theory"] > 0).all():
            continue
        colour, marker = COLOURS[number], MARKERS[number]
        axes.plot(depths, one["variance_theory"], color=colour, linewidth=1, zorder=1)
        axes.errorbar(
            depths,
            one["variance_mean"],
            yerr=one["variance_error"],
            fmt=marker,
            color=colour,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            elinewidth=0.8,
            label=_words(str(name)),
            zorder=2,
        )
    axes.set(xscale="log", yscale="log", xlabel="layers L", ylabel="normalised variance of σ²")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()


def _moments(axes, dataset):
    if "linear_gaussian" not in dataset["ensemble"]:
        axes.set_axis_off()
        return
    depths = dataset["depth"].to_numpy()
    one = dataset.sel(ensemble="linear_gaussian")
    for order, colour, marker in zip(ORDERS, COLOURS, MARKERS, strict=False):
        at = one.sel(order=order)
        axes.plot(depths, at["fuss_catalan"], color=colour, linewidth=1, zorder=1)
        axes.plot(depths, at["gaussian_moment"], color=colour, linewidth=1, linestyle=":", zorder=1)
        axes.errorbar(
            depths,
            at["moment_mean"],
            yerr=at["moment_error"],
            fmt=marker,
            color=colour,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            elinewidth=0.8,
            zorder=2,
        )
        axes.annotate(
            "⟨σ²⟩" if order == 1 else f"⟨σ{'⁴⁶'[order - 2]}⟩",
            (depths[-2], float(at["moment_mean"][-2])),
            textcoords="offset points",
            xytext=(-4, 6),
            ha="right",
            color=colour,
            fontsize=7,
        )
    axes.set(xscale="log", yscale="log", xlabel="layers L", ylabel="mean power (linear, Gaussian)")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()


def _words(name):
    ensemble = ENSEMBLES[name]
    kind = "Gaussian" if ensemble.kernel == "gaussian" else "orthogonal"
    scale = "" if ensemble.activation == "linear" else f", σ_w = {ensemble.weight_std:.4g}"
    return f"{ensemble.activation}, {kind}{scale}"


def _title(name):
    ensemble = ENSEMBLES[name]
    kind = "Gaussian" if ensemble.kernel == "gaussian" else "orthogonal"
    scale = (
        ""
        if ensemble.activation == "linear"
        else f"\nσ_w = {ensemble.weight_std:.4g}, σ_b² = {_plain(ensemble.bias_variance)}"
    )
    return f"{ensemble.activation}, {kind}{scale}"


def _plain(number):
    """Write 2e-05 as 2·10⁻⁵."""
    mantissa, _, exponent = f"{number:g}".partition("e-")
    if not exponent:
        return mantissa
    return (
        f"{mantissa}·10⁻{exponent.lstrip('0').translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )

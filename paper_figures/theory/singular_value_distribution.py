"""Singular values of deep networks' Jacobians, and how their variance grows with depth."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.theory.singular_value_distribution import ENSEMBLES, ORDERS
from paper_figures import style
from paper_figures.claims import Claim
from paper_figures.style import COLOURS, LINES, MARKERS

SOURCE = "Pennington, Schoenholz and Ganguli (2017)"
NUM_DEPTHS = 3  # whose densities are drawn
RANGE = (-4.0625, 1.5625)  # of log₁₀ σ; zero is the centre of a bin
NUM_BINS = 45
POWERS = ("⟨σ²⟩", "⟨σ⁴⟩", "⟨σ⁶⟩")
# Relative. Moments at infinite width are for networks of a width, which has its own.
MOMENTS = {
    "fuss_catalan": ("are Fuss-Catalan numbers", "Penson and Życzkowski (2011)", 0.1),
    "gaussian_moment": ("are those that are exact at width {width}", "James (1964)", 0.05),
}
SLOPE_TOLERANCE = 0.05  # relative
CAPTION = (
    "{num_networks} networks of width {width} per ensemble; bars: standard error over networks. "
    "Lines: theory at infinite width; dotted, for linear Gaussian\nlayers: exact at width {width}. "
    "Variance: of σ², over its squared mean. Values of σ below 10⁻⁴ are not drawn. Linear "
    "orthogonal\nlayers have σ = 1 and no variance."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the density of log σ for each ensemble, and below the variance of σ² against depth."""
    names = dataset["ensemble"].to_numpy()
    figure = plt.figure(figsize=(style.WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.15))[:, 0]
    row = upper.subplots(1, len(names), sharey=True, squeeze=False)[0]
    depths = dataset["depth"].to_numpy()
    shown = depths[np.unique(np.linspace(0, len(depths) - 1, NUM_DEPTHS).round().astype(int))]
    for axes, name in zip(row, names, strict=True):
        _densities(axes, dataset.sel(ensemble=name), shown)
        axes.set_title(_subscripts(_title(str(name))), fontsize=6.5)
    row[0].set_ylabel("density of log₁₀ σ")
    upper.supxlabel("log₁₀ of a singular value σ of the Jacobian of L layers", fontsize=8)
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.2, label=f"L = {depth}")
        for depth, colour, line in zip(shown, COLOURS, LINES, strict=False)
    ]
    if "linear_gaussian" in names:
        label = "infinite width (Fuss–Catalan)"
        handles.append(Line2D([], [], color="0.35", linewidth=0.8, label=label))
    upper.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    variance, moments = lower.subplots(1, 2)
    _variances(variance, dataset)
    _moments(moments, dataset)
    for axes in (variance, moments):
        axes.set(xscale="log", yscale="log", xlabel="layers L")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
    handles, _ = variance.get_legend_handles_labels()
    style.legend_below(lower, handles, style.caption(dataset, CAPTION), num_columns=2)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the moments of linear Gaussian layers, and the growth of the variance of σ²."""
    configuration = style.configuration(dataset)
    made = [_of_moments(dataset, theory) for theory in MOMENTS]
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
                SLOPE_TOLERANCE * expected,
                float(one["slope_mean"]),
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


def _of_moments(dataset, theory):
    """Compare the moments of linear Gaussian layers with one theory, where it is worst."""
    configuration = style.configuration(dataset)
    words, source, tolerance = MOMENTS[theory]
    statement = (
        f"Moments 1 to {ORDERS[-1]} of σ² of up to {configuration['moment_depth']} linear Gaussian "
        f"layers {words.format(**configuration)}"
    )
    if "linear_gaussian" not in dataset["ensemble"]:
        quantity = "measured / theory"
        return Claim(statement, source, quantity, "within", 1, tolerance, np.nan)
    shallow = dataset["depth"] <= configuration["moment_depth"]
    one = dataset.sel(ensemble="linear_gaussian", depth=shallow)
    ratio = one["moment_mean"] / one[theory]
    worst = abs(ratio - 1).argmax(...)
    order, depth = (int(ratio.isel(worst)[name]) for name in ("order", "depth"))
    return Claim(
        statement,
        source,
        f"measured / theory, mean over networks, at the worst: {POWERS[order - 1]} of {depth} "
        "layers",
        "within",
        1,
        tolerance,
        float(ratio.isel(worst)),
        float((one["moment_error"] / one[theory]).isel(worst)),
    )


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
    edges = np.linspace(*RANGE, NUM_BINS + 1)
    for depth, colour, line in zip(shown, COLOURS, LINES, strict=False):
        values = (one["log_singular_value"].sel(depth=depth) / np.log(10)).to_numpy().ravel()
        # Over all values, those out of range included.
        counts, _ = np.histogram(values, edges)
        density = counts / (values.size * np.diff(edges))
        axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.2, zorder=3)
        if str(one["ensemble"].values) == "linear_gaussian":
            axes.plot(*fuss_catalan_density(int(depth)), color="0.35", linewidth=0.8, zorder=4)
    axes.set(xlim=(-4, 1.5), yscale="log", ylim=(0.01, 20))
    axes.set_xticks([-4, -2, 0])


def _variances(axes, dataset):
    for name, colour, marker in zip(dataset["ensemble"].to_numpy(), COLOURS, MARKERS, strict=False):
        one = dataset.sel(ensemble=name)
        if not (one["variance_theory"] > 0).all():
            continue
        axes.plot(dataset["depth"], one["variance_theory"], color=colour, linewidth=1, zorder=1)
        _points(axes, one, "variance", colour, marker, label=_subscripts(_words(str(name))))
    axes.set_ylabel("normalised variance of σ²")


def _moments(axes, dataset):
    axes.set_ylabel("mean power (linear, Gaussian)")
    if "linear_gaussian" not in dataset["ensemble"]:
        return
    depths = dataset["depth"].to_numpy()
    for order, power, colour, marker in zip(ORDERS, POWERS, COLOURS, MARKERS, strict=False):
        one = dataset.sel(ensemble="linear_gaussian", order=order)
        for theory, line in (("fuss_catalan", "-"), ("gaussian_moment", ":")):
            axes.plot(depths, one[theory], color=colour, linewidth=1, linestyle=line, zorder=1)
        _points(axes, one, "moment", colour, marker)
        axes.annotate(
            power,
            (depths[-2], float(one["moment_mean"][-2])),
            textcoords="offset points",
            xytext=(-4, 6),
            ha="right",
            color=colour,
            fontsize=7,
        )


def _points(axes, one, quantity, colour, marker, label=None):
    axes.errorbar(
        one["depth"],
        one[f"{quantity}_mean"],
        yerr=one[f"{quantity}_error"],
        fmt=marker,
        color=colour,
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.4,
        elinewidth=0.8,
        label=label,
        zorder=2,
    )


def _words(name):
    ensemble = ENSEMBLES[name]
    scale = "" if ensemble.activation == "linear" else f", σ_w = {ensemble.weight_std:.4g}"
    return f"{ensemble.activation}, {_kernel(ensemble)}{scale}"


def _title(name):
    ensemble = ENSEMBLES[name]
    bias = f"{ensemble.bias_variance:g}".replace("e-05", "·10⁻⁵")
    scale = f"\nσ_w = {ensemble.weight_std:.4g}, σ_b² = {bias}"
    linear = ensemble.activation == "linear"
    return f"{ensemble.activation}, {_kernel(ensemble)}{'' if linear else scale}"


def _subscripts(text):
    return text.replace("σ_w", r"$\sigma_w$").replace("σ_b²", r"$\sigma_b^2$")


def _kernel(ensemble):
    return "Gaussian" if ensemble.kernel == "gaussian" else "orthogonal"

"""Spectra of Gaussian matrix products against exact exponents, variances and bias."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from scipy.special import polygamma

from paper_figures import style
from paper_figures.claims import Claim

LARGEST_SCORE = 4.0  # that is drawn
# Nats per step: neighbours of N = 4 are tenths apart.
EXPONENT_TOLERANCE = 0.03
VARIANCE_TOLERANCE = 0.05
# An error bar that is a tenth or so too short or too long misleads nobody.
OWN_TOLERANCE = 0.15
PAIR_TOLERANCE = 1e-9
# Nats: the bias itself is up to 1.
BIAS_TOLERANCE = 0.1
NUM_POINTS = 16  # of each spectrum that are drawn
SOURCES = {"real": "Newman 1986", "complex": "Akemann, Burda and Kieburg 2014"}
# In units of degrees of freedom: χ² of the last direction has one, or two.
FREEDOM = {"real": 1, "complex": 2}
LINES: dict[str, Any] = {"real": "-", "complex": "--"}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw exponents, their distance from theory, variances, and the bias of singular values."""
    configuration = style.configuration(dataset)
    figure, grid = plt.subplots(2, 2, figsize=(style.WIDTH, 5.6), layout="constrained")
    spectra, scores, variances, bias = grid.ravel()
    widths = [int(width) for width in dataset["width"].to_numpy()]
    for ensemble in dataset["ensemble"].to_numpy():
        for width, colour, marker in zip(widths, style.COLOURS, style.MARKERS, strict=False):
            one = dataset.sel(ensemble=ensemble, width=width, index=slice(1, width))
            shown = np.unique(np.linspace(0, width - 1, NUM_POINTS).round().astype(int))
            points = {
                "fmt": marker,
                "color": colour,
                "markerfacecolor": colour if ensemble == "real" else "white",
                "markersize": 3.8,
                "markeredgewidth": 0.8,
                "elinewidth": 0.8,
                "zorder": 3,
            }
            place = (one["index"] - 0.5) / width
            spectra.plot(
                place, one["exact"], color=colour, linestyle=LINES[str(ensemble)], linewidth=0.9
            )
            few = one.isel(index=shown)
            spectra.errorbar(
                place.isel(index=shown), few["exponents"], yerr=few["exact_error"], **points
            )
            scores.plot(
                place,
                one["score"],
                color=colour,
                marker=marker,
                markerfacecolor=points["markerfacecolor"],
                linestyle="",
                markersize=3.2,
                markeredgewidth=0.7,
            )
            freedom = FREEDOM[str(ensemble)] * (width - few["index"] + 1)
            error = np.sqrt(2 / one["degrees_of_freedom"])
            variances.errorbar(freedom, few["variance"], yerr=error * few["variance"], **points)
    _frame_scores(scores)
    fine = np.geomspace(1, max(FREEDOM.values()) * max(widths), 200)
    # χ² with m degrees of freedom: Var ½ log χ²_m = ψ'(m/2)/4, real or complex.
    variances.plot(fine, polygamma(1, fine / 2) / 4, color="0.3", linewidth=0.9, zorder=1)
    variances.set(xscale="log", yscale="log", title="variance of finite-time exponents")
    variances.xaxis.set_minor_formatter(NullFormatter())
    variances.set_xlabel("degrees of freedom of χ², N − i + 1 (complex: twice)")
    variances.set_ylabel("T Var λ (nats² per step)")
    spectra.set(xlabel="(i − ½)/N", ylabel="exponent λᵢ (nats per step)", title="Lyapunov spectrum")
    _bias(bias, dataset)
    handles, labels = _legend(dataset, widths)
    block = sorted({int(value) for value in dataset["block"].to_numpy().ravel()})
    total = sorted({int(value) for value in dataset["num_factors"].to_numpy().ravel()})
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        columnspacing=1.2,
        title=(
            f"Points: {total[0]:,} factors for each N and kind. Lines: exact. Top right: error in "
            "exact standard errors. Bottom left: over blocks of "
            f"{block[0]} factors; bars: standard\nerror of a variance. Bottom right: log singular "
            f"values of P_T minus the growth found by QR, mean over "
            f"{configuration['num_bias_chains']:,} real products, bars: standard\nerror; "
            "lines: limit ½ [ψ((N − i + 1)/2) − ψ(i/2)]. Exponents by QR have no bias at any T."
        ),
        title_fontsize=6.5,
    )
    return figure


def _frame_scores(axes):
    axes.axhspan(-LARGEST_SCORE, LARGEST_SCORE, color="0.93", zorder=0)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set(
        ylim=(-1.25 * LARGEST_SCORE, 1.25 * LARGEST_SCORE),
        xlabel="(i − ½)/N",
        ylabel="error of λᵢ (exact standard errors)",
        title=f"measured − exact; grey: ±{LARGEST_SCORE:g}",
    )


def _bias(axes, dataset):
    """Draw T times the bias of singular values as estimates of exponents."""
    width = dataset.sizes["bias_index"]
    for index, colour, marker in zip(
        dataset["bias_index"].to_numpy(), style.COLOURS[::-1], style.MARKERS[::-1], strict=False
    ):
        one = dataset.sel(bias_index=index)
        axes.axhline(float(one["bias_limit"]), color=colour, linewidth=0.9, linestyle=":")
        axes.errorbar(
            one["length"],
            one["bias"],
            yerr=one["bias_error"],
            fmt=marker,
            color=colour,
            markersize=3.8,
            elinewidth=0.8,
            zorder=3,
        )
        axes.annotate(
            f"i = {index}",
            (1.01, float(one["bias_limit"])),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=colour,
        )
    axes.set(
        xscale="log",
        xlabel="number of factors T",
        ylabel="T × bias (nats)",
        title=f"bias of log σᵢ(P_T)/T, N = {width}",
    )


def _legend(dataset, widths):
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4)
        for _, colour, marker in zip(widths, style.COLOURS, style.MARKERS, strict=False)
    ]
    labels = [f"N = {width}" for width in widths]
    for ensemble in dataset["ensemble"].to_numpy():
        face = "0.3" if ensemble == "real" else "white"
        handles.append(
            Line2D(
                [],
                [],
                color="0.3",
                marker="o",
                markerfacecolor=face,
                linestyle=LINES[str(ensemble)],
                linewidth=1,
                markersize=4,
            )
        )
        labels.append(str(ensemble))
    return handles, labels


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check exponents, variances, the library's own errors, and the bias of singular values."""
    found = []
    for ensemble in dataset["ensemble"].to_numpy():
        one, source = dataset.sel(ensemble=ensemble), SOURCES[str(ensemble)]
        widths = ", ".join(str(width) for width in dataset["width"].to_numpy())
        apart = abs(one["exponents"] - one["exact"])
        worst = one.isel(apart.argmax(...))
        ratio = one["variance"] / one["exact_variance"]
        degrees = ratio.notnull() * one["degrees_of_freedom"]
        freedom = float(degrees.sum())
        own = np.sqrt(one["own_variance"] / one["exact_variance"])
        found += [
            Claim(
                f"Every exponent of {ensemble} products has its exact value: N = {widths}.",
                source,
                f"largest |measured − exact| of {int(apart.notnull().sum())}, nats per step",
                "at most",
                0.0,
                EXPONENT_TOLERANCE,
                float(apart.max()),
                float(worst["exact_error"]),
            ),
            Claim(
                f"Finite-time exponents of {ensemble} products have the exact variance.",
                source,
                f"measured / exact variance, pooled over {int(ratio.notnull().sum())} exponents",
                "within",
                1.0,
                VARIANCE_TOLERANCE,
                float((ratio * degrees).sum()) / freedom,
                np.sqrt(2 / freedom),
            ),
            Claim(
                f"The library's own standard errors are right for {ensemble} products.",
                "this library",
                "reported over time / exact, root mean square over chains, mean over exponents",
                "within",
                1.0,
                OWN_TOLERANCE,
                float(own.mean()),
                np.sqrt(0.5 / freedom),
                kind="aim",
            ),
        ]
    if "complex" in dataset["ensemble"]:
        found.append(
            Claim(
                "Held as pairs of reals, a complex product has each of its exponents twice.",
                "theory",
                "largest difference within a pair in any block, nats per step",
                "at most",
                0.0,
                PAIR_TOLERANCE,
                float(dataset["pair_mismatch"].sel(ensemble="complex").max()),
            )
        )
    longest = dataset.isel(length=-1)
    off = abs(longest["bias"] - longest["bias_limit"])
    return [
        *found,
        Claim(
            "Log singular values over T are biased by ½ [ψ((N − i + 1)/2) − ψ(i/2)] / T.",
            "theory",
            f"largest distance of T × bias from it at T = {int(longest['length'])}, nats",
            "at most",
            0.0,
            BIAS_TOLERANCE,
            float(off.max(skipna=False)),
            float(longest["bias_error"].isel(off.argmax(...))),
        ),
    ]

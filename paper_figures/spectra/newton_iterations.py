"""Iterations of a parallel-in-time Newton solve against λ₁, and those of other linearisations."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from experiments.spectra.newton_iterations import FEW, MARGIN
from paper_figures import style
from paper_figures.claims import Claim

SOURCE = "Gonzalez, Kozachkov, Zoltowski, Clarkson and Linderman (2025)"
FRAMEWORK = "Gonzalez, Buchanan, Lee et al. (2025)"
SCHEMES = {
    "newton": "J: Newton (DEER)",
    "diagonal": "its diagonal (quasi-DEER)",
    "damped": "J, damped (ELK)",
    "picard": "I: Picard",
    "jacobi": "0: Jacobi",
}
SHARE_OF_STEPS = 0.7  # of T, which iterations stay below where they are not cut off by T
CAPTION = (
    "{num_networks} tanh networks of {width} units, each at {num_gains} gains from {gains[0]:g} to "
    "{gains[1]:g}, under a weak sine; guesses are random. Solved when every step's\nresidual is "
    "below {tolerance:.0e}; hollow: not solved after T iterations ({failed} of {solves}). Grey: "
    "|λ₁| at most {margin:g}, where no claim is made. λ₁ is\nmeasured over {num_steps:,} steps. "
    "Below: what stands in the place of the step's Jacobian J, at T = {shortest}; a point for each "
    "gain, mean over networks with 95 %\ninterval; hollow: not solved in all of them."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw iterations against λ₁, and as a fraction of T; hollow where T did not suffice."""
    panels: list[Any] = [["left", "right"], ["schemes", "schemes"]]
    figure, axes_of = plt.subplot_mosaic(panels, figsize=(style.WIDTH, 6.2), layout="constrained")
    left, right = axes_of["left"], axes_of["right"]
    _schemes(axes_of["schemes"], dataset)
    exponent = dataset["exponent"].to_numpy()
    handles = []
    for length, colour, marker in zip(
        dataset["length"].to_numpy(), style.COLOURS, style.MARKERS, strict=False
    ):
        one = dataset.sel(length=length)
        done = one["converged"].to_numpy().astype(bool)
        looks = (
            (done, {"markerfacecolor": colour, "markeredgecolor": "white", "markeredgewidth": 0.4}),
            (~done, {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 0.8}),
        )
        for axes, quantity in ((left, "iterations"), (right, "fraction")):
            values = one[quantity].to_numpy()
            for chosen, look in looks:
                axes.plot(
                    exponent[chosen], values[chosen], marker, markersize=3.2, zorder=3, **look
                )
        _level(left, length, f"T = {length}", colour, "--")
        label = f"T = {length} steps"
        points: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 4,
            "linestyle": "",
        }
        handles.append(Line2D([], [], label=label, **points))
    _level(left, FEW, f"{FEW} iterations", "0.3", ":")
    left.set(yscale="log", ylabel="Newton iterations")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_ylim(1, 1.6 * float(dataset["length"].max()))
    right.set(ylim=(-0.03, 1.05), ylabel="Newton iterations / T")
    for axes in (left, right):
        axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.axvspan(-MARGIN, MARGIN, color="0.93", zorder=0, linewidth=0)
        axes.set_xlabel("largest Lyapunov exponent λ₁ (nats per step)")
    converged = dataset["converged"].astype(bool)
    counts = {"failed": int((~converged).sum()), "solves": converged.size}
    counts |= {"shortest": int(dataset["length"][0])}
    style.legend_below(figure, handles, style.caption(dataset, CAPTION, margin=MARGIN, **counts))
    return figure


def _schemes(axes, dataset):
    """Draw the iterations of all linearisations against λ₁, one point for each gain."""
    length = int(dataset["length"][0])
    place = dataset["exponent"].mean("network")
    looks = zip(SCHEMES.items(), style.COLOURS, style.MARKERS, strict=False)
    for (scheme, words), colour, marker in looks:
        counts = dataset["scheme_iterations"].sel(scheme=scheme)
        error = 1.959964 * counts.std("network", ddof=1) / np.sqrt(counts.sizes["network"])
        mean = counts.mean("network")
        axes.errorbar(
            place, mean, yerr=error, color=colour, linewidth=0.8, elinewidth=0.8, zorder=2
        )
        solved = dataset["scheme_converged"].sel(scheme=scheme).astype(bool).all("network")
        for chosen, face in ((solved, colour), (~solved, "white")):
            axes.plot(
                place[chosen],
                mean[chosen],
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=4,
                zorder=3,
            )
        axes.plot([], [], marker + "-", color=colour, markersize=4, linewidth=0.8, label=words)
    _level(axes, length, f"T = {length}", "0.3", "--")
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.axvspan(-MARGIN, MARGIN, color="0.93", zorder=0, linewidth=0)
    axes.set(yscale="log", ylim=(1, 1.6 * length), ylabel="iterations")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("largest Lyapunov exponent λ₁ (nats per step), mean over networks")
    axes.legend(loc="lower right", frameon=False, fontsize=7)


def _level(axes, height, label, colour, line):
    axes.axhline(height, color=colour, linewidth=0.9, linestyle=line, zorder=1)
    axes.annotate(
        label,
        (0.01, height),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(0, 2),
        color=colour,
        fontsize=7,
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check how many iterations stable and chaotic networks need, and where the number rises."""
    longest = dataset.isel(length=-1)
    length = int(longest["length"])
    stable = longest["iterations"].where(dataset["exponent"] < -MARGIN)
    chaotic = longest["fraction"].where(dataset["exponent"] > MARGIN)
    few, few_error = _mean(longest["rise"].sel(level="few"))
    half, half_error = _mean(longest["rise"].sel(level="half"))
    fraction, fraction_error = _mean(chaotic.mean("gain"))
    typical, typical_error = _mean(stable.median("gain"))
    made = [
        Claim(
            f"Clearly stable networks (λ₁ < −{MARGIN:g}) typically need few iterations",
            SOURCE,
            f"median over gains, mean over networks, at T = {length}",
            "at most",
            FEW,
            0,
            typical,
            typical_error,
        ),
        Claim(
            f"Some clearly stable networks need more than {FEW} iterations all the same",
            "this package",
            f"largest number of iterations at T = {length}",
            "at least",
            FEW,
            0,
            float(stable.max()),
            kind="finding",
        ),
        Claim(
            f"Clearly chaotic networks (λ₁ > {MARGIN:g}) need about T iterations",
            SOURCE,
            f"iterations / T, mean over networks, at T = {length}",
            "within",
            1,
            0.25,
            fraction,
            fraction_error,
            reason=_of_chaos(chaotic, dataset["exponent"]),
        ),
        Claim(
            f"Iterations begin to rise, above {FEW}, before λ₁ is positive",
            SOURCE,
            f"λ₁ at {FEW} iterations, T = {length}, nats per step",
            "at most",
            0,
            0,
            few,
            few_error,
        ),
        Claim(
            "Iterations reach T/2 only after λ₁ is positive",
            SOURCE,
            f"λ₁ at T/2 iterations, T = {length}, nats per step",
            "at least",
            0,
            0,
            half,
            half_error,
        ),
    ]
    if dataset.sizes["length"] > 1:
        shortest = dataset.isel(length=0)
        longer = length / int(shortest["length"])
        growth = (longest["iterations"] / shortest["iterations"]).where(
            dataset["exponent"] > MARGIN
        )
        measured, error = _mean(growth.mean("gain"))
        made.append(
            Claim(
                f"In clearly chaotic networks (λ₁ > {MARGIN:g}) iterations grow in proportion to T",
                SOURCE,
                f"iterations at T = {length} over those at T = {int(shortest['length'])}",
                "within",
                longer,
                0.25 * longer,
                measured,
                error,
            )
        )
    return made + _of_schemes(dataset)


def _of_schemes(dataset):
    """Compare the linearisations at the shortest length."""
    length, exponent = int(dataset["length"][0]), dataset["exponent"]
    tolerance = style.configuration(dataset)["tolerance"]
    counts = dataset["scheme_iterations"]
    newton = counts.sel(scheme="newton")
    stable, chaotic = exponent < -MARGIN, exponent > MARGIN
    more = [
        (*_mean((counts.sel(scheme=scheme) - newton).where(stable).mean("gain")), words)
        for scheme, words in SCHEMES.items()
        if scheme != "newton"
    ]
    least, least_error, next_best = min(more)
    jacobi = np.log(1 / tolerance) / abs(exponent)
    ratio = (counts.sel(scheme="jacobi") / jacobi).where(
        stable & (jacobi < SHARE_OF_STEPS * length)
    )
    shares = [
        (*_mean((counts.sel(scheme=scheme) / length).where(chaotic).mean("gain")), words)
        for scheme, words in SCHEMES.items()
    ]
    fewest, fewest_error, best = min(shares)
    solved = dataset["scheme_converged"].astype(float)
    picard = _mean(solved.sel(scheme="picard").where(stable).mean("gain"))
    damped = _mean(solved.sel(scheme="damped").where(chaotic).mean("gain"))
    return [
        Claim(
            f"In clearly stable networks (λ₁ < −{MARGIN:g}) no linearisation needs fewer "
            "iterations than that of Newton, which has the whole Jacobian",
            FRAMEWORK,
            f"iterations more than Newton's at T = {length}, mean over networks, of the next best, "
            f"{next_best}",
            "at least",
            0,
            0,
            least,
            least_error,
        ),
        Claim(
            "Without a Jacobian (Jacobi) the error falls by λ₁ nats per iteration",
            "theory",
            "iterations / (ln(1/tolerance) / |λ₁|) where the latter is below "
            f"{SHARE_OF_STEPS:g} T, T = {length}, mean over networks",
            "within",
            1,
            0.15,
            *_mean(ratio.mean("gain")),
        ),
        Claim(
            f"In clearly chaotic networks (λ₁ > {MARGIN:g}) no linearisation needs fewer than T/2 "
            "iterations",
            SOURCE,
            f"iterations / T of the best, {best}, mean over networks, at T = {length}",
            "at least",
            0.5,
            0,
            fewest,
            fewest_error,
        ),
        Claim(
            "With the identity in the place of the Jacobian (Picard) stable networks are not "
            "solved within T iterations",
            "this package",
            f"share of clearly stable networks and gains that are solved, T = {length}",
            "at most",
            0.05,
            0,
            *picard,
            kind="finding",
        ),
        Claim(
            "Damped by Marquardt's rule, Newton's steps do not solve chaotic networks within T "
            "iterations",
            "this package",
            f"share of clearly chaotic networks and gains that are solved, T = {length}",
            "at most",
            0.05,
            0,
            *damped,
            kind="finding",
        ),
    ]


def _of_chaos(fraction, exponent):
    """Say how the fraction of T goes with λ₁ in chaotic networks."""
    if fraction.isnull().all():
        return ""
    chaotic = exponent.where(fraction.notnull())
    ends = [fraction.isel(chaotic.argmin(...)), fraction.isel(chaotic.argmax(...))]
    low, high = (f"{float(end):.2f} T" for end in ends)
    return (
        f"The number goes with λ₁: it is {low} at the smallest, {float(chaotic.min()):.2f}, and "
        f"{high} at the largest, {float(chaotic.max()):.2f}."
    )


def _mean(of_networks):
    """Return the mean over networks and its standard error, NaN where there is none."""
    values = of_networks.to_numpy()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return float(values.mean()), float(error)

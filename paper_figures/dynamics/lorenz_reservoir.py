"""Exponents of reservoirs that generate the Lorenz system, beside those of the system."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.dynamics.lorenz_reservoir import REFERENCE, SYSTEM, over_reservoirs
from paper_figures import style
from paper_figures.claims import Claim

SPROTT, PATHAK = "Sprott 2003", "Pathak et al. 2017"
# Of the third exponent, which a reservoir knows from the thickness of the attractor alone.
TOLERANCE_OF_THIRD = 0.5
TOLERANCE = 0.1
CAPTION = (
    "Reservoirs of {width} units, trained on the Lorenz system for {training_time:g} units of "
    "time, in closed loop. Left: what the\nsystem and one reservoir generate, in standard "
    "deviations. Middle: exponents less those of the literature, 0.906, 0 and −14.57;\nbars: 95 % "
    "over time. Right: share of the time with a smaller angle between the first two covariant "
    "vectors and the third."
)


def draw(dataset: xr.Dataset) -> Figure:
    """Draw what is generated, exponents, and angles."""
    figure, (orbits, exponents, angles) = plt.subplots(
        1, 3, figsize=(style.WIDTH, 3.1), layout="constrained"
    )
    sources = [SYSTEM, *(str(name) for name in dataset["source"].values if name != SYSTEM)]
    for number, source in enumerate(sources):
        one = dataset.sel(source=source)
        is_system = source == SYSTEM
        colour = "black" if is_system else style.COLOURS[(number - 1) % len(style.COLOURS)]
        marker = "o" if is_system else style.MARKERS[number % len(style.MARKERS)]
        if number < 2:
            shown = one["shown"].to_numpy()
            orbits.plot(shown[:, 0], shown[:, 2], color=colour, linewidth=0.5, alpha=0.8)
        exponents.errorbar(
            np.arange(1, 4) + 0.09 * (number - (len(sources) - 1) / 2),
            one["exponent"].to_numpy()[:3] - np.array(REFERENCE),
            yerr=1.96 * one["standard_error"].to_numpy()[:3],
            fmt=marker,
            color=colour,
            markersize=4,
            elinewidth=0.8,
            label=source,
        )
        values = np.sort(np.degrees(one["angle"].to_numpy()))
        share = np.arange(1, len(values) + 1) / len(values)
        angles.plot(values, share, color=colour, linewidth=1.4 if is_system else 0.9)
    exponents.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    orbits.set(xlabel="x", ylabel="z", title="generated")
    exponents.set(
        xticks=(1, 2, 3),
        xticklabels=("λ₁", "λ₂", "λ₃"),
        xlim=(0.5, 3.5),
        ylabel="difference (nats per unit of time)",
        title="exponents less literature",
    )
    angles.set(xlabel="angle (degrees)", ylabel="share of time", ylim=(0, 1), title="angles")
    handles, _ = exponents.get_legend_handles_labels()
    style.legend_below(figure, handles, style.caption(dataset, CAPTION), num_columns=5)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Check the exponents of the system, and those of the reservoirs."""
    system = dataset.sel(source=SYSTEM)
    mean, error = over_reservoirs(dataset)
    num = dataset.sizes["source"] - 1
    found = [
        Claim(
            "The exponents of the Lorenz system are those of the literature.",
            SPROTT,
            f"λ{style.lowered(place + 1)} of the system, nats per unit of time",
            "within",
            expected,
            TOLERANCE,
            float(system["exponent"][place]),
            float(system["standard_error"][place]),
        )
        for place, expected in enumerate(REFERENCE)
    ]
    for place, expected in enumerate(REFERENCE):
        third = place == 2
        found.append(
            Claim(
                "A reservoir in closed loop has the third exponent of the system that it learned."
                if third
                else "A reservoir in closed loop has the first two exponents of the system that it "
                "learned.",
                "this package" if third else PATHAK,
                f"λ{style.lowered(place + 1)}, mean of {num} reservoirs, nats per unit of time",
                "within",
                expected,
                TOLERANCE_OF_THIRD if third else TOLERANCE,
                float(mean[place]),
                float(error[place]),
                kind="aim" if third else "reproduction",
                reason="The attractor is thin, and its data say little of how fast it attracts."
                if third
                else "",
            )
        )
    return found

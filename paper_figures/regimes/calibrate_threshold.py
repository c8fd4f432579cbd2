"""The thresholds between which networks learn: of all networks, of each cell and of each task."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from paper_figures import style
from paper_figures.claims import Claim, standard_error

NEAR = 5.0  # nats: as much as thresholds of single cells and tasks differ
AIM = 0.9  # balanced accuracy
REASON = (
    "Thresholds on gradients tell whether a network can learn, and not whether its task is learned "
    "within the budget: most misses are networks with a stable gradient that are stuck."
)
TITLES = {
    "vanishing": "vanishes below, over the horizon",
    "exploding": "explodes above, at any lag",
}
LOOKS = {
    "all": (style.BLACK, "D"),
    "cell": (style.PURPLE, "o"),
    "task": (style.ORANGE, "s"),
}


def draw(dataset: xr.Dataset) -> Figure:
    """Draw both thresholds with their intervals, a row for each kind of network."""
    names = dataset["name"].to_numpy().tolist()
    figure, both = plt.subplots(1, 2, figsize=(style.WIDTH, 4.2), sharey=True, layout="constrained")
    for axes, (bound, title) in zip(both, TITLES.items(), strict=True):
        frozen = jrnn.THRESHOLDS._asdict()[bound]
        line = axes.axvline(frozen, color="0.35", linestyle="--", linewidth=1)
        line.set_label("the library's threshold")
        for kind, (colour, marker) in LOOKS.items():
            here = np.flatnonzero(dataset["kind"].to_numpy() == kind)
            at = dataset.isel(network_kind=here).sel(bound=bound)
            value, interval = at["threshold"].to_numpy(), at["threshold_interval"].to_numpy().T
            # The best pair of cuts may lie outside of the central 95 % of resamples.
            off = np.maximum([value - interval[0], interval[1] - value], 0)
            label = "all networks" if kind == "all" else f"of one {kind}"
            axes.errorbar(
                value,
                here,
                xerr=off,
                fmt=marker,
                color=colour,
                markersize=4,
                linewidth=0.9,
                label=label if len(here) else None,
            )
        axes.set_title(title)
        axes.set_xlabel("log growth of a gradient (nats)")
        axes.set_xscale("symlog", linthresh=10)
        axes.minorticks_off()
    both[0].set_yticks(range(len(names)), names)
    both[0].invert_yaxis()
    for axes in both:
        low, high = axes.get_xlim()
        ticks = [t for t in (-60, -30, -10, -5, 0, 5, 10, 30, 60) if low <= t <= high]
        axes.set_xticks(ticks, [f"{t}".replace("-", "−") for t in ticks])
    style.legend_below(
        figure,
        both[0].get_legend_handles_labels()[0],
        style.caption(
            dataset,
            "Highest balanced accuracy after {num_updates} updates of {num} networks. Bars: 95 % "
            "over shapes of networks.",
            num=int(dataset["num_networks"][0]),
        ),
        num_columns=4,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare the library's thresholds with those found here, and say how well they tell."""
    whole = dataset.isel(network_kind=int(np.flatnonzero(dataset["kind"] == "all")[0]))
    made = [
        Claim(
            f"The library's {bound} threshold is the one that tells best which networks learn",
            "this package",
            "threshold of highest balanced accuracy over all cells and tasks, nats",
            "within",
            frozen,
            NEAR,
            float(whole["threshold"].sel(bound=bound)),
            standard_error(*whole["threshold_interval"].sel(bound=bound).to_numpy().tolist()),
            kind="finding",
        )
        for bound, frozen in jrnn.THRESHOLDS._asdict().items()
    ]
    made.append(
        Claim(
            "Two thresholds tell which networks of the ensemble learn",
            "this package",
            f"balanced accuracy over the {int(whole['num_networks'])} networks they come from",
            "at least",
            AIM,
            0,
            float(whole["balanced_accuracy_of_library"]),
            kind="aim",
            reason=REASON,
        )
    )
    return made

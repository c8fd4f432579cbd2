"""Held-out skill against predicted log growth: where the thresholds come from."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from paper_figures import style
from paper_figures.claims import Claim, standard_error


def draw(dataset: xr.Dataset) -> Figure:
    """Draw skill against predicted log growth, with both thresholds and their intervals."""
    configuration = json.loads(dataset.attrs["configuration"])
    figure, axes = plt.subplots(figsize=(3.5, 2.8), layout="constrained")
    flat = dataset[["log_growth", "test_skill"]].stack(network=("gain_index", "seed"))
    axes.plot(
        flat["log_growth"].median("sequence"),
        flat["test_skill"],
        "o",
        color=style.BLUE,
        markersize=3,
        alpha=0.7,
    )
    for bound, colour in zip(
        ("vanishing", "exploding"), (style.ORANGE, style.VERMILION), strict=True
    ):
        value = float(dataset["threshold"].sel(bound=bound))
        axes.axvspan(
            *dataset["threshold_interval"].sel(bound=bound).to_numpy(),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.axvline(
            value, color=colour, linestyle="--", linewidth=1, label=f"{bound} at {value:+.1f} nats"
        )
    axes.axhline(0.5, color="0.6", linewidth=0.6)
    axes.set_xlabel(f"predicted log growth over {configuration['recall_delay']} steps (nats)")
    axes.set_ylabel("held-out skill after training")
    axes.set_title(
        f"SimpleCell, delayed recall, {flat.sizes['network']} networks;\nbands: 95 % over gains",
        fontsize=7,
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare the thresholds that the library uses with those found here."""
    made = []
    for bound, frozen in jrnn.THRESHOLDS._asdict().items():
        at = dataset.sel(bound=bound)
        error = standard_error(*at["threshold_interval"].to_numpy().tolist())
        made.append(
            Claim(
                f"The library's {bound} threshold is the log growth beyond which networks do not "
                "learn",
                "jacobian_rnn.THRESHOLDS",
                "threshold of highest balanced accuracy, nats",
                "within",
                frozen,
                0 if np.isnan(error) else 1.96 * error,
                float(at["threshold"]),
                error,
            )
        )
    return made

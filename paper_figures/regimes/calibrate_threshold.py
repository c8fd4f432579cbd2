"""Held-out skill against predicted log growth: where the thresholds come from."""

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from experiments.regimes.calibrate_threshold import CELL
from paper_figures import style
from paper_figures.claims import Claim, standard_error

LINES = {"vanishing": "--", "exploding": "-."}
NEAR = 5.0  # nats: the growths of networks of one kind spread as much


def draw(dataset: xr.Dataset) -> Figure:
    """Draw skill against predicted log growth, with both thresholds and their intervals."""
    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.3), layout="constrained")
    flat = dataset[["log_growth", "test_skill"]].stack(network=("gain_index", "seed"))
    look = style.CELLS[CELL]
    networks = axes.plot(
        flat["log_growth"].median("sequence"),
        flat["test_skill"],
        look.marker,
        color=look.colour,
        markersize=3.5,
        alpha=0.7,
        label="a network",
    )
    lines = []
    for bound, line in LINES.items():
        at = dataset.sel(bound=bound)
        value = float(at["threshold"])
        axes.axvspan(*at["threshold_interval"].to_numpy(), color="0.88", linewidth=0, zorder=0)
        label = f"{bound} at {value:+.1f} nats".replace("-", "−")
        lines.append(axes.axvline(value, color="0.2", linestyle=line, linewidth=1, label=label))
    axes.axhline(0.5, color="0.6", linewidth=0.6, zorder=0)
    axes.text(0.01, 0.51, "learned", transform=axes.get_yaxis_transform(), fontsize=7, color="0.35")
    axes.set_ylabel("held-out skill after training")
    axes.set_xlabel(style.caption(dataset, "predicted log growth over {recall_delay} steps (nats)"))
    axes.set_title("SimpleCell, delayed recall")
    style.legend_below(
        figure,
        [*networks, *lines],
        style.caption(
            dataset,
            "{num_gains} gains, {n_seed} networks each; grey: 95 % over gains.\n"
            "{num_updates} updates of clipped Adam.",
        ),
        num_columns=2,
    )
    return figure


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Compare the thresholds that the library uses with those found here."""
    made = []
    for bound, frozen in jrnn.THRESHOLDS._asdict().items():
        at = dataset.sel(bound=bound)
        made.append(
            Claim(
                f"The library's {bound} threshold is the log growth beyond which networks do not "
                "learn",
                "this package",
                "threshold of highest balanced accuracy, nats",
                "within",
                frozen,
                NEAR,
                float(at["threshold"]),
                standard_error(*at["threshold_interval"].to_numpy().tolist()),
                kind="finding",
            )
        )
    return made

"""Which cells learned which tasks: the ensemble that forecasts of learning are fitted to."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import jacobian_rnn as jrnn
from paper_figures import style
from paper_figures.claims import Claim

NUM_NETWORKS = 2000


def draw(dataset: xr.Dataset) -> Figure:
    """Draw the share that learned by cell and task, and growth against peak of all networks."""
    once = _once(dataset)
    learned = (once["outcome"].isel(budget=-1) == jrnn.Outcome.LEARNED).to_numpy()
    cell, task = once["cell"].to_numpy(), once["task"].to_numpy()
    cells, names = list(dict.fromkeys(sorted(cell.tolist()))), sorted(set(task.tolist()))
    share = np.full((len(names), len(cells)), np.nan)
    for row, name in enumerate(names):
        for column, one in enumerate(cells):
            here = learned[(cell == one) & (task == name)]
            share[row, column] = here.mean() if here.size else np.nan
    figure, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 3.6), layout="constrained")
    image = left.imshow(share, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    left.set_xticks(range(len(cells)), cells, rotation=35, ha="right")
    left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    for (row, column), value in np.ndenumerate(share):
        if np.isfinite(value):
            colour = "white" if value < 0.6 else "black"
            left.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=6)
    left.set_title(f"share that learned within {int(dataset['budget'][-1])} updates")
    figure.colorbar(image, ax=left, shrink=0.6)
    handles = []
    for outcome in (jrnn.Outcome.STUCK, jrnn.Outcome.DIVERGED, jrnn.Outcome.LEARNED):
        at = once["outcome"].isel(budget=-1).to_numpy() == outcome
        look = style.OUTCOMES[outcome]
        handles += right.plot(
            once["growth"].to_numpy()[at],
            once["peak"].to_numpy()[at],
            look.marker,
            color=look.colour,
            markersize=2,
            alpha=0.5,
            label=outcome.name.lower(),
        )
    right.set_xlabel("growth of a gradient over the horizon (nats)")
    right.set_ylabel("its peak on the way back (nats)")
    right.set_title("before training")
    style.legend_below(
        figure,
        handles,
        style.caption(
            dataset,
            "{num} networks, {batch_size} sequences an update. White: not trained.",
            num=len(learned),
        ),
    )
    return figure


def _once(dataset):
    return dataset.isel(network=np.flatnonzero(dataset["data_seed"] == 0))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Say how many networks there are, and that both outcomes are common."""
    once = _once(dataset)
    learned = (once["outcome"].isel(budget=-1) == jrnn.Outcome.LEARNED).to_numpy()
    share = float(learned.mean())
    return [
        Claim(
            "The ensemble is large enough for a table that forecasts can be fitted to",
            "this package",
            "networks",
            "at least",
            NUM_NETWORKS,
            0,
            learned.size,
            kind="aim",
            reason="Shapes that take longest were not trained; the same command goes on with them.",
        ),
        Claim(
            "Learning and not learning are both common",
            "this package",
            "share that learned",
            "within",
            0.5,
            0.3,
            share,
            float(np.sqrt(share * (1 - share) / learned.size)),
            kind="aim",
        ),
    ]

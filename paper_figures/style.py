"""How all figures look, and how they are saved: the same bytes for the same results."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from jacobian_rnn.plotting.marks import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    LINES,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
)
from jacobian_rnn.plotting.regimes import OUTCOME_STYLE

__all__ = ["BLACK", "BLUE", "COLOURS", "GREEN", "LINES", "MARKERS", "ORANGE", "PURPLE"]
__all__ += ["SKY_BLUE", "VERMILION"]
YELLOW = "#F0E442"

OUT = Path(__file__).resolve().parent / "out"
GALLERY = Path(__file__).resolve().parent / "gallery"
GALLERY_COLOURS = 128  # of a palette, which makes a picture a third as large
WIDTH = 7.2  # inches: two columns of a journal, and 1440 pixels

GREY = "0.45"


class Look(NamedTuple):
    """How something is drawn wherever it appears."""

    colour: str
    marker: str
    line: Any


# A cell, and an outcome of training, looks the same in every figure. None shares a colour with one
# of the other kind. Where a cell is compared with and without a treatment, the treated one has its
# look, and the other one is `PLAIN`.
CELLS = {
    "SimpleCell": Look(GREEN, "^", "-."),
    "GRUCell": Look(PURPLE, "D", "--"),
    "LSTMCell": Look(SKY_BLUE, "o", "-"),
    "minimalRNN": Look(YELLOW, "P", (0, (3, 1, 1, 1))),
    "linear": Look(BLACK, "v", ":"),
}
PLAIN = Look(GREY, "s", "--")
OUTCOMES = {outcome: Look(*look, "-") for outcome, look in OUTCOME_STYLE.items()}

STYLE: dict = {
    # Comes with matplotlib, and has the Greek letters.
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "svg.hashsalt": "jacobian_rnn",
}


def use() -> None:
    """Draw without a display, in this style, whatever the user's own settings are."""
    mpl.use("Agg")
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


def save(figure: Figure, stem: Path, *, gallery: bool = False) -> None:
    """Write a figure as PNG and PDF, if asked as a small PNG for the gallery too, and close it.

    No file holds its time, nor the version of what wrote it.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not `with_suffix`: names of results may have dots.
    figure.savefig(stem.parent / f"{stem.name}.png", metadata={"Software": None})
    figure.savefig(
        stem.parent / f"{stem.name}.pdf",
        metadata={"CreationDate": None, "Creator": None, "Producer": None},
    )
    if gallery:
        GALLERY.mkdir(exist_ok=True)
        with Image.open(stem.parent / f"{stem.name}.png") as picture:
            few = picture.convert("RGB").quantize(GALLERY_COLOURS, dither=Image.Dither.NONE)
            few.save(GALLERY / f"{stem.name}.png", optimize=True)
    plt.close(figure)


def configuration(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the fields of the configuration that a result was made with."""
    return json.loads(dataset.attrs["configuration"])


def caption(dataset: xr.Dataset, template: str, **more: object) -> str:
    """Fill the fields of a result's configuration into a text.

    Sizes of its dimensions are there as `n_DIMENSION`, so that `{n_seed} networks of {width} units`
    says what was drawn.
    """
    sizes = {f"n_{dim}": size for dim, size in dataset.sizes.items()}
    return template.format(**configuration(dataset) | sizes | more)


def lowered(number: int) -> str:
    """Write a number as an index."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def legend_below(
    figure: Figure, handles: Iterable[Any], text: str = "", *, num_columns: int | None = None
) -> Artist:
    """Put one legend under all panels, with the caption as its title."""
    by_label = {str(handle.get_label()): handle for handle in handles}
    return figure.legend(
        by_label.values(),
        by_label.keys(),
        loc="outside lower center",
        ncols=num_columns or max(len(by_label), 1),
        frameon=False,
        title=text or None,
        title_fontsize=7,
    )

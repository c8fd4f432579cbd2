"""How all figures look, and how they are saved: the same bytes for the same results."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

OUT = Path(__file__).resolve().parent / "out"
GALLERY = Path(__file__).resolve().parent / "gallery"
GALLERY_DPI = 64
HEAD = "regime_versus_training"  # the README's first picture, which is shown large
WIDTH = 7.2  # inches: two columns of a journal

# M. Okabe and K. Ito, "Color Universal Design" (2008): told apart by colour-blind readers. Each
# comes with a marker and a line style of its own, for readers in grey.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

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
        small = GALLERY / f"{stem.name}.png"
        dpi = mpl.rcParams["savefig.dpi"] if stem.name == HEAD else GALLERY_DPI
        figure.savefig(small, dpi=dpi, metadata={"Software": None})
    plt.close(figure)

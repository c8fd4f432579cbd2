"""Draw figures from stored results: `python -m paper_figures [NAME ...]`."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import matplotlib as mpl
import tyro

from experiments import results
from experiments.__main__ import DTYPES

OUT = Path(__file__).resolve().parent / "out"
NAMES = (
    "regime_versus_training",
    "calibrate_threshold",
    "initialization_audit",
    "full_spectrum",
    "gated_growth",
    "critical_initialization",
    "phase_diagram",
    "benchmarks",
)
STYLE: dict = {
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


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    preset: Literal["quick", "default", "full"] = "default",
    dtype: Literal["float32", "float64"] | None = None,
    file: Path | None = None,
) -> None:
    """Draw figures from stored results into paper_figures/out/, as PNG and PDF.

    Args:
        names: which figures; if none is named, all whose results are there.
        preset: of the experiment whose results are drawn.
        dtype: of the experiment whose results are drawn; by default that of the experiment.
        file: result file of the one figure that is named, for results of no preset.
    """
    if file is not None and len(names) != 1:
        sys.exit(f"--file: received {len(names)} names of figures, expected one")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"unknown figures {unknown}: expected some of {', '.join(NAMES)}")
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    failed = 0
    for name in names or NAMES:
        own_dtype = dtype or DTYPES.get(name, "float32")
        path = file or results.path_of(name, preset, own_dtype)
        try:
            dataset = results.read(path)
        except (FileNotFoundError, ValueError) as error:
            print(f"{name}: {error}")
            failed += bool(names) or isinstance(error, ValueError)
            continue
        figure = importlib.import_module(f"paper_figures.{name}").draw(dataset)
        label = preset if file is None else file.stem
        stem = OUT / (name if label == "default" else f"{name}-{label}")
        OUT.mkdir(parents=True, exist_ok=True)
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
        print(f"{name}: wrote paper_figures/out/{stem.name}.png and .pdf")
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    tyro.cli(main)

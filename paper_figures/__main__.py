"""Draw figures from stored results: `python -m paper_figures [NAME ...]`."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import matplotlib.pyplot as plt
import tyro

from experiments import catalogue, results
from paper_figures import claims, style
from paper_figures.claims import Claim

OUT = style.OUT
NAMES = tuple(
    name
    for name in (*catalogue.EXPERIMENTS, catalogue.BENCHMARKS)
    if (Path(__file__).parent / f"{name}.py").is_file()
)


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    preset: Literal["quick", "default", "full"] = "default",
    dtype: catalogue.Dtype | None = None,
    file: Path | None = None,
    gallery: bool = False,
) -> None:
    """Draw figures from stored results into paper_figures/out/, as PNG and PDF.

    What the figures claim goes into claims.md and claims.json beside them.

    Args:
        names: which figures; if none is named, all whose results are there.
        preset: of the experiment whose results are drawn.
        dtype: of the experiment whose results are drawn; by default that of the experiment.
        file: result file of the one figure that is named, for results of no preset.
        gallery: also write the small pictures that the README shows.
    """
    if file is not None and len(names) != 1:
        sys.exit(f"--file: received {len(names)} names of figures, expected one")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"unknown figures {unknown}: expected some of {', '.join(NAMES)}")
    # Some figures ask the library for a theory's value: before JAX is imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    style.use()
    label = preset if file is None else file.stem
    suffix = "" if label == "default" else f"-{label}"
    column = max(map(len, NAMES))
    made: dict[str, list[Claim]] = {}
    failed = 0
    for name in names or NAMES:
        stem = OUT / f"{name}{suffix}"
        own_dtype = dtype or catalogue.dtype_of(name)
        if file is None:
            path = results.path_of(name, preset, own_dtype)
            state, said, of_figure = drawn(name, path, stem, preset, own_dtype, gallery=gallery)
        else:
            state, said, of_figure = drawn(name, file, stem)
        if state == "drawn":
            made[name] = of_figure
        # What is not there, or is of another configuration, is only missed where it was named.
        failed += state == "failed" or (state == "not drawn" and bool(names))
        print(f"{name:<{column}}  {state:<9}  {said}", flush=True)
    if file is None:
        heading, claims_stem = f"Claims, preset {preset}", OUT / f"claims{suffix}"
    else:
        heading, claims_stem = f"Claims, {file}", OUT / f"claims-{names[0]}{suffix}"
    claims.write(made, claims_stem, heading)
    print(f"\nclaims, in full in paper_figures/out/{claims_stem.name}.md and .json")
    print(*claims.lines(made), sep="\n")
    sys.exit(min(failed, 1))


def drawn(
    name: str,
    path: Path,
    stem: Path,
    preset: str | None = None,
    dtype: str = "",
    *,
    gallery: bool = False,
) -> tuple[Literal["drawn", "not drawn", "failed"], str, list[Claim]]:
    """Draw one figure; return how that went, where it is or why not, and what it claims.

    Args:
        name: of the figure.
        path: of the result.
        stem: path of the figure without its suffix.
        preset: whose configuration the result has to have; any will do if None.
        dtype: of that configuration.
        gallery: whether a small picture is written too.
    """
    try:
        dataset = results.read(path)
    except FileNotFoundError as error:
        return "not drawn", str(error), []
    except (ValueError, OSError) as error:
        return "failed", str(error), []
    try:
        if preset is not None:
            config = catalogue.configuration(name, preset, dtype)
            if off := results.differences(dataset, config):
                said = (
                    f"{path}: made with another configuration than the preset has now "
                    f"({'; '.join(off[:3])}{'; …' if len(off) > 3 else ''}); make it again with "
                    f"`{catalogue.command(name, preset, dtype)}`, or draw it as it is with "
                    f"`python -m paper_figures {name} --file {path}`"
                )
                return "not drawn", said, []
        module = importlib.import_module(f"paper_figures.{name}")
        style.save(module.draw(dataset), stem, gallery=gallery)
        of_figure = module.claims(dataset) if hasattr(module, "claims") else []
    except Exception as error:
        traceback.print_exc()
        plt.close("all")
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], []
    return "drawn", f"paper_figures/out/{stem.name}.png and .pdf", of_figure


if __name__ == "__main__":
    tyro.cli(main, prog="python -m paper_figures")

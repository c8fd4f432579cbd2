"""Draw figures from stored results: `python -m paper_figures [NAME ...]`."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import matplotlib.pyplot as plt
import tyro

from experiments import catalogue
from experiments.runner import results
from paper_figures import claims, style
from paper_figures.claims import Claim

OUT = style.OUT
PAGE = Path(__file__).resolve().parent.parent / "docs" / "claims"
PLACES = {name: known.folder for name, known in catalogue.EXPERIMENTS.items()}
NAMES = (*PLACES, catalogue.BENCHMARKS)


def module_of(name: str) -> Any:
    """Import the module that draws a figure."""
    place = f"{PLACES[name]}.{name}" if name in PLACES else name
    return importlib.import_module(f"paper_figures.{place}")


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
        gallery: also write what is committed: the pictures of paper_figures/gallery/ and, of all
            figures of the default presets together, docs/claims.md.
    """
    if file is not None and len(names) != 1:
        sys.exit(f"--file: received {len(names)} names of figures, expected one")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"unknown figures {unknown}: expected some of {', '.join(NAMES)}")
    if "JAX_PLATFORMS" not in os.environ:  # some figures ask the library for a theory's value
        jax.config.update("jax_platforms", "cpu")
    style.use()
    label = preset if file is None else file.stem
    suffix = "" if label == "default" else f"-{label}"
    column = max(map(len, NAMES))
    made: dict[str, list[Claim]] = {}
    absent: list[str] = []
    failed = 0
    for name in names or NAMES:
        stem = OUT / f"{name}{suffix}"
        own_dtype = dtype or catalogue.dtype_of(name)
        path = file or results.path_of(name, preset, own_dtype)
        if not names and not path.exists():
            absent.append(name)
            continue
        wanted = preset if file is None else None
        state, said, of_figure = drawn(name, path, stem, wanted, own_dtype, gallery=gallery)
        if state == "drawn":
            made[name] = of_figure
        # A result of another configuration is only missed where it was named.
        failed += state == "failed" or (state == "not drawn" and bool(names))
        print(f"{name:<{column}}  {state:<9}  {said}", flush=True)
    if absent:
        print(f"not made yet: {', '.join(absent)}")
    heading = f"Claims, preset {preset}" if file is None else f"Claims, {file}"
    stem = OUT / (f"claims{suffix}" if file is None else f"claims-{names[0]}{suffix}")
    claims.write(made, stem, heading)
    if gallery and label == "default" and set(made) >= set(PLACES):
        claims.write_table(made, PAGE, heading)
    print(f"\nclaims, in full in paper_figures/out/{stem.name}.md and .json")
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
        module = module_of(name)
        style.save(module.draw(dataset), stem, gallery=gallery)
        of_figure = module.claims(dataset) if hasattr(module, "claims") else []
    except Exception as error:
        traceback.print_exc()
        plt.close("all")
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], []
    return "drawn", f"paper_figures/out/{stem.name}.png and .pdf", of_figure


if __name__ == "__main__":
    try:
        try:
            tyro.cli(main, prog="python -m paper_figures")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)

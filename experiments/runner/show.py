"""Say what a result file holds, and draw it: `python -m experiments show FILE`."""

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import xarray as xr
from rich.console import Console

from experiments import catalogue
from experiments.runner import results

MAX_LINES = 40  # of a plain plot
LINE_WIDTH = 52  # characters of a plain plot's title
FEW = 7  # lines that are named


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    path = tyro.cli(_path, args=arguments, prog="python -m experiments show")
    # After the command line, because it imports JAX, and without an accelerator.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return show(path.resolve(), Console())


def _path(file: Annotated[Path, tyro.conf.Positional]) -> Path:
    """Say what a result file holds, and draw it into paper_figures/out/.

    Args:
        file: a result file, results/NAME/PRESET-DTYPE.nc.
    """
    return file


def show(path: Path, console: Console) -> int:
    """Print and draw what a file holds; return the exit status."""
    try:
        dataset = results.read(path)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        there = sorted(os.path.relpath(file) for file in results.ROOT.glob("*/*.nc"))
        print(f"results that are there: {', '.join(there) or 'none'}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not dataset.variables:
        print(f"{path}: holds no variables: not a result file", file=sys.stderr)
        return 1
    lines = [f"{path}, {path.stat().st_size / 1e3:.0f} kB", *contents(dataset)]
    for line in [*lines, *provenance(dataset, path), *drawn(dataset, path)]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def contents(dataset: xr.Dataset) -> list[str]:
    """Describe dimensions and variables: shape, unit, range of values and meaning."""
    sizes = ", ".join(f"{dim} {size}" for dim, size in dataset.sizes.items())
    lines = [f"dimensions: {sizes or 'none'}"]
    for title, names in (("coordinates", dataset.coords), ("variables", dataset.data_vars)):
        lines += [title] if names else []
        for name, variable in names.items():
            unit = variable.attrs.get("units", "")
            meaning = variable.attrs.get("long_name", "")
            head = f"  {name} ({', '.join(map(str, variable.dims))})"
            lines.append(": ".join([head, meaning]) if meaning else head)
            lines.append(f"      {_range(variable)}" + (f"; unit: {unit}" if unit else ""))
    return lines


def provenance(dataset: xr.Dataset, path: Path) -> list[str]:
    """Say from which configuration, when, where and with which versions a result was made."""
    attributes = dict(dataset.attrs)
    if not {"configuration", "configuration_class", "fingerprint"} <= set(attributes):
        foreign = "no configuration is stored in it: a part of a result, or none of an experiment"
        about = [f"  {name}: {value}" for name, value in attributes.items()]
        return [foreign, *(["attributes"] if about else []), *about]
    fields = json.loads(attributes.pop("configuration"))
    lines = ["configuration", *(f"  {name}: {value}" for name, value in fields.items())]
    if "versions" in attributes:
        versions = json.loads(attributes.pop("versions"))
        attributes["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines += ["made", *(f"  {name}: {value}" for name, value in attributes.items())]
    preset, _, dtype = path.stem.partition("-")
    name = path.parent.name
    if name not in _figures().NAMES or dtype not in ("float32", "float64"):
        return lines
    if preset not in ("quick", "default", "full"):
        return [*lines, "configuration of no preset"]
    off = results.differences(dataset, catalogue.configuration(name, preset, dtype))
    said = f"is not that of the preset {preset} now: {'; '.join(off)}"
    return [*lines, f"configuration {said if off else f'of the preset {preset}'}"]


def drawn(dataset: xr.Dataset, path: Path) -> list[str]:
    """Draw a result by the figure of its experiment, or plainly; say where, or why not."""
    import matplotlib.pyplot as plt

    from paper_figures import style  # which reads results: not imported at the top

    style.use()
    lines: list[str] = []
    figure, how = None, ""
    if name := figure_of(dataset, path):
        try:
            module = _figures().module_of(name)
            figure, how = module.draw(dataset), f"as {module.__name__} does"
        except Exception as error:
            plt.close("all")
            lines.append(f"not drawn as {name}: {type(error).__name__}: {error}")
    if figure is None:
        figure, how = plain(dataset)
    if figure is None:
        return [*lines, "nothing to draw: no variable of numbers with a dimension"]
    stem = style.OUT / f"show-{path.parent.name}-{path.stem}"
    style.save(figure, stem)
    return [*lines, f"drawn {how}: {stem}.png"]


def figure_of(dataset: xr.Dataset, path: Path) -> str:
    """Return the figure that draws a result, by its folder or its configuration; "" if none."""
    if "chunks" in path.parts:  # saved on the way
        return ""
    place = str(dataset.attrs.get("configuration_class", "")).split(".")
    known = [path.parent.name, *place[-2:-1]]
    return next((name for name in known if name in _figures().NAMES), "")


def plain(dataset: xr.Dataset):
    """Plot a variable of numbers as lines: real ones with a meaning first, then any.

    Returns:
        The figure, None if there is no such variable, and what was plotted.
    """
    import matplotlib.pyplot as plt

    shown = [
        variable
        for variable in dataset.data_vars.values()
        if variable.ndim and variable.size and variable.dtype.kind in "fiub"
    ]
    if not shown:
        return None, ""
    # The first of the best, as `min` returns it.
    variable = min(shown, key=lambda one: (one.dtype.kind != "f", "long_name" not in one.attrs))
    numeric = [
        dim for dim in variable.dims if dim in dataset.coords and dataset[dim].dtype.kind in "fiu"
    ]
    along = max(numeric or variable.dims, key=lambda dim: variable.sizes[dim])
    others = [dim for dim in variable.dims if dim != along]
    lines = variable.stack(line=others) if others else variable.expand_dims("line")
    num_lines = lines.sizes["line"]
    figure, axes = plt.subplots(figsize=(3.6, 2.8), layout="constrained")
    few = num_lines <= FEW
    options = {"add_legend": 1 < num_lines <= FEW, "marker": "." if few else "", "linewidth": 0.8}
    lines[{"line": slice(MAX_LINES)}].plot.line(x=along, ax=axes, **options)
    if _geometric(dataset[along].to_numpy() if along in numeric else ()):
        axes.set_xscale("log")
    title = textwrap.fill(str(variable.attrs.get("long_name", variable.name)), LINE_WIDTH)
    some = f"the first {MAX_LINES} of" if num_lines > MAX_LINES else "all"
    axes.set_title(title if few else f"{title}\n{some} {num_lines} lines", fontsize=7)
    return figure, f"plainly, {variable.name} against {along}"


def _geometric(x):
    """Say whether numbers are spaced more evenly in their logarithms."""
    if len(x) < 3 or not np.all(np.isfinite(x)) or np.min(x) <= 0:
        return False
    spread = [np.ptp(np.diff(y)) / max(abs(np.diff(y)).max(), 1e-300) for y in (x, np.log(x))]
    return bool(spread[1] < spread[0])


def _figures():
    from paper_figures import __main__ as figures  # which reads results: not imported at the top

    return figures


def _range(variable):
    """Write the smallest and the largest value, or the first labels."""
    values = variable.to_numpy()
    if values.dtype.kind not in "fiub":
        return ", ".join(map(str, values.ravel()[:3])) + (", …" if values.size > 3 else "")
    numbers = values[np.isfinite(values)] if values.dtype.kind == "f" else values.astype(float)
    missing = values.size - numbers.size
    said = f"{numbers.min():.4g} … {numbers.max():.4g}" if numbers.size else "no numbers"
    return said + (f", {missing} not finite" if missing else "")

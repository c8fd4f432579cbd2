"""Run all benchmarks: `python -m experiments.benchmarks [--preset ...] [--device ...]`."""

import dataclasses
import math
import os
import subprocess
import sys
import time
from typing import Literal

import tyro
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.runner import environment, results

NAME = "benchmarks"
WIDTH = 108
CAPTIONS = {
    "accuracy": "error of log singular values (nats) on chains of matrices with known ones",
    "Jacobians": "of 32 steps at once, against writing as many numbers; error against forward mode",
    "W1": "shared Jacobians; error of exponents against the scan (nats per step)",
    "W3": "chaotic h' = tanh(W h); error against the scan, orbits may differ (nats per step)",
    "floor": "driven Flax cells against the cell's own step on k states",
    "W4": "growth with T and n; error of exponents against the scan (nats per step)",
    "W4 batch": "sequences at once, under vmap; error as above",
    "verdict": "eight sequences; against the gradient of a loss over them",
    "profile": "one sequence; against the gradient of a loss over it",
    "forecast": "what predict_learning measures; against one update of 32 sequences",
    "leading": "eight largest singular values; error against the exact product (nats)",
    "units": "units that see themselves alone; error against whole matrices (nats per step)",
    "sweep": "networks drawn, predicted, trained and saved; error: difference between workers",
    "gpu": "the same on a GPU",
}
RATES = {"W4 batch": "seq/s", "sweep": "networks/s"}
WITH_MEMORY = {"verdict", "profile", "leading", "units"}
GPU_NOTE = "not measured"


def main(
    preset: Literal["quick", "default", "full"] = "default",
    device: Literal["cpu", "gpu"] = "cpu",
    dtype: Literal["float32", "float64"] = "float64",
) -> None:
    """Run all benchmarks, print their tables, store them in results/benchmarks/, draw them.

    Args:
        preset: `quick` shows in a minute or two that all parts work, `default` takes 19 minutes on
            two cores, `full` adds the largest sizes and many more repetitions.
        device: where to compute.
        dtype: precision of everything; run the command twice for both.
    """
    os.environ["JAX_PLATFORMS"] = "cuda" if device == "gpu" else "cpu"
    os.environ["JAX_ENABLE_X64"] = "1" if dtype == "float64" else "0"
    # LAPACK's own threads spin for each other on a shared machine, and make one QR of 256 columns
    # take a third of a second.
    environment.use_one_thread()
    # After the environment is set, which JAX reads when it is imported.
    import jax

    from experiments.benchmarks import (
        accuracy,
        dense_jacobians,
        forecasts,
        speed,
        sweeps,
        verdicts,
    )
    from experiments.benchmarks.timing import Row, as_dataset
    from experiments.benchmarks.workloads import PRESETS
    from experiments.runner import chunks

    started = time.perf_counter()
    sizes = dataclasses.replace(PRESETS[preset], dtype=dtype)
    try:
        made_with = chunks.origin()
    except (RuntimeError, AssertionError):  # the latter where JAX has no plugin for the device
        sys.exit(f"--device {device}: JAX finds none here; a GPU needs jacobian_rnn[cuda]")
    console = Console()
    console.print(f"{NAME}, preset {preset}, {dtype} on {made_with['device']}")
    rows: list[Row] = []
    with _progress(console) as progress:
        groups = (accuracy, dense_jacobians, speed, verdicts, forecasts, sweeps)
        cases = [case for group in groups for case in group.cases(sizes)]
        task = progress.add_task("", total=len(cases))
        for label, measure in cases:
            progress.update(task, description=label)
            jax.clear_caches()  # or a program that an earlier case compiled would cost nothing
            rows += measure()
            progress.advance(task)
    if device == "cpu":
        rows.append(Row("gpu", "all groups", "every row", 0, 0, 0, note=GPU_NOTE))
    dataset = as_dataset(rows)
    seconds = time.perf_counter() - started
    dataset = results.described(dataset, sizes, made_with, seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, dtype))
    tables = Console(width=WIDTH)
    for table in tables_of(dataset):
        tables.print(table)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    draw = [sys.executable, "-m", "paper_figures", NAME, "--preset", preset, "--dtype", dtype]
    sys.exit(subprocess.run(draw, cwd=results.ROOT.parent, check=False).returncode)


def tables_of(dataset: xr.Dataset) -> list[Table]:
    """Make one table per group, each of one line per row."""
    tables = []
    groups = dataset["group"].to_numpy()
    for group in dict.fromkeys(groups.tolist()):
        part = dataset.isel(row=groups == group)
        table = Table(
            title=f"{group}, {dataset.attrs['dtype']}: {CAPTIONS[group]}",
            title_justify="left",
            box=None,
            pad_edge=False,
            collapse_padding=True,
        )
        for heading in ("case", "what"):
            table.add_column(heading, no_wrap=True)
        exact = group == "accuracy"
        sizes = ("range",) if exact else ("n", "k", "T", "batch")
        middle = ("error", "own est.") if exact else ("error",)
        rate = RATES.get(group, "µs/step")
        memory = ("MB",) if group in WITH_MEMORY else ()
        for heading in (*sizes, *middle, "compile s", rate, "ratio", "25-75 %", *memory):
            table.add_column(heading, justify="right", no_wrap=True)
        before = None
        for row in part.to_dataframe().to_dict("records"):
            if before not in (None, row["case"], ""):
                table.add_section()
            table.add_row("" if row["case"] == before else row["case"], row["name"], *_cells(row))
            before = row["case"]
        tables.append(table)
    return tables


def _cells(row):
    """Format what is right of a row's name; what was not measured says why, or is a dash."""
    if row["group"] == "accuracy":
        sizes = [f"{row['log_range']:.0f}"]
        errors = [_error(row["error"]), _error(row["own_error"])]
    else:
        sizes = [str(row[name]) for name in ("n", "k", "num_steps", "batch")]
        errors = [_error(row["error"])]
    if row["note"]:
        return [*(sizes if row["n"] else ["-"] * len(sizes)), *("-" for _ in errors), row["note"]]
    if row["group"] in RATES:
        speed = _significant(row["batch"] / row["seconds"])
    else:
        speed = _significant(1e6 * row["seconds"] / row["num_steps"])
    low, high = (_significant(row[name], 2) for name in ("ratio_low", "ratio_high"))
    compiling = f"{row['compile_seconds']:.1f}"
    memory = [_significant(row["megabytes"], 2)] if row["group"] in WITH_MEMORY else []
    ratios = [_significant(row["ratio"]), f"{low}-{high}"]
    return [*sizes, *errors, compiling, speed, *ratios, *memory]


def _error(value):
    return "-" if math.isnan(value) else f"{value:.1e}"


def _significant(value, digits=3):
    return f"{value:.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _progress(console):
    return Progress(
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


if __name__ == "__main__":
    tyro.cli(main)

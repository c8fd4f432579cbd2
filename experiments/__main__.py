"""Run experiments: `python -m experiments [NAME | all | show FILE] [--preset ...]`."""

import dataclasses
import importlib
import os
import sys
from typing import Annotated, Literal

import tyro
from rich.console import Console

from experiments import catalogue, environment

DESCRIPTION = "\n\n".join(
    [
        "Run an experiment and write its results to results/NAME/.",
        "A run that is stopped goes on where it was when the same command is given again.",
        "\n".join(f"  {name}: {known.summary}" for name, known in catalogue.EXPERIMENTS.items()),
        "  all: runs all of these\n  show FILE: says what a result file holds, and draws it",
        *(
            f"{name} has options of its own: python -m experiments {name} --help"
            for name, known in catalogue.EXPERIMENTS.items()
            if known.own_options
        ),
    ]
)


MOST_AT_ONCE = 4  # experiments side by side, of up to half a gigabyte each


def main(
    name: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")
    ] = "regime_versus_training",
    /,
    preset: Literal["quick", "default", "full"] = "default",
    device: Literal["cpu", "gpu"] = "cpu",
    dtype: catalogue.Dtype | None = None,
    workers: int | None = None,
) -> None:
    """Run an experiment and write its results to results/NAME/.

    Args:
        name: which experiment, or `all`.
        preset: `quick` takes seconds and shows that all parts work, `default` takes minutes on two
            cores, `full` hours.
        device: where to compute.
        dtype: precision of networks, predictions and training; by default the one that the
            experiment needs.
        workers: parallel processes; one for each core by default, one on a GPU. With 0 the process
            that was started does the work. On a CPU, quick presets of `all` run side by side
            instead, one process each, if this is not given.
    """
    if workers is not None and workers < 0:
        sys.exit(f"--workers: received {workers}, expected at least 0")
    if name == "all":
        from experiments import run_all  # and with it NumPy, which is to find threads settled

        run_all.stop_in_order()
        at_once = 1
        if preset == "quick" and device == "cpu" and workers is None:
            # They mostly compile, and each process of an experiment compiles the same.
            at_once, workers = min(os.cpu_count() or 1, MOST_AT_ONCE), 0
        options = {"device": device, "dtype": dtype, "workers": workers, "at_once": at_once}
        sys.exit(run_all.run(preset, **options))
    if name not in catalogue.EXPERIMENTS:
        known = ", ".join([*catalogue.EXPERIMENTS, "all", "show"])
        sys.exit(f"unknown experiment {name!r}: expected one of {known}")
    if catalogue.EXPERIMENTS[name].own_options:
        sys.exit(f"{name} has options of its own: name it first, python -m experiments {name} ...")
    dtype = dtype or catalogue.dtype_of(name)
    if workers is None:
        workers = 1 if device == "gpu" else os.cpu_count() or 1
    # Workers have one thread each; without any it is this process that works.
    environment.settle(device, dtype, threads=1 if workers == 0 else None)
    if preset == "quick":  # compiles more than it computes
        environment.compile_fast(optimize=False)
    # After the environment is set, which JAX and NumPy read when they are imported.
    experiment = catalogue.module_of(name)
    config = dataclasses.replace(experiment.PRESETS[preset], dtype=dtype)
    console = Console()
    console.print(f"{name}, preset {preset}, {dtype} on {device}, {workers} workers")
    try:
        failed = experiment.run(config, preset, num_workers=workers, console=console)
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        sys.exit(f"{name}: {failed} units failed, each named above with its error")


def command_line(arguments: list[str]) -> int:
    """Run the command line; what has options of its own parses them itself."""
    first, rest = (arguments or [""])[0], arguments[1:]
    if first == "show":
        from experiments import show

        return show.main(rest)
    if first in catalogue.EXPERIMENTS and (own := catalogue.EXPERIMENTS[first].own_options):
        environment.use_threads(1)  # before the options import NumPy
        return importlib.import_module(f"experiments.{own}").main(rest)
    tyro.cli(main, args=arguments, prog="python -m experiments", description=DESCRIPTION)
    return 0


if __name__ == "__main__":
    sys.exit(command_line(sys.argv[1:]))

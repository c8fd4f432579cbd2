"""The command line: `python -m experiments [NAME | all | show FILE] [options]`.

The fields of an experiment's configuration are options. Its module imports JAX, so device and
precision are read off the command line before.
"""

import argparse
import contextlib
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console

from experiments import catalogue
from experiments.runner import environment, stopping, workers
from experiments.runner.environment import Settings

Preset = Literal["quick", "default", "full"]
Config = TypeVar("Config")
DESCRIPTION = "\n\n".join(
    [
        "Run an experiment and write its results to results/NAME/.",
        "A run that is stopped goes on where it was when the same command is given again.",
        "\n".join(f"  {name}: {known.summary}" for name, known in catalogue.EXPERIMENTS.items()),
        "  all: runs all of these\n  show FILE: says what a result file holds, and draws it",
        "The options of an experiment: python -m experiments NAME --help",
    ]
)


@dataclasses.dataclass(frozen=True)
class Command(Generic[Config]):
    """How an experiment is run.

    Attributes:
        config: what is computed. What is not given is taken from the preset.
        preset: `quick` takes seconds and shows that all parts work, `default` takes minutes on two
            cores, `full` hours or a cluster.
        device: where to compute.
        workers: processes of this machine that share the work, one for each core or GPU if it is
            not given. With 0 the process that was started does the work.
        scheduler: of a running Dask cluster, `tcp://HOST:PORT`, whose workers do the work. They
            need the files of this project and a `--folder` that all share.
        slurm: jobs that Slurm starts to do the work, as dask-jobqueue is configured.
        folder: in place of results; chunks and result go into NAME below it.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    preset: Preset = "default"
    device: Literal["cpu", "gpu"] = "cpu"
    workers: int | None = None
    scheduler: str | None = None
    slurm: int | None = None
    folder: Path | None = None


def main(arguments: Sequence[str]) -> int:
    """Run the command line, and return the exit status."""
    first = next(iter(arguments), "")
    if first in catalogue.EXPERIMENTS:
        return _run_one(first, arguments[1:])
    if first == "show":
        from experiments.runner import show

        return show.main(arguments[1:])
    if first == "all":
        from experiments.runner import run_all

        return run_all.main(arguments[1:])
    if not first or (first.startswith("-") and first not in ("-h", "--help")):
        return _run_one(next(iter(catalogue.EXPERIMENTS)), arguments)
    if first in ("-h", "--help"):
        print(f"usage: python -m experiments [NAME | all | show FILE] [options]\n\n{DESCRIPTION}")
        return 0
    known = ", ".join([*catalogue.EXPERIMENTS, "all", "show"])
    print(f"unknown experiment {first!r}: expected one of {known}", file=sys.stderr)
    return 2


def _run_one(name: str, arguments: Sequence[str]) -> int:
    settings = _settings(name, arguments)
    environment.settle(settings)
    # After the environment is set, which JAX and NumPy read when they are imported.
    from experiments.runner import frame

    command = parse(name, arguments)
    console = Console()
    stopping.stop_in_order()
    try:
        with _pool(command, settings, console) as pool:
            failed = frame.run(
                catalogue.module_of(name),
                command.config,
                pool,
                console=console,
                folder=command.folder,
            )
    except stopping.StoppedError as error:
        print(f"{name}: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; finished chunks are saved, the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    return min(failed, 1)


def parse(name: str, arguments: Sequence[str]) -> Command:
    """Parse the options of an experiment. Leave with a message where one is refused."""
    from pydantic import TypeAdapter, ValidationError

    experiment = catalogue.module_of(name)
    preset = _known(arguments).preset
    default = experiment.PRESETS.get(preset, experiment.PRESETS["default"])
    default = dataclasses.replace(default, dtype=_settings(name, arguments).dtype)
    kind = type(default)
    try:
        command = tyro.cli(
            Command[kind],
            args=arguments,
            default=Command(default),
            prog=f"python -m experiments {name}",
            description=experiment.__doc__,
        )
        TypeAdapter(kind).validate_python(dataclasses.asdict(command.config))
    except ValidationError as error:
        sys.exit("\n".join(map(_explained, error.errors())))
    except ValueError as error:  # of a dataclass about fields that do not fit each other
        sys.exit(str(error))
    for option, number, least in (("workers", command.workers, 0), ("slurm", command.slurm, 1)):
        if number is not None and number < least:
            sys.exit(f"--{option}: received {number}, expected at least {least}")
    if sum(one is not None for one in (command.workers, command.scheduler, command.slurm)) > 1:
        sys.exit("--workers, --scheduler and --slurm: give one of them")
    return command


def _explained(error: Any) -> str:
    """Say of a field what was received and what was expected."""
    option = "--" + str(next(iter(error["loc"]), "")).replace("_", "-")
    said = error["msg"].removeprefix("Value error, ")
    return f"{option}: received {error['input']}: {said}"


def _known(arguments: Sequence[str]) -> argparse.Namespace:
    """Read what has to be known before the options of an experiment are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option, default in {"preset": "default", "device": "cpu", "dtype": None}.items():
        parser.add_argument(f"--{option}", default=default)
    return parser.parse_known_args(arguments)[0]


def _settings(name: str, arguments: Sequence[str]) -> Settings:
    known = _known(arguments)
    # Quick presets compile more than they compute.
    dtype = known.dtype or catalogue.dtype_of(name)
    return Settings(known.device, dtype, optimize=known.preset != "quick")


@contextlib.contextmanager
def _pool(command: Command, settings: Settings, console: Console):
    """Start, or find, what computes."""
    number = command.workers
    if number is None:
        gpus = len(environment.visible_gpus())
        number = max(gpus, 1) if settings.device == "gpu" else environment.num_cores()
    if command.scheduler is not None:
        chosen = workers.joined(settings, command.scheduler)
    elif command.slurm is not None:
        chosen = workers.slurm(settings, command.slurm)
    elif number == 0:
        chosen = contextlib.nullcontext(workers.Here())
    else:
        chosen = workers.local(settings, number)
    with chosen as pool:
        if isinstance(pool, workers.Cluster) and not pool.has_workers():
            console.print("waiting for workers to join")
        yield pool

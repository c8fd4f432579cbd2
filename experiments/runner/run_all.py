"""Run every experiment, each in a process of its own.

A process of its own because JAX reads its environment, which differs between experiments, once.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Literal, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from experiments import catalogue
from experiments.runner import environment, results, stopping
from experiments.runner.display import duration

MADE = "made"
STOPPED = "stopped; goes on from there when run again"
INTERRUPTED = 128 + signal.SIGINT  # exit status
MOST_AT_ONCE = 4  # experiments side by side, of up to half a gigabyte each
GRACE = 15.0  # seconds in which an experiment that is stopped may end by itself


@dataclasses.dataclass(frozen=True)
class Options:
    """Run every experiment, each in a process of its own.

    Attributes:
        preset: of every experiment.
        device: where to compute.
        dtype: of every experiment, in place of its own.
        workers: processes of one experiment; one for each core or GPU by default. On a CPU, quick
            presets run side by side instead, one process each, if this is not given.
    """

    preset: Literal["quick", "default", "full"] = "default"
    device: Literal["cpu", "gpu"] = "cpu"
    dtype: catalogue.Dtype | None = None
    workers: int | None = None


class Finished(NamedTuple):
    """How one experiment ended; seconds are None if it never ran."""

    name: str
    seconds: float | None
    outcome: str


class Running(NamedTuple):
    """An experiment that is running.

    Attributes:
        name: of the experiment.
        process: in which it runs.
        started: time on `time.perf_counter`, seconds.
        output: takes what it prints until it has ended; None if all is shown at once.
        errors: takes what it says of errors.
    """

    name: str
    process: subprocess.Popen[bytes]
    started: float
    output: IO[str] | None
    errors: IO[str]


def main(arguments: Sequence[str]) -> int:
    """Run the command line, and return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments all")
    if options.workers is not None and options.workers < 0:
        sys.exit(f"--workers: received {options.workers}, expected at least 0")
    at_once, workers = 1, options.workers
    if options.preset == "quick" and options.device == "cpu" and workers is None:
        # They mostly compile, and each process of an experiment compiles the same.
        at_once, workers = min(environment.num_cores(), MOST_AT_ONCE), 0
    stopping.stop_in_order()
    return run(options, workers, at_once=at_once, console=Console())


def run(options: Options, workers: int | None, *, at_once: int, console: Console) -> int:
    """Run all experiments, print how each ended, and return the exit status.

    Args:
        options: of every experiment.
        workers: processes of one experiment, 0 if it is itself to work; its own default if None.
        at_once: number of experiments side by side; of more than one, each is shown when it ends.
        console: where the table is printed.
    """
    waiting = list(catalogue.EXPERIMENTS)
    running: list[Running] = []
    finished: list[Finished] = []
    stopped = False
    started = time.perf_counter()
    try:
        while running or (waiting and not stopped):
            while waiting and not stopped and len(running) < at_once:
                name = waiting[0]
                if at_once == 1:
                    _announce(console, name)
                command = _command(name, options, workers)
                running.append(_started(name, command, shown=at_once == 1))
                del waiting[0]
            time.sleep(0.05)
            for one in [one for one in running if one.process.poll() is not None]:
                finished.append(_ended(one, console))
                running.remove(one)
                stopped |= finished[-1].outcome == STOPPED
    except KeyboardInterrupt:
        stopped = True
        _stop([one.process for one in running])
        known = {one.name for one in finished}
        finished += [_ended(one, console) for one in running if one.name not in known]
    finally:  # also where the output cannot be written
        _stop([one.process for one in running if one.process.poll() is None])
    known = {one.name for one in finished}
    finished += [Finished(name, None, "not run") for name in waiting if name not in known]
    console.print(table_of(finished))
    console.print(f"together {duration(time.perf_counter() - started)}")
    if stopped:
        return INTERRUPTED
    failed = sum(one.outcome != MADE for one in finished)
    if failed < len(finished):
        option = "" if options.preset == "default" else f" --preset {options.preset}"
        option += "" if options.dtype is None else f" --dtype {options.dtype}"
        console.print(f"draw the results with `python -m paper_figures{option}`")
    return min(failed, 1)


def table_of(finished: list[Finished]) -> Table:
    """Lay out how each experiment ended."""
    table = Table(pad_edge=False)
    table.add_column("experiment", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("outcome", overflow="fold")
    for name, seconds, outcome in finished:
        colour = "green" if outcome == MADE else "yellow" if seconds is None else "red"
        table.add_row(name, "" if seconds is None else duration(seconds), outcome, style=colour)
    return table


def _command(name: str, options: Options, workers: int | None) -> list[str]:
    command = [sys.executable, "-m", "experiments", name]
    command += ["--preset", options.preset, "--device", options.device]
    command += [] if options.dtype is None else ["--dtype", options.dtype]
    return command + ([] if workers is None else ["--workers", str(workers)])


def _announce(console, name):
    number = list(catalogue.EXPERIMENTS).index(name) + 1
    console.rule(f"{number} of {len(catalogue.EXPERIMENTS)}: {name}")


def _started(name: str, command: list[str], *, shown: bool) -> Running:
    """Start a command whose output is shown, or kept until it ends."""
    output = None if shown else _file()
    errors = _file()
    process = subprocess.Popen(
        command,
        cwd=results.ROOT.parent,
        stdout=output,
        stderr=errors,
        # Ctrl-C reaches this process alone, which hands it on once: a second one would cut short
        # the saving of what is finished.
        start_new_session=True,
    )
    return Running(name, process, time.perf_counter(), output, errors)


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", errors="backslashreplace")


def _ended(one: Running, console: Console) -> Finished:
    """Say how an experiment ended, and show what it has printed."""
    seconds = time.perf_counter() - one.started
    if one.output is not None:
        _announce(console, one.name)
        console.file.write(_contents(one.output))
    errors = _contents(one.errors)
    sys.stderr.write(errors)
    code = one.process.returncode
    if code in (INTERRUPTED, -signal.SIGINT):
        return Finished(one.name, seconds, STOPPED)
    return Finished(one.name, seconds, f"failed: {_reason(code, errors)}" if code else MADE)


def _contents(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let experiments save what they have, and end those that do not end by themselves."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.perf_counter() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.perf_counter()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _reason(code: int, errors: str) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    last_words = [line.strip() for line in errors.splitlines() if line.strip()][-1:]
    return last_words[0] if last_words else f"exit status {code}"

"""Run every experiment, one after another, each in a process of its own.

A process of its own because JAX reads its environment, which differs between experiments, once.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, NamedTuple

from rich.console import Console
from rich.table import Table

from experiments import catalogue, results

MADE = "made"
INTERRUPTED = 128 + signal.SIGINT  # exit status
GRACE = 15.0  # seconds in which an experiment that is stopped may end by itself


class Finished(NamedTuple):
    """How one experiment ended; seconds are None if it never ran."""

    name: str
    seconds: float | None
    outcome: str


def run(
    preset: str,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> int:
    """Run all experiments, print how each ended, and return the exit status.

    Args:
        preset: of every experiment.
        device: "cpu" or "gpu".
        dtype: of every experiment, in place of its own.
        workers: parallel processes of one experiment; its own default if None.
        console: where the table is printed.
    """
    console = console or Console()
    finished: list[Finished] = []
    stopped = False
    for number, name in enumerate(catalogue.EXPERIMENTS, 1):
        if stopped:
            finished.append(Finished(name, None, "not run"))
            continue
        console.rule(f"{number} of {len(catalogue.EXPERIMENTS)}: {name}")
        started = time.perf_counter()
        try:
            code, last_words = _in_a_process(_command(name, preset, device, dtype, workers))
        except KeyboardInterrupt:
            code, last_words = INTERRUPTED, ""
        stopped = code == INTERRUPTED
        outcome = f"failed: {_reason(code, last_words)}" if code else MADE
        if stopped:
            outcome = "stopped; goes on from there when run again"
        finished.append(Finished(name, time.perf_counter() - started, outcome))
    console.print(table_of(finished))
    if stopped:
        return INTERRUPTED
    failed = sum(one.outcome != MADE for one in finished)
    if failed < len(finished):
        option = "" if preset == "default" else f" --preset {preset}"
        console.print(f"draw the results with `python -m paper_figures{option}`")
    return min(failed, 1)


def stop_in_order() -> None:
    """Take the end of the session and a wish to terminate as Ctrl-C."""
    # Also where a shell lets its background processes ignore Ctrl-C: experiments would inherit
    # that, and could not be told to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as by nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def table_of(finished: list[Finished]) -> Table:
    """Lay out how each experiment ended."""
    table = Table(pad_edge=False)
    table.add_column("experiment", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("outcome", overflow="fold")
    for name, seconds, outcome in finished:
        colour = "green" if outcome == MADE else "yellow" if seconds is None else "red"
        table.add_row(name, "" if seconds is None else _written(seconds), outcome, style=colour)
    return table


def _command(name, preset, device, dtype, workers):
    command = [sys.executable, "-m", "experiments", name, "--preset", preset, "--device", device]
    if dtype is not None:
        command += ["--dtype", dtype]
    if workers is not None:
        command += [catalogue.EXPERIMENTS[name].workers, str(workers)]
    return command


def _in_a_process(command: list[str]) -> tuple[int, str]:
    """Run a command, pass on its output; return its exit status and last line of errors."""
    process = subprocess.Popen(
        command,
        cwd=results.ROOT.parent,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # Ctrl-C reaches this process alone, which hands it on once: a second one would cut short
        # the saving of what is finished.
        start_new_session=True,
    )
    assert process.stderr is not None
    last = [""]
    reader = threading.Thread(target=_pass_on, args=(process.stderr, last), daemon=True)
    reader.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    reader.join(1.0)  # longer only if a process that it left behind holds the pipe
    return code, last[0]


def _reason(code, last_words):
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return last_words or f"exit status {code}"


def _pass_on(stream: IO[str], last: list[str]) -> None:
    with stream:
        for line in stream:
            sys.stderr.write(line)
            sys.stderr.flush()
            last[0] = line.strip() or last[0]


def _written(seconds):
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

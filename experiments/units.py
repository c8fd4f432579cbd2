"""Independent units of work in parallel processes, each saved when done, so that a run resumes.

Each worker process uses one thread: small recurrent networks gain nothing from more, and XLA's
pool of two threads can wait for itself forever when two batched LAPACK calls meet in it.
"""

import concurrent.futures
import multiprocessing
import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import results

Report = Callable[[str, float], None]  # (what is being done, fraction of the unit done)
_progress_queue: Any = None


def run_units(
    work: Callable[[Any, Any, Report], xr.Dataset],
    config: Any,
    units: list,
    folder: Path,
    *,
    num_workers: int,
    console: Console,
) -> tuple[dict[Any, xr.Dataset], dict[Any, str]]:
    """Do all units of a configuration that are not saved yet, and return every unit's dataset.

    Args:
        work: `work(config, unit, report) -> dataset`, a module-level function.
        config: a frozen dataclass; its fingerprint names the saved files.
        units: NamedTuples of strings; `str.join` of one names its file.
        folder: where finished units are saved, in `parts/`.
        num_workers: parallel processes.
        console: where progress is shown; plain lines if it is no terminal.

    Returns:
        `(datasets, failures)` by unit; a failure is its error in one line.
    """
    paths = {unit: _path(folder, config, unit) for unit in units}
    done = {unit: saved for unit in units if (saved := _saved(paths[unit], console)) is not None}
    if done:
        console.print(f"{len(done)} of {len(units)} units were already done and are reused")
    failures: dict[Any, str] = {}
    todo = [unit for unit in units if unit not in done]
    if not todo:
        return done, failures
    os.environ["NPROC"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(todo)), context, initializer=_connect, initargs=(messages,)
    )
    try:
        with _display(console, todo) as show:
            futures = {
                pool.submit(_one_unit, work, config, unit, paths[unit]): unit for unit in todo
            }
            waiting = set(futures)
            while waiting:
                finished, waiting = concurrent.futures.wait(waiting, timeout=0.2)
                _drain(messages, show)
                for future in finished:
                    unit = futures[future]
                    if (error := future.exception()) is None:
                        done[unit] = results.read(paths[unit])
                        show("-".join(unit), "done", 1.0)
                    else:
                        failures[unit] = f"{type(error).__name__}: {error}".splitlines()[0]
                        show("-".join(unit), "failed", 1.0)
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        console.print("stopped; finished units are saved, the same command goes on from there")
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return done, failures


def _connect(messages):
    global _progress_queue
    _progress_queue = messages


def _one_unit(work, config, unit, path):
    name = "-".join(unit)

    def report(what, fraction):
        _progress_queue.put((name, what, fraction))

    report("starting", 0.0)
    results.write(work(config, unit, report), path)


def _path(folder, config, unit):
    return folder / "parts" / f"{'-'.join(unit)}-{results.fingerprint(config, *unit)}.nc"


def _saved(path, console):
    if not path.is_file():
        return None
    try:
        return results.read(path)
    except ValueError:
        console.print(f"{path.name} is damaged and is made again")
        return None


def _drain(messages, show):
    while True:
        try:
            show(*messages.get_nowait())
        except queue.Empty:
            return


class _display:
    """Progress bars on a terminal, one line for each change of activity elsewhere."""

    def __init__(self, console, units):
        self.console = console
        self.last = {}
        self.bars = Progress(
            TextColumn("{task.fields[unit]:<34}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[what]:<24}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.bar_of = {
            "-".join(unit): self.bars.add_task(
                "", total=1.0, unit="-".join(unit), what="waiting", start=False
            )
            for unit in units
        }

    def __enter__(self):
        if self.console.is_terminal:
            self.bars.start()
        return self.show

    def __exit__(self, *_):
        if self.console.is_terminal:
            self.bars.stop()

    def show(self, name, what, fraction):
        if self.console.is_terminal:
            bar = self.bar_of[name]
            if what == "starting":
                self.bars.start_task(bar)
            self.bars.update(bar, completed=fraction, what=what)
        elif self.last.get(name) != what:
            self.console.print(f"{name}: {what}", highlight=False)
        self.last[name] = what

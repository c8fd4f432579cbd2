"""Independent units of work in parallel processes, each saved when done, so that a run resumes.

Each worker process uses one thread: small recurrent networks gain nothing from more, and XLA's
pool of two threads can wait for itself forever when two batched LAPACK calls meet in it.
"""

import concurrent.futures
import multiprocessing
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import environment, results

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
        num_workers: parallel processes; if 0, this process does the work. Then Ctrl-C waits for
            what is being computed, and a crash takes this process with it.
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
    try:
        with _display(console, todo) as show:

            def finished(unit: Any, error: BaseException | None) -> None:
                if error is None:
                    done[unit] = results.read(paths[unit])
                else:
                    failures[unit] = f"{type(error).__name__}: {error}".splitlines()[0]
                show("-".join(unit), "done" if error is None else "failed", 1.0)

            if num_workers == 0:
                _in_this_process(work, config, todo, paths, show, finished)
            else:
                _in_processes(work, config, todo, paths, show, finished, num_workers)
    except KeyboardInterrupt:
        console.print("stopped; finished units are saved, the same command goes on from there")
        raise
    return done, failures


def _in_this_process(work, config, units, paths, show, finished):
    for unit in units:
        try:
            _one_unit(work, config, unit, paths[unit], show)
        except (Exception, SystemExit) as error:
            finished(unit, error)
        else:
            finished(unit, None)


def _in_processes(work, config, units, paths, show, finished, num_workers):
    environment.use_threads(1)  # which the processes inherit
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(units)), context, initializer=_connect, initargs=(messages,)
    )
    try:
        unit_of = {pool.submit(_in_worker, work, config, unit, paths[unit]): unit for unit in units}
        waiting = set(unit_of)
        while waiting:
            ended, waiting = concurrent.futures.wait(waiting, timeout=0.2)
            _drain(messages, show)
            for future in ended:
                finished(unit_of[future], future.exception())
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _connect(messages):
    global _progress_queue
    _progress_queue = messages


def _in_worker(work, config, unit, path):
    _one_unit(work, config, unit, path, lambda *message: _progress_queue.put(message))


def _one_unit(work, config, unit, path, show):
    def report(what, fraction):
        show("-".join(unit), what, fraction)

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

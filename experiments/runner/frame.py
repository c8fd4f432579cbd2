"""Run an experiment: compute what is not saved yet, join it, print it, and write one file."""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console

from experiments import catalogue
from experiments.runner import chunks, results
from experiments.runner.chunks import Chunk
from experiments.runner.display import Display, duration
from experiments.runner.experiment import Experiment
from experiments.runner.stopping import StoppedError
from experiments.runner.store import ChunkStore, explained
from experiments.runner.workers import Pool


def run(
    experiment: Experiment,
    config: Any,
    pool: Pool,
    *,
    console: Console,
    folder: Path | None = None,
) -> int:
    """Run an experiment, and return how many chunks failed.

    Chunks that are saved already are not computed again, whatever computed them.

    Args:
        experiment: its module.
        config: its configuration.
        pool: what computes.
        console: where progress and results are shown.
        folder: in place of `results`. Chunks and result go into `NAME` below it.

    Raises:
        StoppedError: the experiment is running already, or cannot be saved.
    """
    started = time.perf_counter()
    name = experiment.__name__.rpartition(".")[2]
    folder = (folder / name if folder else results.directory(name)).absolute()
    label = results.name_of(config, experiment.PRESETS)
    made_with = pool.call(_origin)
    fingerprint = results.fingerprint(config, made_with)
    store = ChunkStore(folder / "chunks" / fingerprint, fingerprint)
    with store.locked():
        if hasattr(experiment, "networks"):
            config = _with_chunk_size(experiment, config, pool, store, console)
        planned = chunks.plan(experiment, config, getattr(config, "chunk_size", None))
        parts, failures = _computed(experiment, config, pool, planned, store, made_with, console)
        if failures and not (parts and hasattr(experiment, "networks")):
            _tell_failures(failures, "nothing is written", console)
            return len(failures)
        dataset = experiment.combine(config, parts)
        seconds = time.perf_counter() - started
        dataset = results.described(dataset, config, made_with, seconds=seconds)
        with explained(folder):
            path = results.write(dataset, folder / f"{label}-{config.dtype}.nc")
    experiment.show(dataset, console)
    if failures:
        _tell_failures(failures, "units with a failed chunk are missing from the result", console)
    _say_last(name, path, seconds, label, config.dtype, console)
    return len(failures)


def _origin(report):
    del report
    return chunks.origin()


def _with_chunk_size(experiment, config, pool, store, console):
    """Return a configuration with the chunk size that is planned, or measure one and keep it."""
    planned = store.plan()
    size = config.chunk_size or (planned or {}).get("chunk_size")
    measured = None
    if not size:
        console.print("choosing the size of chunks by measurement", highlight=False)
        measure = partial(chunks.measure_chunk_size, experiment.__name__, config, pool.num_workers)
        size, measured = pool.call(measure)
    if planned is None:
        store.write_plan({"chunk_size": size, "seconds_of_pilot": measured})
    return dataclasses.replace(config, chunk_size=size)


def _computed(
    experiment: Experiment,
    config: Any,
    pool: Pool,
    planned: list[Chunk],
    store: ChunkStore,
    made_with: dict[str, str],
    console: Console,
) -> tuple[Mapping[Any, xr.Dataset], dict[str, str]]:
    """Compute the chunks that are not saved, and return every unit's dataset and every failure."""

    def load(chunk_name: str) -> xr.Dataset | None:
        return store.load(chunk_name, partial(_tell, console))

    saved = {chunk.name: dataset for chunk in planned if (dataset := load(chunk.name)) is not None}
    waiting = [chunk for chunk in planned if chunk.name not in saved]
    already = f", {len(saved)} of them done already" if saved else ""
    at_a_time = f"{pool.num_workers} at a time"
    _tell(console, f"{len(planned)} chunks{already}; {at_a_time}; kept in {store.folder}")
    visited: dict[str, set[Any]] = {}
    failures: dict[str, str] = {}

    def take(worker):
        if not waiting:
            return None
        visited.setdefault(worker, set())
        chunk = chunks.take(waiting, worker, visited)
        visited[worker].add(chunk.unit)
        return chunk.name, partial(
            chunks.compute,
            experiment.__name__,
            config,
            chunk,
            store.folder,
            store.fingerprint,
            made_with,
        )

    with Display(console, list(waiting)) as display:
        for chunk_name, error in pool.compute(take, display):
            if isinstance(error, StoppedError):
                raise error
            said = None if error is None else _in_one_line(error)
            if said is not None:
                failures[chunk_name] = said
            elif not store.has(chunk_name):
                msg = (
                    f"{chunk_name} was computed, but is not in {store.folder}: workers of other "
                    "machines need a --folder that all share"
                )
                raise StoppedError(msg)
            display.finish(chunk_name, said)
    saved |= {
        chunk.name: dataset
        for chunk in planned
        if chunk.name not in saved and (dataset := load(chunk.name)) is not None
    }
    if lost := [c.name for c in planned if c.name not in saved and c.name not in failures]:
        msg = (
            f"{', '.join(lost[:3])}: changed while the experiment ran: give the same command "
            "again, which computes what is missing"
        )
        raise StoppedError(msg)
    return chunks.gather(planned, saved.get), failures


def _in_one_line(error):
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _tell_failures(failures, consequence, console):
    for chunk_name, error in failures.items():
        _tell(console, f"{chunk_name} failed: {error}", style="red")
    _tell(
        console,
        f"{len(failures)} chunks failed; {consequence}; finished chunks are saved, and the same "
        "command tries the others again",
    )


def _say_last(name, path, seconds, label, dtype, console):
    draw = f"python -m paper_figures {name}"
    if path != results.path_of(name, label, dtype) or label.startswith(results.CUSTOM):
        draw += f" --file {results.shown(path)}"
    else:
        draw += "" if label == "default" else f" --preset {label}"
        draw += "" if dtype == catalogue.dtype_of(name) else f" --dtype {dtype}"
    _tell(console, f"\n{duration(seconds)}; wrote {results.shown(path)}; `{draw}` draws it")


def _tell(console, said, **options):
    """Print a line as it is, however long, whatever brackets it has."""
    console.print(said, highlight=False, markup=False, soft_wrap=True, **options)

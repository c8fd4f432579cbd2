"""The work of an experiment, cut into chunks: what is computed, and saved, at a time.

Networks of one shape are one program, `jax.vmap` over a chunk of fixed size, with what tells them
apart as data. A chunk is computed by a program for one device, so neither the number of workers nor
the order of chunks touches a bit of the results.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import xarray as xr

from experiments.runner.experiment import Experiment, Networks, Report, networks_of
from experiments.runner.stopping import RefusedError, StoppedError
from experiments.runner.store import ChunkStore

MEMORY_SHARE = 0.6  # of a device's memory, at most, for one chunk
WORTH = 0.95  # a larger chunk has to take less than this fraction of the time of a smaller one
LARGEST_CHUNK = 4096
NUMERIC_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jacobian_rnn")
COMPILER_OPTIONS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")


class Chunk(NamedTuple):
    """What is computed and saved together: a unit, or some of its networks.

    Attributes:
        name: of its file, and of no chunk of another size.
        unit: to which it belongs.
        start, stop: which networks of the unit; None if it is the whole unit.
        size: how many its program computes; those beyond `stop` are copies.
        cost: beside that of another chunk.
    """

    name: str
    unit: Any
    start: int | None = None
    stop: int | None = None
    size: int | None = None
    cost: float = 1.0

    @property
    def num_networks(self) -> int:
        """Count its networks; 1 if it is a whole unit."""
        return 1 if self.start is None or self.stop is None else self.stop - self.start


def plan(experiment: Experiment, config: Any, chunk_size: int | None) -> list[Chunk]:
    """Cut the units of an experiment into chunks, or take each as one if it has no networks."""
    chunks: list[Chunk] = []
    for unit in experiment.units(config):
        networks = networks_of(experiment, config, unit)
        chunks += [Chunk("-".join(unit), unit)] if networks is None else []
        if networks is not None and chunk_size is not None:
            chunks += cut(unit, networks, chunk_size)
    return chunks


def cut(unit: Any, networks: Networks, chunk_size: int) -> list[Chunk]:
    """Cut the networks of a unit into chunks; the last one may hold fewer."""
    num = len(next(iter(networks.rows.values())))
    return [
        Chunk(
            f"{'-'.join(unit)}-{start:06d}-by-{chunk_size}",
            unit,
            start,
            min(start + chunk_size, num),
            chunk_size,
            networks.cost * chunk_size,
        )
        for start in range(0, num, chunk_size)
    ]


def origin() -> dict[str, str]:
    """Say what decides the last bits of numbers that this process computes.

    Another release, device, processor or compiler option rounds otherwise. Some experiments read
    tables and models that the package ships.

    Raises:
        StoppedError: there is no device of the kind that was asked for.
    """
    versions = {name: importlib.metadata.version(name) for name in NUMERIC_PACKAGES}
    options = {name: os.environ.get(name, "") for name in COMPILER_OPTIONS}
    try:
        device = str(jax.devices()[0].device_kind)
    except (RuntimeError, AssertionError) as error:  # the latter where JAX has no plugin for it
        wanted = os.environ.get("JAX_PLATFORMS", "")
        msg = f"JAX finds no device here ({wanted}): {error}; a GPU needs jacobian_rnn[cuda]"
        raise StoppedError(msg) from error
    data = {"data": _shipped_data()}
    return {"device": device, "machine": platform.machine(), **versions, **options, **data}


@functools.cache
def _shipped_data() -> str:
    """Return a short hash of the tables and models that the package ships."""
    files = Path(str(resources.files("jacobian_rnn"))).rglob("*")
    shipped = sorted(file for file in files if file.suffix in (".csv", ".json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in shipped)).hexdigest()[:12]


def compute(
    module: str,
    config: Any,
    chunk: Chunk,
    folder: Path,
    fingerprint: str,
    made_with: dict[str, str],
    report: Report,
) -> None:
    """Compute a chunk and save it.

    Args:
        module: of the experiment.
        config: its configuration.
        chunk: what to compute.
        folder: of the chunks.
        fingerprint: of the run.
        made_with: what `origin` says of all other workers.
        report: is told what is being done.

    Raises:
        RefusedError: numbers of this process would be rounded otherwise than the others.
        StoppedError: the chunk cannot be saved.
    """
    if (own := origin()) != made_with:
        off = [f"{key} {own[key]!r} instead of {made_with[key]!r}" for key in own
               if own[key] != made_with.get(key)]  # fmt: skip
        msg = f"a worker would round otherwise than the first one: {', '.join(off)}"
        raise RefusedError(msg)
    report("starting", 0.0)
    experiment: Any = importlib.import_module(module)
    if chunk.size is None:
        dataset = experiment.work(config, chunk.unit, report)
    else:
        networks, compiled = _compiled(module, config, chunk.unit, chunk.size)
        rows = _rows(networks, chunk)
        report("computing", 0.0)
        outputs = compiled(rows)
        kept = jax.tree.map(lambda a: np.asarray(a)[: chunk.num_networks], outputs)
        dataset = networks.record(kept)
    ChunkStore(folder, fingerprint).save(chunk.name, dataset)


@functools.lru_cache(maxsize=4)
def _compiled(module, config, unit, size):
    """Return the networks of a unit, and their program for so many at a time.

    A hundred programs that are kept hold more memory maps than Linux gives a process.
    """
    networks = networks_of(cast("Experiment", importlib.import_module(module)), config, unit)
    assert networks is not None
    rows = {
        key: jax.ShapeDtypeStruct((size,), values.dtype) for key, values in networks.rows.items()
    }
    return networks, jax.jit(jax.vmap(networks.program)).lower(rows).compile()


def _rows(networks, chunk):
    """Take the rows of a chunk, filled up to its size with copies of the last one."""
    numbers = np.minimum(np.arange(chunk.start, chunk.start + chunk.size), chunk.stop - 1)
    return {name: jax.numpy.asarray(values[numbers]) for name, values in networks.rows.items()}


def gather(
    chunks: Sequence[Chunk], load: Callable[[str], xr.Dataset | None]
) -> dict[Any, xr.Dataset]:
    """Join the chunks of every unit that are all there, networks one behind the other."""
    by_unit: dict[Any, list[Chunk]] = {}
    for chunk in chunks:
        by_unit.setdefault(chunk.unit, []).append(chunk)
    joined: dict[Any, xr.Dataset] = {}
    for unit, own in by_unit.items():
        parts = [part.drop_attrs() for chunk in own if (part := load(chunk.name)) is not None]
        if len(parts) == len(own):
            joined[unit] = parts[0] if own[0].size is None else xr.concat(parts, "network")
    return joined


def measure_chunk_size(
    module: str, config: Any, num_workers: int, report: Report
) -> tuple[int, dict[int, float]]:
    """Choose the chunk size with the least estimated time for all networks on all workers.

    Sizes double until a chunk of the first unit no longer fits into memory, or covers all its
    networks, or a network takes longer than with half the size.

    Returns:
        `(chunk_size, seconds)`: seconds of the pilot for each size that was tried.
    """
    experiment = cast("Experiment", importlib.import_module(module))
    every = {
        unit: networks
        for unit in experiment.units(config)
        if (networks := networks_of(experiment, config, unit)) is not None
    }
    networks = next(iter(every.values()))
    widest = min(len(next(iter(networks.rows.values()))), LARGEST_CHUNK)
    sizes = [size for size in (4 * 2**i for i in range(12)) if size < widest] + [widest]
    seconds: dict[int, float] = {}
    for number, size in enumerate(sizes):
        report(f"trying chunks of {size}", number / len(sizes))
        rows = {name: np.resize(values, size) for name, values in networks.rows.items()}
        compiled = jax.jit(jax.vmap(networks.pilot)).lower(rows).compile()
        if seconds and _bytes(compiled) > MEMORY_SHARE * _device_bytes(num_workers):
            break
        seconds[size] = min(_timed(compiled, rows) for _ in range(3))
        per_network = [taken / tried for tried, taken in seconds.items()]
        if len(per_network) > 1 and per_network[-1] > per_network[-2]:
            break

    def total(size):
        num_chunks = sum(len(cut(unit, each, size)) for unit, each in every.items())
        return -(-num_chunks // num_workers) * seconds[size]

    best = sizes[0]
    for size in seconds:
        if total(size) < WORTH * total(best):
            best = size
    return best, seconds


def _bytes(compiled):
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes


def _device_bytes(num_workers):
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_workers


def _timed(compiled, rows):
    started = time.perf_counter()
    jax.block_until_ready(compiled(rows))
    return time.perf_counter() - started


def take(waiting: list[Chunk], worker: str, visited: Mapping[str, set[Any]]) -> Chunk:
    """Take the next chunk for a worker out of those that wait.

    One of a unit whose program it has compiled comes first, then one that the fewest other workers
    have. Among these the order is kept.
    """
    others = [unit for name, units in visited.items() if name != worker for unit in units]

    def preference(chunk):
        if chunk.size is None:
            return False, 0
        return chunk.unit not in visited[worker], others.count(chunk.unit)

    chunk = min(waiting, key=preference)
    waiting.remove(chunk)
    return chunk

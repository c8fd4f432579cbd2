"""Many networks as few compiled programs, over all devices of all processes, saved chunk by chunk.

Networks of one shape are one program, `jax.vmap` over a chunk of fixed size, with what tells them
apart as data. Each device computes whole chunks by a program for one device, so neither the number
of devices and processes nor the order of chunks touches a bit of the results. (One program that
spans a mesh is compiled otherwise for two devices than for one: GRUs trained by it came out with
other last bits.)
"""

import concurrent.futures
import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.chunk_store import ChunkStore, SweepStoppedError

MEMORY_SHARE = 0.6  # of a device's memory, at most, for one chunk
WORTH = 0.95  # a larger chunk has to take less than this fraction of the time of a smaller one
LARGEST_CHUNK = 4096
GLANCE = 0.1  # seconds between looks at what devices and other processes have done

Rows = dict[str, np.ndarray]


class Group(NamedTuple):
    """Networks of one shape.

    Attributes:
        name: names the chunks' files.
        rows: what tells the networks apart, each entry of shape `(networks,)`.
        program: from the entries of one row, as scalars, to a pytree of arrays; pure and traceable.
        record: on the host, from those arrays with a leading axis of networks to what is kept, a
            dataset whose variables begin with the dimension "network".
        pilot: a shorter program with about the same memory and relative speed, to choose the size
            of chunks by.
        cost: of one network, beside one of another group; processes share the work by it.
    """

    name: str
    rows: Rows
    program: Callable[[dict[str, jax.Array]], Any]
    record: Callable[[Any], xr.Dataset]
    pilot: Callable[[dict[str, jax.Array]], Any]
    cost: float = 1.0


class Chunk(NamedTuple):
    """Networks that are computed and saved together.

    Attributes:
        name: of its file, and of no chunk of another size.
        start, stop: which rows of its group.
    """

    name: str
    start: int
    stop: int


def chunks_of(group: Group, chunk_size: int) -> list[Chunk]:
    """Cut a group into chunks; the last one may hold fewer networks."""
    num_rows = _num_rows(group)
    return [
        Chunk(f"{group.name}-{start:06d}-by-{chunk_size}", start, min(start + chunk_size, num_rows))
        for start in range(0, num_rows, chunk_size)
    ]


def planned_chunk_size(
    groups: Sequence[Group], store: ChunkStore, chunk_size: int | None, console: Console
) -> int:
    """Return the chunk size of the configuration, or of the plan, or measure and keep it.

    All processes of a distributed run call it together, and get what the first one decides.
    """
    planned = store.plan()
    size = chunk_size or (planned or {}).get("chunk_size")
    # Processes could see different files; the first one's word counts.
    size = int(_of_first_process(size or 0))
    measured = None
    if not size:
        console.print("choosing the size of chunks by measurement", highlight=False)
        size, measured = measure_chunk_size(groups)
        size = int(_of_first_process(size))
    if jax.process_index() == 0 and planned is None:
        store.write_plan({"chunk_size": size, "seconds_of_pilot": measured})
    return size


def measure_chunk_size(groups: Sequence[Group]) -> tuple[int, dict[int, float]]:
    """Choose the chunk size with the least estimated time for all groups on all devices.

    Sizes double until a chunk of the first group no longer fits into memory, or covers all its
    networks, or a network takes longer than with half the size.

    Returns:
        `(chunk_size, seconds)`: seconds of the pilot for each size that was tried.
    """
    group, num_devices = groups[0], jax.device_count()
    widest = min(_num_rows(group), LARGEST_CHUNK)
    sizes = [size for size in (4 * 2**i for i in range(12)) if size < widest] + [widest]
    seconds: dict[int, float] = {}
    for size in sizes:
        rows = {name: np.resize(values, size) for name, values in group.rows.items()}
        compiled = jax.jit(jax.vmap(group.pilot)).lower(rows).compile()
        if seconds and _bytes(compiled) > MEMORY_SHARE * _device_bytes():
            break
        seconds[size] = min(_timed(compiled, rows) for _ in range(3))
        per_network = [taken / tried for tried, taken in seconds.items()]
        if len(per_network) > 1 and per_network[-1] > per_network[-2]:
            break

    def total(size):
        num_chunks = sum(len(chunks_of(each, size)) for each in groups)
        return -(-num_chunks // num_devices) * seconds[size]

    best = sizes[0]
    for size in seconds:
        if total(size) < WORTH * total(best):
            best = size
    return best, seconds


def run(
    groups: Sequence[Group], store: ChunkStore, *, chunk_size: int, console: Console
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """Compute all chunks that are not saved yet, and return all.

    In a distributed run every process calls it, on a file system that all share; each saves the
    chunks of its own devices and waits for those of the others, and the first one reads everything.

    Args:
        groups: all networks.
        store: where chunks are saved, locked by the caller.
        chunk_size: networks that a device computes at a time; the last chunk of a group is filled
            up with copies, which are dropped.
        console: where progress is shown; plain lines if it is no terminal.

    Returns:
        `(datasets, failures)`: by group the rows of all networks, on the first process only;
        by chunk what went wrong. A group with a failure has no dataset.

    Raises:
        SweepStoppedError: a chunk cannot be written, or another process stopped or is gone.
    """
    chunks = {group.name: chunks_of(group, chunk_size) for group in groups}
    every = [chunk for group in groups for chunk in chunks[group.name]]
    if jax.process_index() == 0:
        store.remove_leftovers()
        saved = {chunk.name: store.load(chunk.name) for chunk in every}
        for name in (name for name, chunk in saved.items() if chunk is None):
            store.path(name).unlink(missing_ok=True)
    else:
        saved = dict.fromkeys(chunk.name for chunk in every)
    done = _of_first_process(np.array([saved[chunk.name] is not None for chunk in every]))
    todo = {chunk.name for chunk, is_done in zip(every, done, strict=True) if not is_done}
    if len(todo) < len(every):
        console.print(f"{len(every) - len(todo)} of {len(every)} chunks were already done")
    shares = shared(groups, chunks, todo, jax.process_count())
    mine = shares[jax.process_index()]
    others = {
        number: [chunk.name for _, chunk in share]
        for number, share in enumerate(shares)
        if number != jax.process_index()
    }
    with _Display(console, sum(chunk.stop - chunk.start for _, chunk in mine)) as display:
        try:
            _compute(mine, chunk_size, store, display, others)
            while store.unfinished(others):
                time.sleep(GLANCE)
        except SweepStoppedError as error:
            store.mark_stopped(str(error))
            raise
    if jax.process_index() > 0:
        return {}, {}
    return _gathered(groups, chunks, saved, store)


def shared(
    groups: Sequence[Group], chunks: Mapping[str, Sequence[Chunk]], todo: Set[str], num: int
) -> list[list[tuple[Group, Chunk]]]:
    """Cut what is to do into a stretch of about equal cost for each process.

    So that a process compiles few shapes, the chunks of a group follow each other; costly and cheap
    groups alternate, so that the shapes of a process are about as many as those of another.
    """
    by_cost = sorted(groups, key=lambda group: group.cost, reverse=True)
    middle = (len(groups) + 1) // 2
    pairs = itertools.zip_longest(by_cost[:middle], reversed(by_cost[middle:]))
    line = [
        (group, chunk)
        for pair in pairs
        for group in pair
        if group is not None
        for chunk in chunks[group.name]
        if chunk.name in todo
    ]
    ends = list(itertools.accumulate(group.cost for group, _ in line))
    shares: list[list[tuple[Group, Chunk]]] = [[] for _ in range(num)]
    for (group, chunk), end in zip(line, ends, strict=True):
        shares[int(num * (end - group.cost) / ends[-1])].append((group, chunk))
    return shares


def _compute(todo, chunk_size, store, display, others):
    """Compute and save chunks on all devices of this process; note a failure and pass over it."""
    programs = {group.name: jax.jit(jax.vmap(group.program)) for group, _ in todo}
    columns = {group.name: group.rows for group, _ in todo}

    # A thread does not inherit the precision that a context manager has set.
    in_float64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    @functools.cache
    def compiled(device, name):
        place = SingleDeviceSharding(device)
        rows = {
            key: jax.ShapeDtypeStruct((chunk_size,), values.dtype, sharding=place)
            for key, values in columns[name].items()
        }
        return programs[name].lower(rows).compile()

    def work(device, group, chunk):
        num = chunk.stop - chunk.start
        filled = {
            name: _filled(values[chunk.start : chunk.stop], chunk_size)
            for name, values in group.rows.items()
        }
        with jax.enable_x64(in_float64):
            outputs = compiled(device, group.name)(jax.device_put(filled, device))
        return jax.tree.map(lambda a: np.asarray(a)[:num], outputs)

    todo, visited = list(todo), {device: set() for device in jax.local_devices()}

    def take(device):
        """Take a shape that this device has compiled, else one that the fewest others have."""
        others = [name for names in visited.values() for name in names]

        def cost(item):
            return item[0].name not in visited[device], others.count(item[0].name)

        item = min(todo, key=cost)
        visited[device].add(item[0].name)
        todo.remove(item)
        return item

    # One thread per device: it compiles and waits without holding up the others.
    pool = concurrent.futures.ThreadPoolExecutor(len(visited))
    try:
        running, idle = {}, list(visited)
        while todo or running:
            while todo and idle:
                device = idle.pop()
                group, chunk = take(device)
                running[pool.submit(work, device, group, chunk)] = device, group, chunk
            # Unlike a wait without end, this can be interrupted.
            finished = concurrent.futures.wait(running, GLANCE, concurrent.futures.FIRST_COMPLETED)[
                0
            ]
            store.unfinished(others)
            for future in finished:
                device, group, chunk = running.pop(future)
                idle.append(device)
                try:
                    store.save(chunk.name, group.record(future.result()))
                except SweepStoppedError:
                    raise
                except Exception as error:  # whatever it is, the other chunks can be computed
                    message = next(iter(str(error).splitlines()), "")
                    store.mark_failed(chunk.name, f"{type(error).__name__}: {message}")
                display.advance(chunk.stop - chunk.start, chunk.name)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _gathered(groups, chunks, saved, store):
    datasets, failures = {}, {}
    for group in groups:
        parts = []
        for chunk in chunks[group.name]:
            part = saved[chunk.name]
            if part is None:
                part = store.load(chunk.name)
            if part is not None:
                parts.append(part.drop_attrs())
            elif failure := store.failure(chunk.name):
                failures[chunk.name] = failure
            else:
                msg = (
                    f"{store.path(chunk.name)} was changed while the sweep ran: give the same "
                    "command again, which makes it again"
                )
                raise SweepStoppedError(msg)
        if len(parts) == len(chunks[group.name]):
            datasets[group.name] = xr.concat(parts, "network")
    return datasets, failures


def _filled(values, size):
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])


def _num_rows(group):
    return len(next(iter(group.rows.values())))


def _of_first_process(value):
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)


def _bytes(compiled):
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes


def _device_bytes():
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory // jax.local_device_count()


def _timed(compiled, rows):
    started = time.perf_counter()
    jax.block_until_ready(compiled(rows))
    return time.perf_counter() - started


class _Display:
    """A bar with rate and time left on a terminal, a line for each chunk elsewhere."""

    def __init__(self, console, total):
        self.console, self.total, self.done = console, total, 0
        self.started = time.perf_counter()
        self.visible = jax.process_index() == 0 and total > 0
        self.whose = " of process 0" if jax.process_count() > 1 else ""
        self.bar = Progress(
            TextColumn(f"{{task.completed:.0f}} of {{task.total:.0f}} networks{self.whose}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[chunk]}"),
            console=console,
        )
        self.task = self.bar.add_task("", total=total, rate="", chunk="compiling")

    def __enter__(self):
        if self.visible and self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def advance(self, num, name):
        self.done += num
        rate = self.done / (time.perf_counter() - self.started)
        text = f"{rate:.2g} per s, {_duration((self.total - self.done) / rate)} left"
        if self.visible and self.console.is_terminal:
            self.bar.update(self.task, completed=self.done, rate=text, chunk=name)
        elif self.visible:
            self.console.print(
                f"{name}: {self.done} of {self.total} networks{self.whose}, {text}",
                highlight=False,
            )


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"

"""Where chunks are computed: in this process, or by workers of Dask on this and other machines.

Dask finds workers that join late, and gives the chunk of one that died to another.
"""

import contextlib
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from experiments.runner import environment
from experiments.runner.environment import Settings
from experiments.runner.stopping import RefusedError, StoppedError

TOPIC = "jacobian_rnn"  # of what workers say of their progress
GLANCE = 0.5  # seconds between looks at which workers there are
GONE = 30.0  # seconds after which a scheduler that does not answer is taken for lost
SILENT = "120 s"  # after which a worker without a sign of life is taken for dead
Report = Callable[[str, float], None]
# Computes one thing, and reports how far it is. The function and its arguments can be pickled.
Work = Callable[[Report], Any]


NO_JOBS = "--slurm: no jobs could be started, see docs/cluster.md: {}"


class Pool(Protocol):
    """Something that computes."""

    @property
    def num_workers(self) -> int:
        """Count what computes at a time, at least 1."""
        ...

    def call(self, work: Work) -> Any:
        """Compute one thing and wait for it."""
        ...

    def compute(
        self, take: Callable[[str], tuple[str, Work] | None], display: Any
    ) -> Iterator[tuple[str, Exception | None]]:
        """Compute one thing after another on every worker.

        Args:
            take: gives a worker, by its name, what it is to do next and the name of that, None if
                nothing is left.
            display: its `report` is called as `report(name, what, fraction)`.

        Yields:
            Each name when it has ended, and the error if it failed.
        """
        ...


class Here(NamedTuple):
    """This process computes, in one thread. Ctrl-C waits for what is being computed."""

    num_workers: int = 1

    def call(self, work):
        """Compute one thing."""
        return work(lambda *_: None)

    def compute(self, take, display):
        """Compute one thing after another."""
        while (taken := take("here")) is not None:
            name, work = taken
            try:
                work(lambda what, done, name=name: display.report(name, what, done))
            except Exception as error:
                yield name, error
            except SystemExit as error:
                yield name, RuntimeError(repr(error))
            else:
                yield name, None


class Cluster:
    """Workers of a Dask cluster compute.

    Args:
        client: of the cluster.
        settings: how all of them compute.
    """

    def __init__(self, client: Any, settings: Settings):
        """Listen to what workers say of their progress."""
        # What goes wrong is said in words, by what is raised.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.client, self.settings = client, settings
        self.display: Any = None
        client.subscribe_topic(TOPIC, self._hear)

    def _hear(self, event):
        if self.display is not None:
            self.display.report(*event[1])

    @property
    def num_workers(self) -> int:
        """Count the threads of all workers that are there now, at least 1."""
        return max(sum(self._threads().values()), 1)

    def has_workers(self) -> bool:
        """Tell whether any worker is there now."""
        return bool(self._threads())

    def call(self, work):
        """Compute one thing on any worker and wait for it."""
        future = self._submitted("", work)
        while not future.done():
            self._check()
            time.sleep(GLANCE / 10)
        self._check()
        if (error := _error_of(future)) is not None:
            msg = f"no worker could begin: {type(error).__name__}: {error}"
            raise StoppedError(msg)
        return future.result()

    def compute(self, take, display):
        """Keep every thread of every worker busy, those that join late too."""
        self.display = display
        running: dict[Any, tuple[str, Work, str]] = {}  # by future: name, work, who it was given to
        returned: list[tuple[str, Work]] = []
        refused: set[str] = set()
        ended = threading.Event()

        def next_for(place):
            return returned.pop() if returned else take(place)

        is_left = True
        while is_left or running or returned:
            places = [place for *_, place in running.values()]
            for place, num_threads in self._threads().items():
                for _ in range(0 if place in refused else num_threads - places.count(place)):
                    taken = next_for(place) if is_left or returned else None
                    if taken is None:
                        is_left = False
                        break
                    name, work = taken
                    future = self._submitted(name, work, place)
                    running[future] = name, work, place
                    future.add_done_callback(lambda _: ended.set())
            ended.wait(GLANCE)
            ended.clear()
            self._check()
            for future in [future for future in running if future.done()]:
                name, work, _ = running.pop(future)
                error = _error_of(future)
                if isinstance(error, RefusedError):
                    refused.add(error.place)
                    returned.append((name, work))
                    print(f"{error.place} gets no more work: {error}", file=sys.stderr)
                    if (there := set(self._threads())) and there <= refused:
                        msg = f"no worker is left that could go on: {error}"
                        raise StoppedError(msg)
                else:
                    yield name, error

    def _submitted(self, name, work, place=None):
        # As bytes, because what is in it imports JAX, which the environment has to be set before.
        return self.client.submit(
            _in_worker,
            self.settings,
            name,
            pickle.dumps(work),
            workers=None if place is None else [place],
            allow_other_workers=place is not None,
            pure=False,
        )

    def _threads(self):
        try:
            return self.client.nthreads()
        except (OSError, TimeoutError):
            self._check()
            return {}

    def _check(self):
        if self.client.status != "running":
            msg = (
                "the scheduler of the workers is gone; finished chunks are saved: start it and its "
                "workers, and give the same command again"
            )
            raise StoppedError(msg)


def _error_of(future):
    """Return the error with which one ended, None if there is none."""
    if future.cancelled():
        return RuntimeError("its result was lost with the scheduler")
    return future.exception()


def _settle(settings: Settings, worker: Any) -> None:
    """Set the environment of a worker of Dask. A number for its name chooses its GPU."""
    environment.settle(settings, gpu=worker.name if isinstance(worker.name, int) else None)


def _in_worker(settings: Settings, name: str, work: bytes) -> Any:
    """Compute one thing in a worker of Dask."""
    import dask.config as dask_config
    from distributed import get_worker

    worker = get_worker()
    try:
        _settle(settings, worker)
        do = pickle.loads(work)
    except (RuntimeError, ImportError) as error:
        raise RefusedError(str(error), worker.address) from error
    try:
        # Else xarray would ask the scheduler for a lock whenever it writes a file.
        with dask_config.set(scheduler="synchronous"):
            return do(lambda *said: worker.log_event(TOPIC, (name, *said)))
    except RefusedError as error:
        raise RefusedError(str(error), worker.address) from error
    except SystemExit as error:  # which would end the worker
        raise RuntimeError(repr(error)) from error


@contextlib.contextmanager
def local(settings: Settings, num_workers: int) -> Iterator[Cluster]:
    """Start worker processes on this machine, which end when this one does."""
    import dask.config as dask_config
    from distributed import Client, LocalCluster

    environment.settle(settings)  # which the processes inherit
    options: dict[str, Any] = {
        "n_workers": num_workers,
        "threads_per_worker": 1,
        "memory_limit": 0,  # none
        "dashboard_address": "127.0.0.1:0",  # any free port
        "silence_logs": logging.CRITICAL,
    }
    with (
        dask_config.set({"distributed.scheduler.worker-ttl": SILENT}),
        LocalCluster(**options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Cluster(client, settings)


@contextlib.contextmanager
def joined(settings: Settings, address: str) -> Iterator[Cluster]:
    """Use the workers of a scheduler that is running.

    Raises:
        StoppedError: nothing answers there.
    """
    from distributed import Client
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend

    try:
        get_backend(parse_address(address)[0])
        client = Client(address, timeout=GONE, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"--scheduler: received {address}, and no scheduler answers there: {error}"
        raise StoppedError(msg) from error
    with client:
        yield Cluster(client, settings)


@contextlib.contextmanager
def slurm(settings: Settings, num_jobs: int) -> Iterator[Cluster]:
    """Let Slurm start jobs with workers, as the configuration of dask-jobqueue says."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        msg = f"--slurm: {error}; install the extra `slurm`"
        raise StoppedError(msg) from error
    from distributed import Client

    try:
        cluster = SLURMCluster()
    except (ValueError, RuntimeError, OSError) as error:
        raise StoppedError(NO_JOBS.format(error)) from error
    with cluster, Client(cluster, set_as_default=False) as client:
        _submit(cluster, num_jobs)
        yield Cluster(client, settings)


def _submit(cluster: Any, num_jobs: int) -> None:
    """Let Slurm take jobs, and wait until it has taken all.

    Dask submits them in its own loop, which logs an error and goes on.
    """
    from distributed import Status

    faults = []

    def hear(record):
        faults.extend([] if record.exc_info is None else [record.exc_info[1]])
        return False

    log = logging.getLogger("tornado.application")
    log.addFilter(hear)
    try:
        cluster.scale(jobs=num_jobs)
        while not faults and sum(bool(job.job_id) for job in cluster.workers.values()) < num_jobs:
            time.sleep(GLANCE / 10)
    finally:
        log.removeFilter(hear)
    if faults:
        for job in cluster.workers.values():  # Dask would wait for them, and could not end
            job.status = Status.failed
        raise StoppedError(NO_JOBS.format(str(faults[0]).strip()))

"""Where chunks are computed: in this process, or by workers of Dask on this and other machines.

Dask finds workers that join late, and gives the chunk of one that died to another.
"""

import contextlib
import importlib
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from experiments.runner import environment
from experiments.runner.environment import Settings
from experiments.runner.stopping import StoppedError

TOPIC = "jacobian_rnn"  # of what workers say of their progress
GLANCE = 0.5  # seconds between looks at which workers there are
GONE = 30.0  # seconds after which a scheduler that does not answer is taken for lost
SILENT = "120 s"  # after which a worker without a sign of life is taken for dead
Report = Callable[[str, float], None]
# Computes one thing, and reports how far it is. The function and its arguments can be pickled.
Work = Callable[[Report], Any]


class Pool(Protocol):
    """Something that computes."""

    @property
    def num_workers(self) -> int:
        """Count what computes at a time, at least 1."""
        ...

    def call(self, work: Work, report: Report) -> Any:
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

    def call(self, work, report):
        """Compute one thing."""
        return work(report)

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
        return max(sum(self.client.nthreads().values()), 1)

    def has_workers(self) -> bool:
        """Tell whether any worker is there now."""
        return bool(self.client.nthreads())

    def import_everywhere(self, module: str) -> None:
        """Let every worker that is there import a module, and do not wait for it."""
        self.client.run(_import, self.settings, module, wait=False)

    def call(self, work, report):
        """Compute one thing on any worker and wait for it."""
        del report
        future = self._submitted("", work)
        while not future.done():
            self._check()
            with contextlib.suppress(TimeoutError):
                future.result(timeout=GLANCE)
        return future.result()

    def compute(self, take, display):
        """Keep every thread of every worker busy, those that join late too."""
        self.display = display
        running: dict[Any, tuple[str, str]] = {}  # by future: name, worker that it was given to
        ended = threading.Event()
        is_left = True
        while is_left or running:
            ended.clear()
            places = [place for _, place in running.values()]
            for place, num_threads in self._threads().items():
                for _ in range(num_threads - places.count(place)):
                    taken = take(place) if is_left else None
                    if taken is None:
                        is_left = False
                        break
                    future = self._submitted(taken[0], taken[1], place)
                    running[future] = taken[0], place
                    future.add_done_callback(lambda _: ended.set())
            ended.wait(GLANCE)
            self._check()
            for future in [future for future in running if future.done()]:
                name, _ = running.pop(future)
                yield name, _error_of(future)

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


async def _import(settings: Settings, module: str, dask_worker: Any) -> None:
    _settle(settings, dask_worker)
    importlib.import_module(module)


def _settle(settings: Settings, worker: Any) -> None:
    """Set the environment of a worker of Dask. A number for its name chooses its GPU."""
    environment.settle(settings, gpu=worker.name if isinstance(worker.name, int) else 0)


def _in_worker(settings: Settings, name: str, work: bytes) -> Any:
    """Compute one thing in a worker of Dask."""
    import dask.config as dask_config
    from distributed import get_worker

    worker = get_worker()
    _settle(settings, worker)
    try:
        # Else xarray would ask the scheduler for a lock whenever it writes a file.
        with dask_config.set(scheduler="synchronous"):
            return pickle.loads(work)(lambda *said: worker.log_event(TOPIC, (name, *said)))
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

    try:
        client = Client(address, timeout=GONE, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"--scheduler: received {address}, and no scheduler answers there: {error}"
        raise StoppedError(msg) from error
    with client:
        yield Cluster(client, settings)


@contextlib.contextmanager
def slurm(settings: Settings, num_jobs: int) -> Iterator[Cluster]:
    """Let Slurm start jobs with workers, as the configuration of dask-jobqueue says."""
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Client

    with (
        SLURMCluster(n_workers=num_jobs) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Cluster(client, settings)

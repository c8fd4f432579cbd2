"""A scheduler and workers in processes of their own, and what may happen to them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

from experiments.runner import results

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import contextlib, io, sys
from pathlib import Path
from rich.console import Console
from experiments.runner import environment, frame, workers
settings = environment.Settings("cpu", "float64")
environment.settle(settings)
from tests.experiments.runner import toy_networks as toy
folder, log, pause, address = sys.argv[1:]
config = toy.Toy(log=log, pause=float(pause), nums=(18, 15))
console = Console(width=200)
pool = workers.joined(settings, address) if address else contextlib.nullcontext(workers.Here())
try:
    with pool as there:
        sys.exit(frame.run(toy, config, there, console=console, folder=Path(folder)))
except workers.StoppedError as error:
    sys.exit(f"stopped: {error}")
"""


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


class Processes:
    """A scheduler and its workers, all of which are ended when the test is."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.folder = f"tcp://127.0.0.1:{self.port}", folder
        self.all = []

    def scheduler(self):
        patience = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.all.append(start("-m", "distributed.cli.dask_scheduler", *options, **patience))
        return self.all[-1]

    def worker(self):
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60")
        places = ("--local-directory", str(self.folder))
        command = ("-m", "distributed.cli.dask_worker", self.address, *options, *places)
        self.all.append(start(*command))
        return self.all[-1]

    def end(self):
        for process in self.all:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def processes(tmp_path):
    there = Processes(tmp_path / "dask")
    yield there
    there.end()


def run(folder, log, address="", pause=0.5):
    return start("-c", RUN, str(folder), str(log), str(pause), address)


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def result_of(folder):
    (path,) = Path(folder).glob("*/*.nc")
    return results.read(path).drop_attrs()


@pytest.mark.slow
def test_workers_die_stop_and_join_and_the_scheduler_goes_and_all_bits_are_those_of_one_process(
    tmp_path, processes
):
    log, folder = tmp_path / "log", tmp_path / "many"
    scheduler = processes.scheduler()
    workers = [processes.worker() for _ in range(3)]
    going = run(folder, log, processes.address, pause=1.0)
    wait_for(lambda: len(lines(log)) >= 2)
    workers[0].kill()  # -9, with a chunk in flight
    os.kill(workers[1].pid, signal.SIGSTOP)
    late = processes.worker()
    wait_for(lambda: any(line.endswith(f" {late.pid}") for line in lines(log)))
    os.kill(workers[1].pid, signal.SIGCONT)
    wait_for(lambda: len(lines(log)) >= 6)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/chunks/*/*.nc")}
    in_flight = 3  # one on each worker
    scheduler.kill()
    output = going.communicate(timeout=120)[0]
    assert going.returncode == 1, output
    assert "the scheduler of the workers is gone" in output
    assert "Traceback" not in output
    for worker in workers:
        worker.kill()
    late.kill()

    processes.scheduler()
    processes.worker()
    processes.worker()
    again = run(folder, log, processes.address, pause=1.0)
    output = again.communicate(timeout=120)[0]
    assert again.returncode == 0, output
    assert "of them done already" in output
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/chunks/*/*.nc")}
    assert len(after) == 11
    assert {name: after[name] for name in before} == before
    # Of those that were lost in flight, each was computed twice at most: one killed worker, one
    # stopped worker, and those of the workers that the scheduler lost.
    assert len(lines(log)) <= 11 + 2 + in_flight

    alone = run(tmp_path / "one", tmp_path / "other_log")
    output = alone.communicate(timeout=120)[0]
    assert alone.returncode == 0, output
    xr.testing.assert_identical(result_of(folder), result_of(tmp_path / "one"))

"""Other processes of this machine that run the same command, and end when the first one does."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

LOCAL = "127.0.0.1"
WORKER = "JACOBIAN_RNN_WORKER"  # set where the first process of this machine has started another


def num_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_worker() -> bool:
    """Tell whether another process of this machine has started this one."""
    return WORKER in os.environ


def start_others(command: Sequence[str], num_processes: int) -> str:
    """Start `num_processes - 1` workers, and return the coordinator that all shall meet at.

    Each runs `command` with `--coordinator`, `--num-processes` and `--process-id` after it. They
    end when this process does, however that ends: it holds the other end of their input. This one
    ends when a worker fails.
    """
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        coordinator = f"{LOCAL}:{free.getsockname()[1]}"
    common = [*command, "--coordinator", coordinator, "--num-processes", str(num_processes)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # theirs too: it is told to this one
    for number in range(1, num_processes):
        worker = subprocess.Popen(
            [*common, "--process-id", str(number)],
            env=os.environ | {WORKER: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        threading.Thread(target=_end_if_it_fails, args=(number, worker), daemon=True).start()
    signal.signal(signal.SIGINT, before)
    return coordinator


def end_with_the_first_process() -> None:
    """Watch this worker's input, and end the worker when the process that started it is gone."""
    threading.Thread(target=_end_at_the_end_of_input, daemon=True).start()


def _end_at_the_end_of_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _end_if_it_fails(number: int, worker: subprocess.Popen) -> None:
    if status := worker.wait():
        print(
            f"stopped: process {number} of this sweep ended with status {status}; finished chunks "
            "are saved, the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

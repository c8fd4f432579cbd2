"""What a phase diagram is made of, and its command line, parsed before JAX is imported."""

import argparse
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console

from experiments import environment, local_processes

LAPACK_CALLS = 16  # at most, that one program has in flight
Cell = Literal["SimpleCell", "GRUCell", "LSTMCell"]


@dataclasses.dataclass(frozen=True)
class PhaseDiagram:
    """Which networks are drawn, and how they are predicted and trained.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        gains: lowest and highest recurrent gain, and how many in between, evenly in the logarithm;
            recurrent kernels are the gain times orthogonal matrices.
        horizons: steps over which the symbol of delayed recall has to be remembered.
        seeds: networks drawn for each cell, horizon and gain.
        first_seed: seeds count from here.
        learning_rates: of Adam; each network is trained with each, and the one with the best
            validation skill counts.
        clip_norm: global gradient norm to which the gradients that Adam sees are clipped.
        width: hidden units.
        updates: updates of each training.
        batch: sequences per update.
        held_out: sequences in validation and in test data.
        sequences: sequences per prediction.
        chunk_size: networks that a device computes and saves at a time; chosen by measurement when
            a sweep begins if it is not given. It decides rounding, so it is kept with the result.
        dtype: precision of networks, predictions and training.
    """

    cells: Annotated[tuple[Cell, ...], tyro.conf.arg(aliases=["--cell"])] = (
        "SimpleCell",
        "GRUCell",
        "LSTMCell",
    )
    gains: tuple[float, float, int] = (0.5, 8.0, 8)
    horizons: tuple[int, ...] = (25, 50, 100, 200)
    seeds: int = 3
    first_seed: int = 0
    learning_rates: tuple[float, ...] = (0.003, 0.01)
    clip_norm: float = 1.0
    width: int = 24
    updates: int = 500
    batch: int = 16
    held_out: int = 128
    sequences: int = 6
    chunk_size: int | None = None
    dtype: Literal["float32", "float64"] = "float32"


PRESETS = {
    "quick": PhaseDiagram(
        cells=("SimpleCell",),
        gains=(0.5, 8.0, 3),
        horizons=(5, 20),
        seeds=1,
        learning_rates=(0.01,),
        width=8,
        updates=40,
        batch=8,
        held_out=32,
        sequences=3,
        chunk_size=3,
    ),
    "default": PhaseDiagram(),
    "full": PhaseDiagram(
        gains=(0.3, 20.0, 24),
        horizons=(10, 20, 40, 80, 160, 320, 640),
        seeds=5,
        learning_rates=(0.001, 0.003, 0.01),
        width=64,
        updates=3000,
        batch=32,
        held_out=256,
        sequences=16,
    ),
}


def check(config: PhaseDiagram) -> None:
    """Refuse a configuration that cannot be computed.

    Raises:
        ValueError: an axis is empty, repeats a value or leaves its range; counts below their
            minimum. The message names the option.
    """
    low, high, num_gains = config.gains
    expectations = {
        "gains": (
            0 < low < np.inf
            and ((num_gains > 1 and low < high < np.inf) or (num_gains == 1 and low == high)),
            "lowest and highest gain, positive and ascending, and how many (one gain: 2 2 1)",
        ),
        "cells": (_distinct(config.cells), "at least one cell, each once"),
        "horizons": (
            _distinct(config.horizons) and min(config.horizons) >= 1,
            "steps, at least 1, each horizon once",
        ),
        "learning-rates": (
            _distinct(config.learning_rates)
            and all(0 < rate < np.inf for rate in config.learning_rates),
            "positive numbers, each once",
        ),
        "clip-norm": (0 < config.clip_norm < np.inf, "a positive number"),
        "first-seed": (
            0 <= config.first_seed < 2**31 - max(config.seeds, 1),
            "at least 0, and seeds that fit into 31 bits",
        ),
        "sequences": (config.sequences >= 2, "at least 2, for their spread"),
        "chunk-size": (config.chunk_size is None or config.chunk_size >= 1, "at least 1"),
    }
    for name in ("seeds", "width", "updates", "batch", "held_out"):
        expectations[name.replace("_", "-")] = (getattr(config, name) >= 1, "at least 1")
    for name, (holds, expected) in expectations.items():
        if not holds:
            msg = (
                f"--{name}: received {getattr(config, name.replace('-', '_'))}, expected {expected}"
            )
            raise ValueError(msg)


def gains_of(config: PhaseDiagram) -> np.ndarray:
    """Return the recurrent gains, ascending."""
    low, high, num_gains = config.gains
    return np.geomspace(low, high, num_gains)


@dataclasses.dataclass(frozen=True)
class Command:
    """Predict and train networks over recurrent gain and horizon, into one labelled dataset.

    A sweep that is stopped, however that happens, goes on where it was when the same command is
    given again, and ends with the same numbers, bit for bit. Axes that are not given are those of
    the preset:

      python -m experiments phase_diagram --cell LSTMCell --gains 0.5 4 24 --horizons 25 50 100 200
      --seeds 5

    The result of a preset is results/phase_diagram/PRESET-DTYPE.nc; other axes make a file of their
    own, whose name is printed.

    On a cluster start the same command once per process, on a file system that all share:

      srun python -m experiments phase_diagram --preset full --device gpu --distributed

    or, where nothing says which process is which, on the first of two machines

      python -m experiments phase_diagram --coordinator FIRST:9876 --num-processes 2 --process-id 0

    Attributes:
        sweep: the axes.
        preset: where axes that are not given come from: `quick` takes seconds, `default` minutes on
            two cores, `full` a cluster.
        device: where to compute.
        processes: processes of this machine that share the work: on a CPU one for each core, unless
            the options below say more; on a GPU one.
        devices: devices of each process on a CPU; on a GPU always all that are visible.
        distributed: several processes share the work, and Slurm, MPI, Kubernetes or a TPU pod says
            which.
        coordinator: host and port of the first process, where nothing else says so; needs
            `--num-processes` and `--process-id`.
        num_processes: how many processes share the work.
        process_id: which of them this is, from 0.
        folder: of chunks and result, which all processes share; results/phase_diagram/ by default.
    """

    sweep: tyro.conf.OmitArgPrefixes[PhaseDiagram]
    preset: Literal["quick", "default", "full"] = "default"
    device: Literal["cpu", "gpu"] = "cpu"
    processes: int | None = None
    devices: int = 1
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    folder: Path | None = None


def parsed(arguments: Sequence[str]) -> Command:
    """Parse the command line; leave with a message if it cannot be computed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    preset = first.parse_known_args(arguments)[0].preset
    command = tyro.cli(
        Command,
        args=arguments,
        default=Command(PRESETS.get(preset, PhaseDiagram())),
        prog="python -m experiments phase_diagram",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        check(command.sweep)
    except ValueError as error:
        sys.exit(str(error))
    rank, size = command.process_id, command.num_processes
    if {command.coordinator, rank, size} != {None}:
        if command.coordinator is None or rank is None or size is None:
            sys.exit("--coordinator, --num-processes and --process-id: give all three or none")
        if not 0 <= rank < size:
            sys.exit(
                f"--process-id: received {rank} of {size} processes, expected at least 0 and less "
                "than --num-processes"
            )
    if command.coordinator is not None:
        if command.distributed:
            sys.exit("--distributed and --coordinator: give one of them")
        host, _, port = command.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            sys.exit(
                f"--coordinator: received {command.coordinator}, expected HOST:PORT, the port "
                "from 1 to 65535"
            )
    most = 8 * (os.cpu_count() or 1)
    for name, count in (("processes", command.processes), ("devices", command.devices)):
        if count not in (None, 1) and (not 1 <= count <= most or command.device == "gpu"):
            sys.exit(
                f"--{name}: received {count}, expected 1 to {most} (eight for each core), and for "
                "a CPU only (see CUDA_VISIBLE_DEVICES)"
            )
    if command.processes not in (None, 1) and (
        command.distributed or command.coordinator is not None
    ):
        sys.exit("--processes: starts processes of this machine alone, give it or the others")
    return command


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    command = parsed(arguments)
    if local_processes.is_worker():
        local_processes.end_with_the_first_process()
    several = command.distributed or command.coordinator is not None
    num_processes = command.processes or (
        1
        if several or command.device == "gpu" or command.devices > 1
        else local_processes.num_cores()
    )
    if num_processes > 1:
        several = True
        again = [sys.executable, "-m", "experiments", "phase_diagram", *arguments]
        command = dataclasses.replace(
            command,
            coordinator=local_processes.start_others([*again, "--processes", "1"], num_processes),
            num_processes=num_processes,
            process_id=0,
        )
    # In a pool of one thread LAPACK calls follow each other. In a larger one each keeps a thread
    # while it waits for others of the pool: with fewer than all that a program has, times the
    # devices, they would wait forever.
    threads = LAPACK_CALLS * command.devices + 1 if command.devices > 1 else 1
    environment.settle(command.device, command.sweep.dtype, threads=threads)
    if command.device == "cpu" or command.preset == "quick":
        environment.compile_fast(optimize=command.preset != "quick")
    if command.device == "cpu":
        os.environ["JAX_NUM_CPU_DEVICES"] = str(command.devices)
        os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    try:
        status = _run(command, several=several)
    except KeyboardInterrupt:
        status = 130
        print(
            "\nstopped; finished chunks are saved, the same command goes on from there",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    if status or several:
        # An orderly exit would first wait for chunks in flight, and for processes that are gone.
        os._exit(status)
    return status


def _run(command: Command, *, several: bool) -> int:
    wishes = [signal.SIGTERM] if local_processes.is_worker() else [signal.SIGTERM, signal.SIGINT]
    if several:  # so that they end it while JAX starts, which cannot be interrupted
        for wish in wishes:
            signal.signal(wish, signal.SIG_DFL)
    # After the environment is set, which JAX reads when it is imported.
    import jax

    from experiments import phase_diagram
    from experiments.chunk_store import SweepStoppedError

    who = ""
    try:
        if several:
            local = (command.coordinator or "").startswith(local_processes.LOCAL)
            jax.distributed.initialize(
                command.coordinator,
                command.num_processes,
                command.process_id,
                coordinator_bind_address=command.coordinator if local else None,
            )
            who = f"process {jax.process_index()} "
            # JAX keeps the wish to terminate to itself.
            for wish in wishes:
                signal.signal(wish, signal.default_int_handler)
        console = Console(quiet=several and jax.process_index() > 0)
        failed = phase_diagram.run(command.sweep, console=console, root=command.folder)
        if several:
            jax.distributed.shutdown()
    except SweepStoppedError as error:
        print(f"{who}stopped: {error}", file=sys.stderr)
    except jax.errors.JaxRuntimeError as error:
        if not several:
            raise
        reason = str(error).splitlines()[0]
        print(
            f"{who}stopped: processes lost each other ({reason}); finished chunks are saved, start "
            "the sweep again",
            file=sys.stderr,
        )
    except Exception:
        if not several:
            raise
        traceback.print_exc()
    else:
        return min(failed, 1)
    return 1


def _distinct(values):
    return 0 < len(values) == len(set(values))

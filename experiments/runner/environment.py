"""What NumPy, JAX and XLA read from the environment when they are imported: set before that."""

import os
from pathlib import Path
from typing import NamedTuple

# XLA's own third level spends half of the time to compile a network's training on the random
# numbers in it, and its newer emitter most of the rest; programs that compile for twice as long
# run no faster. Nor is much to be gained from parts of a program that threads compile side by side:
# other processes keep the cores busy.
COMPILER_FLAGS = (
    "--xla_backend_optimization_level=2",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Programs that took longer than this to compile are kept for other processes and later runs.
WORTH_KEEPING = "0.5"  # seconds


class Settings(NamedTuple):
    """How a process computes.

    Attributes:
        device: "cpu" or "gpu".
        dtype: "float32" or "float64".
        optimize: if not, programs run several times longer, and take less to compile.
    """

    device: str
    dtype: str
    optimize: bool = True


_settled: Settings | None = None


def settle(settings: Settings, *, gpu: int | None = None) -> None:
    """Set the environment of this process, before it imports NumPy and JAX.

    Each process computes in one thread. Small recurrent networks gain nothing from more, and XLA's
    pool of two threads can wait for itself forever when two batched LAPACK calls meet in it.

    Args:
        settings: device, precision and optimisation.
        gpu: which of the visible ones this process is to use, counted round; all if None.

    Raises:
        RuntimeError: this process was settled otherwise before.
    """
    global _settled
    if _settled not in (None, settings):
        msg = f"it computed with {_settled} before, and cannot change to {settings}: restart it"
        raise RuntimeError(msg)
    if _settled == settings:
        return
    use_one_thread()
    compile_fast(optimize=settings.optimize)
    os.environ["JAX_PLATFORMS"] = "cuda" if settings.device == "gpu" else "cpu"
    os.environ["JAX_ENABLE_X64"] = "1" if settings.dtype == "float64" else "0"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jacobian_rnn"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", WORTH_KEEPING)
    if gpu is not None and settings.device == "gpu" and (visible := visible_gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu % len(visible)]
    _settled = settings


def use_one_thread() -> None:
    """Let XLA use one thread, and NumPy's linear algebra, which reads this too."""
    os.environ["NPROC"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def compile_fast(*, optimize: bool) -> None:
    """Let XLA spend less on compiling. What the user has set in the environment counts.

    Args:
        optimize: if not, programs run several times longer, and take less yet to compile.

    Other flags round otherwise: what is trained comes out with other last digits.
    """
    own = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([flag for flag in COMPILER_FLAGS if flag not in own] + own)
    if not optimize:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def visible_gpus() -> list[str]:
    """Name the GPUs of this machine that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        devices = Path("/dev").glob("nvidia[0-9]*")
        return sorted(device.name.removeprefix("nvidia") for device in devices) or ["0"]
    return [name for name in named.split(",") if name]


def num_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""What NumPy, JAX and XLA read from the environment when they are imported: set before that."""

import os

# XLA's own third level spends half of the time to compile a network's training on the random
# numbers in it, and its newer emitter most of the rest; programs that compile for twice as long
# run no faster. Nor is much to be gained from parts of a program that threads compile side by side:
# other processes keep the cores busy.
COMPILER_FLAGS = (
    "--xla_backend_optimization_level=2",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def settle(device: str, dtype: str, *, threads: int | None) -> None:
    """Choose device, precision, and the number of threads.

    Args:
        device: "cpu" or "gpu".
        dtype: "float32" or "float64".
        threads: of XLA, with one for linear algebra; as the user has set it if None.
    """
    os.environ["JAX_PLATFORMS"] = "cuda" if device == "gpu" else "cpu"
    os.environ["JAX_ENABLE_X64"] = "1" if dtype == "float64" else "0"
    if threads is not None:
        use_threads(threads)


def use_threads(threads: int) -> None:
    """Let XLA use so many threads, and NumPy's linear algebra, which reads this too, one."""
    os.environ["NPROC"] = str(threads)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def compile_fast(*, optimize: bool) -> None:
    """Let XLA spend less on compiling; what the user has set in the environment counts.

    Args:
        optimize: if not, programs run several times longer, and take less yet to compile.

    Other flags round otherwise: what is trained comes out with other last digits.
    """
    own = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([flag for flag in COMPILER_FLAGS if flag not in own] + own)
    if not optimize:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

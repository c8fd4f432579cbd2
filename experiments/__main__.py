"""Run an experiment: `python -m experiments [NAME] [--preset ...] [--device ...] [--dtype ...]`."""

import dataclasses
import os
import sys
from typing import Annotated, Literal

import tyro
from rich.console import Console

# Those whose results need another precision than float32.
DTYPES: dict[str, Literal["float32", "float64"]] = {"full_spectrum": "float64"}


def main(
    name: Annotated[
        Literal[
            "regime_versus_training",
            "calibrate_threshold",
            "initialization_audit",
            "full_spectrum",
            "gated_growth",
            "critical_initialization",
        ],
        tyro.conf.Positional,
    ] = "regime_versus_training",
    /,
    preset: Literal["quick", "default", "full"] = "default",
    device: Literal["cpu", "gpu"] = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    workers: int | None = None,
) -> None:
    """Run an experiment and write its results to results/NAME/.

    A run that is stopped goes on where it was when the same command is given again.

    Args:
        name: which experiment: `regime_versus_training` predicts, trains and compares;
            `calibrate_threshold` finds the thresholds that the library's predictions use;
            `initialization_audit` measures the default initialisations of Flax, PyTorch and Keras;
            `full_spectrum` lays mean-field theory over all exponents of tanh networks;
            `gated_growth` lays three theories over the largest exponent of GRUs and LSTMs;
            `critical_initialization` trains networks put at λ₁ = 0 beside default ones.
            `phase_diagram`, over gains and horizons, has options of its own: see
            `python -m experiments phase_diagram --help`.
        preset: `quick` takes seconds and shows that all parts work, `default` takes minutes on two
            cores, `full` hours.
        device: where to compute.
        dtype: precision of networks, predictions and training; by default float64 for
            `full_spectrum`, float32 for the others.
        workers: parallel processes; one for each core by default, one on a GPU.
    """
    dtype = dtype or DTYPES.get(name, "float32")
    if workers is None:
        workers = 1 if device == "gpu" else os.cpu_count() or 1
    if workers < 1:
        sys.exit(f"--workers: received {workers}, expected at least 1")
    os.environ["JAX_PLATFORMS"] = "cuda" if device == "gpu" else "cpu"
    os.environ["JAX_ENABLE_X64"] = "1" if dtype == "float64" else "0"
    if preset == "quick":  # which compiles more than it computes
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # After the environment is set, which JAX reads when it is imported.
    from experiments import (
        calibrate_threshold,
        critical_initialization,
        full_spectrum,
        gated_growth,
        initialization_audit,
        regime_versus_training,
    )

    experiment = {
        "regime_versus_training": regime_versus_training,
        "calibrate_threshold": calibrate_threshold,
        "initialization_audit": initialization_audit,
        "full_spectrum": full_spectrum,
        "gated_growth": gated_growth,
        "critical_initialization": critical_initialization,
    }[name]
    protocol = dataclasses.replace(experiment.PRESETS[preset], dtype=dtype)
    console = Console()
    console.print(f"{name}, preset {preset}, {dtype} on {device}, {workers} processes")
    try:
        sys.exit(min(experiment.run(protocol, preset, num_workers=workers, console=console), 1))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    if sys.argv[1:2] == ["phase_diagram"]:
        # NumPy, which the options import, reads it too.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        from experiments import phase_diagram_options

        sys.exit(phase_diagram_options.main(sys.argv[2:]))
    tyro.cli(main)

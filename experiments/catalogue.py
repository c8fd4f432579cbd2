"""The experiments: their names, what each asks, and the precision that its results need."""

import dataclasses
import importlib
from typing import Any, Literal, NamedTuple

Dtype = Literal["float32", "float64"]


class Experiment(NamedTuple):
    """What is known of an experiment before JAX is imported.

    Attributes:
        folder: of its module, and of that of its figure.
        summary: what it does, to be read after its name.
        dtype: precision of its presets.
    """

    folder: str
    summary: str
    dtype: Dtype = "float32"


EXPERIMENTS = {
    "regime_versus_training": Experiment(
        "regimes", "predicts gradient regimes, trains the networks and compares"
    ),
    "calibrate_threshold": Experiment(
        "regimes", "finds the thresholds that the library's predictions use", "float64"
    ),
    "lower_threshold": Experiment(
        "regimes", "varies one thing at a time, to see what sets the thresholds of learning"
    ),
    "critical_learning_rate": Experiment(
        "regimes", "trains leaky tanh networks over learning rate and delay"
    ),
    "learning_forecast": Experiment(
        "regimes",
        "scores forecasts of learning on cells and tasks that they were not fitted to",
        "float64",
    ),
    "learning_ensemble": Experiment(
        "regimes", "measures and trains an ensemble of many cells on many tasks"
    ),
    "unseen_cells": Experiment(
        "regimes", "scores the shipped forecast of learning on recurrences of today, never seen"
    ),
    "initialization_audit": Experiment(
        "initialization", "measures the default initialisations of Flax, PyTorch and Keras"
    ),
    "unit_memory": Experiment(
        "initialization", "measures how long units that see themselves alone remember as drawn"
    ),
    "full_spectrum": Experiment(
        "spectra", "lays mean-field theory over all exponents of tanh networks", "float64"
    ),
    "gated_growth": Experiment(
        "spectra", "lays three theories over the largest exponent of GRUs and LSTMs"
    ),
    "critical_initialization": Experiment(
        "initialization", "trains networks put at λ₁ = 0 beside default ones"
    ),
    "phase_diagram": Experiment(
        "regimes",
        "predicts and trains over recurrent gain and horizon",
    ),
    "gaussian_products": Experiment(
        "theory", "measures exponents of Gaussian products, which are known exactly", "float64"
    ),
    "product_overflow": Experiment(
        "theory",
        "multiplies Gaussian matrices until their plain product overflows, and beyond",
        "float64",
    ),
    "glorot_growth": Experiment(
        "theory", "finds when gradients explode in linear networks that keep their Glorot weights"
    ),
    "singular_value_distribution": Experiment(
        "theory", "lays random-matrix theory over singular values of deep networks", "float64"
    ),
    "jacobian_eigenvalues": Experiment(
        "theory",
        "lays random-matrix theory over eigenvalues of one step of GRUs and LSTMs",
        "float64",
    ),
    "newton_iterations": Experiment(
        "spectra", "counts iterations of a parallel-in-time Newton solve against λ₁", "float64"
    ),
    "curse_of_memory": Experiment(
        "spectra",
        "measures how linear recurrences with long memory react to their parameter",
        "float64",
    ),
    "error_wall": Experiment(
        "training", "computes walls in the error surface, and trains against them"
    ),
    "chrono_initialization": Experiment(
        "training", "trains LSTMs on adding, with chrono initialisation and with a forget bias of 1"
    ),
    "copy_memory": Experiment(
        "training", "trains on copying memory, against the loss of having no memory"
    ),
    "gradient_flossing": Experiment(
        "training", "pushes Lyapunov exponents to zero before training, and trains on delayed XOR"
    ),
    "gradient_penalties": Experiment(
        "training", "trains with flossing and with Pascanu's regulariser in the loss, and without"
    ),
    "trainability_map": Experiment(
        "regimes", "trains four cells over initialisation and horizon, against depth scales"
    ),
    "flip_flop_memory": Experiment(
        "dynamics", "trains networks to hold three bits and finds their fixed points", "float64"
    ),
    "lorenz_reservoir": Experiment(
        "dynamics",
        "compares the exponents of reservoirs in closed loop with those of the system they learned",
        "float64",
    ),
    "folklore": Experiment(
        "folklore",
        "puts what is told about vanishing and exploding gradients to the test",
        "float64",
    ),
}
# Has a package and a command of its own, and a figure.
BENCHMARKS = "benchmarks"


def module_of(name: str) -> Any:
    """Import the module of an experiment, and JAX with it."""
    if name == BENCHMARKS:
        return importlib.import_module(f"experiments.{BENCHMARKS}.workloads")
    return importlib.import_module(f"experiments.{EXPERIMENTS[name].folder}.{name}")


def dtype_of(name: str) -> Dtype:
    """Return the precision in which an experiment runs if no other is asked for."""
    return "float64" if name == BENCHMARKS else EXPERIMENTS[name].dtype


def configuration(name: str, preset: str, dtype: str) -> Any:
    """Return the configuration of a preset, and import the experiment's module for it."""
    return dataclasses.replace(module_of(name).PRESETS[preset], dtype=dtype)


def command(name: str, preset: str, dtype: str) -> str:
    """Return the command that makes the results of a preset."""
    module = "experiments.benchmarks" if name == BENCHMARKS else f"experiments {name}"
    options = "" if dtype == dtype_of(name) else f" --dtype {dtype}"
    return f"python -m {module} --preset {preset}{options}"

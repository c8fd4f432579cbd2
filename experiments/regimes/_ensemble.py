"""An ensemble of networks of many kinds, and the tasks that they are given.

The experiments that train it and that measure it before training draw the same networks from it.
"""

import dataclasses
import zlib
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.regimes._modern_cells import MODERN, draw_modern
from experiments.runner.experiment import Axis, Count, Dtype, Rows, Seed
from jacobian_rnn import tasks

Cell = Literal[
    "SimpleCell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "IRNN",
    "LRU",
    "minGRU",
    "minLSTM",
    "RG-LRU",
    "S5",
    "S6",
    "IndRNN",
    "ParaGRU",
    "GatedDeltaNet",
    "RWKV-7",
    "mLSTM",
    "sLSTM",
]
TaskName = Literal[
    "recall_quiet",
    "recall",
    "recall_loud",
    "adding",
    "copying_memory",
    "temporal_order",
    "delayed_xor",
    "digits",
    "permuted_digits",
    "JapaneseVowels",
    "ItalyPowerDemand",
    "GunPoint",
    "BasicMotions",
    "selective_copying",
    "parity",
]
CELLS: tuple[Cell, ...] = ("SimpleCell", "GRUCell", "LSTMCell", "MGUCell", "IRNN", "LRU")
LINEN: dict[str, Any] = {
    "SimpleCell": nn.SimpleCell,
    "GRUCell": nn.GRUCell,
    "LSTMCell": nn.OptimizedLSTMCell,
    "MGUCell": nn.MGUCell,
}
TASKS: tuple[TaskName, ...] = tuple(
    name for name in TaskName.__args__ if name not in ("selective_copying", "parity")
)
NOISE_STD = {"recall_quiet": 0.1, "recall": 0.3, "recall_loud": 0.6}
# Steps, before the delay.
LONGEST_SERIES = {
    "JapaneseVowels": 29,
    "ItalyPowerDemand": 24,
    "GunPoint": 150,
    "BasicMotions": 100,
}
# Of the recurrent kernels. That of an LRU multiplies the logarithm of its eigenvalues, and those of
# the cells of today multiply how fast they forget.
GAINS = {"SimpleCell": (0.3, 6.0), "IRNN": (0.7, 1.3), "LRU": (0.02, 10.0)}
GAINS |= {name: cell.factors for name, cell in MODERN.items()}
GATED_GAINS = (0.3, 12.0)
KERNELS = {"IRNN": ("identity",), "LRU": ("diagonal",)} | dict.fromkeys(MODERN, ("published",))
FORGET_BIASES = (-1.0, 4.0)
LEARNING_RATES = {"adam": (5e-4, 3e-2), "sgd": (1e-2, 0.5)}
MOMENTUM = 0.9  # of SGD
CLIP_NORM = 1.0
COPIED = {"num_symbols": 4, "length": 3}


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Which networks are drawn, and what they are given.

    Each cell meets each task in a few shapes, which are dealt out at random: a horizon, a width,
    an optimiser and a distribution of the recurrent kernel. The networks of a shape differ in gain,
    forget bias, learning rate and random numbers.

    Attributes:
        cells: Flax cells, IRNN and LRU, or cells of today. LSTMCell is OptimizedLSTMCell, the same
            equations.
        tasks: delayed recall at three noise levels, synthetic tasks, digits read pixel by pixel,
            and series of public archives.
        shapes: how many of each pair of a cell and a task.
        networks_of_a_shape: how many.
        retrained: of these, how many are trained again on other data.
        data_seeds: how many times each of them.
        horizons: steps over which something has to be remembered; the delay of digits and series.
        widths: hidden units.
        most_units: upper limit of steps × hidden units.
        num_updates: of each training.
        records: numbers of updates after which networks are tested, beside the last one.
        batch_size: sequences per update, and per measurement before training.
        held_out_size: sequences in validation and in test data, where there are as many.
        first_seed: of the random numbers of the ensemble.
        dtype: precision of networks, measurements and training.
    """

    cells: Axis[Cell] = CELLS
    tasks: Axis[TaskName] = TASKS
    shapes: Count = 1
    networks_of_a_shape: Count = 26
    retrained: int = 1
    data_seeds: Count = 5
    horizons: Axis[Count] = (10, 20, 40, 80, 160)
    widths: Axis[Count] = (16, 32, 64, 128)
    most_units: Count = 3072
    num_updates: Count = 400
    records: Axis[Count] = (50, 100, 200)
    batch_size: Count = 16
    held_out_size: Count = 256
    first_seed: Seed = 0
    dtype: Dtype = "float32"


class Shape(NamedTuple):
    """Networks that one program computes, as strings."""

    cell: str
    task: str
    horizon: str
    width: str
    optimizer: str
    kernel: str


def shapes(config: Ensemble) -> list[Shape]:
    """Deal out horizons, widths, optimisers and kernels to pairs of a cell and a task."""
    rng = np.random.default_rng(config.first_seed)
    dealt = []
    for cell in config.cells:
        for task in config.tasks:
            every = [
                Shape(cell, task, str(horizon), str(width), optimizer, kernel)
                for horizon in config.horizons
                for width in config.widths
                for optimizer in ("adam", "adam", "sgd")
                for kernel in KERNELS.get(cell, ("orthogonal", "gaussian"))
            ]
            fitting = [one for one in every if _num_units(one) <= config.most_units]
            # Shapes of one pair differ in horizon.
            for horizon in rng.permutation(sorted({s.horizon for s in fitting}))[: config.shapes]:
                alike = [one for one in fitting if one.horizon == horizon]
                dealt.append(alike[rng.integers(len(alike))])
    return sorted(dealt, key=_work, reverse=True)


def _num_units(shape):
    if shape.task in LONGEST_SERIES:  # known where the package that holds them is not installed
        num_steps = LONGEST_SERIES[shape.task] + int(shape.horizon)
    else:
        num_steps = task_of(shape, "float32").num_steps
    return num_steps * int(shape.width)


def _work(shape):
    num_gates = {"GRUCell": 3, "LSTMCell": 4, "MGUCell": 2}.get(shape.cell, 1)
    return num_gates * _num_units(shape) * int(shape.width)


def rows_of(config: Ensemble, shape: Shape) -> Rows:
    """Draw what tells the networks of a shape apart.

    Those that are trained again come last, once for each seed of their data.
    """
    rng = np.random.default_rng([config.first_seed, zlib.crc32("-".join(shape).encode())])
    num = config.networks_of_a_shape

    def log_uniform(low, high):
        return np.exp(rng.uniform(np.log(low), np.log(high), num))

    rows = {
        "gain": log_uniform(*GAINS.get(shape.cell, GATED_GAINS)),
        "forget_bias": rng.uniform(*FORGET_BIASES, num),
        "learning_rate": log_uniform(*LEARNING_RATES[shape.optimizer]),
        "seed": rng.integers(0, 2**31 - 1, num),
        "data_seed": np.zeros(num, int),
    }
    rows = {name: values[numbers_of(config)] for name, values in rows.items()}
    rows["data_seed"][num:] = np.tile(1 + np.arange(config.data_seeds), config.retrained)
    return {
        name: values.astype(np.int32 if values.dtype.kind == "i" else config.dtype)
        for name, values in rows.items()
    }


def task_of(shape: Shape, dtype: Dtype) -> tasks.Task:
    """Build the task of a shape, the same object for the same arguments."""
    return _task(shape.task, int(shape.horizon), dtype)


@cache
def _task(name: str, horizon: int, dtype: Dtype) -> tasks.Task:
    kind = jnp.dtype(dtype)
    if name in NOISE_STD:
        return tasks.delayed_recall(horizon, noise_std=NOISE_STD[name], dtype=kind)
    if name == "adding":
        return tasks.adding(horizon + 1, dtype=kind)
    if name == "copying_memory":
        return tasks.copying_memory(horizon - COPIED["length"], **COPIED, dtype=kind)
    if name == "selective_copying":
        return tasks.selective_copying(horizon, **COPIED, dtype=kind)
    if name == "parity":
        return tasks.parity(horizon + 1, dtype=kind)
    if name == "temporal_order":
        return tasks.temporal_order(1 + round(horizon / 0.9), dtype=kind)
    if name == "delayed_xor":
        return tasks.delayed_xor(horizon + 10, horizon // 2, dtype=kind)
    if name in ("digits", "permuted_digits"):
        return tasks.sequential_digits(horizon, permuted=name == "permuted_digits", dtype=kind)
    return tasks.archived_series(name, horizon, dtype=kind)  # pyright: ignore[reportArgumentType]


def numbers_of(config: Ensemble) -> np.ndarray:
    """Return which network of a shape each row is. Those that are trained again come again."""
    again = np.repeat(np.arange(config.retrained), config.data_seeds)
    return np.concatenate([np.arange(config.networks_of_a_shape), again])


def labels_of(config: Ensemble, shape: Shape, rows: Rows) -> dict[str, tuple[str, np.ndarray]]:
    """Return what each network of a shape is, to stand beside what is known of it."""
    labels = {
        "cell": shape.cell,
        "task": shape.task,
        "optimizer": shape.optimizer,
        "kernel": shape.kernel,
        "horizon": task_of(shape, config.dtype).horizon,
        "width": int(shape.width),
        "batch_size": config.batch_size,
        "num_parameters": _num_parameters(config, shape, rows),
    }
    num = len(rows["seed"])
    columns = {name: np.full(num, label) for name, label in labels.items()} | rows
    return {name: ("network", values) for name, values in columns.items()}


def _num_parameters(config, shape, rows):
    row = {name: jnp.asarray(values[0]) for name, values in rows.items()}
    network = jax.eval_shape(lambda row: draw(config, shape, row), row)
    return sum(leaf.size for leaf in jax.tree.leaves(network.params))


def draw(config: Ensemble, shape: Shape, row: dict[str, Array]) -> jrnn.Recurrence:
    """Draw one network of a shape; traceable."""
    dtype, width = jnp.dtype(config.dtype), int(shape.width)
    num_inputs = task_of(shape, config.dtype).input_size
    key = protocol.key_of(protocol.DRAWING, row["seed"])
    if shape.cell in MODERN:
        return draw_modern(shape.cell, num_inputs, width, row["gain"], key=key, dtype=dtype)
    if shape.cell == "LRU":
        # Half as many complex units have as many numbers in their state.
        network = jrnn.lru(num_inputs, width // 2, key=key, radii=(0.7, 0.99), dtype=dtype)
        return _with_slower_units(network, row["gain"])
    if shape.cell == "IRNN":
        network = jrnn.irnn(num_inputs, width, key=key, dtype=dtype)
        return jrnn.with_gain(network, row["gain"])
    init = nn.initializers.orthogonal()
    if shape.kernel == "gaussian":
        init = jrnn.initializers.gaussian(1.0)
    cell = LINEN[shape.cell](width, recurrent_kernel_init=init, param_dtype=dtype)
    bias = None if shape.cell == "SimpleCell" else row["forget_bias"]
    return jrnn.draw(cell, key=key, num_inputs=num_inputs, gain=row["gain"], forget_bias=bias)


def _with_slower_units(network, factor):
    """Multiply the logarithms of the eigenvalues' sizes, and scale inputs to the same variance."""
    log_decay = network.params["log_decay"] + jnp.log(factor)
    log_normalizer = 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(log_decay)))
    params = network.params | {"log_decay": log_decay, "log_normalizer": log_normalizer}
    return dataclasses.replace(network, params=params)


def training_key(row: dict[str, Array]) -> Array:
    """Return the key of a network's readout and training data."""
    key = protocol.key_of(protocol.TRAINING, row["seed"])
    return jax.random.fold_in(key, row["data_seed"])


@cache
def optimizer_of(name: str) -> Any:
    """Return a function from a learning rate to an optimiser, both with clipping."""
    clip = optax.clip_by_global_norm(CLIP_NORM)
    if name == "adam":
        return lambda rate: optax.chain(clip, optax.adam(rate))
    return lambda rate: optax.chain(clip, optax.sgd(rate, momentum=MOMENTUM))

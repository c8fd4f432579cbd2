"""Walls in the error surface of a recurrent network, and training against them with clipping.

After R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
networks", ICML 2013. Figure 6: the error of one unit x' = w σ(x) + b after 50 steps over the plane
of its two parameters, which has a wall where the initial state is an unstable fixed point; gradient
and curvature are exact. Figure 7: how often gradient descent learns the temporal order task, by
length, with and without clipping. Each is trained with the same learning rates, and the one at
which most seeds learn counts. Of the paper's methods the regulariser Ω is left out.

The same seed draws the same network and the same data for every method and learning rate.

The surface is computed in float64 whatever the precision of training: on the wall rounding errors
grow as the gradients do.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn
from jaxtyping import Float
from pydantic import FiniteFloat
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

import jacobian_rnn as jrnn
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report
from experiments.training import _arms
from jacobian_rnn import tasks, training

PLAIN, CLIPPED = METHODS = "plain", "clipped"
SURFACE, TRAININGS = "surface", "trainings"
MOST_ERRORS = 0.01  # a network with no more wrong answers has learned, as in the paper
NEAREST, FARTHEST = 1e-10, 0.3  # distances to the wall, in b
MEANINGS = {
    "loss": ("error after the last step", "1"),
    "gradient": ("norm of its gradient with respect to w and b", "1"),
    "curvature": ("largest |eigenvalue| of its Hessian with respect to w and b", "1"),
    "loss_across": ("error along a line across the wall", "1"),
    "gradient_across": ("norm of the gradient along a line across the wall", "1"),
    "curvature_across": ("largest |eigenvalue| of the Hessian along a line across the wall", "1"),
    "log_growth_across": ("log |∂x_T/∂x_0| along a line across the wall", "nats"),
    "log_growth_on_wall": ("the same on the wall, in theory", "nats"),
    "wall": ("bias at which the initial state is an unstable fixed point", "1"),
    "accuracy": ("held-out accuracy, the best of all records", "1"),
    "largest_gradient": ("largest gradient norm met in training, before clipping", "1"),
    "success_by_rate": ("fraction of seeds that learned", "1"),
    "success": ("the same at the learning rate at which most learned", "1"),
    "interval": ("its 95 % interval (Wilson)", "1"),
}


def sigmoid(x: float) -> float:
    """Return σ(x)."""
    return float(1 / (1 + np.exp(-x)))


def sigmoid_slope(x: float) -> float:
    """Return σ'(x). On the wall each step multiplies a gradient by w times that of the start."""
    return sigmoid(x) * (1 - sigmoid(x))


@dataclasses.dataclass(frozen=True)
class ErrorWall:
    """What is computed and trained.

    Attributes:
        num_steps: steps of the single unit.
        initial_state: its state before the first step.
        target: what σ(x) should be after the last one.
        weights: lowest and highest w of the plane.
        biases: lowest and highest b of the plane.
        num_grid: points of the plane along each axis.
        line_weight: w of the line across the wall, above 1/σ'(initial_state), where walls begin.
        num_distances: points of a line across the wall on each side of it.
        width: tanh units of the trained networks.
        gain: their recurrent kernels are so many times an orthogonal matrix.
        lengths: of the temporal order task, steps.
        learning_rates: of gradient descent; each network is trained with each.
        clip_norm: gradient norm to which the gradient is clipped.
        num_seeds: networks of each method, length and learning rate.
        num_updates: updates of each network.
        num_records: how often it is tested.
        batch_size: sequences per update.
        held_out_size: sequences of a test.
        dtype: of training.
    """

    num_steps: Count = 50
    initial_state: FiniteFloat = 0.5
    target: FiniteFloat = 0.7
    weights: Range = (4.25, 5.75)
    biases: Range = (-3.1, -2.1)
    num_grid: Count = 121
    line_weight: Positive = 5.0
    num_distances: Count = 150
    width: Count = 32
    gain: Positive = 1.0
    lengths: Axis[Count] = (10, 20, 25, 30, 35)
    learning_rates: Axis[Positive] = (0.01, 0.03, 0.1)
    clip_norm: Positive = 1.0
    num_seeds: _arms.Seeds = 8
    num_updates: Count = 4000
    num_records: Count = 8
    batch_size: Count = 20
    held_out_size: Count = 500
    dtype: Dtype = "float32"

    def __post_init__(self):
        """Refuse a line that crosses no wall."""
        least = 1 / sigmoid_slope(self.initial_state)
        if self.line_weight <= least:
            msg = f"--line-weight: received {self.line_weight}, expected above {least:.3g}"
            raise ValueError(msg)


PRESETS = {
    "quick": ErrorWall(
        num_grid=25,
        num_distances=40,
        width=8,
        lengths=(10,),
        learning_rates=(0.1,),
        num_seeds=2,
        num_updates=50,
        num_records=1,
        held_out_size=100,
    ),
    "default": ErrorWall(),
    "full": ErrorWall(
        num_grid=401,
        width=50,
        lengths=(20, 40, 60, 80, 100, 150, 200),
        learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        num_seeds=5,
        num_updates=200_000,
        num_records=100,
        held_out_size=10_000,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: the surface, or all trainings at one length."""

    what: str
    length: str


def units(config: ErrorWall) -> list[Unit]:
    """List the parts of the work, those that take longest first."""
    lengths = sorted(config.lengths, reverse=True)
    return [
        *(Unit(TRAININGS, str(length)) for length in lengths),
        Unit(SURFACE, str(config.num_steps)),
    ]


def work(config: ErrorWall, unit: Unit, report: Report) -> xr.Dataset:
    """Compute the surface, or train all networks at one length."""
    if unit.what == SURFACE:
        report("unfolding", 0.0)
        return surface(config)
    return trained(config, int(unit.length), report)


@jax.enable_x64(True)
def surface(config: ErrorWall) -> xr.Dataset:
    """Compute the error over the plane and across the wall."""
    weights = np.linspace(*config.weights, config.num_grid)
    biases = np.linspace(*config.biases, config.num_grid)
    distances = np.geomspace(NEAREST, FARTHEST, config.num_distances)
    offsets = np.concatenate([-distances[::-1], [0], distances])
    # Walls begin where the fixed point loses its stability.
    start, slope = sigmoid(config.initial_state), sigmoid_slope(config.initial_state)
    wall = np.where(weights * slope > 1, config.initial_state - weights * start, np.nan)
    line = config.initial_state - config.line_weight * start + offsets
    plane = np.stack(np.meshgrid(weights, biases, indexing="ij"), axis=-1)
    across = np.stack([np.full_like(line, config.line_weight), line], axis=-1)
    # All in one call: each shape compiles anew.
    unfolded = unfold(config, np.concatenate([plane.reshape(-1, 2), across]))

    @jax.jit
    @jax.vmap
    def log_growth(bias):
        network = unit_of(config.line_weight, bias)
        start = jnp.full(1, config.initial_state)
        return jrnn.jacobian_product(network, start, None, num_steps=config.num_steps).log_norm()

    return xr.Dataset(
        {
            name: (("weight", "bias"), values[: -line.size].reshape(plane.shape[:2]))
            for name, values in unfolded.items()
        }
        | {f"{name}_across": ("offset", values[-line.size :]) for name, values in unfolded.items()}
        | {
            "log_growth_across": ("offset", np.asarray(log_growth(line))),
            "log_growth_on_wall": config.num_steps * np.log(config.line_weight * slope),
            "wall": ("weight", wall),
        },
        coords={"weight": weights, "bias": biases, "offset": offsets},
    )


def unfold(
    config: ErrorWall, points: Float[np.ndarray, "points 2"]
) -> dict[str, Float[np.ndarray, " points"]]:
    """Compute error, gradient and curvature at points, each a weight and a bias."""

    def error(point):
        start = jnp.full(1, config.initial_state)
        states = jrnn.trajectory(unit_of(*point), start, None, num_steps=config.num_steps)
        return (jax.nn.sigmoid(states[-1, 0]) - config.target) ** 2

    def of_point(point):
        value, gradient = jax.value_and_grad(error)(point)
        curvature = jnp.abs(jnp.linalg.eigvalsh(jax.hessian(error)(point))).max()
        return {"loss": value, "gradient": jnp.linalg.norm(gradient), "curvature": curvature}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_point))(jnp.asarray(points)))


def unit_of(weight, bias) -> jrnn.Recurrence:
    """Return one unit without input, x' = w σ(x) + b."""
    return jrnn.Recurrence(_step, jnp.stack([jnp.asarray(weight), jnp.asarray(bias)]))


def trained(config: ErrorWall, length: int, report: Report) -> xr.Dataset:
    """Train networks of all methods, learning rates and seeds, and test them now and then."""
    dtype = jnp.dtype(config.dtype)
    task = tasks.temporal_order(length, dtype=dtype)
    cell = nn.SimpleCell(config.width, param_dtype=dtype)
    networks = _arms.draw_networks(cell, task.input_size, config.num_seeds, gain=config.gain)
    _, history = training.train(
        task,
        networks,
        jnp.zeros(config.width, dtype),
        optimizer=_descent,
        # Axes: method, learning rate, seed.
        hyperparameters={
            "clip_norm": jnp.array([jnp.inf, config.clip_norm])[:, None, None],
            "learning_rate": jnp.array(config.learning_rates)[:, None],
        },
        key=_arms.keys_of(_arms.TRAINING, config.num_seeds),
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        records=config.num_records,
        held_out_size=config.held_out_size,
        on_progress=lambda done, total: report("training", done / total),
    )
    skill, baseline = history.records.validation_skill, task.baseline_accuracy
    accuracy = baseline + skill * (1 - baseline)
    dims = ("method", "learning_rate", "seed")
    return xr.Dataset(
        {
            "accuracy": (dims, np.nanmax(accuracy, axis=-1)),
            "largest_gradient": (dims, np.nanmax(history.gradient_norm, axis=-1)),
        },
        coords={
            "method": list(METHODS),
            "learning_rate": list(config.learning_rates),
            "seed": np.arange(config.num_seeds),
        },
    )


def _descent(hyperparameters):
    clip = optax.clip_by_global_norm(hyperparameters["clip_norm"])
    return optax.chain(clip, optax.sgd(hyperparameters["learning_rate"]))


def combine(config: ErrorWall, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join surface and trainings, and count the networks that learned."""
    trainings = xr.concat(
        [parts[Unit(TRAININGS, str(length))] for length in config.lengths], "length"
    ).assign_coords(length=list(config.lengths))
    num_learned = (trainings["accuracy"] >= 1 - MOST_ERRORS).sum("seed")
    best = num_learned.max("learning_rate")

    def interval(count):
        found = binomtest(int(count), config.num_seeds).proportion_ci(method="wilson")
        return np.array([found.low, found.high])

    trainings = trainings.assign(
        success_by_rate=num_learned / config.num_seeds,
        success=best / config.num_seeds,
        interval=xr.apply_ufunc(interval, best, output_core_dims=[["end"]], vectorize=True),
    )
    dataset = xr.merge([parts[Unit(SURFACE, str(config.num_steps))], trainings])
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print how high the wall is, and how many networks learned."""
    for name in ("gradient", "curvature"):
        peak, median = float(dataset[f"{name}_across"].max()), float(dataset[name].median())
        console.print(
            f"{name}: largest across the wall {peak:.3g}, {peak / median:.2g} times the median "
            f"over the plane, {median:.3g}",
            highlight=False,
        )
    table = Table(
        pad_edge=False,
        title=f"temporal order: networks of {dataset.sizes['seed']} that learned",
        caption="best: at the learning rate at which most learned, with Wilson's 95 % interval",
    )
    rates = dataset["learning_rate"].to_numpy()
    for column in ("method", "length", *(f"rate {rate:g}" for rate in rates), "best"):
        table.add_column(column, no_wrap=True)
    for method in dataset["method"].to_numpy():
        for length in dataset["length"].to_numpy():
            one = dataset.sel({"method": method, "length": length})
            low, high = one["interval"].to_numpy()
            counts = one["success_by_rate"].to_numpy() * dataset.sizes["seed"]
            table.add_row(
                str(method),
                str(length),
                *(f"{count:.0f}" for count in counts),
                f"{float(one['success']):.2f} [{low:.2f}, {high:.2f}]",
            )
        table.add_section()
    console.print(table)


def _step(params, x, _):
    return params[0] * jax.nn.sigmoid(x) + params[1]

"""Walls in the error surface of a recurrent network, and training against them with clipping.

After R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
networks", ICML 2013. Figure 6: the error of one unit x' = w σ(x) + b after 50 steps over the plane
of its two parameters, which has a wall where the initial state is an unstable fixed point; gradient
and curvature are exact. Figure 7: how often gradient descent learns the temporal order task, by
length, with and without clipping. Each is trained with the same learning rates, and the one at
which most seeds learn counts. Of the paper's methods the regulariser Ω is left out.

The surface is computed in float64 whatever the precision of training: on the wall rounding errors
grow as the gradients do.
"""

import dataclasses
import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import results
from experiments.critical_initialization import wilson
from experiments.units import Report, run_units
from jacobian_rnn import tasks, training

NAME = "error_wall"
PLAIN, CLIPPED = "plain", "clipped"
SURFACE = "surface"
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
    "gradient_peak": ("largest norm of the gradient along a line across the wall", "1"),
    "curvature_peak": ("largest |eigenvalue| of the Hessian along a line across the wall", "1"),
    "accuracy": ("held-out accuracy, the best of all records", "1"),
    "largest_gradient": ("largest gradient norm met in training, before clipping", "1"),
    "success_by_rate": ("fraction of seeds that learned", "1"),
    "success": ("the same at the learning rate at which most learned", "1"),
    "interval": ("its 95 % interval (Wilson)", "1"),
    "best_rate": ("the learning rate at which most seeds learned", "1"),
}


@dataclasses.dataclass(frozen=True)
class ErrorWall:
    """What is computed and trained.

    Attributes:
        num_steps: steps of the single unit.
        initial_state: its state before the first step.
        target: what σ(x) should be after the last one.
        weights, biases: lowest and highest w and b of the plane.
        num_grid: points of the plane along each axis.
        line_weight: w of the line across the wall, above 1/σ'(initial_state), where walls begin.
        num_distances: points of a line across the wall on each side of it.
        width: tanh units of the trained networks.
        gain: their recurrent kernels are so many times an orthogonal matrix.
        lengths: of the temporal order task, steps.
        methods: "plain", "clipped".
        learning_rates: of gradient descent; each network is trained with each.
        clip_norm: gradient norm to which the gradient is clipped.
        num_seeds: networks of each method, length and learning rate.
        num_updates: updates of each network.
        num_records: how often it is tested; divides `num_updates`.
        batch_size: sequences per update.
        held_out_size: sequences of a test.
        dtype: of training, "float32" or "float64".
    """

    num_steps: int = 50
    initial_state: float = 0.5
    target: float = 0.7
    weights: tuple[float, float] = (4.25, 5.75)
    biases: tuple[float, float] = (-3.1, -2.1)
    num_grid: int = 121
    line_weight: float = 5.0
    num_distances: int = 150
    width: int = 32
    gain: float = 1.0
    lengths: tuple[int, ...] = (10, 20, 25, 30, 35)
    methods: tuple[str, ...] = (PLAIN, CLIPPED)
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    clip_norm: float = 1.0
    num_seeds: int = 8
    num_updates: int = 4000
    num_records: int = 8
    batch_size: int = 20
    held_out_size: int = 500
    dtype: str = "float32"


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
    """What one worker does at a time: the surface, or a method at one length."""

    what: str
    length: str


class Unfolding(NamedTuple):
    """Error, norm of its gradient and size of its Hessian, each of the shape of the points."""

    loss: Any
    gradient: Any
    curvature: Any


def run(config: ErrorWall, preset: str, *, num_workers: int, console: Console) -> int:
    """Compute the surface, train, write one NetCDF file; return the number of failed units."""
    started = time.perf_counter()
    # The slowest first, so that the workers finish together.
    units = [
        Unit(method, str(length))
        for method in reversed(config.methods)
        for length in sorted(config.lengths, reverse=True)
    ]
    units.append(Unit(SURFACE, str(config.num_steps)))
    parts, failures = run_units(
        work, config, units, results.directory(NAME), num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    dataset = joined(parts, config)
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, config, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, config.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(config: ErrorWall, unit: Unit, report: Report) -> xr.Dataset:
    """Compute the surface, or train all networks of a method at one length."""
    if unit.what == SURFACE:
        return surface(config)
    return trained(config, unit.what, int(unit.length), report)


@jax.enable_x64(True)
def surface(config: ErrorWall) -> xr.Dataset:
    """Compute the error over the plane, across the wall, and the peaks along it."""
    weights = np.linspace(*config.weights, config.num_grid)
    biases = np.linspace(*config.biases, config.num_grid)
    distances = np.geomspace(NEAREST, FARTHEST, config.num_distances)
    offsets = np.concatenate([-distances[::-1], [0], distances])
    # Walls begin where the fixed point loses its stability.
    start, slope = _sigmoid(config.initial_state), sigmoid_slope(config)
    wall = np.where(weights * slope > 1, config.initial_state - weights * start, np.nan)
    line = config.initial_state - config.line_weight * start + offsets
    # All in one call: each shape compiles anew.
    plane, across, along = unfold(
        config,
        np.meshgrid(weights, biases, indexing="ij"),
        [np.full_like(line, config.line_weight), line],
        np.broadcast_arrays(weights[:, None], wall[:, None] + offsets),
    )

    @jax.jit
    @jax.vmap
    def log_growth(bias):
        network = unit_of(config.line_weight, bias)
        start = jnp.full(1, config.initial_state)
        return jrnn.jacobian_product(network, start, None, num_steps=config.num_steps).log_norm()

    return xr.Dataset(
        {name: (("weight", "bias"), values) for name, values in plane._asdict().items()}
        | {f"{name}_across": ("offset", values) for name, values in across._asdict().items()}
        | {
            "log_growth_across": ("offset", np.asarray(log_growth(line))),
            "log_growth_on_wall": config.num_steps * np.log(config.line_weight * slope),
            "wall": ("weight", wall),
            "gradient_peak": ("weight", np.max(along.gradient, axis=1)),
            "curvature_peak": ("weight", np.max(along.curvature, axis=1)),
        },
        coords={"weight": weights, "bias": biases, "offset": offsets},
    )


def unfold(config: ErrorWall, *blocks: Sequence[np.ndarray]) -> list[Unfolding]:
    """Compute error, gradient and curvature at blocks of points, each weights and biases."""

    def error(point):
        start = jnp.full(1, config.initial_state)
        states = jrnn.trajectory(unit_of(*point), start, None, num_steps=config.num_steps)
        return (jax.nn.sigmoid(states[-1, 0]) - config.target) ** 2

    def of_point(point):
        value, gradient = jax.value_and_grad(error)(point)
        curvature = jnp.abs(jnp.linalg.eigvalsh(jax.hessian(error)(point))).max()
        return Unfolding(value, jnp.linalg.norm(gradient), curvature)

    points = np.concatenate([np.stack(block, axis=-1).reshape(-1, 2) for block in blocks])
    unfolded = jax.jit(jax.vmap(of_point))(jnp.asarray(points))
    ends = np.cumsum([block[0].size for block in blocks])[:-1]
    split = zip(*(np.split(np.asarray(values), ends) for values in unfolded), strict=True)
    return [
        Unfolding(*(values.reshape(block[0].shape) for values in parts))
        for block, parts in zip(blocks, split, strict=True)
    ]


def unit_of(weight, bias) -> jrnn.Recurrence:
    """Return one unit without input, x' = w σ(x) + b."""
    return jrnn.Recurrence(_step, jnp.stack([jnp.asarray(weight), jnp.asarray(bias)]))


def sigmoid_slope(config: ErrorWall) -> float:
    """Return σ' at the initial state: on the wall each step multiplies a gradient by w σ'."""
    value = _sigmoid(config.initial_state)
    return value * (1 - value)


def trained(config: ErrorWall, method: str, length: int, report: Report) -> xr.Dataset:
    """Train networks of all seeds and learning rates with one method, and test them now and then.

    The same seed draws the same network and the same data for every method and learning rate.
    """
    task = temporal_order(length, config.dtype)
    shape = (config.num_seeds, len(config.learning_rates))
    seeds, rates = np.meshgrid(np.arange(shape[0]), config.learning_rates, indexing="ij")
    rates = jnp.asarray(rates.ravel(), config.dtype)
    state = _start(config, task, jnp.asarray(seeds.ravel()), rates)
    clip_norm = jnp.asarray(jnp.inf if method == PLAIN else config.clip_norm, config.dtype)
    records = []
    for record in range(config.num_records):
        report("training", record / config.num_records)
        state, *looked = _advance(config, task, clip_norm, state, rates)
        records.append([np.asarray(look) for look in looked])
    accuracy, gradient = (np.max(looked, axis=0) for looked in zip(*records, strict=True))
    dims = ("seed", "learning_rate")
    return xr.Dataset(
        {
            "accuracy": (dims, accuracy.reshape(shape)),
            "largest_gradient": (dims, gradient.reshape(shape)),
        },
        coords={"seed": np.arange(shape[0]), "learning_rate": list(config.learning_rates)},
    )


@cache
def temporal_order(length: int, dtype: str) -> tasks.Task:
    """Return the task, the same object for the same arguments, so that programs are shared."""
    return tasks.temporal_order(length, dtype=jnp.dtype(dtype))


@partial(jax.jit, static_argnums=(0, 1))
def _start(config, task, seeds, rates):
    cell = nn.SimpleCell(config.width, param_dtype=jnp.dtype(config.dtype))

    def of_one(seed, rate):
        key, inputs = _key(0, seed), task.input_size
        network = jrnn.draw(cell, key=key, num_inputs=inputs, gain=config.gain)
        optimizer = _optimizer(config.clip_norm, rate)
        return training.start(task, network, jrnn.zero_carry(network), optimizer, key=_key(2, seed))

    return jax.vmap(of_one)(seeds, rates)


@partial(jax.jit, static_argnums=(0, 1))
def _advance(config, task, clip_norm, state, rates):
    """Train for a stretch; return held-out accuracies and the largest gradient norms too."""
    held_out = task.sample_held_out(jax.random.key(3), config.held_out_size, "validation")

    def of_one(state, rate):
        carry = jrnn.zero_carry(state.network.recurrence)
        optimizer = _optimizer(clip_norm, rate)
        num_updates = config.num_updates // config.num_records
        options = {"num_updates": num_updates, "batch_size": config.batch_size}
        state, updates = training.advance(state, carry, task, optimizer, **options)
        skill, _ = training.evaluate(state.network, carry, task, held_out)
        accuracy = skill * (1 - task.baseline_accuracy) + task.baseline_accuracy
        return state, accuracy, jnp.nanmax(updates.gradient_norm)

    return jax.vmap(of_one)(state, rates)


def _optimizer(clip_norm, rate):
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.sgd(rate))


def joined(parts: dict[Unit, xr.Dataset], config: ErrorWall) -> xr.Dataset:
    """Join surface and trainings, and count the networks that learned."""
    lengths = [str(length) for length in config.lengths]
    trainings = xr.concat(
        [
            xr.concat([parts[Unit(method, length)] for length in lengths], "length")
            for method in config.methods
        ],
        "method",
    ).assign_coords(method=list(config.methods), length=list(config.lengths))
    num_learned = (trainings["accuracy"] >= 1 - MOST_ERRORS).sum("seed")
    best = num_learned.max("learning_rate")
    trainings = trainings.assign(
        success_by_rate=num_learned / config.num_seeds,
        success=best / config.num_seeds,
        interval=((*best.dims, "end"), wilson(best.to_numpy(), config.num_seeds)),
        best_rate=num_learned.idxmax("learning_rate"),
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


def _sigmoid(x):
    return float(1 / (1 + np.exp(-x)))


def _key(purpose, seed):
    return jax.random.fold_in(jax.random.key(purpose), seed)

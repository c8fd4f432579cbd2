"""Train GRUs and LSTMs to hold three bits, and find where they keep them.

After D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional
recurrent neural networks", Neural Computation 25 (2013). A network that holds three bits has eight
stable fixed points without input, one for each memory, and saddles between them that it passes when
a pulse sets a bit. From every saddle with one unstable direction the network is let go to both
sides, which shows the two memories that the saddle lies between.

Unlike there, the networks are gated and have far fewer units.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.arrangement import arrange, label
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn import tasks, training

NUM_BITS = 3
# As rows, in the order of their numbers.
CORNERS = np.array(list(itertools.product([-1, 1], repeat=NUM_BITS)))
NEAR = 0.5  # of an output from the corner that it stands for


@dataclasses.dataclass(frozen=True)
class FlipFlop:
    """What is trained, and how fixed points are searched for.

    Attributes:
        cells: keys of `drawing.CELLS`.
        width: hidden units.
        num_networks: of each cell.
        num_steps: length of the sequences.
        pulse_probability: of a pulse in a channel at a step.
        num_updates: of training.
        learning_rate: of Adam.
        clip_norm: to which gradients are clipped.
        batch_size: sequences per update.
        num_sequences: along which states are visited, and starts of the search drawn.
        num_starts: of the search. One half are visited states with noise, and the other are between
            two of them.
        noise_std: of the noise.
        most_points: fixed points that are kept.
        num_let_go: steps that a network takes from a saddle.
        num_shown: visited states that are kept, for the picture.
        seed: of all draws.
        dtype: precision of everything.
    """

    cells: Axis[str] = ("GRUCell", "LSTMCell")
    width: Count = 16
    num_networks: Count = 2
    num_steps: Count = 50
    pulse_probability: Positive = 0.1
    num_updates: Count = 1500
    learning_rate: Positive = 0.01
    clip_norm: Positive = 1.0
    batch_size: Count = 64
    num_sequences: Count = 64
    num_starts: Count = 2048
    noise_std: Positive = 0.2
    most_points: Count = 64
    num_let_go: Count = 1000
    num_shown: Count = 1500
    seed: Seed = 0
    dtype: Dtype = "float64"


PRESETS = {
    "quick": FlipFlop(
        cells=("GRUCell",), width=8, num_networks=1, num_steps=25, num_updates=150, num_starts=64
    ),
    "default": FlipFlop(),
    "full": FlipFlop(width=64, num_networks=5, num_updates=5000, num_starts=16_384),
}


class Unit(NamedTuple):
    """What a worker does at a time: one network."""

    cell: str
    network: str


MEANINGS = {
    "skill": ("share of the variance of held-out targets that is predicted", "1"),
    "num_points": ("distinct fixed points", "1"),
    "num_slow": ("distinct slow points that are not fixed", "1"),
    "num_corners": ("memories that have a stable fixed point", "1"),
    "num_stable": ("stable fixed points", "1"),
    "num_saddles": ("fixed points with one unstable direction", "1"),
    "num_edges": ("pairs of memories of which one such saddle leads to both", "1"),
    "largest_residual": ("largest ½‖F(h) − h‖² of the fixed points", "1"),
    "residual": ("½‖F(h) − h‖² of each fixed point", "1"),
    "num_unstable": ("unstable directions of each fixed point", "1"),
    "margin": ("one less the largest |λ| of each fixed point", "1"),
    "point_plane": ("fixed points in the plane of principal components", "1"),
    "visited_plane": ("visited states in the plane of principal components", "1"),
    "plane_share": ("share of the variance of visited states in that plane", "1"),
    "eigenvalue_real": ("real part of the eigenvalues", "1"),
    "eigenvalue_imaginary": ("imaginary part of the eigenvalues", "1"),
    "time_constant": ("−1/ln|λ|", "steps"),
    "output": ("readout at each fixed point", "1"),
}


def units(config: FlipFlop) -> list[Unit]:
    """List the networks."""
    return [
        Unit(cell, str(number)) for number in range(config.num_networks) for cell in config.cells
    ]


def work(config: FlipFlop, unit: Unit, report: Report) -> xr.Dataset:
    """Train a network, and find and linearise its fixed points."""
    report("training", 0.0)
    network, skill = trained(config, unit)
    report("searching", 0.7)
    return examined(config, unit, network).assign(skill=skill)


def trained(config: FlipFlop, unit: Unit) -> tuple[training.Network, float]:
    """Train a network, and return its skill on held-out data."""
    dtype = jnp.dtype(config.dtype)
    key = jax.random.fold_in(jax.random.key(config.seed), int(unit.network))
    draw_key, train_key = jax.random.split(key)
    recurrence = drawing.draw(unit.cell, config.width, 1.0, NUM_BITS, dtype=dtype, key=draw_key)
    network, history = training.train(
        task_of(config),
        recurrence,
        drawing.zero_carry(unit.cell, config.width, dtype),
        optimizer=optax.chain(
            optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate)
        ),
        key=train_key,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        records=1,
    )
    return network, float(history.test_skill)


def task_of(config: FlipFlop) -> tasks.Task:
    """Return the task that networks are trained on."""
    return tasks.flip_flop(
        config.num_steps,
        num_bits=NUM_BITS,
        pulse_probability=config.pulse_probability,
        dtype=jnp.dtype(config.dtype),
    )


def examined(config: FlipFlop, unit: Unit, network: training.Network) -> xr.Dataset:
    """Find the fixed points of a network without input, and what is near them."""
    dtype = jnp.dtype(config.dtype)
    recurrence, no_input = network.recurrence, jnp.zeros(NUM_BITS, dtype)
    carry = drawing.zero_carry(unit.cell, config.width, dtype)
    xs_key, start_key = jax.random.split(jax.random.key(config.seed + 1))
    xs = task_of(config).sample_held_out(xs_key, config.num_sequences, "test").xs
    visited = jax.jit(jax.vmap(lambda xs: jrnn.trajectory(recurrence, carry, xs)))(xs)[:, 1:]
    starts = _starts(config, visited, start_key)
    found = jrnn.fixed_points(recurrence, starts, no_input)
    points = found.distinct("fixed")
    points = jax.tree.map(lambda a: a[: config.most_points] if jnp.ndim(a) else a, points)
    near = jrnn.linearize(recurrence, points.states, no_input)
    read = partial(_read, network, carry)
    outputs = np.asarray(jax.vmap(read)(points.states))
    num_unstable, is_stable = np.asarray(near.num_unstable), np.asarray(near.is_stable)

    pairs = set()
    for i in np.flatnonzero(num_unstable == 1):
        direction = jnp.real(near.right_vectors[i, 0])
        sides = points.states[i] + 0.01 * jnp.stack([direction, -direction])
        ends = _let_go(recurrence, sides, jax.tree.map(jnp.zeros_like, carry), config.num_let_go)
        pairs.add(frozenset(corner_of(output) for output in np.asarray(jax.vmap(read)(ends))))
    corners = {corner_of(output) for output in outputs[is_stable]} - {-1}

    rows = np.asarray(visited).reshape(-1, visited.shape[-1])
    mean = rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    shown = rows[:: max(1, len(rows) // config.num_shown)][: config.num_shown]
    of_points = {
        "residual": points.residuals,
        "num_unstable": num_unstable.astype(float),
        "margin": near.margin,
    }
    of_directions = {
        "eigenvalue_real": near.eigenvalues.real,
        "eigenvalue_imaginary": near.eigenvalues.imag,
        "time_constant": near.time_constants,
    }
    return xr.Dataset(
        {
            "num_points": len(outputs),
            "num_slow": len(found.distinct("slow").speeds),
            "num_corners": len(corners),
            "num_stable": int(is_stable.sum()),
            "num_saddles": int((num_unstable == 1).sum()),
            "num_edges": sum(len(pair) == 2 and -1 not in pair for pair in pairs),
            "largest_residual": float(points.residuals.max()),
            "point_plane": (("point", "component"), (points.states - mean) @ axes[:2].T),
            "visited_plane": (("visited", "component"), (shown - mean) @ axes[:2].T),
            "plane_share": float((sizes[:2] ** 2).sum() / (sizes**2).sum()),
            "output": (("point", "bit"), outputs),
        }
        | {name: ("point", np.asarray(values)) for name, values in of_points.items()}
        | {
            name: (("point", "direction"), np.asarray(values))
            for name, values in of_directions.items()
        },
        coords={
            "point": np.arange(len(outputs)),
            "direction": np.arange(near.eigenvalues.shape[1]),
            "visited": np.arange(len(shown)),
        },
    )


def corner_of(output: np.ndarray) -> int:
    """Return the number of the memory that an output stands for, −1 for none."""
    near = np.all(np.abs(CORNERS - output) < NEAR, axis=1)
    return int(np.argmax(near)) if near.any() else -1


def _starts(config, visited, key):
    """Draw visited states with noise, and points between two visited states."""
    noisy_key, one_key, other_key, weight_key = jax.random.split(key, 4)
    half = config.num_starts // 2
    noisy = jrnn.draw_states(
        visited, config.num_starts - half, key=noisy_key, noise_std=config.noise_std
    )
    one, other = (jrnn.draw_states(visited, half, key=key) for key in (one_key, other_key))
    weights = jax.random.uniform(weight_key, (half, 1), one.dtype)
    return jnp.concatenate([noisy, weights * one + (1 - weights) * other])


def _read(network, carry, state):
    """Return the readout of a state."""
    _, unravel = ravel_pytree(carry)
    return network.recurrence.output(unravel(state)) @ network.kernel + network.bias


@partial(jax.jit, static_argnames="num_steps")
def _let_go(recurrence, states, carry, num_steps):
    """Run a network without input from several states, and return where it ends."""
    unravel = ravel_pytree(carry)[1]
    xs = jnp.zeros((num_steps, NUM_BITS), states.dtype)
    return jax.vmap(lambda state: jrnn.trajectory(recurrence, unravel(state), xs)[-1])(states)


def combine(config: FlipFlop, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all networks."""
    dataset = arrange({unit: parts[unit] for unit in units(config)}, {"cell": str, "network": int})
    label(dataset, MEANINGS)
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print what was found in each network."""
    table = Table(
        pad_edge=False,
        title="Fixed points of networks that hold three bits",
        caption=(
            f"corners: memories with a stable fixed point, of {len(CORNERS)}; saddles: points with "
            "one unstable direction; edges: pairs of memories that a saddle leads to"
        ),
    )
    for column in ("cell", "", "skill", "fixed", "corners", "saddles", "edges", "residual"):
        table.add_column(column, no_wrap=True)
    for cell, number in itertools.product(*(dataset[name].values for name in ("cell", "network"))):
        one = dataset.sel(cell=cell, network=number)
        counts = ("num_points", "num_corners", "num_saddles", "num_edges")
        table.add_row(
            str(cell),
            str(number),
            f"{float(one['skill']):.4f}",
            *(f"{float(one[name]):.0f}" for name in counts),
            f"{float(one['largest_residual']):.1e}",
        )
    console.print(table)

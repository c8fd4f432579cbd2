"""Measure the networks of an ensemble before training, train them, and lay out both.

Experiments with an ensemble of their own share this.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.regimes import _ensemble as ensemble
from experiments.regimes._ensemble import Ensemble, Shape
from experiments.regimes._modern_cells import MODERN
from experiments.runner.experiment import Axis, Count, Networks
from jacobian_rnn import training
from jacobian_rnn.regimes import learning_features

Stage = Literal["measured", "trained"]
PILOT_UPDATES = 4
SMALL = 1e-5  # added to eigenvalues of correlations, as those do who published these rules


@dataclasses.dataclass(frozen=True)
class LearningEnsemble(Ensemble):
    """Which networks are drawn, and what is done with them.

    Attributes:
        stages: of the work. Networks can be measured alone, or trained alone.
        num_sequences: for every measurement but the separation of answers.
        chunk_size: networks that a device computes and saves at a time; chosen by measurement when
            a sweep begins if it is not given. It decides rounding, so it is kept with the result.
    """

    stages: Axis[Stage] = ("measured", "trained")
    num_sequences: Count = 32
    chunk_size: Count | None = 31


class Unit(NamedTuple):
    """One stage of the networks of one shape, as strings."""

    stage: str
    cell: str
    task: str
    horizon: str
    width: str
    optimizer: str
    kernel: str


def units(config: LearningEnsemble) -> list[Unit]:
    """List shapes, those that take longest first, each with its stages: one is no use alone."""
    return [Unit(stage, *shape) for shape in ensemble.shapes(config) for stage in config.stages]


def networks(config: LearningEnsemble, unit: Unit) -> Networks:
    """Return the networks of a shape, and what is done with them at a stage."""
    shape = Shape(*unit[1:])
    task = ensemble.task_of(shape, config.dtype)

    def trained(row, num_updates, records):
        network = ensemble.draw(config, shape, row)
        _, history = training.train(
            task,
            network,
            jrnn.zero_carry(network),
            optimizer=ensemble.optimizer_of(shape.optimizer),
            hyperparameters=row["learning_rate"],
            key=ensemble.training_key(row),
            num_updates=num_updates,
            batch_size=config.batch_size,
            held_out_size=min(config.held_out_size, task.num_held_out or config.held_out_size),
            records=records,
        )
        return history

    def train(row):
        """Draw and train one network, and observe it on every budget."""
        history = trained(row, config.num_updates, config.records)
        budgets = [history.until(number) for number in budgets_of(config)]
        return {
            "outcome": jnp.stack([jrnn.observe_regime(one).outcome for one in budgets]),
            "validation_skill": history.records.validation_skill[1:],
            "test_skill": history.records.test_skill[1:],
        }

    def measure(row):
        """Draw one network and measure it."""
        recurrence = ensemble.draw(config, shape, row)
        carry = jrnn.zero_carry(recurrence)
        optimizer = ensemble.optimizer_of(shape.optimizer)(row["learning_rate"])
        key = ensemble.training_key(row)
        network = training.start(task, recurrence, carry, optimizer, key=key).network
        key = protocol.key_of(protocol.SEQUENCES, row["seed"])
        features = learning_features(
            network, carry, task, optimizer=optimizer, key=key, num_sequences=config.num_sequences
        )
        xs = task.sample(key, config.num_sequences).xs
        return features._asdict() | measure_rules(shape.cell, recurrence, carry, xs, key)

    def pilot(row):
        """Draw one network and train it for a few updates."""
        return trained(row, PILOT_UPDATES, 1).loss

    rows = ensemble.rows_of(config, shape)
    cost = task.num_steps * int(shape.width)
    if unit.stage == "trained":
        return Networks(rows, train, record_training, pilot, cost)
    once = {name: values[rows["data_seed"] == 0] for name, values in rows.items()}
    return Networks(once, measure, record_measurements, pilot, cost / 10)


def measure_rules(cell, recurrence, carry, xs, key):
    """Measure what simple rules and published predictors go by."""

    def last_state(xs):
        return jrnn.trajectory(recurrence, carry, xs)[-1]

    def gradient(xs):
        return jnp.ravel(jax.grad(lambda xs: jnp.sum(last_state(xs)))(xs))

    measured = {
        "first_growth": jrnn.backward_profile(recurrence, carry, xs[0], key=key).log_growth[0],
        "hidden_correlation": _spread_of(jax.vmap(last_state)(xs)),
        "input_correlation": _spread_of(jax.vmap(gradient)(xs)),
    }
    if cell == "LRU":  # whose eigenvalues are its singular values
        return measured | {"kernel": jnp.diag(jnp.exp(-jnp.exp(recurrence.params["log_decay"])))}
    if cell in MODERN:  # which have no recurrent kernel, or start without
        return measured
    return measured | {"kernel": drawing.candidate_matrix(recurrence)}


def _spread_of(vectors):
    """Score how different the vectors of sequences are, by the eigenvalues of their correlation."""
    centred = vectors - jnp.mean(vectors, axis=1, keepdims=True)
    norms = jnp.linalg.norm(centred, axis=1, keepdims=True)
    centred = centred / jnp.where(norms > 0, norms, 1)
    values = jnp.linalg.eigvalsh(centred @ centred.T) + SMALL
    return -jnp.sum(jnp.log(values) + 1 / values)


def record_measurements(numbers: dict[str, np.ndarray]) -> xr.Dataset:
    """Name the axis of what was measured, and add radius and norm of any recurrent kernels."""
    if "kernel" in numbers:
        kernels = numbers.pop("kernel").astype(float)
        numbers["spectral_radius"] = np.abs(np.linalg.eigvals(kernels)).max(axis=-1)
        numbers["kernel_norm"] = np.linalg.norm(kernels, 2, axis=(-2, -1))
    return xr.Dataset({name: ("network", values) for name, values in numbers.items()})


def budgets_of(config: Ensemble) -> list[int]:
    """Return the numbers of updates after which networks are observed."""
    return [*config.records, config.num_updates]


def record_training(numbers: dict[str, np.ndarray]) -> xr.Dataset:
    """Name the axes of what was seen in training."""
    return xr.Dataset({name: (("network", "budget"), values) for name, values in numbers.items()})


def combine(config: LearningEnsemble, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Lay out all networks in one row, each with what it is.

    What was measured of a network stands beside each of its trainings. Shapes of which a stage is
    missing are left out.
    """
    numbers = ensemble.numbers_of(config)
    blocks = []
    for shape in ensemble.shapes(config):
        found = {stage: parts.get(Unit(stage, *shape)) for stage in config.stages}
        if any(part is None for part in found.values()):
            continue
        rows = ensemble.rows_of(config, shape)
        block = xr.Dataset(ensemble.labels_of(config, shape, rows))
        for stage, part in found.items():
            if part is not None:
                block = block.merge(part.isel(network=numbers) if stage == "measured" else part)
        blocks.append(block)
    dataset = xr.concat(blocks, "network", data_vars="all")
    assert isinstance(dataset, xr.Dataset)
    return dataset.assign_coords(budget=budgets_of(config)) if "budget" in dataset.dims else dataset

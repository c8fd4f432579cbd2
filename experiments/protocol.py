"""Predict networks on a task, train them with several learning rates, and say which learned.

Experiments that set prediction beside training share this. They differ in the networks they draw.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from annotated_types import Ge
from jaxtyping import Array

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn import tasks, training
from jacobian_rnn.regimes.forecast import expit, published_model, terms_of
from jacobian_rnn.training import TrainingHistory

Optimizer = Literal["adam", "sgd"]
Method = Literal["probes", "exact"]
Draw = Callable[[Any, Array], jrnn.Recurrence]
DRAWING, SEQUENCES, TRAINING = range(3)  # purposes of random numbers
NOISE_STD = 0.5  # of the inputs of delayed recall after the first


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How networks are predicted and trained.

    Attributes:
        width: hidden units.
        num_seeds: networks drawn of each kind.
        first_seed: seeds count from here.
        num_sequences: sequences per prediction, at least two for their spread.
        learning_rates: of Adam. Each network is trained with each, and the one with the best
            validation skill counts.
        clip_norm: global gradient norm to which the gradients that Adam sees are clipped.
        num_updates: updates of each training.
        batch_size: sequences per update.
        held_out_size: sequences in validation and in test data.
        dtype: precision of networks, predictions and training.
    """

    width: Count = 32
    num_seeds: Count = 2
    first_seed: Seed = 0
    num_sequences: Annotated[int, Ge(2)] = 8
    learning_rates: Axis[Positive] = (0.003, 0.01)
    clip_norm: Positive = 1.0
    num_updates: Count = 500
    batch_size: Count = 32
    held_out_size: Count = 256
    dtype: Dtype = "float32"

    @property
    def seeds(self) -> np.ndarray:
        """Return the seeds of the networks."""
        return self.first_seed + np.arange(self.num_seeds)


def key_of(purpose: int, seed: Array | int) -> Array:
    """Return the key that a network of a seed uses for a purpose."""
    return jax.random.fold_in(jax.random.key(purpose), seed)


@cache
def recall(delay: int, dtype: Dtype) -> tasks.Task:
    """Build delayed recall, the same object for the same arguments."""
    return tasks.delayed_recall(delay, noise_std=NOISE_STD, dtype=jnp.dtype(dtype))


@cache
def optimizer_of(name: Optimizer, clip_norm: float) -> Any:
    """Return a function from a learning rate to an optimiser; Adam with clipping, SGD without."""
    if name == "sgd":
        return optax.sgd
    return lambda rate: optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(rate))


def predict(
    config: Protocol,
    task: tasks.Task,
    network: jrnn.Recurrence,
    seed: Array,
    *,
    method: Method = "probes",
) -> jrnn.RegimePrediction:
    """Predict one network on sequences of its own, from a carry of zeros."""
    xs = task.sample(key_of(SEQUENCES, seed), config.num_sequences).xs
    carry = jrnn.zero_carry(network)
    return jrnn.predict_regime(network, carry, xs, horizon=task.horizon, method=method)


def train(
    config: Protocol,
    task: tasks.Task,
    network: jrnn.Recurrence,
    seed: Array,
    *,
    optimizer: Optimizer = "adam",
    rates: tuple[float, ...] | None = None,
    num_records: int = 1,
    **options: Any,
) -> TrainingHistory:
    """Train one network, or an ensemble, with each learning rate, which are the first axis.

    Args:
        config: how.
        task: what to train on.
        network: one network, or those of an ensemble.
        seed: of the network, or of each, with the axes of the ensemble.
        optimizer: Adam with clipping, or plain SGD.
        rates: learning rates, those of the configuration by default.
        num_records: how many times networks are tested after the first time.
        **options: of the library's training.
    """
    key, axes = partial(key_of, TRAINING), seed.ndim
    for _ in range(axes):
        key = jax.vmap(key)
    one = jax.tree.map(lambda leaf: leaf[(0,) * axes], network)
    rate = jnp.asarray(rates or config.learning_rates, config.dtype)
    _, history = training.train(
        task,
        network,
        jrnn.zero_carry(one),
        optimizer=optimizer_of(optimizer, config.clip_norm),
        hyperparameters=rate.reshape(-1, *[1] * axes),
        key=key(seed),
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        held_out_size=config.held_out_size,
        records=num_records,
        **options,
    )
    return history


def best_of(history: TrainingHistory) -> dict[str, Array]:
    """Observe each training, and take for each network the learning rate that validates best.

    Returns:
        Outcome, skills and loss of each network; the same of each learning rate, the first axis of
        arrays that are called `…_by_rate`; and the index of the one that was taken, `best_rate`.
    """
    by_rate = {
        "outcome": jrnn.observe_regime(history).outcome,
        "validation_skill": history.validation_skill,
        "test_skill": history.test_skill,
        "test_loss": history.test_loss,
    }
    best = training.best_index(history, axis=0)
    chosen = training.take_along(by_rate, best, axis=0)
    every = {f"{name}_by_rate": values for name, values in by_rate.items()}
    return {**chosen, **every, "best_rate": best}


def draw_all(draw: Draw, kinds: np.ndarray, seeds: np.ndarray) -> jrnn.Recurrence:
    """Draw a network of every kind and seed, stacked along these two axes.

    Args:
        draw: `draw(kind, key)`, traceable.
        kinds: what tells kinds apart, such as a gain.
        seeds: networks of one seed have the same key in every kind.
    """

    def one(kind, seed):
        return draw(kind, key_of(DRAWING, seed))

    # A program of its own, because initialisers take long to compile.
    every = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))
    return every(jnp.asarray(kinds), jnp.asarray(seeds, jnp.int32))


def predict_all(
    config: Protocol,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    seeds: np.ndarray,
    *,
    method: Method,
) -> jrnn.RegimePrediction:
    """Predict networks of `(kinds, seeds)`. The arrays of the prediction have these axes first."""
    one = partial(predict, config, task, method=method)
    every = jax.jit(jax.vmap(jax.vmap(one), in_axes=(0, None)))
    return jax.device_get(every(networks, jnp.asarray(seeds, jnp.int32)))


def predictions(
    config: Protocol,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    kind: str,
    *,
    method: Method,
) -> xr.Dataset:
    """Lay out what is predicted of networks, and the sizes of their weights.

    Args:
        config: how to predict.
        task: whose inputs and horizon count.
        networks: of `(kinds, seeds)`.
        kind: the name of the first dimension.
        method: "exact" adds all singular values of the product over the horizon.
    """
    predicted = predict_all(config, task, networks, config.seeds, method=method)
    kernels = np.asarray(jax.vmap(jax.vmap(drawing.candidate_matrix))(networks), float)
    network, sequence = (kind, "seed"), (kind, "seed", "sequence")
    variables = {
        "regime": (network, predicted.regime),
        "borderline": (network, predicted.borderline),
        "exponent": (network, predicted.exponent),
        "exponent_standard_error": (network, predicted.standard_error),
        "interval": ((*network, "end"), predicted.interval),
        "log_growth": (sequence, predicted.log_growth_of_output),
        "log_growth_error": (sequence, predicted.log_growth_error),
        "carry_log_growth": (sequence, predicted.log_growth),
        "profile": ((*sequence, "step"), predicted.profile),
        "profile_error": (sequence, predicted.sampling_error),
        "peak": (sequence, predicted.peak_of_output),
        "peak_lag": (sequence, predicted.peak_lag_of_output),
        "deciding_growth": (sequence, predicted.deciding_growth),
        "spectral_radius": (network, np.abs(np.linalg.eigvals(kernels)).max(axis=-1)),
        "kernel_norm": (network, np.linalg.norm(kernels, 2, axis=(-2, -1))),
    }
    coords = {"seed": config.seeds, "step": np.arange(1, task.num_steps + 1)}
    if (spectrum := predicted.log_singular_values) is not None:
        variables["log_singular_value"] = ((*sequence, "index"), spectrum)
        coords["index"] = np.arange(spectrum.shape[-1])
    return xr.Dataset(variables, coords=coords)


def forecasts(
    config: Protocol,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    kind: str,
    *,
    optimizer: Optimizer,
    rate: float,
) -> xr.Dataset:
    """Forecast how likely networks are to learn, from features of those that training starts from.

    Args:
        config: the budget.
        task: what they will be trained on.
        networks: of `(kinds, seeds)`.
        kind: the name of the first dimension.
        optimizer: Adam with clipping, or plain SGD.
        rate: its learning rate.

    Returns:
        The probability of each network, and its features.
    """
    transformation = optimizer_of(optimizer, config.clip_norm)(rate)

    def measure(network, seed):
        carry = jrnn.zero_carry(network)
        key = key_of(TRAINING, seed)
        start = training.start(task, network, carry, transformation, key=key)
        return jrnn.learning_features(
            start.network,
            carry,
            task,
            optimizer=transformation,
            key=key_of(SEQUENCES, seed),
            num_sequences=config.num_sequences,
        )

    every = jax.jit(jax.vmap(jax.vmap(measure), in_axes=(0, None)))
    features = jax.device_get(every(networks, jnp.asarray(config.seeds, jnp.int32)))
    terms = terms_of(
        features,
        horizon=task.horizon,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
    )
    measured = {f"feature_{name}": values for name, values in features._asdict().items()}
    measured["probability"] = expit(published_model().log_odds(terms))
    variables = {name: ((kind, "seed"), values) for name, values in measured.items()}
    return xr.Dataset(variables, coords={"seed": config.seeds})


def trainings(
    config: Protocol,
    task: tasks.Task,
    networks: jrnn.Recurrence,
    kind: str,
    report: Report,
    *,
    num_records: int = 1,
    optimizer: Optimizer = "adam",
    rates: tuple[float, ...] | None = None,
) -> xr.Dataset:
    """Train networks with every learning rate, and lay out what happened.

    Args:
        config: how to train.
        task: what to train on.
        networks: of `(kinds, seeds)`.
        kind: the name of the first dimension.
        report: is told how far training is.
        num_records: how many times skill is recorded, after the first time.
        optimizer: Adam with clipping, or plain SGD.
        rates: learning rates, those of the configuration by default.
    """
    num_kinds = len(jax.tree.leaves(networks)[0])
    history = train(
        config,
        task,
        networks,
        jnp.broadcast_to(jnp.asarray(config.seeds), (num_kinds, config.num_seeds)),
        optimizer=optimizer,
        rates=rates,
        num_records=num_records,
        on_progress=lambda done, all_: report(f"training with {optimizer}", done / all_),
    )
    history, best = jax.device_get((history, best_of(history)))
    network, training_of = (kind, "seed"), ("rate_index", kind, "seed")
    records = history.records
    variables = {
        name: (training_of if name.endswith("_by_rate") else network, values)
        for name, values in best.items()
    } | {
        "loss": ((*training_of, "update"), history.loss),
        "gradient_norm": ((*training_of, "update"), history.gradient_norm),
        "update_norm": ((*training_of, "update"), history.update_norm),
        "validation_skill_by_record": ((*training_of, "record"), records.validation_skill),
        "learning_rate": ("rate_index", list(rates or config.learning_rates)),
    }
    coords = {
        "seed": config.seeds,
        "record": records.num_updates[0, 0, 0],
    }
    return xr.Dataset(variables, coords=coords)

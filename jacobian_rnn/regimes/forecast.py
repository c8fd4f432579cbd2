"""Will it learn? The probability that a network learns a task within a budget, before training."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence, zero_carry
from jacobian_rnn.checks import check_at_least, check_finite, check_key, check_number, refuse
from jacobian_rnn.regimes.features import LearningFeatures, learning_features
from jacobian_rnn.training.network import Network, add_readout
from jacobian_rnn.training.updates import Optimizer

MODEL_FILE = "forecast_model.json"


class Term(NamedTuple):
    """What the logarithm of the odds of learning is a weighted sum of.

    Attributes:
        meaning: in words, with its unit.
        sign: +1 where theory says that more of it helps, −1 where it harms.
    """

    meaning: str
    sign: int


TERMS = {
    "vanishing": Term("growth over the horizon, where it is below 0, nats", +1),
    "exploding": Term("largest growth on the way back, where it is above 0, nats", -1),
    "resolved": Term("gradient of far lags over the noise of the whole budget, up to 3 nats", +1),
    "memory": Term("share of far inputs in the output, nats", +1),
    "separation": Term("distance of answers over their spread, nats", +1),
    "readout": Term("skill of a linear readout of the untrained network", +1),
    "travel": Term("updates times the relative size of the first, in logs, up to 3 nats", +1),
    "overshoot": Term("learning rate over its critical value, where it is above e^-3, nats", -1),
    "steps": Term("log of the horizon, nats", -1),
}


def terms_of(
    features: LearningFeatures, *, horizon: Any, num_updates: Any, batch_size: Any
) -> dict[str, np.ndarray]:
    """Return what a forecast weighs, from features of networks and how they will be trained.

    Args:
        features: of one network, or arrays of many.
        horizon: of the task, steps.
        num_updates: of the training.
        batch_size: sequences per update.

    Returns:
        The value of each of `TERMS`, with the axes of the features.
    """
    of = jax.tree.map(lambda values: np.asarray(values, float), features)
    budget = np.log(np.asarray(num_updates, float) * batch_size) / 2
    values = {
        "vanishing": np.minimum(of.growth, 0),
        "exploding": np.maximum(of.peak, 0),
        "resolved": np.minimum(of.gradient_signal + budget, 3),
        "memory": of.memory,
        "separation": of.separation,
        "readout": of.readout_skill,
        # Where updates move the weights by many times their size, more of them help no more.
        "travel": np.minimum(np.log(num_updates) + of.relative_update, 3),
        "overshoot": np.maximum(of.overshoot, -3),
        "steps": np.log(np.maximum(horizon, 1)),
    }
    shape = np.broadcast_shapes(*(np.shape(value) for value in values.values()))
    return {name: np.broadcast_to(value, shape) for name, value in values.items()}


class ForecastModel(NamedTuple):
    """A logistic regression, as plain numbers: log odds = intercept + Σ weight · term.

    Attributes:
        weights: one for each term, per nat or as the term's unit says. Terms whose fitted sign
            would contradict theory have weight 0.
        intercept: log odds where all terms are zero.
        resampled: weights, and the intercept last, of fits to groups of networks drawn again with
            replacement, `(fits, terms + 1)`. They give the interval.
        typical: mean of each term over the networks that it was fitted to.
        provenance: what it was fitted to, and by which command.
    """

    weights: Mapping[str, float]
    intercept: float
    resampled: Float[np.ndarray, "fits weights"]
    typical: Mapping[str, float]
    provenance: str

    def log_odds(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the log odds of learning."""
        weighted = [weight * np.asarray(terms[name]) for name, weight in self.weights.items()]
        return np.asarray(sum(weighted, np.asarray(self.intercept)))

    def interval(self, terms: Mapping[str, np.ndarray], level: float = 0.9) -> np.ndarray:
        """Return the central probabilities of the resampled fits, `(2, ...)`."""
        values = np.stack([np.asarray(terms[name], float) for name in self.weights], axis=-1)
        weights, intercepts = self.resampled[:, :-1], self.resampled[:, -1]
        probabilities = expit(values @ weights.T + intercepts)
        return np.quantile(probabilities, [(1 - level) / 2, (1 + level) / 2], axis=-1)


def expit(log_odds: Any) -> np.ndarray:
    """Turn log odds into a probability."""
    return np.asarray(1 / (1 + np.exp(-np.asarray(log_odds, float))))


@cache
def published_model() -> ForecastModel:
    """Return the model that the package ships, fitted to the ensemble that it ships."""
    stored = json.loads(resources.files("jacobian_rnn.regimes").joinpath(MODEL_FILE).read_text())
    return ForecastModel(**stored | {"resampled": np.array(stored["resampled"])})


class LearningForecast(NamedTuple):
    """How likely a network is to learn.

    Attributes:
        probability: that held-out skill reaches one half, dimensionless.
        interval: central 90 % of the probability, over fits to other draws of the networks that the
            model knows. It does not say how far those are from yours.
        features: what was measured.
        contributions: what each term adds to the log odds, beside a typical network of the
            ensemble, nats.
        horizon: steps.
        num_sequences: that training will see: updates times batch size.
    """

    probability: float
    interval: tuple[float, float]
    features: LearningFeatures
    contributions: dict[str, float]
    horizon: int
    num_sequences: int

    def __str__(self) -> str:
        """Say how likely it is, and what drives it, the strongest first."""
        low, high = self.interval
        of, needed = self.features, -math.log(self.num_sequences) / 2
        lines = [f"learns with probability {self.probability:.2f} [{low:.2f}, {high:.2f}]"]
        sentences = {
            "vanishing": f"at lag {self.horizon} a gradient is {_power(of.growth)} of its size",
            "exploding": f"on its way back a gradient grows by up to {_power(of.peak)}",
            "resolved": (
                f"what comes from far back is {_power(of.gradient_signal)} of the noise of one "
                f"sequence; {self.num_sequences:,} sequences resolve {_power(needed)}"
            ),
            "memory": f"far inputs make {_power(of.memory)} of what the output shows",
            "separation": f"answers are {_power(of.separation)} of their spread apart",
            "readout": f"untrained, a linear readout of it has skill {of.readout_skill:.2f}",
            "travel": f"the first update moves the weights by {_power(of.relative_update)}",
            "overshoot": f"the learning rate is {_power(of.overshoot)} of its critical value",
            "steps": f"the horizon is {self.horizon} steps",
        }
        strongest = sorted(self.contributions.items(), key=lambda item: -abs(item[1]))
        for name, nats in strongest[:4]:
            side = "for" if nats > 0 else "against"
            lines.append(f"  {side} it, {abs(nats):.1f} nats of log odds: {sentences[name]}")
        return "\n".join(lines)


def _power(log):
    return f"e^{float(log):.1f}"


def default_optimizer(learning_rate: float | Array) -> Optimizer:
    """Return Adam behind a clip of the global gradient norm at 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def predict_learning(
    network: Network | Recurrence,
    task_or_batch: tasks.Task | tasks.Batch,
    *,
    num_updates: int,
    batch_size: int,
    learning_rate: float,
    optimizer: Callable[[Any], Optimizer] = default_optimizer,
    horizon: int | None = None,
    carry: PyTree = None,
    key: Array | None = None,
    model: ForecastModel | None = None,
) -> LearningForecast:
    """Forecast from an untrained network whether it will learn a task within a budget.

    A dozen numbers are measured (`learning_features`): how gradients grow over the horizon and at
    their peak, whether what comes from far back stands out of the noise of a gradient, what old
    inputs contribute to the state, how far apart answers are, and what one update does. A logistic
    regression turns them into a probability. It was fitted to trainings of six kinds of cells on
    thirteen tasks and was scored on cells and tasks that it had not seen. On recurrences of today,
    and on copying, its probabilities are far too high (`docs/forecast.md`).

    Args:
        network: before training: a recurrence, which gets a random readout as `training.train`
            would give it, or a `training.Network`.
        task_or_batch: from `tasks`, or one batch of sequences and targets of your own.
        num_updates: of the training.
        batch_size: sequences per update.
        learning_rate: of the optimiser.
        optimizer: function from a learning rate to an optax transformation. By default it is Adam
            behind a clip at 1. A new function compiles anew.
        horizon: steps over which information has to be carried, for a batch. A task knows its own.
        carry: initial carry of every sequence, zeros by default.
        key: for the readout, sequences and directions. There is a fixed one by default.
        model: another fitted model, such as one fitted without a cell. None is the published one.

    Returns:
        The forecast; `print` it for what drives it.

    Raises:
        ValueError: counts below one, a learning rate that is not positive, a horizon that is
            missing or does not go with a task, or shapes that do not fit.
        TypeError: no network, no task and no batch, or float dtypes that differ.

    Cost: that of about 15 updates on 32 sequences, see `learning_features`, and a compilation.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> task = tasks.delayed_recall(40)
        >>> options = {"num_updates": 400, "batch_size": 16, "learning_rate": 0.003}
        >>> for gain in (0.3, 1.0):
        ...     cell = draw(nn.SimpleCell(16), key=jax.random.key(0), num_inputs=4, gain=gain)
        ...     forecast = predict_learning(cell, task, **options)
        ...     print(forecast.probability < 0.1)
        True
        True
    """
    check_at_least(1, num_updates=num_updates, batch_size=batch_size)
    check_number("learning_rate", learning_rate, above=0)
    task = _task_of(task_or_batch, horizon)
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    readout_key, measuring_key = jax.random.split(key)
    if isinstance(network, Recurrence):
        carry = zero_carry(network) if carry is None else carry
        network = add_readout(network, carry, task.output_size, key=readout_key)
    if not isinstance(network, Network):
        expected = "a Recurrence or a training.Network"
        refuse("network", f"a {type(network).__name__}", expected, error=TypeError)
    check_finite("network", network)
    carry = zero_carry(network.recurrence) if carry is None else carry
    features = _features(network, carry, measuring_key, learning_rate, task, optimizer)
    return forecast_from(
        jax.device_get(features),
        horizon=task.horizon,
        num_updates=num_updates,
        batch_size=batch_size,
        model=model,
    )


def forecast_from(
    features: LearningFeatures,
    *,
    horizon: int,
    num_updates: int,
    batch_size: int,
    model: ForecastModel | None = None,
) -> LearningForecast:
    """Weigh features of one network that were measured already, as `predict_learning` does.

    Args:
        features: of `learning_features`.
        horizon: of the task, steps.
        num_updates: of the training.
        batch_size: sequences per update.
        model: None is the published one.
    """
    terms = terms_of(features, horizon=horizon, num_updates=num_updates, batch_size=batch_size)
    model = published_model() if model is None else model
    low, high = model.interval(terms)
    contributions = {
        name: weight * (float(terms[name]) - model.typical[name])
        for name, weight in model.weights.items()
    }
    return LearningForecast(
        float(expit(model.log_odds(terms))),
        (float(low), float(high)),
        features,
        contributions,
        horizon,
        num_updates * batch_size,
    )


@partial(jax.jit, static_argnames=("task", "optimizer"))
def _features(network, carry, key, learning_rate, task, optimizer):
    rate = jax.numpy.asarray(learning_rate, network.kernel.dtype)
    return learning_features(network, carry, task, optimizer=optimizer(rate), key=key)


def _task_of(task_or_batch, horizon):
    if isinstance(task_or_batch, tasks.Task):
        if horizon is not None:
            refuse("horizon", horizon, "None with a task, which knows its own")
        return task_or_batch
    if not isinstance(task_or_batch, tasks.Batch):
        received = f"a {type(task_or_batch).__name__}"
        advice = "tasks.Batch(xs, targets) is one"
        refuse("task_or_batch", received, "a tasks.Task or a tasks.Batch", advice, error=TypeError)
    if horizon is None:
        advice = "say over how many steps information has to be carried"
        refuse("horizon", None, "a number of steps with a batch", advice)
    return tasks.task_of(task_or_batch, horizon=horizon)

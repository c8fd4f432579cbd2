"""What is measured of a network before training, to say whether it will learn."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.checks import check_at_least, check_key
from jacobian_rnn.regimes.gradient_noise import gradient_signal
from jacobian_rnn.regimes.memory import memory_share
from jacobian_rnn.regimes.overshoot import first_update
from jacobian_rnn.regimes.prediction import predict_regime
from jacobian_rnn.regimes.separation import answer_separation
from jacobian_rnn.training.network import Network
from jacobian_rnn.training.updates import Optimizer

FAR = 0.8  # of the horizon: what is older counts as far
LARGEST = 60.0  # nats: a growth beyond is as good as infinite
MANY_SEQUENCES = 256  # for the separation of answers, which needs more than there are units


class LearningFeatures(NamedTuple):
    """Measurements of one network before training, each a float scalar.

    Growths are clipped at ±60 nats, and stand there where states or gradients overflow or vanish.

    Attributes:
        growth: nats: of a gradient of the output over the horizon, median over sequences.
        peak: nats: the largest growth of such a gradient at any lag, median over sequences.
        spread: nats: standard deviation of the growth over sequences. Zero for a linear recurrence.
        exponent: nats per step: λ₁.
        gradient_signal: nats: what far lags add to ∂loss/∂θ over the noise of one sequence, see
            `gradient_signal`.
        memory: nats: share of far inputs in the output at the end, see `memory_share`.
        separation: nats: distance of the answers' outputs over their spread, see
            `answer_separation`.
        readout_skill: dimensionless: of a linear readout of the untrained network, from 0 to 1.
        gradient_norm: nats: log norm of ∂loss/∂θ.
        relative_update: nats: log norm of the first update beside that of the parameters.
        overshoot: nats: log of the learning rate over its critical value, see `first_update`.
        growth_change: nats: log of by how much the first update changes the growth.
    """

    growth: Float[Array | np.ndarray, "*axes"]
    peak: Float[Array | np.ndarray, "*axes"]
    spread: Float[Array | np.ndarray, "*axes"]
    exponent: Float[Array | np.ndarray, "*axes"]
    gradient_signal: Float[Array | np.ndarray, "*axes"]
    memory: Float[Array | np.ndarray, "*axes"]
    separation: Float[Array | np.ndarray, "*axes"]
    readout_skill: Float[Array | np.ndarray, "*axes"]
    gradient_norm: Float[Array | np.ndarray, "*axes"]
    relative_update: Float[Array | np.ndarray, "*axes"]
    overshoot: Float[Array | np.ndarray, "*axes"]
    growth_change: Float[Array | np.ndarray, "*axes"]


def learning_features(
    network: Network,
    carry: PyTree,
    task: tasks.Task,
    *,
    optimizer: Optimizer,
    key: Array,
    num_sequences: int = 32,
) -> LearningFeatures:
    """Measure an untrained network on a task: what a forecast of its learning needs.

    Args:
        network: a recurrence with its readout, before training.
        carry: initial carry of every sequence.
        task: from `tasks`. Static.
        optimizer: any optax transformation, with the learning rate it would train with. Static.
        key: a `jax.random.key`, for sequences and directions.
        num_sequences: drawn from the task for everything but the separation of answers. That takes
            256 from validation data, where no sequence comes twice, or as many as there are.
            Static.

    Returns:
        The features. They are finite. Works under `jit` and `vmap`.

    Raises:
        ValueError: fewer than two sequences, or shapes that do not fit.
        TypeError: float dtypes that differ, or no key.

    Cost: 14 to 17 times one update on 32 sequences, medians for three cells of 64 units over 40
    steps on shared cores (`experiments/benchmarks/forecasts.py`), compilation apart.

    Example:
        >>> import jax, optax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> from jacobian_rnn.training import add_readout
        >>> task, carry = tasks.delayed_recall(20), jnp.zeros(8)
        >>> cell = draw(nn.GRUCell(8), key=jax.random.key(0), num_inputs=4)
        >>> network = add_readout(cell, carry, 4, key=jax.random.key(1))
        >>> features = learning_features(
        ...     network, carry, task, optimizer=optax.adam(0.01), key=jax.random.key(2)
        ... )
        >>> print(-20 < features.growth < 0, features.overshoot < 0)
        True True
    """
    check_at_least(2, num_sequences=num_sequences)
    check_key("key", key)
    keys = jax.random.split(key, 5)
    batch = task.sample(keys[0], num_sequences)
    # A readout that is tested on the sequences that it was fitted to says nothing.
    num_distinct = min(MANY_SEQUENCES, task.num_held_out or MANY_SEQUENCES)
    distinct = task.sample_held_out(keys[4], num_distinct, "validation")
    horizon = max(1, task.horizon)
    far = min(math.ceil(FAR * task.horizon), task.num_steps - 1)
    predicted = predict_regime(network.recurrence, carry, batch.xs, horizon=horizon, key=keys[1])
    growths = _clipped(predicted.log_growth_of_output)
    signal = gradient_signal(network, carry, task, batch, far=far)
    memory = memory_share(network.recurrence, carry, batch.xs, far=far, key=keys[2])
    separation = answer_separation(network.recurrence, carry, task, distinct)
    update = first_update(
        network, carry, task, batch, optimizer=optimizer, horizon=horizon, key=keys[3]
    )
    return LearningFeatures(
        growth=jnp.median(growths),
        peak=jnp.median(_clipped(predicted.peak_of_output)),
        spread=jnp.std(growths),
        exponent=jnp.nan_to_num(predicted.exponent, nan=0, posinf=1, neginf=-LARGEST),
        gradient_signal=_clipped(signal.log_ratio, lost=-LARGEST),
        memory=_clipped(memory.log_share, lost=-LARGEST),
        separation=_clipped(separation.log_ratio, lost=-LARGEST),
        readout_skill=jnp.clip(jnp.nan_to_num(separation.readout_skill, neginf=0), 0, 1),
        gradient_norm=_clipped(update.log_gradient_norm),
        relative_update=_clipped(update.log_relative_size),
        overshoot=_clipped(update.log_overshoot),
        growth_change=_clipped(jnp.log(update.growth_change)),
    )


def _clipped(values, lost=LARGEST):
    """Clip at the largest growth. What overflowed is not a number, and counts as the given one."""
    return jnp.clip(jnp.where(jnp.isnan(values), lost, values), -LARGEST, LARGEST)

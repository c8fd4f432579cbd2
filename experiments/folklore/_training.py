"""What training decides: statements e and f of the folklore."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments.folklore._options import Folklore
from jacobian_rnn import tasks, training

CLIPS = ("no clipping", "clipped")


def recall(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure statement e for one optimiser: skill after training beside growth over the lag."""
    optimizer = {
        "sgd": optax.sgd(config.learning_rate),
        "adam": optax.adam(config.learning_rate / 10),
    }[config.optimizers[number]]
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    delays = (config.short_delay, config.delay)
    growths, histories = zip(
        *(trained(config, delay, config.recall_gains, optimizer, key) for delay in delays),
        strict=True,
    )
    names = ("recall_lag", "recall_gain", "seed")
    return xr.Dataset(
        {
            "recall_log_growth": (names, np.stack(growths)),
            "recall_skill": (names, np.stack([history.test_skill for history in histories])),
        },
        {"recall_lag": list(delays), "recall_gain": list(config.recall_gains)},
    )


def updates(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure statement f: largest updates and outcomes of plain descent, clipped or not."""
    optimizer = optax.sgd(config.learning_rate)
    if CLIPS[number] == "clipped":
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    growth, history = trained(config, config.delay, config.update_gains, optimizer, key)
    norms = np.asarray(history.update_norm)
    largest = np.where(np.isnan(norms), np.inf, norms).max(axis=-1)
    names = ("update_gain", "seed")
    return xr.Dataset(
        {
            "update_log_growth": (names, growth),
            "update_largest": (names, largest),
            "update_outcome": (names, np.asarray(jrnn.observe_regime(history).outcome)),
        },
        {"update_gain": list(config.update_gains)},
    )


def trained(
    config: Folklore, delay: int, gains: tuple[float, ...], optimizer: Any, key: jax.Array
) -> tuple[np.ndarray, training.TrainingHistory]:
    """Draw tanh networks with orthogonal kernels for each gain and seed, and train them to recall.

    Networks of one seed start from the same weights, up to the gain, and see the same data.

    Args:
        config: sizes of networks and training.
        delay: steps between symbol and answer.
        gains: factors on the recurrent kernels.
        optimizer: of optax.
        key: of weights and data.

    Returns:
        `(log_growth, history)`, both with axes gain and seed: growth of the loss's gradient from
        the end to the symbol before training, nats, and what training recorded.
    """
    task = tasks.delayed_recall(delay, dtype=jnp.dtype(config.dtype))
    cell = nn.SimpleCell(config.width, param_dtype=config.dtype)
    draw_keys, train_keys = (
        jax.random.split(one, config.num_seeds) for one in jax.random.split(key)
    )

    def draw(gain, key):
        return jrnn.draw(cell, key=key, num_inputs=task.input_size, gain=gain)

    of_seeds = jax.vmap(draw, in_axes=(None, 0))
    networks = jax.vmap(of_seeds, in_axes=(0, None))(jnp.asarray(gains, config.dtype), draw_keys)
    _, history = training.train(
        task,
        networks,
        jnp.zeros(config.width, config.dtype),
        optimizer=optimizer,
        key=train_keys[None],
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        records=1,
        gradients_by_lag=True,
        held_out_size=config.held_out_size,
    )
    norms = np.asarray(history.records.gradient_norm_by_lag)[..., 0, :]
    return np.log(norms[..., delay] / norms[..., 0]), history

"""Statements e and f of the folklore, which training decides."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments.folklore_options import Folklore
from jacobian_rnn import tasks, training

NUM_HELD_OUT = 512
CLIP_NORM = 1.0
CLIPS = ("no clipping", "clipped at norm 1")
# As `jrnn.observe_regime` names them.
OUTCOMES = tuple(outcome.name.lower() for outcome in jrnn.Outcome)


class Trained(NamedTuple):
    """The record of training several networks.

    Attributes:
        log_growth: of a gradient that passes from the end to the symbol, before training; nats,
            `(networks,)`.
        loss, update_norm: of every update, `(networks, updates)`.
        test_skill: at the end, `(networks,)`.
        baseline_loss: of the task, `(networks,)`.
    """

    log_growth: jax.Array
    loss: jax.Array
    update_norm: jax.Array
    test_skill: jax.Array
    baseline_loss: jax.Array


@partial(jax.jit, static_argnames=("config", "make_optimizer"))
def trained(
    config: Folklore,
    make_optimizer: Callable[[jax.Array, float], optax.GradientTransformation],
    lags: jax.Array,
    gains: jax.Array,
    clip_norms: jax.Array,
    keys: jax.Array,
) -> Trained:
    """Draw a tanh network with an orthogonal kernel for each gain and key, and train it.

    Networks with the same key start from the same weights, up to the gain, and see the same data.
    """
    task = tasks.delayed_recall(config.delay, dtype=jnp.dtype(config.dtype))

    def one(lag, gain, clip_norm, key):
        draw_key, start_key, test_key = jax.random.split(key, 3)
        cell = nn.SimpleCell(config.train_width, param_dtype=jnp.dtype(config.dtype))
        recurrence = jrnn.draw(cell, key=draw_key, num_inputs=task.input_size, gain=gain)
        carry = jnp.zeros(config.train_width, config.dtype)
        nearer = shown_later(task, lag)
        optimizer = make_optimizer(clip_norm, config.learning_rate)
        state = training.start(nearer, recurrence, carry, optimizer, key=start_key)
        test = nearer.sample_held_out(test_key, NUM_HELD_OUT, "test")
        batch = jax.tree.map(lambda leaf: leaf[: config.batch_size], test)
        norms = training.lag_norms(state.network, carry, nearer, batch)
        state, updates = training.advance(
            state,
            carry,
            nearer,
            optimizer,
            num_updates=config.num_updates,
            batch_size=config.batch_size,
        )
        skill, _ = training.evaluate(state.network, carry, nearer, test)
        return Trained(
            jnp.log(norms[lag] / norms[0]),
            updates.loss,
            updates.update_norm,
            skill,
            jnp.asarray(task.baseline_loss, gain.dtype),
        )

    return jax.vmap(one)(lags, gains, clip_norms, keys)


def shown_later(task: tasks.Task, lag) -> tasks.Task:
    """Return delayed recall in which the symbol is shown `lag` steps before the end.

    Sequences keep their length: what comes after the symbol is cut short, and noise precedes it.
    """

    def moved(batch):
        return batch._replace(xs=jnp.roll(batch.xs, task.horizon - lag, axis=1))

    return dataclasses.replace(
        task,
        sample=lambda *options: moved(task.sample(*options)),
        sample_held_out=lambda *options: moved(task.sample_held_out(*options)),
    )


def slope(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement e: skill after training against the gradient's growth over the lag."""
    lags = (config.short_lag, config.delay)
    shape = (len(lags), len(config.slope_gains), config.num_seeds)
    records = [
        trained(
            config,
            OPTIMIZERS[name],
            *points(lags, config.slope_gains, (CLIP_NORM,), config, key),
        )
        for name in config.optimizers
    ]
    names = ("optimizer", "recall_lag", "slope_gain", "seed")
    return xr.Dataset(
        {
            "slope_log_growth": (names, np.stack([r.log_growth.reshape(shape) for r in records])),
            "slope_skill": (names, np.stack([r.test_skill.reshape(shape) for r in records])),
        },
        coords={
            "optimizer": list(config.optimizers),
            "recall_lag": list(lags),
            "slope_gain": list(config.slope_gains),
            "seed": range(config.num_seeds),
        },
    )


def updates(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement f: updates of plain gradient descent, with and without clipping."""
    clip_norms = (np.inf, CLIP_NORM)
    record = trained(
        config,
        clipped_descent,
        *points((config.delay,), config.update_gains, clip_norms, config, key),
    )
    shape = (len(config.update_gains), len(CLIPS), config.num_seeds)
    names = ("update_gain", "clip", "seed")
    outcomes = [
        int(jrnn.observe_regime(jax.tree.map(lambda leaf, i=i: leaf[i], record)).outcome)
        for i in range(math.prod(shape))
    ]
    return xr.Dataset(
        {
            "update_log_growth": (names, np.asarray(record.log_growth).reshape(shape)),
            "update_norm": ((*names, "update"), np.asarray(record.update_norm).reshape(*shape, -1)),
            "update_loss": ((*names, "update"), np.asarray(record.loss).reshape(*shape, -1)),
            "update_skill": (names, np.asarray(record.test_skill).reshape(shape)),
            "update_outcome": (names, np.reshape(outcomes, shape)),
            "update_baseline": float(record.baseline_loss[0]),
        },
        coords={
            "update_gain": list(config.update_gains),
            "clip": list(CLIPS),
            "seed": range(config.num_seeds),
        },
    )


def points(lags, gains, clip_norms, config: Folklore, key: jax.Array):
    """List lag, gain, clipping and key of all networks; the keys are those of the seeds."""
    keys = jax.random.split(key, config.num_seeds)
    dtype = jnp.dtype(config.dtype)
    axes = (np.array(lags), np.array(gains), np.array(clip_norms), np.arange(config.num_seeds))
    lag, gain, clip_norm, seed = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    return jnp.asarray(lag), jnp.asarray(gain, dtype), jnp.asarray(clip_norm, dtype), keys[seed]


def clipped_adam(clip_norm, rate: float) -> optax.GradientTransformation:
    """Return Adam after clipping, at a tenth of the rate."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(rate / 10))


def clipped_descent(clip_norm, rate: float) -> optax.GradientTransformation:
    """Return gradient descent after clipping; an infinite norm clips nothing."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.sgd(rate))


OPTIMIZERS = {"gradient descent": clipped_descent, "Adam": clipped_adam}

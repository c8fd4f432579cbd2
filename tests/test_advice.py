"""What an error says to do works when it is done."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import tasks, training
from tests import annotations
from tests.networks import make_network, normal, random_variables
from tests.systems import linear
from tests.training.trainings import network, recall

BATCH = normal(0, (2, 10, 3))


@pytest.fixture(autouse=True)
def without_annotations(annotations_hold):
    """Let mistakes through that annotations would refuse."""
    del annotations_hold
    annotations.switch(on=False)


def follow(wrong, error, advice, *right):
    """Make a mistake, read the advice, and do what it says in each of its ways."""
    with pytest.raises(error, match=advice):
        wrong()
    for way in right:
        way()


def test_of_training():
    task = recall(3)
    recurrence, carry = network(nn.SimpleCell, task)
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), recurrence)

    def train(recurrence=recurrence, **options):
        given = {
            "optimizer": optax.sgd(0.1),
            "key": keys[0],
            "num_updates": 4,
            "records": 1,
            "held_out_size": 8,
            "batch_size": 2,
        }
        return training.train(task, recurrence, carry, **given | options)[1]

    follow(
        lambda: train(key=jnp.stack([keys] * 3)),
        ValueError,
        "stack networks, or pass one key",
        lambda: train(stacked, key=keys),
        train,
    )
    follow(
        lambda: train(stacked, key=keys, optimizer=optax.sgd, hyperparameters=jnp.ones(3)),
        ValueError,
        "an axis of size 1 fits any other",
        lambda: train(
            stacked, key=keys, optimizer=optax.sgd, hyperparameters=0.1 * jnp.ones((3, 1))
        ),
    )
    follow(
        lambda: train(optimizer=optax.sgd),
        TypeError,
        "a function to one goes with hyperparameters",
        lambda: train(optimizer=optax.sgd, hyperparameters=jnp.asarray(0.1)),
    )
    follow(
        lambda: train(optimizer=optax.adam(0.1), hyperparameters=jnp.asarray(0.1)),
        TypeError,
        "such as optax.adam",
        lambda: train(optimizer=optax.adam, hyperparameters=jnp.asarray(0.1)),
    )
    follow(
        lambda: train(records=5),
        ValueError,
        "no more intervals than updates",
        lambda: train(records=4),
    )
    follow(
        lambda: train().until(2),
        ValueError,
        "ask for it in `records` when you train",
        lambda: train(records=(2,)).until(2),
    )
    follow(
        lambda: jax.jit(lambda key: train(key=key, on_progress=print))(keys[0]),
        TypeError,
        "leave it out under jit and vmap",
        lambda: jax.jit(lambda key: train(key=key).loss)(keys[0]),
    )


def test_of_cells():
    recurrence, carry, _ = make_network("LSTMCell", 3)
    xs = jnp.asarray(BATCH)
    both = jrnn.stack(recurrence, recurrence)
    follow(
        lambda: jrnn.recurrent_kernels(both),
        TypeError,
        r"take each layer by itself, as unstack\(recurrence\) gives them",
        lambda: [jrnn.recurrent_kernels(layer) for layer in jrnn.unstack(both)],
    )
    cell = nn.GRUCell(3, param_dtype=jnp.float64)
    variables = random_variables(cell, jnp.zeros(3), xs[0, 0])
    follow(
        lambda: jrnn.stack(cell),
        TypeError,
        "convert cells with from_linen or from_nnx first",
        lambda: jrnn.stack(jrnn.from_linen(cell, variables)),
    )
    follow(
        lambda: jrnn.from_linen(cell, variables["params"]),
        ValueError,
        r"\{'params': params\}",
        lambda: jrnn.from_linen(cell, {"params": variables["params"]}),
    )
    layer = nn.RNN(nn.GRUCell(3, param_dtype=jnp.float64), reverse=True)
    whole = random_variables(layer, xs)
    follow(
        lambda: jrnn.from_linen(layer, whole),
        ValueError,
        r"pass `layer.cell` with \{'params': params\['cell'\]\}, .* order in which it meets them",
        lambda: jrnn.trajectory(
            jrnn.from_linen(layer.cell, {"params": whole["params"]["cell"]}),
            jnp.zeros(3),
            xs[0, ::-1],
        ),
    )
    follow(
        lambda: jrnn.with_gain(jrnn.Recurrence(linear, jnp.eye(3)), 2.0),
        TypeError,
        r"dataclasses.replace\(recurrence, params=...\)",
        lambda: dataclasses.replace(recurrence, params=jax.tree.map(jnp.abs, recurrence.params)),
    )
    gains = jnp.array([1.0, 2.0])
    follow(
        lambda: jrnn.with_gain(recurrence, gains),
        ValueError,
        "use jax.vmap over several networks",
        lambda: jax.vmap(lambda gain: jrnn.with_gain(recurrence, gain))(gains),
    )
    follow(
        lambda: jax.jit(lambda lengths: jrnn.align_ends(xs, lengths))(jnp.array([3, 4])),
        TypeError,
        "give a list or a numpy array, which jit does not trace",
        lambda: jax.jit(lambda xs: jrnn.align_ends(xs, [3, 4]))(xs),
        lambda: jax.jit(lambda xs: jrnn.align_ends(xs, np.array([3, 4])))(xs),
    )
    del carry


def test_of_regimes():
    recurrence, carry, _ = make_network("GRUCell", 3)

    def predict(xs=BATCH, horizon=5, **options):
        return jrnn.predict_regime(recurrence, carry, xs, horizon=horizon, **options)

    follow(
        lambda: predict(horizon=11),
        ValueError,
        "give longer sequences or a shorter horizon",
        lambda: predict(np.concatenate([BATCH, BATCH], axis=1), horizon=11),
        lambda: predict(horizon=10),
    )
    follow(
        lambda: predict(BATCH[:1]),
        ValueError,
        "for one sequence there is backward_profile",
        lambda: jrnn.backward_profile(recurrence, carry, BATCH[0], key=jax.random.key(0)),
    )


def test_of_tasks():
    task = tasks.delayed_recall(3, dtype=jnp.float64)
    key = jax.random.key(0)
    follow(
        lambda: task.sample_held_out(key, 2, "training"),
        ValueError,
        r"for training data call task.sample\(key, batch_size\)",
        lambda: task.sample(key, 2),
    )
    batch = task.sample(key, 2)
    everything = jnp.zeros((2, task.num_steps, 4))
    follow(
        lambda: tasks.loss(task, everything, batch.targets),
        ValueError,
        "pass the readout of the last num_scored_steps states",
        lambda: tasks.loss(task, everything[:, -task.num_scored_steps :], batch.targets),
    )

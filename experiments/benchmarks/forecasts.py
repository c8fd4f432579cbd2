"""What a forecast of learning costs: its features, against one update of the training to come.

The update is one of `training.train` with clipped Adam, on a fresh batch of as many sequences as
most of the features are measured on.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.benchmarks.timing import Row, compare, timed_row
from experiments.benchmarks.workloads import Sizes
from jacobian_rnn import tasks, training
from jacobian_rnn.regimes.forecast import default_optimizer
from jacobian_rnn.training.updates import update

UPDATE = "one training update"
BATCH_SIZE = 32
OPTIMIZER = default_optimizer(0.003)


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    return [
        (f"forecast: {cell} N={width} T={steps}", partial(features, cell, width, steps, sizes))
        for cell in sizes.forecast_cells
        for width in sizes.forecast_widths
        for steps in sizes.forecast_horizons
    ]


def features(cell: str, width: int, horizon: int, sizes: Sizes) -> list[Row]:
    """Time the features of a network on delayed recall, beside one update and beside a verdict."""
    task = tasks.delayed_recall(horizon, dtype=jnp.dtype(sizes.dtype))
    key = jax.random.key(0)
    network = drawing.draw(cell, width, 1.0, task.input_size, dtype=sizes.dtype, key=key)
    carry = drawing.zero_carry(cell, width, sizes.dtype)
    state = training.start(task, network, carry, OPTIMIZER, key=key)
    functions: dict[str, Callable] = {
        UPDATE: partial(_update, state, carry, task),
        "learning_features": partial(_features, state.network, carry, task),
        "predict_regime": partial(_predict, network, carry, task),
    }
    timings = compare(functions, sizes.repeats, max_seconds=sizes.max_seconds)
    size = sum(leaf.size for leaf in jax.tree.leaves(carry))
    row = Row("forecast", f"{cell} {width}, T={horizon}", "", size, 8, task.num_steps, BATCH_SIZE)
    return [timed_row(row._replace(name=name), timings) for name in functions]


@partial(jax.jit, static_argnames="task")
def _update(state, carry, task):
    return update(state, carry, task, OPTIMIZER, batch_size=BATCH_SIZE)


@partial(jax.jit, static_argnames="task")
def _features(network, carry, task):
    return jrnn.learning_features(
        network,
        carry,
        task,
        optimizer=OPTIMIZER,
        key=jax.random.key(1),
        num_sequences=BATCH_SIZE,
    )


@partial(jax.jit, static_argnames="task")
def _predict(network, carry, task):
    xs = task.sample(jax.random.key(1), BATCH_SIZE).xs
    return jrnn.predict_regime(network, carry, xs, horizon=task.horizon).regime

"""The shapes and types in annotations hold, checked at run time in a process of their own."""

import os
import subprocess
import sys

SCRIPT = """
from jaxtyping import install_import_hook

install_import_hook("jacobian_rnn", "beartype.beartype")

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import tasks, training

task = tasks.delayed_recall(6)
cell, carry = nn.GRUCell(5), jnp.zeros(5)


def everything(key):
    xs = task.sample(key, 4).xs
    network = jrnn.from_linen(cell, cell.init(key, carry, xs[0, 0]))
    product = jrnn.jacobian_product(network, carry, xs[0])
    product = product @ jrnn.product_of(jrnn.step_jacobians(network, carry, xs[1]))
    predictions = [jrnn.predict_regime(network, carry, xs, horizon=h) for h in (4, 6)]
    _, history = training.train(
        task, network, carry, optimizer=optax.adam(0.01), key=key, num_updates=2,
        batch_size=3, num_records=1, held_out_size=5,
    )
    return history, (
        product.log_norm(), product.log_rms_growth(), product.log_abs_det(), product.dense(),
        product.log_error, product.log_growth_error, product.log_adjoint_growth(jnp.ones(5)),
        product.singular_values(), jrnn.trajectory(network, carry, xs[0]),
        jrnn.largest_exponent(network, carry, xs[0]),
        jrnn.state_gradients(network, carry, xs[0], lambda states: states.sum()),
        [prediction.regime for prediction in predictions],
    )


history, _ = jax.eval_shape(everything, jax.random.key(0))  # to trace takes less than to compile
observation = jrnn.observe_regime(jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), history))
print(jrnn.score_regimes(
    jnp.array([0, 1]),
    jnp.array([0, int(observation.outcome)]),
    groups=jnp.arange(2),
    borderline=jnp.zeros(2, bool),
    rules={"any": jnp.array([True, False])},
    key=jax.random.key(3),
    num_resamples=10,
))
"""


def test_annotated_shapes_hold_from_a_cell_to_its_score():
    environment = os.environ | {"NPROC": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "predicted \\ observed" in done.stdout

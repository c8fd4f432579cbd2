# %% [markdown]
# # A trained checkpoint
#
# What did training do to the gradients of a network? This tutorial writes a checkpoint before
# training and one after, and reads both as if somebody else had written them.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from orbax.checkpoint import StandardCheckpointer

import jacobian_rnn as jrnn
from jacobian_rnn import plotting, tasks, training

# %% [markdown]
# ## Somebody trains a network
#
# A GRU learns to remember one of four symbols for 20 steps. Orbax saves its parameters.

# %%
task, cell, carry = tasks.delayed_recall(20), nn.GRUCell(32), jnp.zeros(32)
untrained = jrnn.draw(cell, key=jax.random.key(0), num_inputs=4, forget_bias=1.0)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))
options = {"optimizer": optimizer, "key": jax.random.key(1), "num_updates": 300}
trained, history = training.train(task, untrained, carry, **options)
print(jrnn.observe_regime(history))

folder = Path(tempfile.mkdtemp())
with StandardCheckpointer() as checkpointer:
    checkpointer.save(folder / "before", untrained.params)
    checkpointer.save(folder / "after", trained.recurrence.params)

# %% check
assert jrnn.observe_regime(history).outcome == jrnn.Outcome.LEARNED

# %% [markdown]
# ## Read it
#
# `from_orbax` reads the arrays of one cell, wherever they are in a larger tree (`at=`), and checks
# that they are those of the cell. For the files of PyTorch and Keras there are `from_torch` and
# `from_keras`.

# %%
checkpoints = {name: jrnn.from_orbax(cell, folder / name) for name in ("before", "after")}
xs = task.sample(jax.random.key(2), 16).xs
for name, network in checkpoints.items():
    print(f"{name} training:")
    print(jrnn.predict_regime(network, carry, xs, horizon=task.horizon))

# %% [markdown]
# A gradient of the output comes back larger than before, though nobody asked for that.
#
# ## Which directions carry the memory?
#
# Four symbols can be told apart along three directions. `leading_singular_values_by_lag` finds the
# largest singular values of the product of the last steps, and forms no matrix.

# %% alt="Six log singular values against the lag, before and after training"
lags = (1, 2, 4, 7, 10, 13, 16, 20)
_, panels = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
values = {}
for axes, (name, network) in zip(panels, checkpoints.items(), strict=True):
    leading = jrnn.leading_singular_values_by_lag(network, carry, xs[0], num=6, lags=lags)
    values[name] = np.asarray(leading.log_singular_values)
    for number, style in enumerate(plotting.LINES[:6]):
        colour = plotting.COLOURS[number]
        label = f"number {number + 1}"
        axes.plot(lags, values[name][:, number], color=colour, linestyle=style, label=label)
    axes.set(title=f"{name} training", xlabel="lag (steps)")
    at_the_horizon = ", ".join(f"{value:.2f}" for value in values[name][-1])
    print(f"{name} training: at lag 20, {at_the_horizon} nats")
panels[0].set_ylabel("log singular value (nats)")
panels[0].legend()
plt.show()

# %% check
assert values["before"][-1].max() < -2
assert values["after"][-1, :3].min() > -1

# %% [markdown]
# Before training each direction loses more than two nats on the way back over 20 steps. After it
# the first three lose less than one: this is the memory that the task asked for.
#
# For a file of PyTorch the beginning is `layers_in`, which says what recurrent layers it holds:

# %%
for layer in jrnn.layers_in("tests/data/torch_lstm.safetensors"):
    print(layer)

# %% [markdown]
# `from_torch(file, prefix="lstm")` is then the recurrence, and all of the above applies to it.
#
# Next: [watching a training](watching_a_training.py).

# %% [markdown]
# # First verdict
#
# A network has to remember one of four symbols through 50 steps of noise. Will its gradients
# survive the trip back over these steps? This tutorial asks before training, mends what is wrong,
# and then trains, to see whether the answer was right.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import plotting, tasks, training

task = tasks.delayed_recall(50)
xs = task.sample(jax.random.key(0), 16).xs
print("sequences, time, inputs:", xs.shape)

# %% [markdown]
# ## Ask
#
# `draw` initialises a Flax cell as Flax does. `predict_regime` pulls a few random gradients back
# through the steps that the network takes on these sequences.

# %%
cell, carry = nn.GRUCell(32), jnp.zeros(32)
network = jrnn.draw(cell, key=jax.random.key(1), num_inputs=4)
prediction = jrnn.predict_regime(network, carry, xs, horizon=task.horizon)
print(prediction)

# %% [markdown]
# The verdict is *vanishing*: what comes back is too small to learn from. The largest exponent is
# the rate at which a gradient shrinks in the long run. Its inverse is the memory of the network.

# %%
print(f"memory: {-1 / prediction.exponent:.1f} steps, and the task asks for {task.horizon}")

# %% check
assert prediction.regime == jrnn.Regime.VANISHING
assert not prediction.borderline

# %% [markdown]
# ## Mend
#
# The update gate of a GRU keeps the state where it is open, and its bias opens it.
# `with_gate_bias` sets the bias of a gate. "forget" is the gate that keeps the state in any cell
# that has one.

# %% alt="Log growth over 50 steps: below the grey band as drawn and with bias 1, in it with bias 3"
predictions = {"as drawn": prediction}
for bias in (1.0, 2.0, 3.0):
    opened = jrnn.with_gate_bias(network, "forget", bias)
    predictions[f"bias {bias:g}"] = jrnn.predict_regime(opened, carry, xs, horizon=task.horizon)

_, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
plotting.predicted_regimes(axes, predictions)
plt.show()

# %% check
assert predictions["bias 1"].regime == jrnn.Regime.VANISHING
assert predictions["bias 2"].borderline
assert predictions["bias 3"].regime == jrnn.Regime.STABLE
assert not predictions["bias 3"].borderline

# %% [markdown]
# Networks learn in the grey band. A bias of 1 does not bring this one there, 2 leads to its border,
# and 3 into it.
#
# ## Look at every direction
#
# The growth of a random gradient is one number. The product of all step Jacobians has a singular
# value for each direction, and `jacobian_product` gives them all.

# %% alt="Log singular values of the product: with bias 3 all lie above those as drawn"
_, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
opened = jrnn.with_gate_bias(network, "forget", 3.0)
for name, one, colour, marker in (
    ("as drawn", network, plotting.COLOURS[0], plotting.MARKERS[0]),
    ("bias 3", opened, plotting.COLOURS[1], plotting.MARKERS[1]),
):
    product = jrnn.jacobian_product(one, carry, xs[0])
    plotting.product_singular_values(axes, product, colour=colour, marker=marker, label=name)
    print(f"{name}: from e^{product.log_singular_values()[0]:.1f}", end=" ")
    print(f"to e^{product.log_singular_values()[-1]:.1f}")
axes.legend()
plt.show()

# %% [markdown]
# ## Train
#
# Four networks of each kind, trained as one program each. `observe_regime` reads from the record
# whether a network learned.

# %% alt="Loss against updates: as drawn it stays at the baseline, with bias 3 it falls to zero"
adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))
keys = jax.random.split(jax.random.key(2), 4)
_, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
learned = {}
for name, bias, colour in (("as drawn", None, plotting.COLOURS[0]), ("bias 3", 3.0, "#d55e00")):

    def draw(key, bias=bias):
        return jrnn.draw(cell, key=key, num_inputs=4, forget_bias=bias)

    options = {"optimizer": adam, "key": keys, "num_updates": 300}
    _, history = training.train(task, jax.vmap(draw)(keys), carry, **options)
    learned[name] = int((jrnn.observe_regime(history).outcome == jrnn.Outcome.LEARNED).sum())
    print(f"{name}: {learned[name]} of 4 learned")
    axes.plot(history.records.num_updates[0], history.records.test_loss.T, color=colour)
    axes.plot([], [], color=colour, label=name)
axes.axhline(history.baseline_loss[0], color="0.2", linestyle=":", label="guessing")
axes.set(xlabel="updates", ylabel="test loss (nats)")
axes.legend()
plt.show()

# %% check
assert learned == {"as drawn": 0, "bias 3": 4}

# %% [markdown]
# The prediction was right for both. It is not always: a stable gradient is close to necessary for
# learning, and it does not suffice. [How well does it predict](../how_well.md) has the numbers.
#
# Next: [a model of your own](your_own_model.py).

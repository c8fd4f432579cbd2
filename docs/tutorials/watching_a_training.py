# %% [markdown]
# # Watching a training
#
# Do gradients survive while the weights move? How often does clipping engage? This tutorial trains
# a model in a loop of its own, twice: as Flax draws it, and with a gate that is open from the
# start. [Watching gradients](../monitoring.md) has every option.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import monitoring, plotting, tasks

task = tasks.delayed_recall(30)
cell = nn.GRUCell(32, name="gru")


class Model(nn.Module):
    """A GRU, and a dense layer on its last state."""

    @nn.compact
    def __call__(self, xs):
        states = nn.RNN(nn.GRUCell(32, name="gru"))(xs)
        return nn.Dense(4, name="head")(states[:, -1])


model = Model()


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def loss(params, batch):
    return cross_entropy(model.apply({"params": params}, batch.xs), batch.targets[:, 0])


# %% [markdown]
# ## Two lines in your loop
#
# `record_gradients` stands where `clip_by_global_norm` stood, and remembers what it saw. `watch`
# is told where the recurrence is among the parameters, and what the loss of one sequence is as a
# function of all its states.

# %%
optimizer = optax.chain(monitoring.record_gradients(max_norm=1.0), optax.adam(0.01))


def recurrence_of(params):
    return jrnn.from_linen(cell, {"params": params["gru"]})


def loss_of_states(params, states, targets):
    head = params["head"]
    return cross_entropy(states[-1] @ head["kernel"] + head["bias"], targets[0])


measure = monitoring.watch(
    recurrence_of,
    jnp.zeros(32),
    task.sample(jax.random.key(1), 8),
    horizon=task.horizon,
    every=25,
    loss=loss_of_states,
    report=None,
)


@jax.jit
def update(params, state, key):
    value, gradient = jax.value_and_grad(loss)(params, task.sample(key, 32))
    changes, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, changes), state, value


def train(params):
    """Train, and return what was measured on the way."""
    state, rows = optimizer.init(params), []
    for number in range(1, 401):
        params, state, value = update(params, state, jax.random.key(number))
        if metrics := measure(params, number):
            metrics |= monitoring.gradient_metrics(state) | {"loss": float(value)}
            rows.append({"update": number} | metrics)
    return rows


# %% [markdown]
# ## Train twice

# %%
drawn = model.init(jax.random.key(0), jnp.zeros((1, 31, 4)))["params"]
opened = jrnn.with_gate_bias(recurrence_of(drawn), "forget", 3.0).params["params"]
runs = {"as drawn": train(drawn), "bias 3": train(drawn | {"gru": opened})}
for name, rows in runs.items():
    last = rows[-1]
    print(
        f"{name}: loss {last['loss']:.3f}, share {last['gradients/share_from_horizon']:.4f}",
        end=", ",
    )
    print(f"{last['gradients/clipped_share']:.0%} of the gradients clipped")

# %% alt="Loss, log growth over the horizon, and share of the gradient from the horizon, by updates"
columns = {
    "loss": "loss (nats)",
    "gradients/log_growth_nats": "log growth over 30 steps (nats)",
    "gradients/share_from_horizon": "share of ∂loss/∂θ from lag 30",
}
_, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axes, (column, label) in zip(panels, columns.items(), strict=True):
    for (name, rows), colour, style in zip(
        runs.items(), plotting.COLOURS, plotting.LINES, strict=False
    ):
        updates = [row["update"] for row in rows]
        axes.plot(updates, [row[column] for row in rows], style, color=colour, label=name)
    axes.set(xlabel="updates", ylabel=label)
panels[0].legend()
plt.show()

# %% check
assert runs["bias 3"][-1]["loss"] < 0.5 * runs["as drawn"][-1]["loss"]
first = [rows[0]["gradients/log_growth_nats"] for rows in runs.values()]
assert first[0] < first[1] - 2
assert runs["as drawn"][-1]["gradients/log_growth_nats"] < jrnn.THRESHOLDS.vanishing
assert runs["bias 3"][-1]["gradients/log_growth_nats"] > jrnn.THRESHOLDS.vanishing
assert runs["as drawn"][-1]["gradients/share_from_horizon"] < 0.01
assert runs["bias 3"][-1]["gradients/share_from_horizon"] > 0.1

# %% [markdown]
# With the open gate the share of the gradient that comes from the step that showed the symbol rises
# first, and the loss falls after it. As drawn, the loss stays at that of guessing. The growth of
# that network over 30 steps stays below the lower threshold. What nearer steps add is so much
# larger that nothing of the symbol is seen, and the share says so from the first measurement on.
#
# Next: [spectra and theory](spectra_and_theory.py).

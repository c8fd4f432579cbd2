# %% [markdown]
# # A model of your own
#
# `diagnose` takes a model as it is. It runs the model once on a batch, records what each recurrent
# layer in it receives, and says of each whether gradients survive. Here the model is in linen.
# [Your own network](../your_network.md) has nnx, PyTorch, Keras and Equinox.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

import jacobian_rnn as jrnn
from jacobian_rnn import plotting


class Reader(nn.Module):
    """Two recurrent layers that are to say what the first of many tokens was."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 32)(tokens)
        x = nn.RNN(nn.LSTMCell(32, name="lower_cell"), name="lower")(x)
        x = nn.RNN(nn.LSTMCell(32, name="upper_cell"), name="upper")(x)
        return nn.Dense(20)(x[:, -1])


tokens = np.random.default_rng(0).integers(0, 20, size=(8, 60))
model = Reader()
variables = model.init(jax.random.key(0), tokens)

# %% [markdown]
# ## Diagnose
#
# The loss is optional. With it the page also says which lags teach the weights something.


# %%
def loss(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 0]).mean()


diagnosis = jrnn.diagnose(model, tokens, variables=variables, loss=loss)
print(diagnosis)

# %% check
assert [layer.verdict for layer in diagnosis.layers] == ["vanishing", "vanishing"]

# %% [markdown]
# Gradients vanish in both layers. The advice is no rule of thumb: each change was applied to the
# layer and measured on the same inputs.
#
# ## Take the advice
#
# linen's cells have one `bias_init` for all gates, so the bias is set where the parameters are:
# those of a layer become a recurrence, the recurrence gets the bias, and they go back.

# %%
params = dict(variables["params"])
for layer in diagnosis.layers:
    (change,) = (one for one in layer.advice if one.change == "forget_bias")
    network = jrnn.from_linen(nn.LSTMCell(32), {"params": params[f"{layer.name}_cell"]})
    opened = jrnn.with_gate_bias(network, "forget", change.value)
    params[f"{layer.name}_cell"] = opened.params["params"]

mended = jrnn.diagnose(model, tokens, variables={"params": params})
for before, after in zip(diagnosis.layers, mended.layers, strict=True):
    print(f"{after.name}: {before.verdict} before, {after.verdict} now")

# %% check
assert [layer.verdict for layer in mended.layers] == ["stable", "stable"]

# %% [markdown]
# A gradient of the last output on its way back, in both models. In the grey band it can teach
# something.

# %% alt="Log growth of a gradient against the lag: before, both layers leave the band; after, not"
_, panels = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
for axes, name, one in zip(panels, ("before", "after"), (diagnosis, mended), strict=True):
    plotting.growth_by_lag(axes, one).set(title=name, ylim=(-26, 13))
panels[0].legend(loc="lower left")
panels[1].set(ylabel="")
plt.show()

# %% [markdown]
# `print(diagnosis)` is for people. `diagnosis.to_dataset()` has the numbers, and
# `diagnosis.figure()` all pictures of it. Next: [a trained checkpoint](a_trained_checkpoint.py).

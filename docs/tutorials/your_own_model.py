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
        x = nn.Embed(20, 16)(tokens)
        x = nn.RNN(nn.GRUCell(32), name="lower")(x)
        x = nn.RNN(nn.LSTMCell(32), name="upper")(x)
        return nn.Dense(20)(x[:, -1])


tokens = np.random.default_rng(0).integers(0, 20, size=(16, 60))
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

# %% tags=["check"]
assert [layer.verdict for layer in diagnosis.layers] == ["vanishing", "vanishing"]

# %% [markdown]
# Gradients vanish in both layers. The advice is no rule of thumb: each change was applied to the
# layer and measured on the same inputs.
#
# ## See it
#
# A gradient of the last output, on its way back. In the grey band it can teach something.

# %% alt="Log growth of a gradient against the lag, for both layers: they leave the grey band"
_, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
plotting.growth_by_lag(axes, diagnosis).legend()
plt.show()

# %% [markdown]
# ## Take the advice
#
# The advice can be had as a number. linen's cells have one `bias_init` for all gates, so the bias
# is set in the variables.

# %%
for layer in diagnosis.layers:
    print(layer.name, layer.advice[0])

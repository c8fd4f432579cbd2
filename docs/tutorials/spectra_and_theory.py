# %% [markdown]
# # Spectra and theory
#
# A tanh network of 100 units has 100 Lyapunov exponents. Mean-field theory knows them at infinite
# width, without any network. This tutorial measures them, lays the theory over them, and looks at
# the error that a finite width makes.

# %%
import jax

jax.config.update("jax_enable_x64", True)  # whole spectra need the digits
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jacobian_rnn as jrnn
from jacobian_rnn import mean_field, plotting

# %% [markdown]
# ## Where there is an exact answer
#
# First something that has no free parameter: products of Gaussian matrices, whose exponents Newman
# found in 1986. The error bars of the library should cover them.

# %%
num_units, num_steps = 8, 4000
factors = jax.random.normal(jax.random.key(0), (num_steps, num_units, num_units))
measured = jrnn.lyapunov_spectrum_of(factors / jnp.sqrt(num_units), qr_every=1)
exact = mean_field.newman_exponents(num_units)
off = (measured.exponents - exact.exponents) / measured.standard_errors
print("standard errors away from the exact exponents:")
print(np.round(off, 1))

# %% check
assert np.abs(off).max() < 4

# %% [markdown]
# ## A network under noise
#
# h' = tanh(W h + x), where entries of W have variance σ_w²/N, and x is white noise. Below, σ_w = 2
# and the noise has a standard deviation of 0.5. Three networks are drawn, and each has a spectrum.

# %%
weight_std, input_std = 2.0, 0.5


def step(weights, state, x):
    return jnp.tanh(weights @ state + x)


@jax.jit
def measure(key):
    draw, noise = jax.random.split(key)
    weights = jax.random.normal(draw, (100, 100)) * weight_std / 10  # √100 is 10
    xs = input_std * jax.random.normal(noise, (500, 100))
    return jrnn.lyapunov_spectrum(
        jrnn.Recurrence(step, weights), jnp.zeros(100), xs, num_warmup=100
    )


spectra = [measure(key) for key in jax.random.split(jax.random.key(1), 3)]
spectrum = jrnn.ensemble_spectrum(jax.tree.map(lambda *members: jnp.stack(members), *spectra))
theory = mean_field.spectrum_summary(weight_std, input_std=input_std)
largest, error = spectrum.exponents[0], spectrum.standard_errors[0]
print(
    f"largest exponent: {largest:.3f} ± {error:.3f}, in theory {theory.largest:.3f} nats per step"
)
positive = [float((one.exponents > 0).mean()) for one in spectra]
print(f"share above zero: {np.mean(positive):.3f}, in theory {theory.fraction_positive:.3f}")

# %% check
assert abs(largest - theory.largest) < 0.03
assert abs(np.mean(positive) - theory.fraction_positive) < 0.02

# %% [markdown]
# λ₁ is above zero: this network is chaotic under its noise, and gradients explode in the long run.
# Theory draws the whole curve.

# %% alt="All 100 exponents with error bars from the top, and the curve of theory through them"
fractions = jnp.linspace(0.005, 0.995, 100)
curve = mean_field.full_spectrum(weight_std, fractions, input_std=input_std)
_, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
plotting.lyapunov_exponents(axes, spectrum, theory=(fractions, curve)).legend()
plt.show()

# %% [markdown]
# ## The edge
#
# Networks are critical where λ₁ = 0. Theory says where that is, for any noise, and
# `largest_exponent` measures λ₁ with a single tangent.

# %% alt="Largest exponent against the scale of the weights: three networks each, and theory"
scales = np.linspace(0.6, 3.0, 9)


@jax.jit
@jax.vmap
def rate(scale, key):
    draw, noise = jax.random.split(key)
    weights = jax.random.normal(draw, (100, 100)) * scale / 10
    xs = input_std * jax.random.normal(noise, (500, 100))
    network = jrnn.Recurrence(step, weights)
    return jrnn.largest_exponent(network, jnp.zeros(100), xs, num_warmup=100)


keys = jax.random.split(jax.random.key(2), (3, len(scales)))
rates = np.stack([rate(scales, row) for row in keys])
fine = np.linspace(0.6, 3.0, 65)  # every eighth is one of the scales


@jax.jit
@jax.vmap
def rate_in_theory(scale):
    return mean_field.order_parameters(scale, input_std=input_std).rate


lines = rate_in_theory(fine)
critical = mean_field.critical_weight_std(input_std=input_std)
_, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
axes.plot(
    np.tile(scales, (3, 1)).ravel(), rates.ravel(), "o", color=plotting.COLOURS[0], mfc="none"
)
axes.plot(fine, lines, color=plotting.COLOURS[1], label="theory of infinite width")
axes.plot([], [], "o", color=plotting.COLOURS[0], mfc="none", label="three networks of 100 units")
axes.axhline(0, color="0.6", linewidth=0.8)
axes.axvline(critical, color="0.4", linestyle=":", label=f"critical in theory, {critical:.3f}")
axes.set(xlabel="scale of the weights, σ_w", ylabel="largest exponent (nats per step)")
axes.legend()
plt.show()

# %% check
assert np.abs(rates.mean(axis=0) - lines[::8]).max() < 0.05

# %% [markdown]
# For cells with gates theory has to know that weights stay the same from step to step:
# [theory beside measurement](../concepts/theory.md). Next:
# [a phase diagram on several workers](a_phase_diagram.py).

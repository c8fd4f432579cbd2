"""Statements b and c of the folklore, which look at W alone, against the measured λ₁."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments import networks
from experiments.folklore_networks import draw_networks, driven, gaussian_cell, measure
from experiments.folklore_options import Folklore

RULES = ("largest |entry|", "spectral radius", "norm")
# Pascanu et al. (2013) ask for the norm: all eigenvalues of W are zero, and at the fixed point
# x = W tanh(x) + b with x = (0, artanh ½) every step's Jacobian J = W diag(1, ¾) has J² = 2 J.
NILPOTENT = np.array([[8.0, 8.0], [-8.0, -8.0]])
FIXED_POINT = np.array([0.0, math.atanh(0.5)])
NUM_DOUBLINGS = 30
SATURATING_GAIN, SATURATING_BIAS = 4.0, 40.0


def factor(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement b: λ₁ with the activation's slopes, and the rate of Wᵀ alone."""
    exponents, alone = [], []
    for number, gain in enumerate(config.gains):
        recurrences, growth = measure(
            config,
            "SimpleCell",
            config.width,
            [gain] * config.num_networks,
            jax.random.fold_in(key, number),
        )
        exponents.append(growth.exponent)
        # The rate of W, W², W³, … is the log of its spectral radius.
        alone.append(np.log(sizes_of(recurrences)[:, RULES.index("spectral radius")]))
    return xr.Dataset(
        {
            "factor_exponent": (("gain", "network"), np.stack(exponents)),
            "factor_alone": (("gain", "network"), np.stack(alone)),
        },
        coords={"gain": list(config.gains), "network": range(config.num_networks)},
    )


def sizes_of(recurrences: jrnn.Recurrence) -> np.ndarray:
    """Return largest |entry|, spectral radius and norm of W, of gated cells the candidate's."""
    kernels = np.asarray(jax.vmap(networks.candidate_matrix)(recurrences))
    return np.stack(
        [
            np.abs(kernels).max((1, 2)),
            np.abs(np.linalg.eigvals(kernels)).max(1),
            np.linalg.norm(kernels, 2, (1, 2)),
        ],
        axis=1,
    )


def rules(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement c: three rules against λ₁ in random networks, and two counterexamples."""
    count = config.num_rule_networks
    gains = np.geomspace(*config.rule_gains, count)
    exponents, sizes = [], []
    for number, (cell, width) in enumerate(config.rule_kinds):
        recurrences, growth = measure(config, cell, width, gains, jax.random.fold_in(key, number))
        exponents.append(growth.exponent)
        sizes.append(sizes_of(recurrences))
    saturated_sizes, saturated = saturated_network(config, key)
    return xr.Dataset(
        {
            "rule_exponent": (("kind", "rule_network"), np.stack(exponents)),
            "rule_size": (("kind", "rule_network", "rule"), np.stack(sizes)),
            "nilpotent_size": ("rule", matrix_sizes(NILPOTENT)),
            "nilpotent_rate": nilpotent_rate(),
            "saturated_size": (("network", "rule"), saturated_sizes),
            "saturated_exponent": ("network", saturated),
        },
        coords={
            "kind": [f"{cell}, N = {width}" for cell, width in config.rule_kinds],
            "rule": list(RULES),
            "rule_gain": ("rule_network", gains),
        },
    )


def matrix_sizes(matrix: np.ndarray) -> np.ndarray:
    """Return largest |entry|, spectral radius and norm of one matrix that may be nilpotent."""
    # Rounding would give a nilpotent matrix eigenvalues of order √eps.
    nilpotent = not np.linalg.matrix_power(matrix, len(matrix)).any()
    radius = 0.0 if nilpotent else np.abs(np.linalg.eigvals(matrix)).max()
    return np.array([np.abs(matrix).max(), radius, np.linalg.norm(matrix, 2)])


def nilpotent_rate() -> float:
    """Return the growth per step of the product of Jacobians at Pascanu's fixed point, in nats."""
    bias = FIXED_POINT - NILPOTENT @ np.tanh(FIXED_POINT)
    system = jrnn.Recurrence(preactivation_step, (jnp.asarray(NILPOTENT), jnp.asarray(bias)))
    xs = jnp.zeros((1, 1))
    # The point is unstable: rounding would carry a trajectory away from it.
    (jacobian,) = np.asarray(jrnn.step_jacobians(system, jnp.asarray(FIXED_POINT), xs))
    # Powers of two times small integers: the power is exact.
    product = np.linalg.matrix_power(jacobian, 1 + NUM_DOUBLINGS)
    norms = np.linalg.norm([product, jacobian], 2, (1, 2))
    return float(np.log(norms[0] / norms[1])) / NUM_DOUBLINGS


def preactivation_step(params, carry, x):
    """Advance x' = W tanh(x) + b."""
    del x
    weights, bias = params
    return weights @ jnp.tanh(carry) + bias


def saturated_network(config: Folklore, key: jax.Array):
    """Measure tanh networks of large weights whose biases hold their units far from zero."""
    dtype, width = jnp.dtype(config.dtype), config.width
    draw_key, bias_key, input_key = jax.random.split(jax.random.fold_in(key, 1000), 3)
    count = config.num_networks
    recurrences = draw_networks(
        gaussian_cell("SimpleCell", width, dtype),
        jax.random.split(draw_key, count),
        jnp.full(count, SATURATING_GAIN, dtype),
        num_inputs=config.num_inputs,
    )
    layers = recurrences.params["params"]
    biases = SATURATING_BIAS * jax.random.normal(bias_key, (count, width), dtype)
    params = {"params": {**layers, "i": {**layers["i"], "bias": biases}}}
    saturated = dataclasses.replace(recurrences, params=params)
    growth = driven(config, saturated, jnp.zeros(width, dtype), input_key)
    return sizes_of(saturated), np.asarray(growth.exponent)

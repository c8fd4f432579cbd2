"""Three rules that look at W alone, in random networks and counterexamples: statement c."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.folklore._gradients import draw, gaussian_cell, white
from experiments.folklore._options import Folklore

RULES = ("largest |entry|", "spectral radius", "norm")
COUNTEREXAMPLES = ("nilpotent", "saturated")
# Pascanu et al. (2013) ask for the norm: all eigenvalues of W are zero, and at the fixed point
# x = W tanh(x) + b with x = (0, artanh ½) every step's Jacobian J = W diag(1, ¾) has J² = 2 J.
NILPOTENT = np.array([[8.0, 8.0], [-8.0, -8.0]])
FIXED_POINT = np.array([0.0, math.atanh(0.5)])
NUM_DOUBLINGS = 30
SATURATING_GAIN, SATURATING_INPUT = 4.0, 40.0


@partial(jax.jit, static_argnames="num_warmup")
def _exponents(recurrences, carry, xs, num_warmup):
    def one(recurrence, xs):
        return jrnn.largest_exponent(recurrence, carry, xs, num_warmup=num_warmup)

    return jax.vmap(one)(recurrences, xs)


def rules(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure the sizes of W, and λ₁, in random networks of one kind over all gains."""
    name, width = config.rule_kinds[number]
    draw_key, input_key = jax.random.split(key)
    gains = np.geomspace(*config.rule_gains, config.num_rule_networks)
    networks = draw(config, gaussian_cell(config, name, width), gains, draw_key)
    carry = drawing.zero_carry(name, width, jnp.dtype(config.dtype))
    exponent = _exponents(networks, carry, white(config, input_key, len(gains)), config.num_warmup)
    sizes = sizes_of(np.asarray(jax.vmap(drawing.candidate_matrix)(networks)))
    return xr.Dataset(
        {
            "rule_exponent": ("rule_network", np.asarray(exponent)),
            "rule_size": (("rule_network", "rule"), sizes),
        },
        {"rule": list(RULES), "rule_gain": ("rule_network", gains)},
    )


def sizes_of(matrices: np.ndarray) -> np.ndarray:
    """Return largest |entry|, spectral radius and norm of matrices, of gated cells the candidate's.

    Args:
        matrices: `(count, N, N)`.

    Returns:
        Sizes by rule, `(count, 3)`.
    """
    # Rounding would give a nilpotent matrix eigenvalues of order √eps.
    nilpotent = ~np.linalg.matrix_power(matrices, matrices.shape[-1]).any((1, 2))
    radius = np.where(nilpotent, 0.0, np.abs(np.linalg.eigvals(matrices)).max(1))
    entry, norm = np.abs(matrices).max((1, 2)), np.linalg.norm(matrices, 2, (1, 2))
    return np.stack([entry, radius, norm], axis=1)


def counterexamples(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure networks that a rule is wrong about: sizes of W, and growth per step, nats."""
    if COUNTEREXAMPLES[number] == "nilpotent":
        # One system, without chance.
        sizes = np.repeat(sizes_of(NILPOTENT[None]), config.num_networks, axis=0)
        rate = np.full(config.num_networks, nilpotent_rate())
    else:
        sizes, rate = saturated_networks(config, key)
    return xr.Dataset(
        {"counter_size": (("network", "rule"), sizes), "counter_rate": ("network", rate)}
    )


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


def saturated_networks(config: Folklore, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Measure tanh networks of large weights whose inputs hold their units far from zero."""
    dtype, width = jnp.dtype(config.dtype), config.width
    draw_key, input_key = jax.random.split(key)
    gains = [SATURATING_GAIN] * config.num_networks
    networks = draw(config, gaussian_cell(config, "SimpleCell", width), gains, draw_key)
    xs = SATURATING_INPUT + white(config, input_key, len(gains))
    exponent = _exponents(networks, jnp.zeros(width, dtype), xs, config.num_warmup)
    sizes = sizes_of(np.asarray(jax.vmap(drawing.candidate_matrix)(networks)))
    return sizes, np.asarray(exponent)

"""Growth of gradients in gated cells if the weights were drawn afresh at every step.

This is the assumption of the theory of gated cells in the literature. It is exact for vanilla cells
and **too low for gated ones**, whose weights are the same at every step: see `tied`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jacobian_rnn.mean_field.quadrature import gaussian_average, gaussian_nodes
from jacobian_rnn.mean_field.roots import increasing_root
from jacobian_rnn.mean_field.units import GRUUnits, LSTMUnits, MinimalUnits, checked_units

NUM_UNITS = 20_000
NUM_STEPS = 400


class UntiedGrowth(NamedTuple):
    """Growth of gradients with fresh weights and biases at every step.

    Attributes:
        activity: Q, mean squared output h.
        squared_gain: χ, factor by which a mean squared gradient grows in a step.
        rate: ½ log χ, nats per step.
        standard_error: of the rate, over time; 0 where no population was drawn.
    """

    activity: Float[Array, ""]
    squared_gain: Float[Array, ""]
    rate: Float[Array, ""]
    standard_error: Float[Array, ""]

    def __str__(self) -> str:
        """Say what is predicted and what is assumed."""
        return (
            f"{float(self.rate):+.4f} nats per step (chi {float(self.squared_gain):.4f}), "
            "assuming fresh weights at every step"
        )


def untied_growth(units: MinimalUnits | GRUUnits | LSTMUnits) -> UntiedGrowth:
    """Compute activity and growth of gradients under fresh weights at every step.

    Gaussian averages for minimalRNN and GRU. An LSTM's cell state is not Gaussian: it is followed
    in a population of 20,000 units, always the same random numbers, with the energy of each unit's
    gradient beside it; the first half of its 400 steps settles it.

    Args:
        units: the cell and the statistics of its gates.

    Returns:
        Activity, gain and rate.

    Raises:
        TypeError: other cells; for a vanilla cell see `order_parameters`.
        ValueError: standard deviations that are negative or infinite, means that are not finite.

    References:
        M. Chen, J. Pennington and S. Schoenholz, ICML 2018 (minimalRNN); D. Gilboa et al.,
        "Dynamical isometry and a mean field theory of LSTMs and GRUs", 2019.

    Example:
        >>> from jacobian_rnn.mean_field.units import Gate
        >>> gate = Gate(weight_std=6.88, input_std=1.39 * 0.46**0.5)
        >>> theory = untied_growth(MinimalUnits(gate, Gate(0.0, 0.46**0.5)))
        >>> print(f"{theory.squared_gain:.3f}")  # the published critical initialisation
        0.999
    """
    checked = checked_units(units)
    match checked:
        case MinimalUnits():
            return _minimal(checked)
        case GRUUnits():
            return _gru(checked)
        case LSTMUnits():
            return _lstm(checked)
        case _:
            msg = f"units: received {type(units).__name__}, for which see order_parameters"
            raise TypeError(msg)


def _growth(activity, chi):
    return UntiedGrowth(activity, chi, jnp.log(chi) / 2, jnp.zeros_like(chi))


def _activity(ratio):
    """Solve Q = Q ratio(Q) for Q up to one or more; 0 where only rest solves it."""
    tiny = jnp.log(jnp.finfo(jnp.result_type(float)).tiny) / 3
    log_q = increasing_root(lambda log_q: 1 - ratio(jnp.exp(log_q)), tiny, jnp.zeros_like(tiny) + 8)
    return jnp.where(log_q < tiny + 1, 0, jnp.exp(log_q))


@jax.jit
def _minimal(units):
    gate, embedding = units
    size = embedding.input_std**2 + embedding.bias_std**2 + embedding.bias_mean**2

    def averages(activity):
        x, weights = gaussian_nodes(gate.variance(activity), gate.bias_mean)
        u = jax.nn.sigmoid(x)
        return (jnp.sum(weights * f) for f in (u**2, (1 - u) ** 2, (u * (1 - u)) ** 2))

    def ratio(activity):
        kept, written, _ = averages(activity)
        return kept + size * written / activity

    activity = _activity(ratio)
    kept, _, slope = averages(activity)
    return _growth(activity, kept + gate.weight_std**2 * (activity + size) * slope)


@jax.jit
def _gru(units):
    reset, update, candidate = units
    drive = candidate.input_std**2 + candidate.bias_std**2

    def gate_nodes(gate, activity):
        x, weights = gaussian_nodes(gate.variance(activity), gate.bias_mean)
        return jax.nn.sigmoid(x), weights

    def over_reset(function, activity):
        """E over r and over u ~ N(0, v_a + r² v_m) of f(u, r)."""
        r, weights = gate_nodes(reset, activity)
        size = candidate.weight_std**2 * activity

        def given(r):
            return gaussian_average(
                lambda u: function(u, r), drive + r**2 * size, candidate.bias_mean
            )

        return jnp.sum(weights * jax.vmap(given)(r))

    def ratio(activity):
        z, weights = gate_nodes(update, activity)
        square = over_reset(lambda u, _: jnp.tanh(u) ** 2, activity)
        return jnp.sum(weights * z**2) + jnp.sum(weights * (1 - z) ** 2) * square / activity

    activity = _activity(ratio)
    size = candidate.weight_std**2 * activity

    def candidate_energy(u, r):
        variance = drive + r**2 * size
        variance = jnp.where(variance > 0, variance, 1)
        # E m² given u and r, for the slope of r.
        centered = u - candidate.bias_mean
        m_square = (r * size * centered / variance) ** 2 + size * drive / variance
        slopes = (candidate.weight_std * r) ** 2
        slopes += (reset.weight_std * r * (1 - r)) ** 2 * m_square
        return (1 - jnp.tanh(u) ** 2) ** 2 * slopes

    z, weights = gate_nodes(update, activity)
    square = over_reset(lambda u, _: jnp.tanh(u) ** 2, activity)
    chi = jnp.sum(weights * z**2)
    chi += update.weight_std**2 * jnp.sum(weights * (z * (1 - z)) ** 2) * (
        activity + square
    ) + jnp.sum(weights * (1 - z) ** 2) * over_reset(candidate_energy, activity)
    return _growth(activity, chi)


@partial(jax.jit, static_argnames=("num_units", "num_steps"))
def _lstm(units, num_units=NUM_UNITS, num_steps=NUM_STEPS):
    dtype = units.input.weight_std.dtype
    means, scales = (
        jnp.stack([getattr(gate, name) for gate in units]) for name in ("bias_mean", "weight_std")
    )

    def step(carried, key):
        c, activity, energy, output_energy = carried
        normal = jax.random.normal(key, (4, num_units), dtype)
        stds = jnp.sqrt(jnp.stack([gate.variance(activity) for gate in units]))
        i, f, g, o = means[:, None] + stds[:, None] * normal
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        slopes = jnp.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g**2)])
        c = f * c + i * g
        energy = f**2 * energy + jnp.sum((scales[:3, None] * slopes) ** 2, axis=0) * output_energy
        t = jnp.tanh(c)
        from_gate = (scales[3] * t * o * (1 - o)) ** 2 * output_energy
        output_energy = jnp.mean((o * (1 - t**2)) ** 2 * energy + from_gate)
        total = jnp.mean(energy) + output_energy
        activity = jnp.mean((o * t) ** 2)
        carried = (c, activity, energy / total, output_energy / total)
        return carried, (jnp.log(total) / 2, activity)

    zeros = jnp.zeros(num_units, dtype)
    start = (zeros, jnp.ones((), dtype) / 4, zeros + 1, jnp.ones((), dtype))
    keys = jax.random.split(jax.random.key(0), num_steps)
    _, (rates, activities) = lax.scan(step, start, keys)
    rates, activities = rates[num_steps // 2 :], activities[num_steps // 2 :]
    rate = jnp.mean(rates)
    blocks = jnp.mean(rates[: rates.size // 10 * 10].reshape(10, -1), axis=1)
    error = jnp.std(blocks, ddof=1) / jnp.sqrt(10.0).astype(dtype)
    return UntiedGrowth(jnp.mean(activities), jnp.exp(2 * rate), rate, error)

"""Growth of gradients in gated cells if the weights were fresh at every step.

The theory of gated cells in the literature assumes this. It is exact for vanilla cells and wrong
for gated ones, whose weights are the same at every step. At most gains it is too low, by so much
that it calls vanishing what explodes, and at some large ones too high. See `kept_weights`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jacobian_rnn.cells.slopes import tanh_slope, with_slope
from jacobian_rnn.checks import check_at_least, refuse
from jacobian_rnn.mean_field.cell_units import GRUUnits, LSTMUnits, MinimalUnits, check_units
from jacobian_rnn.mean_field.quadrature import gaussian_nodes, known_average
from jacobian_rnn.mean_field.roots import increasing_root

NUM_UNITS = 20_000


class FreshGrowth(NamedTuple):
    """Growth of gradients with fresh weights and biases at every step.

    Attributes:
        activity: Q, mean squared output h.
        squared_growth: χ, factor by which a mean squared gradient grows in a step.
        rate: ½ log χ, nats per step.
        time_scale: ξ = 1/|log χ|, steps in which a squared gradient changes by a factor e.
        standard_error: of the rate, over time. It is 0 where no population was drawn.
        settled: whether the population had three times its memory to settle. It is True where none
            was drawn.
    """

    activity: Float[Array, ""]
    squared_growth: Float[Array, ""]
    rate: Float[Array, ""]
    time_scale: Float[Array, ""]
    standard_error: Float[Array, ""]
    settled: Bool[Array, ""]

    def __str__(self) -> str:
        """Say what is predicted, what is assumed, and whether the run was long enough."""
        text = (
            f"{float(self.rate):+.4f} nats per step (chi {float(self.squared_growth):.4f}), "
            "assuming fresh weights at every step"
        )
        return text if self.settled else f"{text}; NOT settled: give num_steps"


def fresh_growth(
    units: MinimalUnits | GRUUnits | LSTMUnits, *, num_steps: int = 400
) -> FreshGrowth:
    """Compute activity and growth of gradients under fresh weights at every step.

    For minimalRNN and GRU these are Gaussian averages. An LSTM's cell state is not Gaussian, so it
    is followed in a population of 20,000 units, always the same random numbers, together with the
    energy of each unit's gradient. The first half of the steps settles it.

    Args:
        units: the cell and the statistics of its gates.
        num_steps: of an LSTM's population, at least 20. An open forget gate of bias b needs about
            4 e^b to settle. Static.

    Returns:
        Activity, growth and rate. `settled` is False where the population remembers longer than it
        had to settle.

    Raises:
        TypeError: other cells. For a vanilla cell see `order_parameters`.
        ValueError: standard deviations that are negative or infinite, means that are not finite, or
            too few steps.

    References:
        M. Chen, J. Pennington and S. Schoenholz, ICML 2018 (minimalRNN).
        D. Gilboa et al., "Dynamical isometry and a mean field theory of LSTMs and GRUs", 2019.

    Example:
        >>> from jacobian_rnn.mean_field.cell_units import Gate
        >>> gate = Gate(weight_std=6.88, input_std=1.39 * 0.46**0.5)
        >>> theory = fresh_growth(MinimalUnits(gate, Gate(0.0, 0.46**0.5)))
        >>> print(f"{theory.squared_growth:.3f}")  # the published critical initialisation
        0.999
    """
    checked = check_units(units)
    check_at_least(20, num_steps=num_steps)
    match checked:
        case MinimalUnits():
            return _minimal(checked)
        case GRUUnits():
            return _gru(checked)
        case LSTMUnits():
            return _lstm(checked, num_steps=num_steps)
        case _:
            known, advice = "units of a gated cell", "for a vanilla cell see order_parameters"
            return refuse("units", "SimpleUnits", known, advice, error=TypeError)


def _growth(activity, chi, standard_error: Array | float = 0.0, settled: Array | bool = True):
    log_chi = jnp.log(chi)
    return FreshGrowth(
        activity,
        chi,
        log_chi / 2,
        1 / jnp.abs(log_chi),
        jnp.asarray(standard_error, chi.dtype),
        jnp.asarray(settled),
    )


def _activity(ratio, largest):
    """Solve Q = Q ratio(Q) for Q up to `largest`, with Q = 0 where only rest solves it."""
    largest = jnp.asarray(largest, jnp.result_type(float))
    tiny = jnp.log(jnp.finfo(largest.dtype).tiny) / 3

    def excess(log_share):
        return 1 - ratio(largest * jnp.exp(log_share))

    log_share = increasing_root(excess, tiny, 1e-3)
    return jnp.where(log_share < tiny + 1, 0, largest * jnp.exp(log_share))


@jax.jit
def _minimal(units):
    gate, embedding = units
    size = embedding.variance(0.0) + embedding.bias_mean**2

    def ratio(activity):
        keeping = _gate_averages(gate, activity)
        return keeping.kept + _candidate_share(keeping, size, embedding.bias_mean) / activity

    activity = _activity(ratio, jnp.where(size > 0, size, 1))
    keeping = _gate_averages(gate, activity)
    apart = activity + size - 2 * embedding.bias_mean**2
    return _growth(activity, keeping.kept + gate.weight_std**2 * apart * keeping.slope)


class _GateAverages(NamedTuple):
    """Averages over the gate u that keeps the state, h' = u h + (1 − u) n."""

    kept: Array  # E u²
    both: Array  # E u (1 − u)
    written: Array  # E (1 − u)²
    slope: Array  # E u'²


def _gate_averages(gate, activity):
    x, weights = gaussian_nodes(gate.variance(activity), gate.bias_mean)
    u = jax.nn.sigmoid(x)
    averaged = (u**2, u * (1 - u), (1 - u) ** 2, (u * (1 - u)) ** 2)
    return _GateAverages(*(jnp.sum(weights * f) for f in averaged))


def _candidate_share(keeping, square, mean):
    """Return what n of a mean and mean square adds to Q, as h has n's mean and is independent."""
    return keeping.written * square + 2 * keeping.both * mean**2


@jax.jit
def _gru(units):
    reset, update, candidate = units
    drive = candidate.input_std**2 + candidate.bias_std**2

    def over_reset(function, activity):
        """E over r and over u ~ N(b, v_a + r² v_m) of f(u, r)."""
        x, weights = gaussian_nodes(reset.variance(activity), reset.bias_mean)
        r = jax.nn.sigmoid(x)
        size = candidate.weight_std**2 * activity

        def given(r):
            return known_average(lambda u: function(u, r), drive + r**2 * size, candidate.bias_mean)

        return jnp.sum(weights * jax.vmap(given)(r))

    def candidate_moments(activity):
        return (over_reset(lambda u, _, n=n: jnp.tanh(u) ** n, activity) for n in (1, 2))

    def ratio(activity):
        keeping = _gate_averages(update, activity)
        mean, square = candidate_moments(activity)
        return keeping.kept + _candidate_share(keeping, square, mean) / activity

    activity = _activity(ratio, 1.0)
    size = candidate.weight_std**2 * activity

    def candidate_energy(u, r):
        variance = drive + r**2 * size
        variance = jnp.where(variance > 0, variance, 1)
        # E m² given u and r, for the slope of r.
        centered = u - candidate.bias_mean
        m_square = (r * size * centered / variance) ** 2 + size * drive / variance
        slopes = (candidate.weight_std * r) ** 2
        slopes += (reset.weight_std * r * (1 - r)) ** 2 * m_square
        return tanh_slope(u) ** 2 * slopes

    keeping = _gate_averages(update, activity)
    mean, square = candidate_moments(activity)
    apart = activity + square - 2 * mean**2
    from_update = update.weight_std**2 * keeping.slope * apart
    from_candidate = keeping.written * over_reset(candidate_energy, activity)
    return _growth(activity, keeping.kept + from_update + from_candidate)


@partial(jax.jit, static_argnames=("num_steps", "num_units"))
def _lstm(units, num_steps, num_units=NUM_UNITS):
    dtype = units.input.weight_std.dtype
    means, scales = (
        jnp.stack([getattr(gate, name) for gate in units]) for name in ("bias_mean", "weight_std")
    )

    def step(carried, key):
        c, activity, energy, output_energy = carried
        normal = jax.random.normal(key, (4, num_units), dtype)
        stds = jnp.sqrt(jnp.stack([gate.variance(activity) for gate in units]))
        i, f, g, o = means[:, None] + stds[:, None] * normal
        (i, i_slope), (f, f_slope), (o, o_slope) = (
            with_slope(jax.nn.sigmoid, pre) for pre in (i, f, o)
        )
        g, g_slope = with_slope(jnp.tanh, g)
        kept = jnp.mean(f**2)
        slopes = jnp.stack([g * i_slope, c * f_slope, i * g_slope])
        c = f * c + i * g
        energy = f**2 * energy + jnp.sum((scales[:3, None] * slopes) ** 2, axis=0) * output_energy
        t, t_slope = with_slope(jnp.tanh, c)
        from_gate = (scales[3] * t * o_slope) ** 2 * output_energy
        output_energy = jnp.mean((o * t_slope) ** 2 * energy + from_gate)
        total = jnp.mean(energy) + output_energy
        activity = jnp.mean((o * t) ** 2)
        carried = (c, activity, energy / total, output_energy / total)
        return carried, (jnp.log(total) / 2, activity, kept)

    zeros = jnp.zeros(num_units, dtype)
    start = (zeros, jnp.ones((), dtype) / 4, zeros + 1, jnp.ones((), dtype))
    keys = jax.random.split(jax.random.key(0), num_steps)
    _, records = lax.scan(step, start, keys)
    rates, activities, kept = (record[num_steps // 2 :] for record in records)
    rate = jnp.mean(rates)
    blocks = jnp.mean(rates[: rates.size // 10 * 10].reshape(10, -1), axis=1)
    error = jnp.std(blocks, ddof=1) / jnp.sqrt(10.0).astype(dtype)
    # c² forgets where it began by a factor E f² in a step.
    memory = -1 / jnp.log(jnp.mean(kept))
    settled = 3 * memory <= num_steps - num_steps // 2
    return _growth(jnp.mean(activities), jnp.exp(2 * rate), error, settled)

"""Growth of gradients in wide networks that keep their weights, from dynamic mean field theory.

With the same W at every step the field W h(t) remembers the fields before it: over weights it is a
Gaussian process with the covariance of the outputs, ⟨h(t) h(s)⟩, and so is W δ(t) for a tangent δ.
Gates that stay open let δ(t) correlate with δ(s), and then fields add up in amplitude, not in
energy. Both processes are drawn here unit by unit and causally. Each new field comes from its
distribution given the fields before it, with covariances over the population itself.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from jacobian_rnn.checks import check_at_least, check_count
from jacobian_rnn.mean_field.cell_units import Gate, Units, check_units
from jacobian_rnn.mean_field.roots import increasing_root

# Correlations closer to one than this are taken as noise of the population.
RIDGE = 1e-6
# Or this many roundings for each step, where that is more: the covariance has to stay positive.
ROUNDINGS = 4
SMALL_DRIFT = 3e-3
STILL = 1e-3  # root mean square change of states in a step, below which a network is at rest


class KeptGrowth(NamedTuple):
    """Growth of gradients with the same weights at every step, at infinite width.

    Attributes:
        rate: λ₁, nats per step.
        standard_error: of the rate, over populations.
        activity: Q, mean squared output h at the end.
        drift: later half minus earlier half of the counted steps, nats per step.
        settled: whether the drift lies within four of its standard errors over populations, or
            within 0.003.
    """

    rate: Float[Array, ""]
    standard_error: Float[Array, ""]
    activity: Float[Array, ""]
    drift: Float[Array, ""]
    settled: Bool[Array, ""]

    def __str__(self) -> str:
        """Say what is predicted, what is assumed, and whether the run was long enough."""
        text = (
            f"{float(self.rate):+.4f} ± {float(self.standard_error):.4f} nats per step (standard "
            "error over populations), with the same weights at every step"
        )
        if not self.settled:
            text += f"; NOT settled, drifts by {float(self.drift):+.4f}: take more steps"
        return text


class FrozenGrowth(NamedTuple):
    """Growth with the same weights and gates that stand still: the edge of the spectrum of J.

    Attributes:
        rate: log of the spectral radius, mean over populations, nats per step.
        standard_error: of the rate, over populations.
    """

    rate: Float[Array, ""]
    standard_error: Float[Array, ""]

    def __str__(self) -> str:
        """Say what is predicted and what is assumed."""
        return (
            f"{float(self.rate):+.4f} ± {float(self.standard_error):.4f} nats per step (standard "
            "error over populations), with the same weights and the same gates at every step"
        )


def kept_growth(
    units: Units,
    *,
    key: Key[Array, ""],
    num_units: int = 2000,
    num_steps: int = 160,
    num_warmup: int = 80,
    num_populations: int = 4,
) -> KeptGrowth:
    """Compute λ₁ of an infinitely wide network whose weights stay the same.

    Args:
        units: the cell and the statistics of its gates. Weights are independent and Gaussian,
            biases are drawn once per unit.
        key: for the populations.
        num_units: size of a population, at least four times `num_steps`, or fields and their past
            would fill it. Its noise takes the place of a finite width. Static.
        num_steps: number of steps, all of which are remembered. Static.
        num_warmup: first steps, which settle activity and tangents. Static.
        num_populations: number of independent populations, at least 2, for the error. Static.

    Returns:
        The rate with its error. Where a network without input comes to rest it is that of
        `frozen_growth`, which is exact there. `settled` is False where memory outlasts the run.

    Raises:
        TypeError: units that are none, or counts that are not integers.
        ValueError: counts or statistics out of range.

    Cost: time in proportion to `num_populations` · `num_steps`² · `num_units`, about a second.

    References:
        H. Sompolinsky, A. Crisanti and H. Sommers, Phys. Rev. Lett. 61 (1988), for the theory.
        H. Eissfeller and M. Opper, Phys. Rev. Lett. 68 (1992), for drawing it causally.
        T. Can, K. Krishnamurthy and D. Schwab (2020) for gated cells at their fixed points.

    Example:
        >>> import jax
        >>> from jacobian_rnn.mean_field.cell_units import Gate, SimpleUnits
        >>> growth = kept_growth(SimpleUnits(Gate(3.0)), key=jax.random.key(0))
        >>> print(abs(float(growth.rate) - 0.3102) < 0.02)  # λ₁ of the tanh network
        True
    """
    units = check_units(units)
    check_at_least(8, num_steps=num_steps)
    check_at_least(2, num_populations=num_populations)
    check_count("num_warmup", num_warmup, 0, num_steps - 4, "four steps at least are counted")
    check_count("num_units", num_units, 4 * num_steps, advice="four for each step")
    keys = jax.random.split(key, num_populations)
    return _kept_growth(units, keys, num_units, num_steps, num_warmup)


def frozen_growth(
    units: Units,
    *,
    key: Key[Array, ""],
    num_units: int,
    num_steps: int = 60,
    num_populations: int = 16,
) -> FrozenGrowth:
    """Compute the growth if the gates stood still, from the edge of the Jacobian's spectrum.

    A snapshot of the population of `kept_growth` gives each unit's own diagonal block D and slopes
    a_k. The edge is the real λ beyond all of D's eigenvalues where Σ_k σ_k² ⟨[(λ − D)⁻¹ a_k]_h²⟩ =
    1. For one state per unit this is ⟨v / (λ − d)²⟩ = 1. The edge is exact at fixed points. It
    depends on the width through the slowest unit.

    Args:
        units: the cell and the statistics of its gates.
        key: for the populations.
        num_units: width N of the network. Static.
        num_steps: steps before the snapshot. Static.
        num_populations: number of independent populations, at least 2, for the error. Static.

    Returns:
        The rate with its error.

    Raises:
        TypeError: units that are none, or counts that are not integers.
        ValueError: counts or statistics out of range.

    References:
        T. Can, K. Krishnamurthy and D. Schwab, "Gating creates slow modes and controls phase-space
        complexity in GRUs and LSTMs", 2020.

    Example:
        >>> import jax
        >>> from jacobian_rnn.mean_field.cell_units import GRUUnits
        >>> growth = frozen_growth(GRUUnits(), key=jax.random.key(0), num_units=500)
        >>> print(f"{growth.rate:.3f}")  # a GRU at rest: log(1/2 + 1/4)
        -0.288
    """
    units = check_units(units)
    check_at_least(8, num_steps=num_steps)
    check_at_least(2, num_units=num_units, num_populations=num_populations)
    keys = jax.random.split(key, num_populations)
    return _frozen_growth(units, keys, num_units, num_steps)


@partial(jax.jit, static_argnames=("num_units", "num_steps", "num_warmup"))
def _kept_growth(units, keys, num_units, num_steps, num_warmup):
    def one(key):
        snapshot, rates, activities = _population(units, key, num_units, num_steps)
        # At a fixed point one matrix is applied again and again: fields depend on their past to
        # more digits than a population has, and the edge of the spectrum is exact.
        moved = units.step(*snapshot) - snapshot[0]
        still = jnp.sqrt(jnp.mean(moved**2)) < STILL
        edge = jnp.log(_spectral_edge(units, *snapshot))
        return jnp.where(still, edge, rates[num_warmup:]), activities[-1]

    rates, activities = lax.map(one, keys)
    half = rates.shape[1] // 2
    drifts = jnp.mean(rates[:, half:], axis=1) - jnp.mean(rates[:, :half], axis=1)
    rates = jnp.mean(rates, axis=1)
    root = jnp.sqrt(jnp.asarray(keys.size, rates.dtype))
    error = jnp.std(rates, ddof=1) / root
    drift, drift_error = jnp.mean(drifts), jnp.std(drifts, ddof=1) / root
    return KeptGrowth(
        rate=jnp.mean(rates),
        standard_error=error,
        activity=jnp.mean(activities),
        drift=drift,
        settled=jnp.abs(drift) <= jnp.maximum(4 * drift_error, SMALL_DRIFT),
    )


@partial(jax.jit, static_argnames=("num_units", "num_steps"))
def _frozen_growth(units, keys, num_units, num_steps):
    def one(key):
        snapshot, _, _ = _population(units, key, num_units, num_steps)
        return jnp.log(_spectral_edge(units, *snapshot))

    rates = lax.map(one, keys)
    error = jnp.std(rates, ddof=1) / jnp.sqrt(jnp.asarray(keys.size, rates.dtype))
    return FrozenGrowth(jnp.mean(rates), error)


class _Memory(NamedTuple):
    """Outputs of the past, relative to their size, the fields they made, and their covariance."""

    outputs: Array
    fields: Array
    covariance: Array


def _remember(memory, output, t, key):
    """Draw the field that an output makes given the fields before it, and remember both."""
    num_steps, num_units = memory.outputs.shape
    before = jnp.arange(num_steps) < t
    to_past = jnp.where(before, memory.outputs @ output / num_units, 0)
    weights = jax.scipy.linalg.solve(memory.covariance, to_past, assume_a="pos")
    rest = jnp.sqrt(jnp.maximum(1 - weights @ to_past, 0))
    fresh = jax.random.normal(key, memory.fields.shape[1:], output.dtype)
    ridge = max(RIDGE, ROUNDINGS * num_steps * float(jnp.finfo(output.dtype).eps))
    field = jnp.einsum("t,tgm->gm", weights, memory.fields) + rest * fresh
    covariance = memory.covariance.at[t].set(to_past).at[:, t].set(to_past)
    return field, _Memory(
        outputs=memory.outputs.at[t].set(output),
        fields=memory.fields.at[t].set(field),
        covariance=covariance.at[t, t].set(1 + ridge),
    )


def _population(units, key, num_units, num_steps):
    """Draw all fields of a population, and return its last snapshot, log growth and activity."""
    dtype = units[0].weight_std.dtype
    gates: Gate = jax.tree.map(lambda *numbers: jnp.stack(numbers)[:, None], *units)
    shape = (len(units), num_units)
    bias_key, state_key, tangent_key, key = jax.random.split(key, 4)
    bias = gates.bias_mean + gates.bias_std * jax.random.normal(bias_key, shape, dtype)

    def step(carried, now):
        state, tangent, memory, tangent_memory, _ = carried
        t, key = now
        field_key, tangent_key, input_key = jax.random.split(key, 3)
        size, output = _split_size(state[-1])
        tangent_size, tangent_output = _split_size(tangent[-1])
        field, memory = _remember(memory, output, t, field_key)
        tangent_field, tangent_memory = _remember(tangent_memory, tangent_output, t, tangent_key)
        recurrent = gates.weight_std * size * field
        external = bias + gates.input_std * jax.random.normal(input_key, shape, dtype)
        new, new_tangent = jax.jvp(
            lambda state, recurrent: units.step(state, recurrent, external),
            (state, recurrent),
            (tangent, gates.weight_std * tangent_size * tangent_field),
        )
        growth = jnp.sqrt(jnp.sum(jnp.mean(new_tangent**2, axis=1)))
        carried = (new, new_tangent / growth, memory, tangent_memory, (state, recurrent, external))
        return carried, (jnp.log(growth), jnp.mean(new[-1] ** 2))

    # Started active: at rest nothing would tell activity from its absence.
    states = (units.num_states, num_units)
    state = jax.random.normal(state_key, states, dtype) / 2
    tangent = jax.random.normal(tangent_key, states, dtype)
    nothing = _Memory(
        jnp.zeros((num_steps, num_units), dtype),
        jnp.zeros((num_steps, *shape), dtype),
        jnp.eye(num_steps, dtype=dtype),
    )
    start = (state, tangent, nothing, nothing, (state, nothing.fields[0], bias))
    steps = (jnp.arange(num_steps), jax.random.split(key, num_steps))
    (*_, snapshot), (rates, activities) = lax.scan(step, start, steps)
    return snapshot, rates, activities


def _split_size(x):
    # By the largest first: squares of a network that comes to rest leave the float range.
    largest = jnp.max(jnp.abs(x))
    x = x / jnp.where(largest > 0, largest, 1)
    size = jnp.sqrt(jnp.mean(x**2))
    return largest * size, x / jnp.where(size > 0, size, 1)


def _spectral_edge(units, state, recurrent, external):
    """Solve Σ_k σ_k² ⟨[(λ − D)⁻¹ a_k]_h²⟩ = 1 for the largest real λ."""

    def of_unit(state, recurrent, external):
        def step(state, recurrent):
            return units.step(state[:, None], recurrent[:, None], external[:, None])[:, 0]

        return jax.jacfwd(step, (0, 1))(state, recurrent)

    blocks, slopes = jax.vmap(of_unit, in_axes=1)(state, recurrent, external)
    weight_stds = jnp.stack([gate.weight_std for gate in units])
    scaled = slopes * weight_stds[None, None]
    one = jnp.eye(units.num_states, dtype=scaled.dtype)[None]
    # No cell here has coupled states whose blocks are not triangular.
    slowest = jnp.max(jnp.diagonal(blocks, axis1=1, axis2=2))

    def excess(log_distance):
        resolved = jnp.linalg.solve((slowest + jnp.exp(log_distance)) * one - blocks, scaled)
        return -jnp.log(jnp.mean(jnp.sum(resolved[:, -1] ** 2, axis=1)))

    eps = jnp.log(jnp.finfo(scaled.dtype).eps)
    edge = slowest + jnp.exp(increasing_root(excess, eps, -eps / 4))
    # Where nothing is fed back only the units' own memory is left.
    return jnp.where(jnp.any(scaled != 0), edge, jnp.maximum(slowest, 0))

"""Recurrent cells as their units see them: a state, Gaussian fields from the kernels, and inputs.

In a wide network with independent Gaussian weights each unit's recurrent pre-activations are
Gaussian fields whose covariance is that of the outputs h, so that theory needs only these steps.
The equations and the order of the gates are Flax's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_number, check_scales, check_type, refuse

Scalar = Float[Array, ""] | float


class Gate(NamedTuple):
    """The statistics of one gate's pre-activation.

    Attributes:
        weight_std: σ_w, where recurrent entries have variance σ_w²/N. Flax's fused nnx cells have
            1/√3 (GRU) and 1/2 (OptimizedLSTM), its other cells 1.
        input_std: standard deviation of what the input adds, fresh at every step.
        bias_mean: mean of the bias.
        bias_std: its standard deviation over units.
    """

    weight_std: Scalar = 1.0
    input_std: Scalar = 0.0
    bias_mean: Scalar = 0.0
    bias_std: Scalar = 0.0

    def variance(self, activity: Scalar) -> Array:
        """Return the variance of a pre-activation at mean squared output `activity`."""
        return jnp.asarray(self.weight_std**2 * activity + self.input_std**2 + self.bias_std**2)


class SimpleUnits(NamedTuple):
    """Units of a SimpleCell: h' = tanh(W h + U x + b)."""

    unit: Gate = Gate()

    @property
    def num_states(self) -> int:
        """States of a unit."""
        return 1

    def step(self, state: Array, recurrent: Array, external: Array) -> Array:
        """Advance states `(1, units)` by fields and inputs `(1, units)`."""
        del state
        return jnp.tanh(recurrent + external)


class MinimalUnits(NamedTuple):
    """Units of a minimalRNN: u = σ(W h + V z + b), h' = u h + (1 − u) z.

    The embedding z is an input to every unit of its own, without recurrent weights.
    """

    update: Gate = Gate()
    embedding: Gate = Gate(weight_std=0.0, input_std=1.0)

    @property
    def num_states(self) -> int:
        """States of a unit."""
        return 1

    def step(self, state: Array, recurrent: Array, external: Array) -> Array:
        """Advance states `(1, units)` by fields and inputs `(2, units)`."""
        u = jax.nn.sigmoid(recurrent[:1] + external[:1])
        return u * state + (1 - u) * external[1:]


class GRUUnits(NamedTuple):
    """Units of a GRUCell: r, z = σ(·), n = tanh(U x + b + r W h), h' = (1 − z) n + z h."""

    reset: Gate = Gate()
    update: Gate = Gate()
    candidate: Gate = Gate()

    @property
    def num_states(self) -> int:
        """States of a unit."""
        return 1

    def step(self, state: Array, recurrent: Array, external: Array) -> Array:
        """Advance states `(1, units)` by fields and inputs `(3, units)`."""
        r = jax.nn.sigmoid(recurrent[:1] + external[:1])
        z = jax.nn.sigmoid(recurrent[1:2] + external[1:2])
        n = jnp.tanh(external[2:] + r * recurrent[2:])
        return (1 - z) * n + z * state


class LSTMUnits(NamedTuple):
    """Units of an LSTMCell: c' = f c + i g, h' = o tanh c'. The state is c, then h."""

    input: Gate = Gate()
    forget: Gate = Gate()
    candidate: Gate = Gate()
    output: Gate = Gate()

    @property
    def num_states(self) -> int:
        """States of a unit."""
        return 2

    def step(self, state: Array, recurrent: Array, external: Array) -> Array:
        """Advance states `(2, units)` by fields and inputs `(4, units)`."""
        i, f, g, o = recurrent + external
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        c = f * state[0] + i * jnp.tanh(g)
        return jnp.stack([c, o * jnp.tanh(c)])


Units = SimpleUnits | MinimalUnits | GRUUnits | LSTMUnits


def check_units(units: Any) -> Units:
    """Return units with scalars in one float dtype.

    Raises:
        TypeError: no units, gates that are none, statistics that are no numbers.
        ValueError: standard deviations that are negative or infinite, a mean that is not finite, or
            an embedding with recurrent weights.
    """
    check_type("units", units, Units, "SimpleUnits, MinimalUnits, GRUUnits or LSTMUnits")
    scales, means = {}, {}
    for name, gate in zip(units._fields, units, strict=True):
        check_type(f"units.{name}", gate, Gate, "a Gate")
        for field, number in zip(gate._fields, gate, strict=True):
            (means if field == "bias_mean" else scales)[f"units.{name}.{field}"] = number
    for name, mean in means.items():
        check_number(name, mean)
    if isinstance(units, MinimalUnits):
        unused = units.embedding.weight_std
        if not isinstance(unused, Tracer) and unused != 0:
            refuse("units.embedding.weight_std", unused, "0", "the embedding reads no output")
    checked = check_scales(**scales)
    dtype = jnp.result_type(*checked, *means.values())
    numbers = dict(zip(scales, checked, strict=True)) | means
    return type(units)(
        *(
            Gate(*(jnp.asarray(numbers[f"units.{name}.{field}"], dtype) for field in Gate._fields))
            for name in units._fields
        )
    )

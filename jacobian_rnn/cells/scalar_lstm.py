"""sLSTM: exponential gates and a normaliser, c' = f c + i z, n' = f n + i and h' = o c' / n'.

The gates read x and h, z through tanh, o through σ, i through exp and f through σ or exp. The state
is c, n, the stabiliser m of each unit, then h. c and n are held divided by e^m.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jacobian_rnn.cells._own_cells import OWN_LAYERS, check_sizes, normal_kernel, recurrence_of
from jacobian_rnn.cells._stabilized_gates import Forget, check_forget, stabilized_gates
from jacobian_rnn.cells.closed_form import pre_activations
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import Layout
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_number


def slstm(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    gain: float = 0.0,
    forget: Forget = "sigmoid",
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a head of sLSTM: c' = f c + i z, n' = f n + i and h' = o c' / n', with i = exp(ĩ).

    The gates are computed with the stabiliser m' = max(log f + m, ĩ) of each unit, and c and n are
    held divided by e^m.

    Entries of the input kernels have variance 2 / (5 inputs), and those of the recurrent kernels
    gain² / N: published networks start without. b_f falls from 5 to −7 over the units, as 5 − 12
    u^0.3 with u from 0 to 1. Other biases are zero. Heads do not see each other.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        gain: factor on the recurrent weights, zero or above.
        forget: "sigmoid" or "exp", the function of the forget gate. Static.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its carry is (c, n, m, h), `(num_units,)` each. Where an input gate is
        larger than what is kept of the memory, m is forgotten and J is singular. A unit with n = 0
        is empty: it keeps nothing, whatever m is.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, a gain below zero, or another forget gate.

    References:
        M. Beck et al., "xLSTM: extended long short-term memory", 2024, section 2.2 and appendix A.

    Example:
        >>> import jax
        >>> network = slstm(3, 4, key=jax.random.key(0))
        >>> c, n, m, h = network.step(network.params, (jnp.zeros(4),) * 4, jnp.ones(3))
        >>> print(jnp.allclose(n, 1.0), h.shape)
        True (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    check_number("gain", gain, least=0)
    check_forget(forget)
    read, recur = jax.random.split(key)
    scale = jnp.asarray(math.sqrt(0.4), dtype)
    falling = 5 - 12 * jnp.linspace(0, 1, num_units, dtype=dtype) ** 0.3
    zeros = jnp.zeros(num_units, dtype)
    params = {
        "input": {"kernel": scale * normal_kernel(read, num_inputs, 4 * num_units, dtype)},
        "recurrent": {
            "kernel": jnp.asarray(gain, dtype)
            * normal_kernel(recur, num_units, 4 * num_units, dtype),
            "bias": jnp.concatenate([zeros, falling, zeros, zeros]),
        },
    }
    return recurrence_of(SLSTMStep(forget), params)


class StabilizedJacobian(NamedTuple):
    """The Jacobian of c, n, m and h, with the determinant that its symmetry gives.

    Changes of m by δ and of c and n by −δ c and −δ n are the same memory, held at another scale. J
    turns them into share · δ times the same change of the new state.

    Attributes:
        gates: the Jacobian as diagonals and scaled kernels.
        memory: c' and n', `(2, N)`.
        share: ∂m'/∂m, `(N,)`.
    """

    gates: GatedJacobian
    memory: Float[Array, "2 units"]
    share: Float[Array, " units"]

    @property
    def num_states(self) -> int:
        """Return the size n of the state."""
        return self.gates.num_states

    @property
    def num_inputs(self) -> int:
        """Return the size of the input."""
        return self.gates.num_inputs

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V Jᵀ."""
        return self.gates.push(rows)

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V J."""
        return self.gates.pull(rows)

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        return self.gates.push_input(rows)

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        return self.gates.pull_input(rows)

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state."""
        return self.gates.dense()

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        return self.gates.dense_input()

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state|, −inf where a stabiliser is forgotten.

        With the scale of the memory as a coordinate of its own, J is block triangular: the shares,
        and what c, n and h at a fixed scale do to each other.
        """
        dense, units = self.gates.dense(), self.share.size
        c, n, m, h = (dense[a * units : (a + 1) * units] for a in range(4))
        rows = [row + new[:, None] * m for row, new in zip((c, n), self.memory, strict=True)]
        others = jnp.concatenate([*rows, h])
        others = jnp.concatenate([others[:, : 2 * units], others[:, 3 * units :]], axis=1)
        return jnp.linalg.slogdet(others)[1] + jnp.sum(jnp.log(self.share))


@dataclass(frozen=True)
class SLSTMStep:
    """The step of `slstm`. Equal forget gates have equal steps."""

    forget: Forget
    num_feature_axes: ClassVar[int] = 1
    shows_last_array: ClassVar[bool] = True  # h

    def __call__(self, params, carry, x):
        """Return the new carry."""
        c, n, m, h = carry
        write, forget, z, o = pre_activations(OWN_LAYERS.read(params, 4), h, x)
        gates = stabilized_gates(write, forget, m, self.forget, n == 0)
        c = gates.forget * c + gates.write * jnp.tanh(z)
        n = gates.forget * n + gates.write
        return c, n, gates.stabilizer, jax.nn.sigmoid(o) * c / n

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        c, n, m, h = carry
        weights = OWN_LAYERS.read(params, 4)
        write, forget, pre_z, pre_o = pre_activations(weights, h, x)
        gates = stabilized_gates(write, forget, m, self.forget, n == 0)
        z, z_slope = with_slope(jnp.tanh, pre_z)
        o, o_slope = with_slope(jax.nn.sigmoid, pre_o)
        new_c = gates.forget * c + gates.write * z
        new_n = gates.forget * n + gates.write
        none, share, slope = jnp.zeros_like(c), gates.share, gates.forget_slope
        # What the balance of memory and input, m + log f − ĩ, does to c' and n'.
        kept, written = gates.forget * (1 - share), gates.write * share
        to_c, to_n = kept * c - written * z, kept * n - written
        by_state = {
            "c": [gates.forget, none, to_c, none],
            "n": [none, gates.forget, to_n, none],
            "m": [none, none, share, none],
        }
        by_gate = {
            "c": [-to_c, to_c * slope, gates.write * z_slope, none],
            "n": [-to_n, to_n * slope, none, none],
            "m": [1 - share, share * slope, none, none],
        }
        shown = [none, none, none, new_c / new_n * o_slope]
        diagonals, slopes = (
            jnp.stack([jnp.stack(rows[name]) for name in "cnm"]) for rows in (by_state, by_gate)
        )

        def of_h(rows):
            return (o / new_n)[None] * rows[0] - (o * new_c / new_n**2)[None] * rows[1]

        diagonals = jnp.concatenate([diagonals, of_h(diagonals)[None]])
        slopes = jnp.concatenate([slopes, (of_h(slopes) + jnp.stack(shown))[None]])
        parts = GatedJacobian(diagonals, slopes, weights.recurrent, slopes, weights.inputs)
        return StabilizedJacobian(parts, jnp.stack([new_c, new_n]), share)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return (params["recurrent"]["kernel"][:, 0],) * 4


LAYOUT = Layout(gates="ifzo", layers={SLSTMStep: OWN_LAYERS}, keeps="f")

"""Long short-term memory with a projection: c' = f c + i g and h' = R (o φ(c')).

The gates read x and h as in an LSTM, i, f and o through σ and g through φ. h has fewer entries than
c: R has P rows and N columns. The state is c, then h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.cells._own_cells import OWN_LAYERS, recurrence_of
from jacobian_rnn.cells.closed_form import pre_activations
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import ForeignLayer, Layout, Weights
from jacobian_rnn.cells.lstm import lstm_jacobian
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.linalg.graded_svd import matmul


def make_projected_lstm(
    weights: Weights,
    projection: Float[Array, "units projected"],
    gate_fn: Callable = jax.nn.sigmoid,
    activation_fn: Callable = jnp.tanh,
) -> Recurrence:
    """Make an LSTM with a projection of its weights. Its functions act on each unit alone.

    Args:
        weights: kernels `(inputs, N)` and `(P, N)` and biases `(N,)`, in the order i, f, g, o.
        projection: kernel from o φ(c') to h, `(N, P)`.
        gate_fn: σ.
        activation_fn: φ.

    References:
        H. Sak, A. Senior and F. Beaufays, "Long short-term memory based recurrent neural network
        architectures for large vocabulary speech recognition", 2014.
    """
    inputs, recurrent, biases = (jnp.concatenate(part, axis=-1) for part in weights[:3])
    params = {
        "input": {"kernel": inputs},
        "recurrent": {"kernel": recurrent, "bias": biases},
        "projection": {"kernel": projection},
    }
    return recurrence_of(ProjectedLSTMStep(gate_fn, activation_fn), params)


class ProjectedJacobian(NamedTuple):
    """The Jacobian of one step: J = diag(1, R) [gates for c, read for h], rows below each other.

    Attributes:
        gates: what c and x do to c' and o φ(c'). No kernel of it reads the state.
        read: what h does to them, as if h were its input.
        projection: kernel from o φ(c') to h, `(N, P)`.
    """

    gates: GatedJacobian
    read: GatedJacobian
    projection: Float[Array, "units projected"]

    @property
    def num_states(self) -> int:
        """Return the size n = N + P of the state."""
        return sum(self.projection.shape)

    @property
    def num_inputs(self) -> int:
        """Return the size of the input."""
        return self.gates.num_inputs

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V Jᵀ."""
        rows, units = jnp.asarray(rows), len(self.projection)
        cells = jnp.pad(rows[:, :units], ((0, 0), (0, units)))
        return self._projected(self.gates.push(cells) + self.read.push_input(rows[:, units:]))

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V J."""
        whole, units = self._unprojected(rows), len(self.projection)
        cells = self.gates.pull(whole)[:, :units]
        return jnp.concatenate([cells, self.read.pull_input(whole)], axis=1)

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        return self._projected(self.gates.push_input(rows))

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        return self.gates.pull_input(self._unprojected(rows))

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state."""
        return self.push(jnp.eye(self.num_states, dtype=self.projection.dtype)).T

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        return self.push_input(jnp.eye(self.num_inputs, dtype=self.projection.dtype)).T

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state|."""
        return jnp.linalg.slogdet(self.dense())[1]

    def _projected(self, rows):
        cells, shown = jnp.split(rows, 2, axis=1)
        return jnp.concatenate([cells, matmul(shown, self.projection)], axis=1)

    def _unprojected(self, rows):
        units = len(self.projection)
        cells, shown = jnp.split(jnp.asarray(rows), [units], axis=1)
        return jnp.concatenate([cells, matmul(shown, self.projection.T)], axis=1)


@dataclass(frozen=True)
class ProjectedLSTMStep:
    """The step of `make_projected_lstm`. Equal functions have equal steps."""

    gate_fn: Callable
    activation_fn: Callable
    num_feature_axes: ClassVar[int] = 1
    shows_last_array: ClassVar[bool] = True  # h, projected

    def __call__(self, params, carry, x):
        """Return the new carry."""
        c, h = carry
        i, f, g, o = pre_activations(OWN_LAYERS.read(params, 4), h, x)
        c = self.gate_fn(f) * c + self.gate_fn(i) * self.activation_fn(g)
        shown = self.gate_fn(o) * self.activation_fn(c)
        return c, shown @ params["projection"]["kernel"]

    def parts(self, params: Any, carry: Any, x: Any) -> ProjectedJacobian:
        """Return the parts of the Jacobian of one step."""
        weights = OWN_LAYERS.read(params, 4)
        parts = lstm_jacobian(weights, carry, x, self.gate_fn, self.activation_fn)
        gates = parts._replace(slopes=parts.slopes[:, :0], kernels=())
        read = gates._replace(input_slopes=parts.slopes, input_kernels=parts.kernels)
        return ProjectedJacobian(gates, read, params["projection"]["kernel"])

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return tuple(jnp.zeros(size) for size in params["projection"]["kernel"].shape)


LAYOUT = Layout(
    gates="ifgo",
    layers={ProjectedLSTMStep: OWN_LAYERS},
    keeps="f",
    loaded_as=make_projected_lstm,
    pytorch=ForeignLayer("LSTM", "ifgo", variant="projections"),
)

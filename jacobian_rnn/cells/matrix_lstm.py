"""mLSTM: a matrix memory with exponential gates, C' = f C + i v kᵀ and n' = f n + i k.

Reading with a query gives h = σ(W_o x + b_o) C' q / max(|n' q|, 1). The state is C, n, and the
stabiliser m, which is the size of both in logs: what is held is e^(−m) times C and n.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jacobian_rnn.cells._own_cells import StepClosedForm, check_sizes
from jacobian_rnn.cells._stabilized_gates import Forget, check_forget, stabilized_gates
from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.recurrence import Recurrence, flat_matrix
from jacobian_rnn.checks import check_at_least
from jacobian_rnn.linalg.graded_svd import matmul


def mlstm(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    num_keys: int | None = None,
    forget: Forget = "sigmoid",
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a head of mLSTM: C' = f C + i v kᵀ and n' = f n + i k, with i = exp(w_i x + b_i).

    q = W_q x + b_q, v = W_v x + b_v and k is W_k x + b_k divided by √keys. The forget gate f is σ
    or exp of w_f x + b_f. The gates are computed with the stabiliser m' = max(log f + m, log i),
    and C and n are held divided by e^m.

    Entries of W_q, W_k, W_v and W_o have variance 2 / (5 inputs). The gates start without weights,
    at b_f = 3, and b_i has variance 0.01. Other biases are zero. Heads do not see each other.

    Args:
        num_inputs: size of x.
        num_units: number of values, the rows of C.
        key: a `jax.random.key`.
        num_keys: number of columns of C, and size of n. By default that of the values.
        forget: "sigmoid" or "exp", the function of the forget gate. Static.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its carry is (C, n, m) of shapes `(num_units, num_keys)`, `(num_keys,)` and
        `()`. J is f' on the diagonal of C and n, and a column of what m does to them, which its
        `unit_jacobians` declare. Where the input is larger than the memory, m is forgotten and J is
        singular. The output is C, row after row. `step.read(params, carry, x)` reads h from the
        carry.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, or another forget gate.

    References:
        M. Beck et al., "xLSTM: extended long short-term memory", 2024, section 2.3 and appendix A.

    Example:
        >>> import jax
        >>> network = mlstm(3, 4, num_keys=2, key=jax.random.key(0))
        >>> carry = (jnp.zeros((4, 2)), jnp.zeros(2), jnp.zeros(()))
        >>> jax.tree.map(jnp.shape, network.step(network.params, carry, jnp.ones(3)))
        ((4, 2), (2,), ())
    """
    num_keys = num_units if num_keys is None else num_keys
    check_sizes(num_inputs, num_units, dtype)
    check_at_least(1, num_keys=num_keys)
    check_forget(forget)
    *keys, of_write = jax.random.split(key, 5)
    sizes = {"query": num_keys, "key": num_keys, "value": num_units, "output": num_units}
    deviation = jnp.asarray(math.sqrt(2 / (5 * num_inputs)), dtype)
    params = {
        name: {
            "kernel": deviation * jax.random.normal(one, (num_inputs, size), dtype),
            "bias": jnp.zeros(size, dtype),
        }
        for one, (name, size) in zip(keys, sizes.items(), strict=True)
    }
    biases = {
        "write": 0.1 * jax.random.normal(of_write, (), dtype),
        "forget": jnp.full((), 3, dtype),
    }
    for name, bias in biases.items():
        params[name] = {"kernel": jnp.zeros(num_inputs, dtype), "bias": bias}
    return mlstm_of(params, forget)


def mlstm_of(params: Any, forget: Forget) -> Recurrence:
    """Make an mLSTM of its parameters."""
    step = MLSTMStep(forget)
    units: Any = MLSTMUnits(step)
    return Recurrence(step, params, StepClosedForm(step), memory_of, units)


def memory_of(carry: Any) -> Array:
    """Return C of the carry of an mLSTM as one vector, row after row."""
    return flat_matrix(carry[0])


class MatrixMemoryJacobian(NamedTuple):
    """The Jacobian of Z' = f' Z + i' v kᵀ and m', where Z is C with n as its last row.

    n is the row of a value that is always 1. Tangents are rows `(k, n)`: Z row by row, then m.

    Attributes:
        forget: f'.
        share: ∂m'/∂m.
        along: ∂Z'/∂m, `(values + 1, keys)`.
        write: i'.
        value: v with 1 as its last entry, `(values + 1,)`.
        key: k, `(keys,)`.
        of_input: the derivatives of log f, ĩ, v and k with respect to the input, `(…, inputs)`.
    """

    forget: Float[Array, ""]
    share: Float[Array, ""]
    along: Float[Array, "rows keys"]
    write: Float[Array, ""]
    value: Float[Array, " rows"]
    key: Float[Array, " keys"]
    of_input: tuple[Float[Array, "_ inputs"], ...]

    @property
    def num_states(self) -> int:
        """Return the size n of the state."""
        return self.along.size + 1

    @property
    def num_inputs(self) -> int:
        """Return the size of the input."""
        return self.of_input[0].shape[1]

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V Jᵀ."""
        memory, stabilizer = rows[:, :-1], rows[:, -1:]
        moved = self.forget * memory + stabilizer * self.along.ravel()[None]
        return jnp.concatenate([moved, self.share * stabilizer], axis=1)

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V J."""
        memory, stabilizer = rows[:, :-1], rows[:, -1:]
        pulled = self.share * stabilizer + (memory @ self.along.ravel())[:, None]
        return jnp.concatenate([self.forget * memory, pulled], axis=1)

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        log_forget, write, value, key = (matmul(rows, one.T) for one in self.of_input)
        value = jnp.pad(value, ((0, 0), (0, 1)))  # n is written by a value that is always 1
        written = value[:, :, None] * self.key[None, None]
        written += self.value[None, :, None] * key[:, None]
        memory = (log_forget - write)[:, :, None] * self.along[None] + self.write * written
        stabilizer = self.share * log_forget + (1 - self.share) * write
        return jnp.concatenate([memory.reshape(len(rows), -1), stabilizer], axis=1)

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        memory, stabilizer = rows[:, :-1], rows[:, -1:]
        seen = (memory @ self.along.ravel())[:, None]
        matrices = self.write * memory.reshape(-1, *self.along.shape)
        shares = (
            self.share * stabilizer + seen,
            (1 - self.share) * stabilizer - seen,
            (matrices @ self.key)[:, :-1],
            jnp.einsum("kvj,v->kj", matrices, self.value),
        )
        pulled = [matmul(share, one) for share, one in zip(shares, self.of_input, strict=True)]
        return sum(pulled[1:], pulled[0])

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state."""
        return self.push(jnp.eye(self.num_states, dtype=self.along.dtype)).T

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        return self.push_input(jnp.eye(self.num_inputs, dtype=self.along.dtype)).T

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state|, −inf where the input is larger than the memory."""
        return self.along.size * jnp.log(self.forget) + jnp.log(self.share)


@dataclass(frozen=True)
class MLSTMStep:
    """The step of `mlstm`. Equal forget gates have equal steps."""

    forget: Forget
    num_feature_axes: ClassVar[int] = 1
    num_carry_axes: ClassVar[int] = 2

    def __call__(self, params, carry, x):
        """Return the new carry."""
        memory, normalizer, before = carry
        write, forget, value, key = self._seen(params, x)
        gates = stabilized_gates(write, forget, before, self.forget)
        memory = gates.forget * memory + gates.write * jnp.outer(value, key)
        return memory, gates.forget * normalizer + gates.write * key, gates.stabilizer

    def read(self, params, carry, x):
        """Return h = o C q / max(|n q|, 1), what a query finds in a memory."""
        memory, normalizer, stabilizer = carry
        query = _layer(params["query"], x)
        size = jnp.maximum(jnp.abs(normalizer @ query), jnp.exp(-stabilizer))
        return jax.nn.sigmoid(_layer(params["output"], x)) * (memory @ query) / size

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        memory, normalizer, before = carry
        write, forget, value, key = self._seen(params, x)
        of_write, of_forget, of_value, of_key = jax.jacfwd(lambda x: self._seen(params, x))(x)
        gates = stabilized_gates(write, forget, before, self.forget)
        value = jnp.append(value, jnp.ones((), value.dtype))
        rows = jnp.concatenate([memory, normalizer[None]])
        kept = gates.forget * (1 - gates.share) * rows
        return MatrixMemoryJacobian(
            forget=gates.forget,
            share=gates.share,
            along=kept - gates.write * gates.share * jnp.outer(value, key),
            write=gates.write,
            value=value,
            key=key,
            of_input=((gates.forget_slope * of_forget)[None], of_write[None], of_value, of_key),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        key = params["key"]["bias"]
        return jnp.outer(params["value"]["bias"], key), key, jnp.zeros(())

    def _seen(self, params, x):
        """Return ĩ, f̃, v and k."""
        key = _layer(params["key"], x)
        key = key / math.sqrt(key.size)
        return *(_layer(params[name], x) for name in ("write", "forget", "value")), key


@dataclass(frozen=True)
class MLSTMUnits:
    """What C and n keep of themselves, and what m does to them. Equal steps have equal ones."""

    step: MLSTMStep

    def __call__(self, params: Any, carry: Any, x: Any) -> BorderedIdentity:
        """Return the Jacobian of C and n, all kept alike, with m behind them."""
        parts = self.step.parts(params, carry, x)
        return BorderedIdentity(parts.forget, parts.along.ravel(), parts.share)


def _layer(layer, x):
    return x @ layer["kernel"] + layer["bias"]

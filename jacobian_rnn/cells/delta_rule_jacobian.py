"""Step Jacobians of delta rules, S' = S M + v bᵀ with M = diag(w) − l rᵀ, kept as their vectors.

The state S has a row for each value and a column for each key. M, v and b depend on the input
alone. So every row of S is multiplied by the same matrix, a diagonal plus rank one.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.linalg.graded_svd import matmul


class DeltaRuleJacobian(NamedTuple):
    """The Jacobian of S' = S (diag(w) − l rᵀ) + v bᵀ, for the state and for the input.

    Tangents and cotangents are rows `(k, n)`, n = values · keys, ravelled as S is, row by row.

    Attributes:
        memory: S, `(values, keys)`.
        decay: w, `(keys,)`.
        left: l, `(keys,)`.
        right: r, `(keys,)`.
        value: v, `(values,)`.
        write: b, `(keys,)`.
        of_input: the derivatives of w, l, r, v and b with respect to the input, `(…, inputs)` each.
    """

    memory: Float[Array, "values keys"]
    decay: Float[Array, " keys"]
    left: Float[Array, " keys"]
    right: Float[Array, " keys"]
    value: Float[Array, " values"]
    write: Float[Array, " keys"]
    of_input: tuple[Float[Array, "_ inputs"], ...]

    @property
    def num_states(self) -> int:
        """Return the size n of the state."""
        return self.memory.size

    @property
    def num_inputs(self) -> int:
        """Return the size of the input."""
        return self.of_input[0].shape[1]

    @property
    def block(self) -> Float[Array, "keys keys"]:
        """Return Mᵀ, the Jacobian of every row of S for itself."""
        return jnp.diag(self.decay) - jnp.outer(self.right, self.left)

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V ↦ V M for V of the shape of S."""
        return self._moved(rows, self.left, self.right)

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V ↦ V Mᵀ."""
        return self._moved(rows, self.right, self.left)

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        decay, left, right, value, write = (matmul(rows, one.T) for one in self.of_input)
        kept = self.memory[None] * decay[:, None]
        erased = (self.memory @ self.left)[None, :, None] * right[:, None]
        erased += matmul(left, self.memory.T)[:, :, None] * self.right[None, None]
        written = value[:, :, None] * self.write[None, None]
        written += self.value[None, :, None] * write[:, None]
        return (kept - erased + written).reshape(len(rows), -1)

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        matrices = self._matrices(rows)
        shares = (
            jnp.sum(matrices * self.memory[None], axis=1),
            -matmul(matrices @ self.right, self.memory),
            -jnp.einsum("kvj,v->kj", matrices, self.memory @ self.left),
            matrices @ self.write,
            jnp.einsum("kvj,v->kj", matrices, self.value),
        )
        pulled = [matmul(share, one) for share, one in zip(shares, self.of_input, strict=True)]
        return sum(pulled[1:], pulled[0])

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state."""
        return jnp.kron(jnp.eye(len(self.memory), dtype=self.memory.dtype), self.block)

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        return self.push_input(jnp.eye(self.num_inputs, dtype=self.memory.dtype)).T

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state| = values · log|det M|.

        det M = ∏ w (1 − rᵀ diag(w)⁻¹ l), which for a single w = 0 is −r l of its key times the
        other w. It is −inf where a key is wiped out.
        """
        is_zero = self.decay == 0
        decay = jnp.where(is_zero, 1, self.decay)
        erased = self.right * self.left / decay
        kept = jnp.where(jnp.any(is_zero), -jnp.sum(erased, where=is_zero), 1 - jnp.sum(erased))
        kept = jnp.where(jnp.sum(is_zero) > 1, 0, kept)
        return len(self.memory) * (jnp.sum(jnp.log(decay)) + jnp.log(jnp.abs(kept)))

    def _matrices(self, rows):
        return jnp.asarray(rows).reshape(len(rows), *self.memory.shape)

    def _moved(self, rows, read, write):
        matrices = self._matrices(rows)
        moved = (
            matrices * self.decay[None, None] - (matrices @ read)[:, :, None] * write[None, None]
        )
        return moved.reshape(rows.shape)

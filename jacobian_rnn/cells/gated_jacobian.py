"""Step Jacobians of gated cells, kept as parts so that no matrix needs to be formed.

A step of such a cell reads its state through a few kernels and combines the results unit by unit.
So its Jacobian consists of diagonals and of kernels with scaled rows. To push tangents or pull
cotangents through these parts costs as much as the cell's own products. Vectors are rows here,
`(k, n)`, as in Flax: `push` is V ↦ V Jᵀ and `pull` is V ↦ V J.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.linalg.graded_svd import matmul


class GatedJacobian(NamedTuple):
    """J = M (D + Σ_g L_g W_g S) for the state and M Σ_g K_g U_g for the input of one step.

    The state has p parts of N units each (c and h of an LSTM). S picks the last part, because the
    recurrent kernels read no other. D couples equal units of all parts. L_g and K_g scale rows. M
    adds the share of the first new part in the last new part, as in h' = o tanh c'. W and U act on
    columns: they are the transposes of their kernels.

    Attributes:
        diagonals: `(p, p, N)`. [a, b] is the diagonal of D that takes part b to part a.
        slopes: `(p, gates, N)`. [a, g] is L_g for part a.
        kernels: recurrent kernel of each gate, `(N, N)`. The tuple may be empty.
        input_slopes: `(p, input gates, N)`. [a, g] is K_g for part a.
        input_kernels: input kernel of each input gate, `(inputs, N)`.
        mixing: `(N,)`, the diagonal of M from first to last part, or None where M is the identity.
    """

    diagonals: Float[Array, "parts parts units"]
    slopes: Float[Array, "parts gates units"]
    kernels: tuple[Float[Array, "units units"], ...]
    input_slopes: Float[Array, "parts input_gates units"]
    input_kernels: tuple[Float[Array, "inputs units"], ...]
    mixing: Float[Array, " units"] | None = None

    @property
    def num_states(self) -> int:
        """Return the size n of the state."""
        return self.diagonals.shape[0] * self.diagonals.shape[2]

    @property
    def num_inputs(self) -> int:
        """Return the size of the input."""
        return self.input_kernels[0].shape[0]

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V Jᵀ."""
        parts = self._parts(rows)
        moved = jnp.einsum("kbi,abi->kai", parts, self.diagonals)
        return self._mixed(moved + _pushed(parts[:, -1], self.kernels, self.slopes))

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V J."""
        parts = self._unmixed(rows)
        moved = jnp.einsum("kai,abi->kbi", parts, self.diagonals)
        moved = moved.at[:, -1].add(_pulled(parts, self.kernels, self.slopes))
        return moved.reshape(rows.shape)

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        return self._mixed(_pushed(rows, self.input_kernels, self.input_slopes))

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        return _pulled(self._unmixed(rows), self.input_kernels, self.input_slopes)

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state."""
        num_parts, _, units = self.diagonals.shape
        size = num_parts * units
        read = _matrices(self.kernels, self._mixed_slopes(self.slopes), (size, units))
        diagonals = self._mixed_slopes(self.diagonals)
        # Scattering the diagonals is several times as fast as adding diagonal matrices.
        part, other, unit = jnp.indices(diagonals.shape)
        return (
            jnp.pad(read, ((0, 0), (size - units, 0)))
            .at[part * units + unit, other * units + unit]
            .add(diagonals)
        )

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        slopes = self._mixed_slopes(self.input_slopes)
        return _matrices(self.input_kernels, slopes, (self.num_states, self.num_inputs))

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state| from one matrix of N rows, for one or two parts.

        No kernel reads the first of two parts, so it can be eliminated: det J = det D₀₀ det B with
        B = D₁₁ + L₁W − D₁₀ D₀₀⁻¹ (D₀₁ + L₀W). D₀₀ may be zero only where D₁₀ is zero. For an
        LSTM, det J is ∏ f det(diag(tanh(c') o') W_o).
        """
        num_parts = self.diagonals.shape[0]
        if not self.kernels:
            return jnp.sum(jnp.linalg.slogdet(jnp.moveaxis(self.diagonals, 2, 0))[1])
        if num_parts > 2:
            return jnp.linalg.slogdet(self.dense())[1]
        diagonal, slopes, log_det = self.diagonals[-1, -1], self.slopes[-1], 0.0
        if num_parts == 2:
            (first, to_first), (from_first, _) = self.diagonals
            gone = first == 0
            ratio = jnp.where(gone, 0, from_first / jnp.where(gone, 1, first))
            diagonal = diagonal - ratio * to_first
            slopes = slopes - ratio[None] * self.slopes[0]
            log_det = jnp.sum(jnp.log(jnp.abs(first)))
        matrix = _matrices(self.kernels, slopes[None], self.kernels[0].shape)
        return log_det + jnp.linalg.slogdet(jnp.diag(diagonal) + matrix)[1]

    def _parts(self, rows):
        num_parts, _, units = self.diagonals.shape
        return jnp.asarray(rows).reshape(rows.shape[0], num_parts, units)

    def _mixed(self, parts):
        if self.mixing is not None:
            parts = parts.at[:, -1].add(self.mixing[None] * parts[:, 0])
        return parts.reshape(parts.shape[0], -1)

    def _mixed_slopes(self, slopes):
        if self.mixing is None:
            return slopes
        return slopes.at[-1].add(self.mixing[None] * slopes[0])

    def _unmixed(self, rows):
        parts = self._parts(rows)
        if self.mixing is not None:
            parts = parts.at[:, 0].add(self.mixing[None] * parts[:, -1])
        return parts


class StackJacobian(NamedTuple):
    """The Jacobians of layers on top of each other, lowest first: block lower triangular.

    A layer's input is the end of the new state of the layer below.

    Attributes:
        layers: the Jacobians of each layer with respect to its own state and its own input.
    """

    layers: tuple[GatedJacobian, ...]

    @property
    def num_inputs(self) -> int:
        """Return the size of the input of the lowest layer."""
        return self.layers[0].num_inputs

    def push(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Push tangents of the state, one in each row: V Jᵀ."""
        moved = []
        for layer, own in zip(self.layers, self._split(rows), strict=True):
            new = layer.push(own)
            if moved:
                new += layer.push_input(moved[-1][:, -layer.num_inputs :])
            moved.append(new)
        return jnp.concatenate(moved, axis=1)

    def pull(self, rows: Float[Array, "k n"]) -> Float[Array, "k n"]:
        """Pull cotangents of the new state back to the old one, one in each row: V J."""
        totals = self._totals(rows)
        return jnp.concatenate(
            [layer.pull(total) for layer, total in zip(self.layers, totals, strict=True)], axis=1
        )

    def push_input(self, rows: Float[Array, "k inputs"]) -> Float[Array, "k n"]:
        """Push tangents of the input to the new state, one in each row."""
        moved = []
        for layer in self.layers:
            moved.append(layer.push_input(rows[:, -layer.num_inputs :]))
            rows = moved[-1]
        return jnp.concatenate(moved, axis=1)

    def pull_input(self, rows: Float[Array, "k n"]) -> Float[Array, "k inputs"]:
        """Pull cotangents of the new state back to the input, one in each row."""
        return self.layers[0].pull_input(self._totals(rows)[0])

    def dense(self) -> Float[Array, "n n"]:
        """Form ∂state'/∂state block by block."""
        rows = [self.layers[0].dense()]
        for layer in self.layers[1:]:
            shown = rows[-1][-layer.num_inputs :]
            rows.append(jnp.hstack([layer.push_input(shown.T).T, layer.dense()]))
        n = rows[-1].shape[1]
        return jnp.vstack([jnp.pad(row, ((0, 0), (0, n - row.shape[1]))) for row in rows])

    def dense_input(self) -> Float[Array, "n inputs"]:
        """Form ∂state'/∂x."""
        rows = [self.layers[0].dense_input()]
        for layer in self.layers[1:]:
            rows.append(layer.push_input(rows[-1][-layer.num_inputs :].T).T)
        return jnp.vstack(rows)

    def log_abs_det(self) -> Float[Array, ""]:
        """Compute log|det ∂state'/∂state| as the sum over layers."""
        return sum((layer.log_abs_det() for layer in self.layers[1:]), self.layers[0].log_abs_det())

    def _split(self, rows):
        sizes = [layer.num_states for layer in self.layers]
        return jnp.split(rows, list(itertools.accumulate(sizes))[:-1], axis=1)

    def _totals(self, rows):
        """Add to the cotangents of each layer's new state what the layers above pull back."""
        totals = self._split(rows)
        for above in range(len(self.layers) - 1, 0, -1):
            layer = self.layers[above]
            shown = layer.pull_input(totals[above])
            totals[above - 1] = totals[above - 1].at[:, -layer.num_inputs :].add(shown)
        return totals


def _pushed(rows, kernels, slopes):
    """Compute Σ_g V W_gᵀ L_g of each part: `(k, parts, units)`."""
    parts, _, units = slopes.shape
    moved = jnp.zeros((rows.shape[0], parts, units), rows.dtype)
    for gate, kernel in enumerate(kernels):
        moved += matmul(rows, kernel)[:, None] * slopes[None, :, gate]
    return moved


def _pulled(parts, kernels, slopes):
    """Compute Σ_g Σ_a V_a L_ag W_g: `(k, size of what the kernels read)`."""
    moved = jnp.zeros((), slopes.dtype)
    for gate, kernel in enumerate(kernels):
        moved += matmul(jnp.sum(parts * slopes[None, :, gate], axis=1), kernel.T)
    return moved


def _matrices(kernels, slopes, shape):
    """Compute Σ_g L_g W_g of the given shape, part below part."""
    if not kernels:
        return jnp.zeros(shape, slopes.dtype)
    parts = []
    for scales in slopes:
        terms = [scale[:, None] * kernel.T for scale, kernel in zip(scales, kernels, strict=True)]
        parts.append(functools.reduce(jnp.add, terms))
    return jnp.concatenate(parts)

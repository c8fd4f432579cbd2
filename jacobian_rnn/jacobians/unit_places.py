"""Where in the state units are that see themselves alone, and what their blocks are together."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.row_blocks import RowBlocks


class UnitPlaces(NamedTuple):
    """Where the units of a layer are in its share of the state.

    Attributes:
        size: number c of states of each unit.
        num_units: number N of units.
        is_by_row: whether the states of a unit are next to each other, as in a row of a matrix.
            Otherwise the units of each of c arrays are next to each other.
    """

    size: int
    num_units: int
    is_by_row: bool

    @property
    def num_states(self) -> int:
        """Return the number of states of all units."""
        return self.size * self.num_units

    def cut(self, rows: Float[Array, "... n"]) -> Float[Array, "... c units"]:
        """Return what rows of the state hold of each unit."""
        if self.is_by_row:
            by_unit = rows.reshape(*rows.shape[:-1], self.num_units, self.size)
            return jnp.swapaxes(by_unit, -1, -2)
        return rows.reshape(*rows.shape[:-1], self.size, self.num_units)

    def join(self, units: Float[Array, "... c units"]) -> Float[Array, "... n"]:
        """Return rows of the state from what they hold of each unit."""
        if self.is_by_row:
            units = jnp.swapaxes(units, -1, -2)
        return units.reshape(*units.shape[:-2], self.num_states)

    def spread(self, blocks: Float[Array, "*before c c _"]) -> Float[Array, "*before n n"]:
        """Return the matrix that has the blocks of all units on its diagonal."""
        blocks = jnp.broadcast_to(blocks, (*blocks.shape[:-1], self.num_units))
        by_unit = jnp.eye(self.num_units, dtype=blocks.dtype)
        order = "uavb" if self.is_by_row else "aubv"
        matrix = jnp.einsum(f"...abu,uv->...{order}", blocks, by_unit)
        return matrix.reshape(*blocks.shape[:-3], self.num_states, self.num_states)


def places_of(declared: Any) -> tuple[UnitPlaces, ...]:
    """Return where the units of what is declared of a layer are: one place, or two of a border."""
    if isinstance(declared, BorderedIdentity):
        return UnitPlaces(1, declared.column.shape[0], True), UnitPlaces(1, 1, True)
    if isinstance(declared, RowBlocks):
        return (UnitPlaces(declared.block.shape[0], declared.num_rows, True),)
    return (UnitPlaces(declared.shape[0], declared.shape[2], False),)


def blocks_of(declared: Any) -> tuple[Array, ...]:
    """Return the blocks on the diagonal that belong to each of the places."""
    if isinstance(declared, BorderedIdentity):
        return declared.kept.reshape(1, 1, 1), declared.own.reshape(1, 1, 1)
    return (declared.block[..., None] if isinstance(declared, RowBlocks) else declared,)


def dense(declared: Any) -> Float[Array, "n n"]:
    """Return the whole matrix of what is declared of a layer."""
    if isinstance(declared, BorderedIdentity):
        eye = jnp.eye(len(declared.column) + 1, dtype=declared.column.dtype)
        return jax.vmap(partial(push, declared), out_axes=1)(eye)
    (blocks,), (places,) = blocks_of(declared), places_of(declared)
    return places.spread(blocks)


def push(declared: Any, vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return J v of what is declared of a layer."""
    if isinstance(declared, BorderedIdentity):
        last = vector[-1:]
        memory = declared.kept * vector[:-1] + declared.column * last
        return jnp.concatenate([memory, declared.own * last])
    (blocks,), (places,) = blocks_of(declared), places_of(declared)
    return places.join(jnp.sum(blocks * places.cut(vector)[None], axis=1))


def pull(declared: Any, vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return Jᵀ v of what is declared of a layer."""
    if isinstance(declared, BorderedIdentity):
        last = declared.own * vector[-1:] + declared.column @ vector[:-1]
        return jnp.concatenate([declared.kept * vector[:-1], last])
    (blocks,), (places,) = blocks_of(declared), places_of(declared)
    return places.join(jnp.sum(blocks * places.cut(vector)[:, None], axis=0))


def sum_log_abs_dets(layers: tuple[Array, ...], places: tuple[UnitPlaces, ...]) -> Float[Array, ""]:
    """Return log|det| of all blocks together, nats."""
    return jnp.sum(
        jnp.stack(
            [
                jnp.sum(_log_abs_dets(blocks)) * (place.num_units // blocks.shape[2])
                for blocks, place in zip(layers, places, strict=True)
            ]
        )
    )


def _log_abs_dets(blocks):
    if blocks.shape[0] == 1:
        return jnp.log(jnp.abs(blocks[0, 0]))
    if blocks.shape[0] == 2:
        (a, b), (c, d) = blocks
        return jnp.log(jnp.abs(a * d - b * c))
    return jnp.linalg.slogdet(jnp.moveaxis(blocks, -1, 0))[1]

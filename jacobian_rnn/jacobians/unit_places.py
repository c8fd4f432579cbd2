"""Where in the state units are that see themselves alone, and what their blocks are together."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


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

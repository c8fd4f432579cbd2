"""Cells of Equinox are found with what they receive, each use of a cell by itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobian_rnn.diagnosis import record_layers
from tests.networks import normal

eqx = pytest.importorskip("equinox")

pytestmark = pytest.mark.usefixtures("standard_promotion")


class BothWays(eqx.Module):
    """Runs one cell forwards and backwards over a sequence."""

    cell: Any

    def __call__(self, xs):
        def step(h, x):
            h = self.cell(x, h)
            return h, h

        start = jnp.zeros(4)
        return lax.scan(step, start, xs)[1], lax.scan(step, start + 1, xs[::-1])[1]


def test_both_uses_of_a_cell_are_layers_of_their_own():
    xs = normal(0, (3, 6, 2))
    model = BothWays(eqx.nn.GRUCell(2, 4, dtype=jnp.float64, key=jax.random.key(0)))
    forwards, backwards = record_layers(model, jnp.asarray(xs))
    np.testing.assert_array_equal(forwards.xs, xs)
    np.testing.assert_array_equal(backwards.xs, xs[:, ::-1])
    np.testing.assert_array_equal(backwards.carry, np.ones((3, 4)))
    assert (forwards.name, backwards.name) == ("cell (call 1 of 2)", "cell (call 2 of 2)")

"""Cells that a model calls in loops of its own, and layers that it calls with single sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn.diagnosis import record_layers

LENGTHS = np.array([12, 7, 9, 1])


class Loop(nn.Module):
    """A model that calls its cell in a loop of its own, `lax.scan` or `nn.scan` or Python."""

    kind: str

    @nn.compact
    def __call__(self, x, real=None):
        carry = (jnp.ones((len(x), 4)), jnp.zeros((len(x), 4)))
        if self.kind == "scan":
            scanned = nn.scan(
                nn.LSTMCell,
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=1,
                out_axes=1,
            )(4, param_dtype=float, name="cell")
            return scanned(carry, x)[1]
        kind = nn.remat(nn.LSTMCell) if self.kind == "remat" else nn.LSTMCell
        cell = kind(4, param_dtype=float, name="cell")
        for t in range(x.shape[1]):
            new, _ = cell(carry, x[:, t])
            if real is not None:
                keep = real[:, t, None]
                new = jax.tree.map(lambda a, b, keep=keep: jnp.where(keep, a, b), new, carry)
            carry = new
        return carry[1]


@pytest.mark.parametrize("kind", ["python", "scan", "remat"])
def test_cells_in_loops_of_the_model_are_found(kind):
    batch = np.random.default_rng(1).normal(size=(3, 5, 3))
    variables = Loop("python").init(jax.random.key(0), batch)
    (layer,) = record_layers(Loop(kind), batch, variables=variables)
    assert (layer.name, layer.kind) == ("cell", "LSTMCell of 4 units")
    np.testing.assert_array_equal(layer.xs, batch)
    np.testing.assert_array_equal(layer.carry[0], np.ones((3, 4)))
    np.testing.assert_array_equal(layer.carry[1], np.zeros((3, 4)))


def test_steps_in_which_a_loop_keeps_the_carry_are_padding():
    batch = np.random.default_rng(1).normal(size=(4, 12, 3))
    real = np.arange(12) < LENGTHS[:, None]
    variables = Loop("python").init(jax.random.key(0), batch)
    (layer,) = record_layers(
        Loop("python"), batch, variables=variables, call=lambda model, x: model(x, real)
    )
    np.testing.assert_array_equal(layer.seq_lengths, LENGTHS)
    for sequence, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(layer.xs[sequence, :length], batch[sequence, :length])
    # A sequence that waits in the last step alone looks like one that does not.
    assert "whether its last step is padding is not seen" in layer.notes[0]


class Changing(nn.Module):
    """A model that changes the carry of some sequences between two steps."""

    which: tuple

    @nn.compact
    def __call__(self, x):
        cell, carry = nn.GRUCell(4, param_dtype=float), jnp.zeros((len(x), 4))
        for t in range(x.shape[1]):
            carry, _ = cell(carry, x[:, t])
            carry = carry.at[jnp.array(self.which)].multiply(0.5)
        return carry


@pytest.mark.parametrize("which", [(0,), (0, 1, 2)])
def test_a_model_that_changes_the_carry_between_steps_is_refused(which):
    batch = np.ones((3, 5, 3))
    variables = Changing(which).init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=f"changes the carry of {len(which)} of 3 sequences"):
        record_layers(Changing(which), batch, variables=variables)


class OneAtATime(nn.Module):
    """A layer that is called with single sequences: by `nn.vmap`, or in a loop."""

    by_vmap: bool

    @nn.compact
    def __call__(self, batch):
        if self.by_vmap:
            lifted = nn.vmap(nn.RNN, variable_axes={"params": None}, split_rngs={"params": False})
            return lifted(nn.GRUCell(4, param_dtype=float), name="layer")(batch)
        layer = nn.RNN(nn.GRUCell(4, param_dtype=float), name="layer")
        return jnp.stack([layer(xs) for xs in batch])


@pytest.mark.parametrize("by_vmap", [True, False])
def test_sequences_that_come_one_at_a_time_are_a_batch(by_vmap):
    batch = np.random.default_rng(1).normal(size=(3, 5, 2))
    variables = OneAtATime(by_vmap).init(jax.random.key(0), batch)
    (layer,) = record_layers(OneAtATime(by_vmap), batch, variables=variables)
    np.testing.assert_array_equal(layer.xs, batch)
    assert layer.name == "layer"

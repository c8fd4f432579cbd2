"""What the tests of trained weights share: sizes, random states, a loop over layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

INPUTS, HIDDEN = 3, 5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def run(step, layers, state, xs):
    """Run layers of a hand-written step; return all states, each the states of all layers."""
    states = [np.concatenate([a for layer in state for a in layer])]
    for x in xs:
        new = []
        for layer, old in zip(layers, state, strict=True):
            new.append(step(*layer, x, old))
            x = new[-1][-1]
        state = new
        states.append(np.concatenate([a for layer in state for a in layer]))
    return np.array(states)


def random_state(rng, kind, num_layers):
    num_arrays = 2 if kind in ("lstm", "LSTM") else 1
    return [tuple(rng.normal(size=(num_arrays, HIDDEN))) for _ in range(num_layers)]


def as_carry(state):
    layers = tuple(tuple(layer) if len(layer) > 1 else layer[0] for layer in state)
    layers = jax.tree.map(jnp.asarray, layers)
    return layers if len(layers) > 1 else layers[0]


class Trap:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)

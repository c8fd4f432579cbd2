"""Blocks as networks use them: a norm, a recurrence, a gate and a sum with the input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from tests.networks import normal

WIDTH = 3
CELLS = {
    "gated_delta_net": lambda key: jrnn.gated_delta_net(WIDTH, 2, key=key, dtype=jnp.float64),
    "mlstm": lambda key: jrnn.mlstm(WIDTH, 2, key=key, dtype=jnp.float64),
    "lru": lambda key: jrnn.lru(WIDTH, 2, key=key, dtype=jnp.float64),
}


def deep(name, num_layers, **options):
    keys = jax.random.split(jax.random.key(0), 2 * num_layers).reshape(num_layers, 2)
    blocks = [jrnn.residual_block(CELLS[name](a), WIDTH, key=b, **options) for a, b in keys]
    return jrnn.stack(*blocks), jnp.asarray(normal(1, (6, WIDTH)))


@pytest.mark.parametrize("name", CELLS)
def test_a_stack_of_blocks_is_the_loop_over_layers_and_time(name):
    network, xs = deep(name, 2)
    shown = []
    carries = [layer[0] for layer in jrnn.zero_carry(network)]
    for x in np.asarray(xs):
        for layer, (step, params) in enumerate(
            zip(network.step.steps, network.params, strict=True)
        ):
            u = params["norm"] * x / np.sqrt(np.mean(x**2) + 1e-6)
            carries[layer] = step.inner(params["recurrence"], carries[layer], u)
            if name == "lru":
                r = np.concatenate(carries[layer])
            else:
                r = step.inner.read(params["recurrence"], carries[layer], u)
            gate = u @ params["gate"]
            x = x + (r * gate / (1 + np.exp(-gate))) @ params["output"]
        shown.append(x)
    carry = jrnn.zero_carry(network)
    for x, expected in zip(xs, shown, strict=True):
        carry = network.step(network.params, carry, x)
        np.testing.assert_allclose(network.output(carry), expected, atol=1e-13)


def test_units_of_blocks_are_those_of_their_recurrences_and_outputs_that_nobody_reads():
    network, xs = deep("gated_delta_net", 2)
    spectrum = jrnn.lyapunov_spectrum(network, jrnn.zero_carry(network), xs)
    assert int(jnp.sum(jnp.isneginf(spectrum.exponents))) == 2 * WIDTH
    carry, expected = jrnn.zero_carry(network), []
    products = [np.eye(2), np.eye(2)]
    for x in xs:
        for layer in range(2):
            block = network.unit_jacobians(network.params, carry, x)[2 * layer].block
            products[layer] = np.asarray(block) @ products[layer]
        carry = network.step(network.params, carry, x)
    expected = [2 * np.linalg.slogdet(one)[1] / len(xs) for one in products]
    found = spectrum.exponents[jnp.isfinite(spectrum.exponents)]
    assert float(jnp.sum(found)) == pytest.approx(sum(expected), abs=1e-12)


def test_the_gain_scales_what_a_block_adds():
    network, xs = deep("lru", 1)
    half, _ = deep("lru", 1, gain=0.5)
    whole, less = (
        one.output(one.step(one.params, jrnn.zero_carry(one), xs[0])) - xs[0]
        for one in (network, half)
    )
    np.testing.assert_allclose(less, 0.5 * whole, atol=1e-14)


def test_what_no_block_can_hold_is_refused():
    key, cell = jax.random.key(0), jrnn.lru(4, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="one that fails for an input of size 3"):
        jrnn.residual_block(cell, 3, key=key)
    with pytest.raises(ValueError, match="gain: received -1"):
        jrnn.residual_block(cell, 4, key=key, gain=-1)
    with pytest.raises(ValueError, match="whose carry its parameters do not tell"):
        jrnn.residual_block(jrnn.Recurrence(lambda p, c, x: c + p * x, jnp.ones(())), 4, key=key)
    with pytest.raises(TypeError, match="a Recurrence"):
        jrnn.residual_block(cell.step, 4, key=key)
    with pytest.raises(ValueError, match="output: received none"):
        jrnn.residual_block(jrnn.Recurrence(Two(), jnp.ones(())), 4, key=key)


@dataclasses.dataclass(frozen=True)
class Two:
    """A step with two arrays that says nothing of its output."""

    def __call__(self, params, carry, x):
        return jax.tree.map(lambda one: params * one + x[0], carry)

    def carry_like(self, params):
        return params * jnp.zeros(2), jnp.zeros(2)

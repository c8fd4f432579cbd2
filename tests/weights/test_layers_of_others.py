"""Layers of memax and recurrentgemma as they are, with their own calls as the oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    from_equinox,
    from_linen,
    jacobian_product,
    lyapunov_spectrum,
    rg_lru,
    s6,
    step_jacobians,
    trajectory,
)

UNITS, NUM_STEPS = 4, 6


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def randomized(tree):
    """Replace all arrays of a module or of variables."""
    generator = np.random.default_rng(0)

    def draw(leaf):
        is_array = isinstance(leaf, jax.Array)
        return jnp.asarray(0.5 * generator.normal(size=leaf.shape)) if is_array else leaf

    return jax.tree.map(draw, tree)


def step_of_rg_lru(layer, carry, x):
    # Position 0 would start a new document.
    position = jnp.ones((1, 1), jnp.int32)
    return layer(x[None, None], segment_pos=position, cache=carry[None])[1][0]


@pytest.fixture
def griffin_layer(standard_promotion):
    """Return a layer of recurrentgemma with random variables."""
    del standard_promotion
    layers = pytest.importorskip("recurrentgemma.jax.layers")
    layer = layers.RGLRU(width=UNITS, num_heads=2, only_real=True)
    # It holds its state in float32, whatever it is asked for.
    xs = normal(0, (1, NUM_STEPS, UNITS)).astype(jnp.float32)
    variables = layer.init(jax.random.key(0), xs, jnp.ones((1, NUM_STEPS), jnp.int32))
    return layer, jax.tree.map(lambda a: a.astype(jnp.float32), randomized(variables)), xs


def test_an_rg_lru_of_recurrentgemma_has_its_own_states_and_those_of_ours(griffin_layer):
    layer, variables, xs = griffin_layer
    network = from_linen(layer, variables, call=step_of_rg_lru)
    carry = normal(1, UNITS).astype(jnp.float32)
    states = trajectory(network, carry, xs[0])
    position = jnp.ones((1, NUM_STEPS), jnp.int32)
    whole, _ = layer.apply(variables, xs, position, carry[None])
    np.testing.assert_allclose(states[1:], whole[0], rtol=1e-5)

    params = variables["params"]
    ours = rg_lru(UNITS, UNITS, key=jax.random.key(0), num_blocks=2, largest_slope=1000.0)

    def gate(name):
        return {"kernel": params[name]["w"], "bias": params[name]["b"].ravel()}

    weights = {
        "embedding": {"kernel": jnp.eye(UNITS, dtype=jnp.float32)},
        "recurrence_gate": gate("a_gate"),
        "input_gate": gate("input_gate"),
        "decay": -params["a_param"],
    }
    ours = dataclasses.replace(ours, params=weights)
    np.testing.assert_allclose(trajectory(ours, carry, xs[0]), states, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        step_jacobians(ours, carry, xs[0]), step_jacobians(network, carry, xs[0]), rtol=1e-5
    )
    # What the gradient of a loss sees of the parameters, cut off in both.
    of_theirs = jax.grad(lambda v: jnp.sum(network.step(v, carry, xs[0, 0])))(variables)
    of_ours = jax.grad(lambda p: jnp.sum(ours.step(p, carry, xs[0, 0])))(weights)
    np.testing.assert_allclose(
        of_ours["decay"], -of_theirs["params"]["a_param"], rtol=1e-4, atol=1e-6
    )


def test_a_new_rg_lru_of_recurrentgemma_forgets_eight_times_as_fast_as_in_the_paper(
    griffin_layer,
):
    layer, _, _ = griffin_layer
    wide = layer.clone(width=2000, num_heads=1000)
    sequence = jnp.zeros((1, 1, 2000))
    variables = wide.init(jax.random.key(0), sequence, jnp.ones((1, 1), jnp.int32))
    opened = jnp.exp(-8 * jax.nn.softplus(variables["params"]["a_param"]))
    np.testing.assert_allclose([jnp.min(opened), jnp.max(opened)], [0.9**8, 0.999**8], atol=2e-3)
    network = rg_lru(1, 2000, key=jax.random.key(0), num_blocks=2000, dtype=jnp.float64)
    ours = jax.nn.sigmoid(network.params["decay"]) ** 8
    np.testing.assert_allclose([jnp.min(ours), jnp.max(ours)], [0.9, 0.999], atol=2e-3)


def step_of_semigroup(layer, carry, x):
    action, _ = layer.forward_map((x, jnp.zeros((), bool)))
    ones = jnp.ones_like(carry)
    return layer.algebra.algebra((ones, carry), action)[1]


def step_of_action(layer, carry, x):
    action, _ = layer.forward_map((x, jnp.zeros((), bool)))
    return layer.algebra.algebra(carry, action)


def test_an_s6_of_memax_is_ours_with_one_state_a_channel(standard_promotion):
    del standard_promotion
    equinox = pytest.importorskip("equinox")
    semigroups = pytest.importorskip("memax.equinox.semigroups.s6")
    layer = randomized(semigroups.S6(UNITS, UNITS, key=jax.random.key(0)))
    # There each channel has a B of its own, with a bias. In Mamba all channels share one.
    shared, none = jnp.tile(layer.B.weight[:1], (UNITS, 1)), jnp.zeros(UNITS)
    layer = equinox.tree_at(lambda m: (m.B.weight, m.B.bias), layer, (shared, none))
    theirs = from_equinox(layer, call=step_of_semigroup)
    of_step = layer.dt.layers[0]
    weights = {
        "embedding": {"kernel": jnp.eye(UNITS)},
        "step_down": {"kernel": jnp.eye(UNITS)},
        "step_up": {"kernel": of_step.weight.T, "bias": of_step.bias},
        "input": {"kernel": shared[:1].T},
        "log_decay": layer.A_log[:, None],
    }
    ours = s6(UNITS, UNITS, key=jax.random.key(0), num_states=1, rank=UNITS, dtype=jnp.float64)
    ours = dataclasses.replace(ours, params=weights)
    carry, xs = normal(1, UNITS), normal(2, (NUM_STEPS, UNITS))
    for measure in (trajectory, step_jacobians):
        np.testing.assert_allclose(
            measure(ours, carry[:, None], xs), measure(theirs, carry, xs), rtol=1e-11, atol=1e-14
        )


def test_a_gru_of_memax_has_its_own_states(standard_promotion):
    del standard_promotion
    actions = pytest.importorskip("memax.equinox.set_actions.gru")
    layer = randomized(actions.GRU(UNITS, key=jax.random.key(0)))
    network = from_equinox(layer, call=step_of_action)
    carry, xs = normal(1, UNITS), normal(2, (NUM_STEPS, UNITS))
    states = [carry]
    for x in xs:
        states.append(layer.algebra.algebra(states[-1], x))
    np.testing.assert_allclose(trajectory(network, carry, xs), jnp.stack(states), rtol=1e-12)
    spectrum = lyapunov_spectrum(network, carry, normal(3, (100, UNITS)))
    assert float(spectrum.sum_rule_residual) < 1e-10


def test_a_linen_s6_of_memax_multiplies_its_gates(standard_promotion):
    del standard_promotion
    semigroups = pytest.importorskip("memax.linen.semigroups.s6")
    layer = semigroups.S6(
        algebra=semigroups.S6.default_algebra(recurrent_size=UNITS),
        scan=semigroups.S6.default_scan(),
        hidden_size=UNITS,
        recurrent_size=UNITS,
    )
    carry, xs = jnp.zeros(UNITS), normal(2, (100, UNITS))
    variables = layer.init(jax.random.key(0), carry, xs[0], method=step_of_semigroup)
    variables = randomized(variables)
    network = from_linen(layer, variables, call=step_of_semigroup)
    product = jacobian_product(network, carry, xs)
    params = variables["params"]
    dense = params["dt"]["layers_0"]
    steps = jax.nn.softplus(xs @ dense["kernel"] + dense["bias"][None])
    logs = -jnp.sum(steps, axis=0) * jnp.exp(params["A_log"])
    np.testing.assert_allclose(product.log_singular_values(), -jnp.sort(-logs), rtol=1e-10)


def test_a_call_that_is_no_function_is_refused():
    cell, variables = nn.GRUCell(2), {"params": {}}
    with pytest.raises(TypeError, match=r"call: received 'step', expected a function"):
        from_linen(cell, variables, call="step")  # pyright: ignore[reportArgumentType]

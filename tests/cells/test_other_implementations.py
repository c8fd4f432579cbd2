"""Matrix memories against the code that others train, with the same weights."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jacobian_rnn as jrnn
from jacobian_rnn.cells._own_cells import OWN_LAYERS
from tests.networks import normal

NUM_INPUTS, WIDTH = 3, 4


def made(draw, seed=0, **options):
    """Draw a cell with changed parameters, a carry after a step, and inputs."""
    network = draw(NUM_INPUTS, WIDTH, key=jax.random.key(seed), dtype=jnp.float64, **options)
    params, unravel = ravel_pytree(network.params)
    params = unravel(params + normal(seed + 1, params.shape))
    network = dataclasses.replace(network, params=params)
    xs = jnp.asarray(normal(seed + 2, (9, NUM_INPUTS)))
    carry = network.step(network.params, jrnn.zero_carry(network), xs[0])
    return network, carry, xs[1:]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def along(network, carry, xs, torch, step):
    """Compare states and Jacobians of all steps with those of a step in PyTorch."""
    jacobians = jrnn.step_jacobians(network, carry, xs)
    states = jrnn.trajectory(network, carry, xs)
    for now, new, x, jacobian in zip(states, states[1:], xs, jacobians, strict=False):
        here = torch.tensor(np.asarray(now))
        of_step = partial(step, x)
        np.testing.assert_allclose(new, of_step(here).numpy(), rtol=1e-11, atol=1e-12)
        expected = torch.autograd.functional.jacobian(of_step, here)
        np.testing.assert_allclose(jacobian, expected.numpy(), rtol=1e-10, atol=1e-11)


def test_slstm_and_its_jacobian_are_those_of_xlstm(torch):
    theirs = pytest.importorskip("xlstm.blocks.slstm.src.vanilla.slstm")
    network, carry, xs = made(partial(jrnn.slstm, gain=1.0))
    weights = OWN_LAYERS.read(network.params, 4)
    inputs, recurrent, biases = (
        torch.tensor(np.concatenate(part, axis=-1))
        for part in (weights.inputs, weights.recurrent, weights.biases)
    )

    def step(x, state):
        c, n, m, h = state.reshape(4, 1, WIDTH)
        seen = torch.tensor(np.asarray(x))[None] @ inputs, h @ recurrent, biases[None]
        h, c, n, m = theirs.slstm_forward_pointwise(*seen, torch.stack([h, c, n, m]), {})[0]
        return torch.cat([c, n, m, h], dim=1)[0]

    along(network, carry, xs, torch, step)


def test_mlstm_and_its_jacobian_are_those_of_xlstm(torch):
    theirs = pytest.importorskip("xlstm.blocks.mlstm.backends")
    network, carry, xs = made(jrnn.mlstm)

    def as_tensor(name, x, *shape):
        layer = network.params[name]
        return torch.tensor(np.asarray(x @ layer["kernel"] + layer["bias"])).reshape(1, 1, *shape)

    def moved(x, state):
        c, n, m = state[: WIDTH**2], state[WIDTH**2 : -1], state[-1]
        c = c.reshape(1, 1, WIDTH, WIDTH).transpose(-1, -2)  # keys first
        vectors = (as_tensor(name, x, 1, WIDTH) for name in ("query", "key", "value"))
        gates = (as_tensor(name, x, 1, 1) for name in ("write", "forget"))
        n, m = n.reshape(1, 1, WIDTH, 1), m.reshape(1, 1, 1, 1)
        return theirs.recurrent_step_stabilized_simple(c, n, m, *vectors, *gates, eps=0.0)

    def step(x, state):
        c, n, m = moved(x, state)[1]
        return torch.cat([c.transpose(-1, -2).flatten(), n.flatten(), m.flatten()])

    along(network, carry, xs, torch, step)
    state = torch.tensor(np.asarray(ravel_pytree(carry)[0]))
    shown = network.step.read(network.params, network.step(network.params, carry, xs[0]), xs[0])
    gate = jax.nn.sigmoid(
        xs[0] @ network.params["output"]["kernel"] + network.params["output"]["bias"]
    )
    np.testing.assert_allclose(shown, gate * moved(xs[0], state)[0].flatten().numpy(), rtol=1e-11)


def test_mlstm_reads_what_the_layer_of_xlstm_computes_for_all_steps_at_once(torch):
    cell_of = pytest.importorskip("xlstm.blocks.mlstm.cell")
    theirs = pytest.importorskip("xlstm.blocks.mlstm.backends")
    torch.manual_seed(0)
    size = {"context_length": 9, "embedding_dim": WIDTH, "num_heads": 1}
    layer = cell_of.mLSTMCell(cell_of.mLSTMCellConfig(**size)).double()
    layer.outnorm = torch.nn.Identity()
    layer.backend_fn = partial(theirs.parallel_stabilized_simple, eps=0.0)
    torch.nn.init.normal_(layer.igate.weight)
    torch.nn.init.normal_(layer.fgate.weight)
    network, _, xs = made(jrnn.mlstm)
    params = dict(network.params)
    seen = {name: xs @ params[name]["kernel"] for name in ("query", "key", "value")}
    # The gates of the layer read q, k and v, which are linear in the input.
    of_input = jnp.concatenate([params[name]["kernel"] for name in seen], axis=1)
    for name, gate in {"write": layer.igate, "forget": layer.fgate}.items():
        weight, bias = (jnp.asarray(one.detach().numpy())[0] for one in (gate.weight, gate.bias))
        params[name] = {"kernel": of_input @ weight, "bias": bias}
    for name in seen:
        params[name] = params[name] | {"bias": jnp.zeros(WIDTH)}
    params["output"] = {"kernel": jnp.zeros((NUM_INPUTS, WIDTH)), "bias": jnp.full(WIDTH, 60.0)}
    with torch.no_grad():
        expected = layer(*(torch.tensor(np.asarray(one))[None] for one in seen.values()))[0]
    carry = jrnn.zero_carry(network)
    for x, theirs_now in zip(xs, expected.numpy(), strict=True):
        carry = network.step(params, carry, x)
        np.testing.assert_allclose(network.step.read(params, carry, x), theirs_now, rtol=1e-9)


def test_the_delta_rule_is_that_of_memax_as_a_scan(standard_promotion):
    del standard_promotion
    delta = pytest.importorskip("memax.equinox.semigroups.delta")
    network, _, xs = made(jrnn.gated_delta_net)
    decay, left, right, values, writes = jax.vmap(lambda x: network.step.gates(network.params, x))(
        xs
    )
    # Their memory has a row for each key: (M, b vᵀ) in place of (M, v bᵀ).
    moves = jax.vmap(lambda *one: jnp.diag(one[0]) - jnp.outer(one[2], one[1]))(decay, left, right)
    elements = moves, jax.vmap(jnp.outer)(writes, values)
    rule = delta.DeltaNetSemigroup(WIDTH)
    _, memories = jax.lax.associative_scan(jax.vmap(rule), elements)
    states = jrnn.trajectory(network, jrnn.zero_carry(network), xs)[1:]
    expected = jnp.swapaxes(memories, 1, 2).reshape(len(xs), -1)
    np.testing.assert_allclose(states, expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")  # it is made for GPUs and says so
def test_delta_rules_are_those_of_flash_linear_attention(torch):
    gated = pytest.importorskip("fla.ops.gated_delta_rule.naive")
    general = pytest.importorskip("fla.ops.generalized_delta_rule.dplr.naive")

    def of_gates(one):  # a batch of one, and one head
        return torch.tensor(np.asarray(one))[None, :, None]

    network, _, xs = made(jrnn.gated_delta_net)
    decay, _, keys, values, writes = map(
        np.asarray, jax.vmap(lambda x: network.step.gates(network.params, x))(xs)
    )
    rates, logs = np.linalg.norm(writes, axis=1), np.log(decay[:, 0])
    arguments = map(of_gates, (keys, keys, values, rates, logs))
    memory = gated.naive_recurrent_gated_delta_rule(*arguments, output_final_state=True)[1]
    expected = memory[0, 0].numpy().T  # keys first, in float32
    last = jrnn.trajectory(network, jrnn.zero_carry(network), xs)[-1]
    np.testing.assert_allclose(last.reshape(WIDTH, WIDTH), expected, atol=1e-5)

    network, _, xs = made(jrnn.rwkv7)
    decay, left, right, values, writes = map(
        np.asarray, jax.vmap(lambda x: network.step.gates(network.params, x))(xs)
    )
    vectors = (writes, writes, values, -left, right, np.log(decay))
    arguments = (torch.tensor(one, dtype=torch.float32)[None, None] for one in vectors)
    memory = general.dplr_recurrence(*arguments)[1]
    last = jrnn.trajectory(network, jrnn.zero_carry(network), xs)[-1]
    expected = memory[0, 0].numpy().T
    np.testing.assert_allclose(last.reshape(WIDTH, WIDTH), expected, rtol=1e-5, atol=1e-4)

"""xLSTM: what the stabilised cells compute, and their Jacobians through the stabiliser."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jacobian_rnn as jrnn
from jacobian_rnn.cells._own_cells import OWN_LAYERS
from jacobian_rnn.cells.closed_form import pre_activations
from jacobian_rnn.jacobians.system import bind
from tests.networks import normal

CELLS = {
    "mlstm": lambda *sizes, **options: jrnn.mlstm(*sizes, num_keys=3, **options),
    "slstm": lambda *sizes, **options: jrnn.slstm(*sizes, gain=1.0, **options),
}
NUM_INPUTS, NUM_UNITS = 3, 2
every_cell = pytest.mark.parametrize("name", CELLS)
every_gate = pytest.mark.parametrize("forget", ["sigmoid", "exp"])


def made(name, forget="sigmoid", num_steps=10, size=0.5, seed=0):
    """Draw a cell with changed parameters, a carry after a step, and inputs."""
    network = CELLS[name](
        NUM_INPUTS, NUM_UNITS, forget=forget, key=jax.random.key(seed), dtype=jnp.float64
    )
    params, unravel = ravel_pytree(network.params)
    params = unravel(params + size * normal(seed + 1, params.shape))
    # With these, sometimes the memory is larger and sometimes the input.
    if name == "mlstm":
        params["forget"]["bias"] = jnp.full((), -0.5)
        params["write"]["kernel"] = 4 * params["write"]["kernel"]
    else:
        bias = params["recurrent"]["bias"]
        params["recurrent"]["bias"] = bias.at[NUM_UNITS : 2 * NUM_UNITS].set(-0.5)
    network = dataclasses.replace(network, params=params)
    xs = jnp.asarray(normal(seed + 2, (num_steps + 1, NUM_INPUTS)))
    carry = network.step(network.params, jrnn.zero_carry(network), xs[0])
    return network, carry, xs[1:]


def shares(network, carry, xs):
    """Return ∂m'/∂m of every step, in units of what the stabiliser is for."""
    shares = []
    for x in xs:
        shares.append(np.asarray(network.jacobian.parts(network.params, carry, x).share))
        carry = network.step(network.params, carry, x)
    return np.stack(shares)


@every_cell
@every_gate
def test_the_closed_form_is_the_derivative_of_the_step(name, forget):
    network, carry, xs = made(name, forget, num_steps=12)
    seen = shares(network, carry, xs)
    assert {0.0, 1.0} <= set(seen.ravel())  # both branches of the maximum

    @jax.jit
    def differentiate(carry, x):
        system = bind(network, carry, x[None])
        forward, of_input = jax.jacfwd(system.step, argnums=(0, 1))(system.state, x)
        return forward, jax.jacrev(system.step)(system.state, x), of_input

    for x in xs:
        forward, reverse, of_input = differentiate(carry, x)
        parts = network.jacobian.parts(network.params, carry, x)
        rows = normal(9, (4, len(forward)))
        for ours, expected in (
            (parts.dense(), forward),
            (parts.dense(), reverse),
            (parts.dense_input(), of_input),
            (parts.push(rows), rows @ forward.T),
            (parts.pull(rows), rows @ forward),
            (parts.push_input(rows[:, :NUM_INPUTS]), rows[:, :NUM_INPUTS] @ of_input.T),
            (parts.pull_input(rows), rows @ of_input),
        ):
            np.testing.assert_allclose(ours, expected, atol=1e-12)
        carry = network.step(network.params, carry, x)


@every_cell
def test_the_closed_form_halves_a_tie_of_the_maximum_as_jax_does(name):
    network, carry, xs = made(name, "exp")
    # Without weights on the gates, log f + m is 2 and so is ĩ.
    params = jax.tree.map(jnp.zeros_like, network.params)
    if name == "mlstm":
        params["write"]["bias"] = jnp.full((), 2.0)
        carry = (*carry[:2], jnp.full((), 2.0))
    else:
        params["recurrent"]["bias"] = params["recurrent"]["bias"].at[:NUM_UNITS].set(2.0)
        carry = (*carry[:2], jnp.full(NUM_UNITS, 2.0), carry[3])
    network = dataclasses.replace(network, params=params)
    assert set(shares(network, carry, xs[:1]).ravel()) == {0.5}
    ours, *others = (
        jrnn.step_jacobians(network, carry, xs[:1], method=method)
        for method in ("closed_form", "forward", "reverse")
    )
    for other in others:
        np.testing.assert_allclose(ours, other, atol=1e-12)


@every_cell
@every_gate
def test_what_differs_in_scale_alone_stays_so_until_an_input_outgrows_it(name, forget):
    network, carry, xs = made(name, forget, num_steps=40)

    def scale(carry):
        memory, normalizer, stabilizer, *h = carry
        return -memory, -normalizer, jnp.ones_like(stabilizer), *map(jnp.zeros_like, h)

    same, forgotten = 0, 0
    for x in xs:
        parts = network.jacobian.parts(network.params, carry, x)
        new = network.step(network.params, carry, x)
        if name == "mlstm" or bool(jnp.all(parts.share == parts.share[0])):
            row, expected = (ravel_pytree(scale(one))[0] for one in (carry, new))
            share = float(jnp.ravel(parts.share)[0])
            np.testing.assert_allclose(parts.push(row[None])[0], share * expected, atol=1e-12)
            same, forgotten = same + (share == 1), forgotten + (share == 0)
        log_det = float(parts.log_abs_det())
        if bool(jnp.all(parts.share == 1)):
            assert log_det == pytest.approx(np.linalg.slogdet(parts.dense())[1], abs=1e-10)
        else:
            assert log_det == -math.inf
            assert abs(np.linalg.det(parts.dense())) < 1e-15
        carry = new
    assert same
    assert forgotten


def quadratic_form(params, xs, forget):
    """Compute h of the whole sequence from all pairs of steps, each row stabilised by itself."""

    def layer(name):
        return jax.vmap(lambda x: x @ params[name]["kernel"] + params[name]["bias"])(xs)

    keys, values, queries = (layer(name) for name in ("key", "value", "query"))
    log_forget = jax.nn.log_sigmoid(layer("forget")) if forget == "sigmoid" else layer("forget")
    logs = jnp.cumsum(log_forget)
    gates = logs[:, None] - logs[None] + layer("write")[None]
    gates = jnp.where(jnp.tri(len(xs)) > 0, gates, -jnp.inf)
    largest = jnp.max(gates, axis=1)
    weights = queries @ keys.T / math.sqrt(keys.shape[1]) * jnp.exp(gates - largest[:, None])
    size = jnp.maximum(jnp.abs(jnp.sum(weights, axis=1)), jnp.exp(-largest))
    return jax.nn.sigmoid(layer("output")) * (weights @ values) / size[:, None]


def readings(network, params, xs):
    def step(carry, x):
        carry = network.step(params, carry, x)
        return carry, network.step.read(params, carry, x)

    return jax.lax.scan(step, jrnn.zero_carry(network), xs)[1]


@every_gate
@pytest.mark.parametrize("size", [0.5, 50.0])
def test_mlstm_reads_what_the_quadratic_form_of_the_whole_sequence_gives(forget, size):
    network, _, xs = made("mlstm", forget, num_steps=30)
    gates = {name: jax.tree.map(lambda a: size * a, network.params[name]) for name in ("write",)}
    params = network.params | gates
    expected = quadratic_form(params, xs, forget)
    np.testing.assert_allclose(readings(network, params, xs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [0.5, 20.0])
def test_gradients_through_the_stabiliser_are_those_of_the_quadratic_form(size):
    network, _, xs = made("mlstm", num_steps=12)
    write = jax.tree.map(lambda a: size * a, network.params["write"])
    params = network.params | {"write": write}
    weights = jnp.asarray(normal(7, (12, NUM_UNITS)))
    through_time = jax.grad(lambda p: jnp.sum(weights * readings(network, p, xs)))(params)
    at_once = jax.grad(lambda p: jnp.sum(weights * quadratic_form(p, xs, "sigmoid")))(params)
    for ours, expected in zip(*map(jax.tree.leaves, (through_time, at_once)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)


@every_gate
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_slstm_shows_what_its_gates_give_without_a_stabiliser_and_with_more_digits(forget, size):
    network, _, xs = made("slstm", forget)
    bias = network.params["recurrent"]["bias"].at[: 2 * NUM_UNITS].multiply(size)
    recurrent = network.params["recurrent"] | {"bias": bias}
    network = dataclasses.replace(network, params=network.params | {"recurrent": recurrent})
    carry, h = jrnn.zero_carry(network), jnp.zeros(NUM_UNITS)
    memory = [(mpmath.mpf(0), mpmath.mpf(0))] * NUM_UNITS
    with mpmath.workdps(40):
        for x in xs:
            carry = network.step(network.params, carry, x)
            gates = pre_activations(OWN_LAYERS.read(network.params, 4), h, x)
            shown = []
            for unit, (i, f, z, o) in enumerate(np.stack(gates, axis=1).tolist()):
                i, f, z, o = map(mpmath.mpf, (i, f, z, o))
                forgets = mpmath.exp(f) if forget == "exp" else 1 / (1 + mpmath.exp(-f))
                c, n = (forgets * one for one in memory[unit])
                memory[unit] = c + mpmath.exp(i) * mpmath.tanh(z), n + mpmath.exp(i)
                shown.append(float(memory[unit][0] / memory[unit][1] / (1 + mpmath.exp(-o))))
            h = jnp.array(shown)
            np.testing.assert_allclose(carry[3], h, rtol=1e-11)


def test_published_starting_values():
    params = jrnn.mlstm(5, 4, key=jax.random.key(0)).params
    assert float(params["forget"]["bias"]) == 3
    assert not any(np.any(params[name]["kernel"]) for name in ("write", "forget"))
    wide = jrnn.mlstm(100, 100, key=jax.random.key(0), dtype=jnp.float64).params
    assert float(jnp.std(wide["key"]["kernel"])) == pytest.approx(math.sqrt(0.004), rel=0.03)
    keys = jax.random.split(jax.random.key(0), 60)
    drawn = jax.vmap(lambda key: jrnn.mlstm(1, 1, key=key).params["write"]["bias"])(keys)
    assert 0.07 < float(jnp.std(drawn)) < 0.13
    params = jrnn.slstm(5, 4, key=jax.random.key(0), dtype=jnp.float64).params
    biases = np.split(params["recurrent"]["bias"], 4)
    np.testing.assert_allclose([biases[1][0], biases[1][-1]], [5, -7], atol=1e-12)
    assert not np.any(np.concatenate([biases[0], *biases[2:]]))
    assert not np.any(params["recurrent"]["kernel"])
    kernel = jrnn.slstm(5, 100, key=jax.random.key(0), gain=2.0).params["recurrent"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(0.2, rel=0.03)


def test_gains_and_biases_of_an_slstm_change_by_gate():
    network, _, _ = made("slstm")
    changed = jrnn.with_gate_bias(jrnn.with_gain(network, 2.0), "forget", 1.5).params["recurrent"]
    kept = network.params["recurrent"]
    np.testing.assert_allclose(changed["kernel"], 2 * kept["kernel"])
    np.testing.assert_allclose(changed["bias"], kept["bias"].at[2:4].set(1.5))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda key: jrnn.mlstm(0, 3, key=key), ValueError, "num_inputs: received 0"),
        (lambda key: jrnn.mlstm(2, 3, key=key, num_keys=0), ValueError, "num_keys: received 0"),
        (lambda key: jrnn.mlstm(2, 3, key=key, forget="relu"), ValueError, "'sigmoid', 'exp'"),
        (lambda key: jrnn.slstm(2, 3, key=key, gain=-1), ValueError, "gain: received -1"),
        (lambda key: jrnn.slstm(2, 3, key=key, forget="relu"), ValueError, "'sigmoid', 'exp'"),
        (lambda key: jrnn.slstm(2, 2.5, key=key), TypeError, "num_units: received 2.5"),
    ],
)
def test_bad_sizes_and_gates_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make(jax.random.key(0))

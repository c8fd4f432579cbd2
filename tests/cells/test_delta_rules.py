"""Matrix memories with a delta rule: their equations, Jacobians and the block that rows share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jacobian_rnn as jrnn
from jacobian_rnn.cells.delta_rule_jacobian import DeltaRuleJacobian
from jacobian_rnn.jacobians.system import bind
from tests.networks import mostly_slow, normal

CELLS = {"gated_delta_net": jrnn.gated_delta_net, "rwkv7": jrnn.rwkv7}
NUM_INPUTS = 3
every_cell = pytest.mark.parametrize("name", CELLS)
# The block of RWKV-7 is not symmetric.
one_quickly = pytest.mark.parametrize("name", mostly_slow(CELLS, ["rwkv7"]))


def made(name, num_values, num_keys, num_steps=8, seed=0, **options):
    """Draw a cell with changed parameters, a random memory and inputs."""
    network = CELLS[name](
        NUM_INPUTS,
        num_values,
        num_keys=num_keys,
        key=jax.random.key(seed),
        dtype=jnp.float64,
        **options,
    )
    params, unravel = ravel_pytree(network.params)
    params = unravel(params + 0.3 * normal(seed + 1, params.shape))
    memory = jnp.asarray(normal(seed + 2, (num_values, num_keys)))
    xs = jnp.asarray(normal(seed + 3, (num_steps, NUM_INPUTS)))
    return dataclasses.replace(network, params=params), memory, xs


def gates_of(network, xs):
    return map(np.asarray, jax.vmap(lambda x: network.step.gates(network.params, x))(xs))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def silu(a):
    return a * sigmoid(a)


@every_cell
@pytest.mark.parametrize("sizes", [(3, 2), (1, 1), (2, 5)])
def test_the_closed_form_is_the_derivative_of_the_step(name, sizes):
    network, memory, xs = made(name, *sizes)
    system = bind(network, memory, xs)
    forward, of_input = jax.jacfwd(system.step, argnums=(0, 1))(system.state, xs[0])
    reverse = jax.jacrev(system.step)(system.state, xs[0])
    parts = network.jacobian.parts(network.params, memory, xs[0])
    rows = normal(9, (4, system.num_states))
    for ours, expected in (
        (parts.dense(), forward),
        (parts.dense(), reverse),
        (parts.dense_input(), of_input),
        (parts.push(rows), rows @ forward.T),
        (parts.pull(rows), rows @ forward),
        (parts.pull_input(rows), rows @ of_input),
        (parts.log_abs_det(), np.linalg.slogdet(forward)[1]),
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("num_lost", [0, 1, 2, 4])
def test_the_determinant_knows_keys_of_which_nothing_is_kept(num_lost):
    """Large inputs let a decay underflow to zero."""
    decay = jnp.abs(jnp.asarray(normal(0, 4))).at[:num_lost].set(0)
    vectors = (jnp.asarray(normal(seed, 4)) for seed in (1, 2))
    parts = DeltaRuleJacobian(jnp.zeros((3, 4)), decay, *vectors, jnp.zeros(3), jnp.zeros(4), ())
    expected = -np.inf if num_lost > 1 else np.linalg.slogdet(parts.dense())[1]
    np.testing.assert_allclose(parts.log_abs_det(), expected, atol=1e-12)


def test_the_step_of_gated_delta_net_is_the_published_equation():
    network, memory, xs = made("gated_delta_net", 4, 2, largest_rate=1.5)
    p, memory, x = jax.tree.map(np.asarray, (network.params, memory, xs[0]))
    key, query = (silu(x @ p[name]["kernel"]) for name in ("key", "query"))
    key, query = (one / np.linalg.norm(one) for one in (key, query))
    value, rate = silu(x @ p["value"]["kernel"]), 1.5 * sigmoid(x @ p["rate"]["kernel"])
    wait = np.log1p(np.exp(x @ p["decay"]["kernel"] + p["decay"]["bias"]))
    kept = np.exp(-np.exp(p["decay"]["log_speed"]) * wait)
    expected = kept * memory @ (np.eye(2) - rate * np.outer(key, key)) + rate * np.outer(value, key)
    new = network.step(network.params, memory, x)
    np.testing.assert_allclose(new, expected, atol=1e-14)
    np.testing.assert_allclose(network.step.read(p, new, x), expected @ query, atol=1e-14)


def test_the_step_of_rwkv7_is_the_published_equation():
    network, memory, xs = made("rwkv7", 4, 3, rank=2)
    p, memory, x = jax.tree.map(np.asarray, (network.params, memory, xs[0]))
    d, a = p["decay"], p["rate"]
    kept = np.exp(-np.exp(-0.5) * sigmoid(d["bias"] + np.tanh(x @ d["down"]) @ d["up"]))
    rate = sigmoid(a["bias"] + x @ a["down"] @ a["up"])
    key, value = (x @ p[name]["kernel"] for name in ("key", "value"))
    removed = p["removal"] * key / np.linalg.norm(p["removal"] * key)
    written = key * ((1 - p["replacement"]) + p["replacement"] * rate)  # from 1 towards the rate
    expected = memory @ (np.diag(kept) - np.outer(removed, rate * removed))
    expected = expected + np.outer(value, written)
    new = network.step(network.params, memory, x)
    np.testing.assert_allclose(new, expected, atol=1e-14)
    receptance = x @ p["receptance"]["kernel"]
    np.testing.assert_allclose(network.step.read(p, new, x), expected @ receptance, atol=1e-14)


def test_steps_are_the_triangular_system_of_the_whole_sequence():
    """What is written is a solution of (I + tril(diag β (Γ ∘ K Kᵀ), −1)) U = diag β V."""
    network, _, xs = made("gated_delta_net", 4, 3, num_steps=12, largest_rate=2.0)
    decay, _, keys, values, writes = gates_of(network, xs)
    rates = np.linalg.norm(writes, axis=1)
    logs = np.cumsum(np.log(decay[:, 0]))
    kept = np.tril(np.exp(logs[:, None] - logs[None]))
    overlap = np.tril(rates[:, None] * kept * (keys @ keys.T), -1)
    written = np.linalg.solve(np.eye(12) + overlap, rates[:, None] * values)
    expected = np.einsum("ts,sv,sk->tvk", kept, written, keys).reshape(12, -1)
    states = jrnn.trajectory(network, jrnn.zero_carry(network), xs)[1:]
    np.testing.assert_allclose(states, expected, atol=1e-12)


def test_steps_of_rwkv7_are_the_triangular_system_of_the_whole_sequence():
    network, _, xs = made("rwkv7", 4, 3, num_steps=12)
    decay, removed, rates, values, writes = gates_of(network, xs)
    logs = np.cumsum(np.log(decay), axis=0)
    kept = np.exp(logs[:, None] - logs[None]) * np.tri(12)[..., None]  # from after s to after t
    before = np.concatenate([np.zeros((1, 12, 3)), kept[:-1]])  # to before t
    of_writes = np.einsum("tsk,sk,tk->ts", before, writes, removed)
    of_removals = np.einsum("tsk,sk,tk->ts", before, rates, removed)
    found = np.linalg.solve(np.eye(12) + of_removals, of_writes @ values)
    expected = np.einsum("tsk,sv,sk->tvk", kept, values, writes)
    expected = expected - np.einsum("tsk,sv,sk->tvk", kept, found, rates)
    states = jrnn.trajectory(network, jrnn.zero_carry(network), xs)[1:]
    np.testing.assert_allclose(states, expected.reshape(12, -1), atol=1e-12)


@one_quickly
def test_products_of_one_block_are_those_of_whole_jacobians(name):
    network, memory, xs = made(name, 3, 2, num_steps=16)
    plain = dataclasses.replace(network, unit_jacobians=None)
    product, whole = (jrnn.jacobian_product(one, memory, xs) for one in (network, plain))
    values = whole.log_singular_values()
    np.testing.assert_allclose(product.log_singular_values(), values, atol=1e-10)
    np.testing.assert_allclose(product.dense()[0], whole.dense()[0], atol=1e-10)
    rows = jnp.asarray(normal(5, (2, 6)))
    for method, arguments in {
        "log_rms_growth": (),
        "log_norm": (),
        "log_abs_det": (),
        "log_growth_through": (rows,),
        "log_adjoint_growth": (rows[0],),
    }.items():
        ours, theirs = (getattr(one, method)(*arguments) for one in (product, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-10, err_msg=method)
    assert float(product.log_error) < 1e-9
    # The product is I ⊗ B, with the product B of the blocks of all steps.
    block = np.eye(2)
    for decay, left, right, _, _ in zip(*gates_of(network, xs), strict=True):
        block = (np.diag(decay) - np.outer(right, left)) @ block
    expected = np.repeat(np.log(np.linalg.svd(block)[1]), 3)
    np.testing.assert_allclose(values, expected, atol=1e-10)
    later = jrnn.jacobian_product(network, memory, xs[7:])
    both = later @ jrnn.jacobian_product(network, memory, xs[:7])  # pyright: ignore[reportOperatorIssue]
    np.testing.assert_allclose(both.log_singular_values(), values, atol=1e-10)
    with pytest.raises(TypeError, match="unsupported operand"):
        later @ jrnn.jacobian_product(plain, memory, xs[:7])  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    by_lag = [
        jrnn.log_singular_values_by_lag(one, memory, xs, lags=[0, 7]) for one in (network, plain)
    ]
    np.testing.assert_allclose(*by_lag, atol=1e-10)


@one_quickly
def test_exponents_of_one_block_are_those_of_whole_jacobians_in_the_long_run(name):
    network, memory, xs = made(name, 2, 2, num_steps=2000)
    spectrum = jrnn.lyapunov_spectrum(network, memory, xs)
    plain = dataclasses.replace(network, unit_jacobians=None)
    whole = jrnn.lyapunov_spectrum(plain, memory, xs)
    np.testing.assert_allclose(spectrum.exponents[::2], spectrum.exponents[1::2], atol=1e-12)
    np.testing.assert_allclose(spectrum.exponents, whole.exponents, atol=0.01)
    np.testing.assert_allclose(jnp.sum(spectrum.exponents), jnp.sum(whole.exponents), atol=1e-10)
    assert float(spectrum.sum_rule_residual) < 1e-10


@one_quickly
def test_predictions_see_the_same_growth_through_rows_and_through_whole_jacobians(name):
    network, memory, xs = made(name, 3, 2, num_steps=12)
    plain = dataclasses.replace(network, unit_jacobians=None)
    batch = jnp.stack([xs, xs[::-1]])
    ours, theirs = (
        jrnn.predict_regime(one, memory, batch, horizon=10, method="exact", seq_lengths=[12, 11])
        for one in (network, plain)
    )
    np.testing.assert_allclose(ours.log_growth, theirs.log_growth, atol=1e-9)
    np.testing.assert_allclose(ours.log_growth_of_output, theirs.log_growth_of_output, atol=1e-9)


def test_a_wrong_block_is_refused():
    network, memory, xs = made("rwkv7", 3, 2)
    for change, match in {
        (lambda one: dataclasses.replace(one, block=one.block.T)): "another Jacobian",
        (lambda one: dataclasses.replace(one, num_rows=2)): r"received shape \(2, 2, 2\)",
        (lambda one: dataclasses.replace(one, block=one.block[:1])): r"received shape \(1, 2, 3\)",
    }.items():

        def declared(params, carry, x, change=change):
            return change(network.unit_jacobians(params, carry, x))

        wrong = dataclasses.replace(network, unit_jacobians=declared)
        with pytest.raises(ValueError, match=match):
            jrnn.jacobian_product(wrong, memory, xs)


@pytest.mark.parametrize("more", [{"num_values": 16}, {"num_keys": 16, "num_values": 16}])
def test_a_spectrum_costs_no_more_than_n_times_the_keys_a_step(more):
    def flops(num_values, num_keys):
        network, memory, xs = made("gated_delta_net", num_values, num_keys, num_steps=4)
        spectrum = jax.jit(lambda *now: jrnn.lyapunov_spectrum(network, *now).run.batches.sums)
        return spectrum.lower(memory, xs).cost_analysis()["flops"], num_values * num_keys**2

    small = {"num_values": 8, "num_keys": 8}
    (few, scale), (many, larger) = flops(**small), flops(**(small | more))
    assert many / few < 1.3 * larger / scale


@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_eigenvalues_of_one_step_lie_where_the_largest_rate_puts_them(bound):
    network, memory, xs = made("gated_delta_net", 2, 3, num_steps=400, largest_rate=bound)
    xs = 5 * xs
    blocks = jax.vmap(lambda x: network.unit_jacobians(network.params, memory, x).block)(xs)
    decay, *_ = gates_of(network, xs)
    eigenvalues = np.linalg.eigvalsh(blocks) / decay[:, :1]
    assert np.all(eigenvalues > 1 - bound - 1e-12)
    assert np.all(eigenvalues < 1 + 1e-12)
    assert eigenvalues.min() < 1.1 - bound


def test_a_key_that_is_wiped_out_leaves_a_singular_jacobian():
    network, memory, xs = made("gated_delta_net", 2, 3, largest_rate=1.0)
    params = network.params | {"rate": {"kernel": 1e6 * jnp.ones((NUM_INPUTS, 1))}}
    network = dataclasses.replace(network, params=params)
    wiped = jnp.abs(xs)
    product = jrnn.jacobian_product(network, memory, wiped[:1])
    assert int(jnp.sum(jnp.isneginf(product.log_singular_values()))) == 2
    # A key without direction erases nothing, and has a derivative.
    jacobian = jrnn.step_jacobians(network, memory, jnp.zeros((1, NUM_INPUTS)))[0]
    decay = next(gates_of(network, jnp.zeros((1, NUM_INPUTS))))[0, 0]
    np.testing.assert_allclose(jacobian, decay * np.eye(6), atol=1e-14)
    assert np.all(np.isfinite(jrnn.input_jacobians(network, memory, 0 * xs, lags=[1]).matrices))


def test_published_starting_values():
    network = jrnn.gated_delta_net(3, 4, key=jax.random.key(0))
    waits, speeds = [], []
    for seed in range(50):
        params = jrnn.gated_delta_net(3, 4, key=jax.random.key(seed), dtype=jnp.float64).params
        waits.append(float(jax.nn.softplus(params["decay"]["bias"])[0]))
        speeds.append(float(jnp.exp(params["decay"]["log_speed"])[0]))
    assert 1e-3 < min(waits) < 3e-3
    assert 0.03 < max(waits) < 0.1
    assert 0 < min(speeds) < 3
    assert 13 < max(speeds) < 16
    assert jax.tree.leaves(network.params)[0].dtype == jnp.float32
    params = jrnn.rwkv7(8, 8, key=jax.random.key(0), dtype=jnp.float64).params
    for name, size in {"receptance": 1.0, "key": 0.1, "value": 1.0}.items():
        kernel = params[name]["kernel"]
        np.testing.assert_allclose(kernel @ kernel.T, size**2 * np.eye(8), atol=1e-12)
    np.testing.assert_allclose(params["decay"]["bias"][jnp.array([0, -1])], [-8, 3], atol=1e-12)
    np.testing.assert_allclose(
        params["rate"]["bias"][jnp.array([0, -1])], [-0.69, 0.31], atol=1e-12
    )
    assert jrnn.rwkv7(3, 4, rank=5, key=jax.random.key(0)).params["rate"]["up"].shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda key: jrnn.gated_delta_net(0, 3, key=key), ValueError, "num_inputs: received 0"),
        (lambda key: jrnn.gated_delta_net(2, 3, key=key, num_keys=0), ValueError, "num_keys"),
        (lambda key: jrnn.gated_delta_net(2, 3, key=key, largest_rate=0), ValueError, "above 0"),
        (lambda key: jrnn.gated_delta_net(2, 3, key=key, largest_rate=2.1), ValueError, "most 2"),
        (lambda key: jrnn.rwkv7(2, 2.5, key=key), TypeError, "num_units: received 2.5"),
        (lambda key: jrnn.rwkv7(2, 3, key=key, rank=0), ValueError, "rank: received 0"),
        (lambda key: jrnn.rwkv7(2, 3, key=key, dtype=jnp.int32), TypeError, "float32 or float64"),
    ],
)
def test_bad_sizes_and_rates_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make(jax.random.key(0))


@every_cell
def test_a_carry_with_a_batch_axis_is_refused(name):
    network, memory, xs = made(name, 2, 3)
    with pytest.raises(ValueError, match=r"carry: .* with a batch axis"):
        jrnn.jacobian_product(network, jnp.stack([memory, memory]), xs)


def parity_head(largest_rate):
    """Give a head of one key and one value a rate of 0 for a zero and of its bound for a one."""
    network = jrnn.gated_delta_net(
        2, 1, key=jax.random.key(0), largest_rate=largest_rate, dtype=jnp.float64
    )
    params = network.params | {
        "key": {"kernel": jnp.array([[0.0], [1.0]])},
        "value": {"kernel": jnp.zeros((2, 1))},
        "rate": {"kernel": jnp.array([[160.0], [-80.0]])},  # ± 80
        "decay": network.params["decay"]
        | {"bias": jnp.full(1, -60.0), "kernel": jnp.zeros((2, 1))},
    }
    return dataclasses.replace(network, params=params)


def test_eigenvalues_down_to_minus_one_count_parity_and_those_above_zero_cannot():
    bits = np.random.default_rng(0).integers(0, 2, 500)
    xs = jnp.asarray(np.stack([bits, np.ones(500)], axis=1).astype(float))
    start, parity = jnp.ones((1, 1)), 1 - 2 * (np.cumsum(bits) % 2)
    network = parity_head(2.0)
    states = jrnn.trajectory(network, start, xs)[1:, 0]
    np.testing.assert_allclose(states, parity, atol=1e-10)
    # The gradient comes through all steps with its size, and its sign counts too.
    product = np.prod(jrnn.step_jacobians(network, start, xs))
    assert product == pytest.approx(parity[-1], abs=1e-10)
    # With a bound of one the first one wipes the memory out, and so its gradient.
    others = parity_head(1.0)
    states = jrnn.trajectory(others, start, xs)[1:, 0]
    assert np.all(states >= 0)
    assert 0 <= np.prod(jrnn.step_jacobians(others, start, xs)) < 1e-30

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jacobian_rnn import (
    Recurrence,
    antisymmetric_rnn,
    from_nnx,
    leaky_rate_network,
    minimal_rnn,
    stack,
    step_jacobians,
    with_chrono_biases,
    with_gain,
    with_gate_bias,
)
from jacobian_rnn import initializers as init
from jacobian_rnn.growth.largest import _largest_exponent
from jacobian_rnn.jacobians.system import bind

CELLS = [
    "SimpleCell",
    "LSTMCell",
    "OptimizedLSTMCell",
    "GRUCell",
    "MGUCell",
    "nnx SimpleCell",
    "nnx LSTMCell",
    "nnx OptimizedLSTMCell",
    "nnx GRUCell",
]
GATED = [name for name in CELLS if "Simple" not in name]
GATES = {"LSTM": "ifgo", "GRU": "rzn", "MGU": "fn"}


def gates_of(name):
    return next(gates for kind, gates in GATES.items() if kind in name)


def weights_of(network):
    """Read the weights by the closed form's own account of where they are."""
    return network.jacobian.weights(network.params)


def test_scaled_identity_and_gaussian_draw_what_they_say():
    kernel = init.scaled_identity(0.5)(jax.random.key(0), (3, 3), jnp.float64)
    np.testing.assert_array_equal(kernel, 0.5 * np.eye(3))
    kernel = init.gaussian(1.5)(jax.random.key(0), (300, 900), jnp.float64)
    # Standard errors of mean and variance of Gaussian draws.
    assert abs(kernel.mean()) < 4 * 1.5 / np.sqrt(300 * kernel.size)
    assert float(300 * kernel.var()) == pytest.approx(2.25, rel=4 * np.sqrt(2 / kernel.size))
    assert float(jnp.mean(kernel**4) / kernel.var() ** 2) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(
    ("cell_class", "num_gates"), [(nnx.GRUCell, 3), (nnx.OptimizedLSTMCell, 4)]
)
def test_every_gate_of_a_fused_kernel_is_orthogonal_and_another_one(cell_class, num_gates):
    kernel_init = init.orthogonal_per_gate(num_gates, 0.7)
    cell = cell_class(
        3, 20, recurrent_kernel_init=kernel_init, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    blocks = np.split(np.asarray(cell.dense_h.kernel[...]), num_gates, axis=1)
    for i, block in enumerate(blocks):
        np.testing.assert_allclose(block @ block.T, 0.49 * np.eye(20), atol=1e-12)
        for other in blocks[:i]:
            # Independent of each other: overlaps have variance 1/N.
            assert abs(np.sum(block * other) / 0.49) < 5


def test_fused_lstm_biases_are_in_the_order_of_flax():
    for bias_init in (init.forget_gate_bias(5, 3.0), init.chrono_bias(5, 50)):
        cell = nnx.OptimizedLSTMCell(
            3, 5, bias_init=bias_init, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
        )
        biases = weights_of(from_nnx(cell)).biases
        assert bool((biases[1] > 0).all())
        np.testing.assert_array_equal(biases[2:], np.zeros((2, 5)))
    np.testing.assert_array_equal(biases[0], -biases[1])


def test_chrono_biases_make_times_uniform():
    biases = init.chrono_bias(40_000, 101)(jax.random.key(0), (160_000,), jnp.float64)
    times = np.exp(np.asarray(biases[40_000:80_000]))
    probabilities = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    errors = 99 * np.sqrt(probabilities * (1 - probabilities) / 40_000)
    assert (np.abs(np.quantile(times, probabilities) - (1 + 99 * probabilities)) < 4 * errors).all()
    assert 1 <= times.min() < 1.1 < 99.9 < times.max() <= 100


def test_initializers_work_in_linen_keep_dtype_and_are_equal_for_equal_options():
    cell = nn.SimpleCell(4, recurrent_kernel_init=init.scaled_identity(0.5), bias_init=nn.zeros)
    h, x = jnp.zeros(4, jnp.float32), jnp.ones(3, jnp.float32)
    params = cell.init(jax.random.key(0), h, x)["params"]
    np.testing.assert_array_equal(params["h"]["kernel"], 0.5 * np.eye(4))
    makers = {
        (4, 4): (init.scaled_identity, init.gaussian, lambda s: init.orthogonal_per_gate(1, s)),
        (16,): (lambda s: init.forget_gate_bias(4, s), lambda s: init.chrono_bias(4, 9 + s)),
    }
    for shape, functions in makers.items():
        for make in functions:
            assert make(0.5) == make(0.5) != make(0.6)
            for dtype in (jnp.float32, jnp.float64):
                assert make(0.5)(jax.random.key(0), shape, dtype).dtype == dtype


def test_scales_may_be_traced():
    draw = jax.jit(lambda s: init.orthogonal_per_gate(3, s)(jax.random.key(0), (4, 12)))
    np.testing.assert_allclose(draw(2.0), 2 * draw(1.0), rtol=1e-14)


@pytest.mark.parametrize("name", CELLS)
def test_gain_multiplies_the_recurrent_kernels_and_nothing_else(name, network):
    before, _, _ = network(name, 5)
    after = with_gain(before, 1.7)
    old, new = weights_of(before), weights_of(after)
    for kernel, scaled in zip(old.recurrent, new.recurrent, strict=True):
        np.testing.assert_allclose(scaled, 1.7 * kernel, rtol=1e-14)
    rest = (old.inputs, old.biases, old.read_bias), (new.inputs, new.biases, new.read_bias)
    jax.tree.map(np.testing.assert_array_equal, *rest)


@pytest.mark.parametrize("name", GATED)
def test_a_gate_s_bias_is_set_and_nothing_else(name, network):
    before, _, _ = network(name, 5)
    for position, gate in enumerate(gates_of(name)):
        for bias in (2.5, jnp.arange(5.0)):
            after = with_gate_bias(before, gate, bias)
            old, new = weights_of(before), weights_of(after)
            expected = list(old.biases)
            expected[position] = jnp.broadcast_to(bias, 5)
            np.testing.assert_array_equal(new.biases, expected)
            jax.tree.map(
                np.testing.assert_array_equal, new._replace(biases=()), old._replace(biases=())
            )


@pytest.mark.parametrize("name", GATED)
def test_an_open_forget_gate_keeps_the_state(name, network):
    before, carry, xs = network(name, 5)
    kept = with_gate_bias(before, "forget", 50.0)
    kept = with_gate_bias(kept, "i", -50.0) if "LSTM" in name else kept
    old, new = (jax.tree.leaves(c)[0] for c in (carry, kept.step(kept.params, carry, xs[0])))
    np.testing.assert_allclose(new, old, atol=1e-15)


@pytest.mark.parametrize("name", GATED)
def test_chrono_biases_are_those_of_the_forget_gate_and_the_opposite_at_the_input(name, network):
    before, _, _ = network(name, 400)
    after = with_chrono_biases(before, 20, key=jax.random.key(3))
    gates = gates_of(name)
    old, new = (dict(zip(gates, weights_of(one).biases, strict=True)) for one in (before, after))
    keeps = "z" if "GRU" in name else "f"
    times = jnp.exp(new[keeps])
    assert 1 <= float(times.min()) < 2 < 18 < float(times.max()) <= 19
    for gate in gates:
        if gate == "i":
            np.testing.assert_array_equal(new["i"], -new["f"])
        elif gate != keeps:
            np.testing.assert_array_equal(new[gate], old[gate])


@pytest.mark.parametrize("name", ["GRUCell", "nnx OptimizedLSTMCell"])
def test_changed_networks_keep_their_closed_form_and_compile_nothing(name, network):
    before, carry, xs = network(name, 5)
    after = with_gate_bias(with_gain(before, 1.7), "forget", 1.0)
    assert (after.step, after.jacobian) == (before.step, before.jacobian)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    np.testing.assert_allclose(
        step_jacobians(after, carry, xs, method="closed_form"),
        step_jacobians(after, carry, xs, method="forward"),
        atol=1e-13,
    )
    _largest_exponent(bind(before, carry, xs), 2)
    compiled = _largest_exponent._cache_size()
    _largest_exponent(bind(after, carry, xs), 2)
    assert _largest_exponent._cache_size() == compiled


@pytest.mark.parametrize("name", ["LSTMCell", "nnx GRUCell"])
def test_gain_and_bias_may_be_traced_and_batched(name, network):
    before, carry, xs = network(name, 3)

    @jax.jit
    @jax.vmap
    def steps(gain, bias):
        after = with_gate_bias(with_gain(before, gain), "forget", bias)
        return after.step(after.params, carry, xs[0])

    together = steps(jnp.array([0.5, 2.0]), jnp.array([-1.0, 1.0]))
    for i, (gain, bias) in enumerate([(0.5, -1.0), (2.0, 1.0)]):
        one = with_gate_bias(with_gain(before, gain), "forget", bias)
        expected = one.step(one.params, carry, xs[0])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-14), together, expected
        )
    slope = jax.grad(lambda g: sum(map(jnp.sum, jax.tree.leaves(steps(g[None], g[None])))))(1.0)
    assert bool(jnp.isfinite(slope))


def test_a_float64_gain_leaves_a_float32_network_in_float32():
    network = from_nnx(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
    changed = with_gain(network, jnp.asarray(2.0, jnp.float64))
    changed = with_gate_bias(changed, "z", jnp.asarray(2.0, jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(changed.params)} == {jnp.dtype(jnp.float32)}


def test_networks_of_this_package_have_gains_and_biases():
    for make in (antisymmetric_rnn, leaky_rate_network, minimal_rnn):
        network = make(3, 4, key=jax.random.key(0), dtype=jnp.float64)
        kernel = network.params["recurrent"]["kernel"]
        scaled = with_gain(network, 3.0).params["recurrent"]["kernel"]
        np.testing.assert_allclose(scaled, 3 * kernel, rtol=1e-14)
    opened = with_gate_bias(network, "forget", 50.0)
    carry = jnp.arange(4.0)
    np.testing.assert_allclose(opened.step(opened.params, carry, jnp.ones(3)), carry, atol=1e-15)


def plain_step(params, carry, x):
    return params["h"]["kernel"] @ carry + x


ERRORS = {
    r"num_gates: received 0": (ValueError, lambda _: init.orthogonal_per_gate(0)),
    r"num_gates: received 3\.0": (TypeError, lambda _: init.orthogonal_per_gate(3.0)),
    r"num_units: received 0": (ValueError, lambda _: init.forget_gate_bias(0)),
    r"num_units: received -1": (ValueError, lambda _: init.chrono_bias(-1, 10)),
    r"max_lag: received 2,": (ValueError, lambda _: init.chrono_bias(4, 2)),
    r"max_lag: received '9'": (TypeError, lambda n: with_chrono_biases(n, "9", key=a_key())),
    r"max_lag: received inf": (
        ValueError,
        lambda n: with_chrono_biases(n, np.inf, key=a_key()),
    ),
    r"scaled_identity: received shape \(4, 12\), expected \(N, N\)": (
        ValueError,
        lambda _: init.scaled_identity()(a_key(), (4, 12)),
    ),
    r"gaussian: received shape \(3, 4\), expected \(N, G N\)": (
        ValueError,
        lambda _: init.gaussian(1.0)(a_key(), (3, 4)),
    ),
    r"orthogonal_per_gate: received shape \(4, 12\), expected \(N, 4 N\)": (
        ValueError,
        lambda _: init.orthogonal_per_gate(4)(a_key(), (4, 12)),
    ),
    r"forget_gate_bias: received shape \(4,\), expected \(16,\)": (
        ValueError,
        lambda _: init.forget_gate_bias(4)(a_key(), (4,)),
    ),
    r"chrono_bias: received shape \(4, 4\), expected \(16,\)": (
        ValueError,
        lambda _: init.chrono_bias(4, 10)(a_key(), (4, 4)),
    ),
    r"gain: received shape \(2,\)": (ValueError, lambda n: with_gain(n, jnp.ones(2))),
    r"gain: received 1 of 1 values that are NaN": (
        ValueError,
        lambda n: with_gain(n, np.nan),
    ),
    r"bias: received shape \(2,\), expected \(\) or \(4,\)": (
        ValueError,
        lambda n: with_gate_bias(n, "f", jnp.ones(2)),
    ),
    r"gate: received 'z' of a LSTMCell, expected i, f, g, o or \"forget\"": (
        ValueError,
        lambda n: with_gate_bias(n, "z", 1.0),
    ),
    r"gate: received 'forget' of a SimpleCell, expected a cell with gates": (
        ValueError,
        lambda _: with_gate_bias(from_nnx(nnx.SimpleCell(3, 4, rngs=nnx.Rngs(0))), "forget", 1.0),
    ),
    r"recurrence: received a dict, expected a Recurrence": (
        TypeError,
        lambda n: with_gain(n.params, 1.0),
    ),
    r"recurrence: received a plain_step, .* by hand, with dataclasses": (
        TypeError,
        lambda n: with_gain(stack(n, Recurrence(plain_step, {"h": {"kernel": jnp.eye(2)}})), 1.0),
    ),
    r"recurrence: received a plain_step, .* by hand": (
        TypeError,
        lambda _: with_gain(Recurrence(plain_step, {"h": {"kernel": jnp.eye(2)}}), 1.0),
    ),
    r"recurrence: received a Odd, expected one of": (
        TypeError,
        lambda _: with_gain(from_nnx(Odd(3, 4, rngs=nnx.Rngs(0))), 1.0),
    ),
    r"recurrence: received a LSTMCell without the bias of hf": (
        ValueError,
        lambda n: with_gate_bias(without_bias(n), "f", 1.0),
    ),
}


def a_key():
    return jax.random.key(0)


class Odd(nnx.GRUCell):
    """A cell that might keep its parameters elsewhere."""


def without_bias(network):
    params = {name: dict(layer) for name, layer in network.params["params"].items()}
    del params["hf"]["bias"]
    return dataclasses.replace(network, params={"params": params})


@pytest.mark.parametrize("message", ERRORS)
def test_errors_say_what_was_received_and_what_is_expected(message, network):
    error, call = ERRORS[message]
    lstm, _, _ = network("LSTMCell", 4)
    with pytest.raises(error, match=message):
        call(lstm)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_initialisers_of_theory_serve_in_static_cells_and_are_critical():
    cell = nn.SimpleCell(64, recurrent_kernel_init=init.critical_gaussian(bias_std=0.05**0.5))
    twin = nn.SimpleCell(64, recurrent_kernel_init=init.critical_gaussian(bias_std=0.05**0.5))
    assert hash(cell) == hash(twin)

    @partial(jax.jit, static_argnums=0)
    def kernel(cell, key):
        variables = cell.init(key, jnp.zeros(64), jnp.zeros(3))
        return variables["params"]["h"]["kernel"]

    drawn = kernel(cell, jax.random.key(0))
    error = 1.327 / np.sqrt(2 * 64**2)
    assert jnp.std(drawn) * 8 == pytest.approx(1.327, abs=4 * error)
    with pytest.raises(ValueError, match=r"weight_std: received -1.0, expected a finite number"):
        init.gaussian(-1.0)
    with pytest.raises(ValueError, match="scale: received nan"):
        init.scaled_identity(float("nan"))

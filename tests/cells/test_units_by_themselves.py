"""Cells whose units see themselves alone, against automatic derivatives and parallel forms."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    ind_rnn,
    jacobian_product,
    lyapunov_spectrum,
    min_gru,
    min_lstm,
    para_gru,
    predict_regime,
    rg_lru,
    s5,
    s6,
    stack,
    step_jacobians,
    trajectory,
    zero_carry,
)
from jacobian_rnn.jacobians.system import bind
from tests.networks import mostly_slow, normal

MAKERS = {
    "ind_rnn": ind_rnn,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "para_gru": para_gru,
    "rg_lru": partial(rg_lru, num_blocks=2),
    "rg_lru cut off": partial(rg_lru, largest_slope=1000.0),
    "s5": s5,
    "s5 of blocks": partial(s5, num_blocks=2),
    "s6": partial(s6, num_states=3, rank=2),
}
QUICK = ["min_gru", "para_gru", "rg_lru", "s5", "s6"]
NUM_STEPS = 12


def made(name, width=4, seed=0):
    """Draw a cell, move every parameter a little, and draw a carry and inputs."""
    network = MAKERS[name](3, width, key=jax.random.key(seed), dtype=jnp.float64)
    params, unravel = ravel_pytree(network.params)
    params = unravel(params + 0.3 * normal(seed + 1, params.shape))
    network = jax.tree.unflatten(jax.tree.structure(network), jax.tree.leaves(params))
    carry = jax.tree.map(lambda c: jnp.asarray(normal(seed + 2, c.shape)), zero_carry(network))
    return network, carry, jnp.asarray(normal(seed + 3, (NUM_STEPS, 3)))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("name", mostly_slow(MAKERS, QUICK))
def test_closed_forms_are_the_derivatives_of_the_step(name):
    network, carry, xs = made(name)
    system = bind(network, carry, xs)
    state, x = system.state, xs[0]
    forward = jax.jit(jax.jacfwd(system.step, argnums=(0, 1)))(state, x)
    reverse = jax.jit(jax.jacrev(system.step, argnums=(0, 1)))(state, x)
    parts = network.jacobian.parts(network.params, carry, x)
    for of_state, of_input in (forward, reverse):
        np.testing.assert_allclose(parts.dense(), of_state, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(parts.dense_input(), of_input, rtol=1e-12, atol=1e-12)
    blocks = network.unit_jacobians(network.params, carry, x)
    by_units = np.asarray(forward[0]).reshape(2 * (blocks.shape[0], blocks.shape[2]))
    np.testing.assert_allclose(blocks, np.einsum("aubu->abu", by_units), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        parts.log_abs_det(), np.linalg.slogdet(forward[0])[1], rtol=1e-12, atol=1e-12
    )


def by_associative_scan(factors, terms, start):
    """Compute h' = a h + b for all steps at once: the parallel form of linear recurrences."""

    def after(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    products, sums = jax.lax.associative_scan(after, (jnp.asarray(factors), jnp.asarray(terms)))
    return products * start[None] + sums


def by_cumulative_product(factors, terms, start):
    """Compute the same from cumulative products: h_t = A_t (h_0 + Σ b_s / A_s)."""
    products = np.cumprod(factors, axis=0)
    return products * (np.asarray(start) + np.cumsum(terms / products, axis=0))


def states_of(network, carry, xs):
    return trajectory(network, carry, xs)[1:]


def layer(params, x):
    return np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_a_min_gru_is_its_cumulative_product():
    network, carry, xs = made("min_gru")
    z = sigmoid(layer(network.params["update"], xs))
    terms = z * layer(network.params["candidate"], xs)
    expected = by_cumulative_product(1 - z, terms, carry)
    np.testing.assert_allclose(states_of(network, carry, xs), expected, rtol=1e-12)


def test_a_min_lstm_is_its_cumulative_product():
    network, carry, xs = made("min_lstm")
    f, i = (sigmoid(layer(network.params[gate], xs)) for gate in ("forget", "input"))
    terms = i / (f + i) * layer(network.params["candidate"], xs)
    expected = by_cumulative_product(f / (f + i), terms, carry)
    np.testing.assert_allclose(states_of(network, carry, xs), expected, rtol=1e-12)


def test_a_min_lstm_with_both_gates_closed_keeps_their_ratio():
    network = min_lstm(2, 3, key=jax.random.key(0), dtype=jnp.float64)
    shut = jax.tree.map(jnp.zeros_like, network.params)
    shut["forget"]["bias"] = shut["forget"]["bias"] - 800.0
    shut["input"]["bias"] = shut["input"]["bias"] - 801.0
    blocks = network.unit_jacobians(shut, jnp.zeros(3), jnp.zeros(2))
    np.testing.assert_allclose(blocks[0, 0], sigmoid(1.0), rtol=1e-12)


def test_an_rg_lru_is_its_associative_scan():
    network, carry, xs = made("rg_lru")
    p = jax.tree.map(np.asarray, network.params)
    u = np.asarray(xs) @ p["embedding"]["kernel"]

    def gate(params):
        first, second = params["kernel"]
        through = np.concatenate([u[:, :2] @ first, u[:, 2:] @ second], axis=1)
        return sigmoid(through + params["bias"])

    a = sigmoid(p["decay"]) ** (8 * gate(p["recurrence_gate"]))
    terms = np.sqrt(1 - a**2) * gate(p["input_gate"]) * u
    np.testing.assert_allclose(
        states_of(network, carry, xs), by_associative_scan(a, terms, carry), rtol=1e-12
    )


def test_an_s5_is_a_convolution():
    network, carry, xs = made("s5")
    p = jax.tree.map(np.asarray, network.params)
    eigenvalues = p["eigenvalues"]["real"] + 1j * p["eigenvalues"]["imaginary"]
    turned = np.exp(eigenvalues * np.exp(p["log_step"]))
    read = np.asarray(xs) @ (p["real"]["kernel"] + 1j * p["imaginary"]["kernel"])
    terms = (turned - 1) / eigenvalues * read
    lags = np.arange(NUM_STEPS)
    kernel = turned ** lags[:, None]
    start = np.asarray(carry[0]) + 1j * np.asarray(carry[1])
    expected = [
        np.sum(kernel[t::-1] * terms[: t + 1], axis=0) + turned ** (t + 1) * start for t in lags
    ]
    states = np.asarray(states_of(network, carry, xs))
    np.testing.assert_allclose(states[:, :4] + 1j * states[:, 4:], expected, rtol=1e-12)


def test_an_s6_is_its_associative_scan():
    network, carry, xs = made("s6")
    p = jax.tree.map(np.asarray, network.params)
    u = np.asarray(xs) @ p["embedding"]["kernel"]
    pre_step = u @ p["step_down"]["kernel"] @ p["step_up"]["kernel"] + p["step_up"]["bias"]
    step, b = np.log1p(np.exp(pre_step))[:, :, None], (u @ p["input"]["kernel"])[:, None]
    a = -np.exp(p["log_decay"])
    kept = np.exp(step * a)
    # (ΔA)⁻¹ (exp(ΔA) − 1) ΔB, as the paper writes it.
    terms = (kept - 1) / (step * a) * step * b * u[:, :, None]
    expected = by_associative_scan(kept, terms, carry).reshape(NUM_STEPS, -1)
    np.testing.assert_allclose(states_of(network, carry, xs), expected, rtol=1e-12)


@pytest.mark.parametrize(("name", "num_rounds"), [("para_gru", 8), ("ind_rnn", NUM_STEPS)])
def test_newton_iterations_over_all_steps_at_once_find_the_states(name, num_rounds):
    network, carry, xs = made(name)

    @jax.jit
    def improve(states):
        before = jnp.concatenate([carry[None], states[:-1]])
        new = jax.vmap(lambda h, x: network.step(network.params, h, x))(before, xs)
        slopes = jax.vmap(lambda h, x: network.unit_jacobians(network.params, h, x)[0, 0])(
            before, xs
        )
        return by_associative_scan(slopes, new - slopes * before, carry)

    states = jnp.zeros((NUM_STEPS, *carry.shape))
    for _ in range(num_rounds):
        states = improve(states)
    np.testing.assert_allclose(states, states_of(network, carry, xs), rtol=1e-12, atol=1e-14)


def test_eigenvalues_of_an_s5_are_those_of_hippo():
    size = 12  # HiPPO-LegS and its term of rank one
    n, k = np.indices((size, size))
    legs = np.where(n > k, np.sqrt((2 * n + 1.0) * (2 * k + 1)), 0) + np.diag(np.arange(size) + 1.0)
    root = np.sqrt(np.arange(size) + 0.5)
    normal_part = -legs + np.outer(root, root)
    expected = np.linalg.eigvals(normal_part)
    expected = expected[expected.imag > 0]
    network = s5(2, size // 2, key=jax.random.key(0), dtype=jnp.float64)
    parts = jax.tree.map(np.asarray, network.params["eigenvalues"])
    found = parts["real"] + 1j * parts["imaginary"]
    np.testing.assert_allclose(found, expected[np.argsort(expected.imag)], rtol=1e-12)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "rg_lru", "s5", "s6"])
def test_no_exponent_of_a_linear_cell_is_above_zero_at_its_start(name):
    network = MAKERS[name](3, 4, key=jax.random.key(0), dtype=jnp.float64)
    xs = 30 * normal(1, (200, 3))
    spectrum = lyapunov_spectrum(network, zero_carry(network), xs, num_warmup=0)
    assert float(spectrum.exponents[0]) <= 0


def test_starts_are_those_of_the_papers():
    key = jax.random.key(0)
    width, dtype = 4000, jnp.float64
    decay = rg_lru(1, width, key=key, num_blocks=width, dtype=dtype).params["decay"]
    opened = np.sort(sigmoid(np.asarray(decay)) ** 8)
    np.testing.assert_allclose(opened, np.linspace(0.9, 0.999, width), atol=3e-3)
    params = s6(1, width, key=key, rank=1, num_states=3, dtype=dtype).params
    log_steps = np.sort(np.log(np.log1p(np.exp(params["step_up"]["bias"]))))
    spread = np.linspace(np.log(1e-3), np.log(1e-1), width)
    np.testing.assert_allclose(log_steps, spread, atol=0.15)
    np.testing.assert_allclose(np.exp(params["log_decay"][0]), [1, 2, 3])
    weights = ind_rnn(1, width, key=key, max_lag=2, dtype=dtype).params["recurrent"]["weights"]
    np.testing.assert_allclose(np.sort(weights), np.linspace(0, np.sqrt(2), width), atol=0.04)
    layers = para_gru(50, 900, key=key, dtype=dtype).params
    assert np.std(layers["reset"]["recurrent"]) == pytest.approx(1 / 30, rel=0.1)
    assert np.var(layers["update"]["kernel"]) == pytest.approx(2 / 50, rel=0.05)
    narrow = para_gru(1, 2, key=jax.random.key(3), dtype=dtype).params
    assert max(float(jnp.max(jnp.abs(narrow[one]["recurrent"]))) for one in narrow) == 0.5
    bounds = min_gru(25, 40, key=key, dtype=dtype).params["update"]["kernel"]
    assert 0.19 < float(jnp.max(jnp.abs(bounds))) <= 0.2


def test_cutting_off_the_slope_of_the_root_changes_no_step_and_no_jacobian_of_the_state():
    plain = rg_lru(2, 3, key=jax.random.key(0), dtype=jnp.float64)
    cut_off = rg_lru(2, 3, key=jax.random.key(0), largest_slope=3.0, dtype=jnp.float64)
    carry, xs = jnp.ones(3), jnp.asarray(normal(0, (5, 2)))
    np.testing.assert_array_equal(trajectory(plain, carry, xs), trajectory(cut_off, carry, xs))
    np.testing.assert_array_equal(*(step_jacobians(one, carry, xs) for one in (plain, cut_off)))


def test_a_cut_off_slope_is_at_most_what_was_asked_for():
    largest = 5.0
    network = rg_lru(1, 1, key=jax.random.key(0), largest_slope=largest, dtype=jnp.float64)
    shut = jax.tree.map(jnp.zeros_like, network.params)
    shut["embedding"]["kernel"] = jnp.ones((1, 1))

    def normalized(decay):
        # Gates are half open, so h' = √(1 − a²) / 2 with log a = 4 log σ(decay).
        return 2 * network.step(shut | {"decay": decay}, jnp.zeros(1), jnp.ones(1))[0]

    for decay in (2.0, 8.0, 50.0):
        a = sigmoid(decay) ** 4
        of_squared = -2 * a * 4 * a * sigmoid(-decay)
        slope = min(largest, 0.5 / np.sqrt(-np.expm1(2 * 4 * np.log(sigmoid(decay))) + 1e-300))
        found = jax.grad(lambda d: normalized(d)[()])(jnp.full(1, decay))
        np.testing.assert_allclose(found, slope * of_squared, rtol=1e-9)


def test_matrices_stay_matrices_and_are_shown_as_one_vector():
    lower = s6(3, 4, key=jax.random.key(0), num_states=2, dtype=jnp.float64)
    upper = min_gru(8, 5, key=jax.random.key(1), dtype=jnp.float64)
    both = stack(lower, upper)
    carry = zero_carry(both)
    assert carry[0].shape == (4, 2)
    xs = jnp.asarray(normal(1, (3, 3)))
    carry = jax.tree.map(lambda c: c + 0.1, carry)
    np.testing.assert_allclose(
        step_jacobians(both, carry, xs, method="closed_form"),
        step_jacobians(both, carry, xs, method="forward"),
        atol=1e-13,
    )


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (partial(min_gru, 0, 3), ValueError, "num_inputs: received 0"),
        (partial(min_lstm, 2, 2.5), TypeError, r"num_units: received 2\.5"),
        (partial(ind_rnn, 2, 3, max_lag=0), ValueError, "max_lag: received 0.* at least 1"),
        (partial(para_gru, 2, True), TypeError, "num_units: received True"),
        (partial(rg_lru, 2, 4, num_blocks=3), ValueError, "num_blocks: received 3.*divisor"),
        (partial(rg_lru, 2, 4, num_blocks=5), ValueError, "num_blocks: received 5.*1 to 4"),
        (partial(rg_lru, 2, 4, radii=(0.9, 1.0)), ValueError, "radii: received"),
        (partial(rg_lru, 2, 4, radii=0.9), ValueError, "radii: received 0.9.*lower < upper < 1"),
        (partial(rg_lru, 2, 4, largest_slope=0), ValueError, "largest_slope: received 0"),
        (partial(rg_lru, 2, 4, largest_slope="1000"), TypeError, "largest_slope: received '1000'"),
        (partial(s5, 2, 4, num_blocks=3), ValueError, "num_blocks: received 3.*divisor"),
        (partial(s5, 2, 4, step_sizes=(0.1, 0.1)), ValueError, "step_sizes: received"),
        (partial(s5, 2, 4, step_sizes="ab"), ValueError, "step_sizes: received ab.*< upper$"),
        (partial(s6, 2, 4, num_states=0), ValueError, "num_states: received 0"),
        (partial(s6, 2, 4, rank=5), ValueError, "rank: received 5.*1 to 4"),
        (partial(s6, 2, 4, rank=1.0), TypeError, r"rank: received 1\.0"),
    ],
)
def test_bad_sizes_and_options_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make(key=jax.random.key(0))


@pytest.mark.parametrize("make", [ind_rnn, min_gru, min_lstm, para_gru, rg_lru, s5, s6])
def test_a_dtype_that_the_parameters_cannot_have_is_refused(make):
    for dtype in (jnp.float16, None):
        with pytest.raises(TypeError, match="expected float32 or float64: pass dtype="):
            make(2, 3, key=jax.random.key(0), dtype=dtype)


@pytest.mark.parametrize("name", ["min_gru", "s6"])
def test_a_carry_with_a_batch_axis_is_refused(name):
    network, carry, xs = made(name)
    batched = jax.tree.map(lambda c: jnp.stack([c, c]), carry)
    with pytest.raises(ValueError, match=r"carry: .* with a batch axis"):
        jacobian_product(network, batched, xs)


def test_a_prediction_takes_vectors_for_a_carry_that_is_a_matrix():
    network = s6(3, 4, key=jax.random.key(0), num_states=2, dtype=jnp.float64)
    xs = jnp.asarray(normal(0, (2, 20, 3)))
    exact = predict_regime(network, zero_carry(network), xs, horizon=10, method="exact")
    probes = predict_regime(network, zero_carry(network), xs, horizon=10)
    # Few enough states for a probe each, so that nothing is left to chance.
    np.testing.assert_allclose(probes.log_growth, exact.log_growth, rtol=1e-12)


@pytest.mark.parametrize("name", mostly_slow(["min_gru", "s6", "para_gru", "s5"], ["s6"]))
def test_all_of_the_spectrum_is_that_of_whole_matrices(name):
    width = {"s6": 16, "s5": 32}.get(name, 64)
    make = partial(s6, num_states=4) if name == "s6" else MAKERS[name]
    network = make(3, width, key=jax.random.key(0), dtype=jnp.float64)
    carry, xs = zero_carry(network), jnp.asarray(normal(1, (100, 3)))
    dense = dataclasses.replace(network, unit_jacobians=None)
    expected = jacobian_product(dense, carry, xs).log_singular_values()
    found = jacobian_product(network, carry, xs).log_singular_values()
    assert found.shape == (64,)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    # Blocks of these cells are numbers or turn, so exponents are those logs by the step.
    spectrum = lyapunov_spectrum(network, carry, xs, num_warmup=0)
    np.testing.assert_allclose(spectrum.exponents, expected / 100, rtol=1e-10, atol=1e-12)

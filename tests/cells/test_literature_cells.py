import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    antisymmetric_rnn,
    irnn,
    jacobian_product,
    leaky_rate_network,
    lru,
    lyapunov_spectrum,
    minimal_rnn,
    stack,
    step_jacobians,
    trajectory,
    zero_carry,
)
from jacobian_rnn.jacobians.system import bind
from tests.networks import mostly_slow, normal

MAKERS = {
    "minimal": minimal_rnn,
    "antisymmetric": antisymmetric_rnn,
    "leaky": leaky_rate_network,
    "irnn": irnn,
    "lru": lru,
}


def made(name, width, seed=0):
    """Draw a cell with random biases, and a random carry."""
    network = MAKERS[name](3, width, key=jax.random.key(seed), dtype=jnp.float64)
    params, unravel = ravel_pytree(network.params)
    noise = 0.1 * normal(seed + 1, params.shape)
    network = jax.tree.unflatten(
        jax.tree.structure(network), jax.tree.leaves(unravel(params + jnp.abs(noise)))
    )
    carry = jax.tree.map(lambda c: c + 0.5, zero_carry(network))
    xs = normal(seed + 2, (8, 3))
    return network, carry, xs


@pytest.mark.parametrize("name", mostly_slow(MAKERS, ["leaky", "lru"]))
@pytest.mark.parametrize("width", mostly_slow([1, 6], [6]))
def test_closed_forms_are_the_derivatives_of_the_step(name, width):
    network, carry, xs = made(name, width)
    system = bind(network, carry, xs)
    state = system.state
    of_state, of_input = jax.jacfwd(system.step, argnums=(0, 1))(state, xs[0])
    parts = network.jacobian.parts(network.params, carry, xs[0])
    np.testing.assert_allclose(parts.dense(), of_state, atol=1e-14)
    np.testing.assert_allclose(parts.dense_input(), of_input, atol=1e-14)
    rows = normal(9, (4, state.size))
    np.testing.assert_allclose(parts.push(rows), rows @ of_state.T, atol=1e-13)
    np.testing.assert_allclose(parts.pull(rows), rows @ of_state, atol=1e-13)
    np.testing.assert_allclose(parts.pull_input(rows), rows @ of_input, atol=1e-13)
    expected = np.linalg.slogdet(of_state)[1]
    assert float(parts.log_abs_det()) == pytest.approx(expected, abs=1e-11)
    np.testing.assert_allclose(
        step_jacobians(network, carry, xs),
        step_jacobians(network, carry, xs, method="reverse"),
        atol=1e-13,
    )


def test_steps_are_the_published_equations():
    network, h, xs = made("minimal", 4)
    p, x = network.params, xs[0]
    z = np.tanh(x @ p["embedding"]["kernel"] + p["embedding"]["bias"])
    pre = h @ p["recurrent"]["kernel"] + z @ p["input"]["kernel"] + p["recurrent"]["bias"]
    u = 1 / (1 + np.exp(-pre))
    np.testing.assert_allclose(network.step(p, h, x), u * h + (1 - u) * z, atol=1e-14)

    network, h, xs = made("antisymmetric", 4)
    p, x = network.params, xs[0]
    w = p["recurrent"]["kernel"].T
    matrix = w - w.T - p["diffusion"] * np.eye(4)
    pre = matrix @ h + x @ p["input"]["kernel"] + p["recurrent"]["bias"]
    np.testing.assert_allclose(network.step(p, h, x), h + p["step_size"] * np.tanh(pre), atol=1e-14)

    network, h, xs = made("leaky", 4)
    p, x = network.params, xs[0]
    pre = h @ p["recurrent"]["kernel"] + x @ p["input"]["kernel"] + p["recurrent"]["bias"]
    expected = (1 - p["leak"]) * h + p["leak"] * np.tanh(pre)
    np.testing.assert_allclose(network.step(p, h, x), expected, atol=1e-14)

    network, carry, xs = made("lru", 4)
    p, carry, x = jax.tree.map(np.asarray, (network.params, carry, xs[0]))
    eigenvalues = np.exp(-np.exp(p["log_decay"]) + 1j * np.exp(p["log_phase"]))
    read = x @ (p["real"]["kernel"] + 1j * p["imaginary"]["kernel"])
    new = eigenvalues * (carry[0] + 1j * carry[1]) + np.exp(p["log_normalizer"]) * read
    np.testing.assert_allclose(network.step(p, carry, x), (new.real, new.imag), atol=1e-14)


@pytest.mark.slow
def test_exponents_of_an_lru_are_the_logs_of_its_eigenvalues():
    network = lru(3, 5, key=jax.random.key(3), dtype=jnp.float64)
    sizes = jnp.exp(-jnp.exp(network.params["log_decay"]))
    assert bool(jnp.all((sizes > 0.9) & (sizes < 0.999)))
    xs = normal(1, (4000, 3))
    spectrum = lyapunov_spectrum(network, zero_carry(network), xs, num_warmup=2000, qr_every=1)
    expected = np.sort(np.repeat(np.log(sizes), 2))[::-1]
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-3)
    # The normaliser keeps the size of the state at that of white input.
    states = trajectory(network, zero_carry(network), xs)[2000:]
    power = jnp.mean(jnp.sum(states**2, axis=1)) / 5
    assert 0.5 < power < 1.6


def test_an_antisymmetric_network_at_rest_grows_by_its_explicit_step_alone():
    network = antisymmetric_rnn(2, 16, key=jax.random.key(0), diffusion=0.0, dtype=jnp.float64)
    product = jacobian_product(network, zero_carry(network), jnp.zeros((100, 2)))
    kernel = np.asarray(network.params["recurrent"]["kernel"])
    frequencies = np.linalg.eigvals(kernel - kernel.T).imag
    # |1 + iεω| per step.
    expected = np.sort(50 * np.log1p((0.1 * frequencies) ** 2))[::-1]
    np.testing.assert_allclose(product.log_singular_values(), expected, atol=1e-11)


def test_a_leaky_network_without_recurrence_forgets_at_its_leak():
    network = leaky_rate_network(2, 16, key=jax.random.key(0), gain=0.0, dtype=jnp.float64)
    product = jacobian_product(network, zero_carry(network), jnp.zeros((100, 2)))
    np.testing.assert_allclose(product.log_singular_values(), 100 * np.log(0.9), atol=1e-10)


def test_an_irnn_starts_as_the_identity_on_what_is_positive():
    network = irnn(3, 4, key=jax.random.key(0), dtype=jnp.float64)
    xs = jnp.ones((5, 3))
    jacobians = step_jacobians(network, jnp.array([1.0, 1.0, -5.0, 1.0]), xs)
    np.testing.assert_array_equal(jacobians[0], jnp.diag(jnp.array([1.0, 1.0, 0.0, 1.0])))


@pytest.mark.slow
def test_cells_stack_with_closed_forms():
    lower, upper = (lru(3, 4, key=jax.random.key(0)), minimal_rnn(8, 5, key=jax.random.key(1)))
    both = stack(lower, upper)
    xs = jnp.ones((3, 3), jnp.float32)
    carry = jax.tree.map(lambda c: c + 0.1, zero_carry(both))
    np.testing.assert_allclose(
        step_jacobians(both, carry, xs, method="closed_form"),
        step_jacobians(both, carry, xs, method="forward"),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda key: minimal_rnn(0, 3, key=key), ValueError, "num_inputs: received 0"),
        (lambda key: irnn(2, 2.5, key=key), TypeError, "num_units: received 2.5"),
        (lambda key: antisymmetric_rnn(2, 3, key=key, step_size=0), ValueError, "above 0"),
        (lambda key: antisymmetric_rnn(2, 3, key=key, diffusion=-1), ValueError, "at least 0"),
        (lambda key: leaky_rate_network(2, 3, key=key, leak=1.5), ValueError, "at most 1"),
        (lambda key: leaky_rate_network(2, 3, key=key, gain=float("nan")), ValueError, "gain"),
        (lambda key: lru(2, 3, key=key, radii=(0.9, 1.0)), ValueError, "radii: received"),
        (lambda key: lru(2, 3, key=key, radii=(0.5, 0.9, 1)), ValueError, "radii: received"),
    ],
)
def test_bad_sizes_and_rates_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make(jax.random.key(0))


@pytest.mark.parametrize("name", MAKERS)
def test_a_dtype_that_the_parameters_cannot_have_is_refused(name):
    for dtype in (jnp.float16, jnp.int32, None):
        with pytest.raises(TypeError, match="expected float32 or float64: pass dtype="):
            MAKERS[name](2, 3, key=jax.random.key(0), dtype=dtype)
    with jax.enable_x64(False), pytest.raises(TypeError, match="float64 while JAX's x64 is off"):
        MAKERS[name](2, 3, key=jax.random.key(0), dtype=jnp.float64)


@pytest.mark.parametrize("name", MAKERS)
def test_a_carry_with_a_batch_axis_is_refused(name):
    network, carry, xs = made(name, 4)
    batched = jax.tree.map(lambda c: jnp.stack([c, c]), carry)
    with pytest.raises(ValueError, match=r"carry: .* with a batch axis"):
        jacobian_product(network, batched, xs)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import comb

from jacobian_rnn import dense_chain, jacobian_product, lyapunov_spectrum
from tests.networks import normal


def layers(key, depth, width, *, orthogonal=False, std=1.0):
    keys = jax.random.split(key, depth)
    if orthogonal:
        draw = jax.nn.initializers.orthogonal(std)
        kernels = jax.vmap(lambda key: draw(key, (width, width), jnp.float64))(keys)
    else:
        kernels = std * jax.random.normal(key, (depth, width, width)) / np.sqrt(width)
    return {"kernel": kernels, "bias": jnp.zeros((depth, width))}


def test_a_chain_is_the_network_and_its_product_the_networks_derivative():
    chain = layers(jax.random.key(0), 5, 4)
    chain["bias"] = 0.3 * normal(1, (5, 4))
    first = jnp.arange(4.0)

    def network(h):
        for kernel, bias in zip(chain["kernel"], chain["bias"], strict=True):
            h = jnp.tanh(h @ kernel + bias)
        return h

    product = jacobian_product(dense_chain(), first, chain)
    matrix, log_scale = product.dense()
    np.testing.assert_allclose(matrix * np.exp(log_scale), jax.jacrev(network)(first), atol=1e-13)


@pytest.mark.slow
def test_linear_gaussian_chains_have_fuss_catalan_moments():
    width, num_chains = 96, 24
    first = jnp.ones(width)
    for depth in (2, 4):
        chains = jax.vmap(lambda key, depth=depth: layers(key, depth, width))(
            jax.random.split(jax.random.key(depth), num_chains)
        )
        values = jax.lax.map(
            lambda chain: jacobian_product(
                dense_chain(jax.nn.identity), first, chain, estimate_error=False
            ).singular_values(),
            chains,
        )
        for moment in (1, 2):
            means = jnp.mean(values ** (2 * moment), axis=1)
            exact = comb((depth + 1) * moment, moment) / (depth * moment + 1)
            error = float(jnp.std(means, ddof=1)) / np.sqrt(num_chains)
            # The moments of finite matrices differ by O(1/N²).
            assert float(jnp.mean(means)) == pytest.approx(exact, abs=4 * error)


@pytest.mark.slow
def test_fifty_orthogonal_linear_layers_are_an_isometry():
    chain = layers(jax.random.key(2), 50, 32, orthogonal=True)
    product = jacobian_product(dense_chain(jax.nn.identity), jnp.ones(32), chain)
    np.testing.assert_allclose(product.log_singular_values(), 0, atol=1e-12)
    scaled = layers(jax.random.key(2), 50, 32, orthogonal=True, std=0.5)
    product = jacobian_product(dense_chain(jax.nn.identity), jnp.ones(32), scaled)
    np.testing.assert_allclose(product.log_singular_values(), 50 * np.log(0.5), atol=1e-11)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_fifty_layers_of_tanh_satisfy_the_sum_rule(orthogonal):
    depth, width = 50, 24
    chain = layers(jax.random.key(3), depth, width, orthogonal=orthogonal, std=1.2)
    first = normal(4, (width,))
    product = jacobian_product(dense_chain(), first, chain)
    h, total = np.asarray(first), 0.0
    for kernel in np.asarray(chain["kernel"]):
        h = np.tanh(h @ kernel)
        total += np.linalg.slogdet(kernel)[1] + np.sum(np.log1p(-(h**2)))
    assert float(jnp.sum(product.log_singular_values())) == pytest.approx(total, abs=1e-9)
    # Depth is time: the same numbers per layer.
    spectrum = lyapunov_spectrum(dense_chain(), first, chain, qr_every=1)
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(total / depth, abs=1e-10)


def test_layers_that_do_not_fit_are_refused():
    chain = layers(jax.random.key(0), 3, 4)
    with pytest.raises(ValueError, match="step: failed for carry"):
        jacobian_product(dense_chain(), jnp.ones(5), chain)
    with pytest.raises(ValueError, match="different lengths"):
        jacobian_product(dense_chain(), jnp.ones(4), chain | {"bias": jnp.zeros((2, 4))})
    with pytest.raises(TypeError, match="activation_fn: received 'tanh'"):
        dense_chain("tanh")

"""Spectra of layers of units on top of each other, from the blocks on the diagonal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jacobian_rnn import (
    Recurrence,
    jacobian_product,
    lru,
    lyapunov_spectrum,
    stack,
    with_padding,
    zero_carry,
)
from jacobian_rnn.linalg.frames import generic_columns
from jacobian_rnn.lyapunov import _units
from tests.networks import normal


def gates(params, carry, x):
    return jax.nn.sigmoid(params["gate"] @ x) * carry + params["read"] @ x


def blocks_of_gates(params, carry, x):
    del carry
    return jax.nn.sigmoid(params["gate"] @ x)[None, None]


def gated_layer(seed, num_inputs, num_units):
    kernels = normal(seed, (2, num_units, num_inputs))
    params = {"gate": jnp.asarray(kernels[0]), "read": jnp.asarray(kernels[1])}
    return Recurrence(gates, params, unit_jacobians=blocks_of_gates)


def two_layers(num_steps):
    """Complex units, and gates above that see them."""
    lower = lru(3, 4, key=jax.random.key(0), radii=(0.3, 0.99), dtype=jnp.float64)
    both = stack(lower, gated_layer(1, 8, 3))
    xs = jnp.asarray(normal(2, (num_steps, 3)))
    return both, (zero_carry(lower), jnp.zeros(3)), xs


def frame_from_the_top(system):
    """Return columns of the gates, and then the two generic ones of each complex unit.

    The units that decay slowly come first. Rounding would put them into the columns of the others.
    """
    frame = np.zeros((11, 11))
    frame[8:, :3] = np.eye(3)
    for place, unit in enumerate(np.argsort(system.params[0]["log_decay"])):
        columns = slice(3 + 2 * place, 5 + 2 * place)
        frame[[unit, 4 + unit], columns] = generic_columns(2, 2)
    return jnp.asarray(frame)


def test_exponents_of_layers_are_those_of_whole_jacobians_and_a_frame_from_the_top():
    system, carry, xs = two_layers(200)
    plain = dataclasses.replace(system, unit_jacobians=None)
    whole = lyapunov_spectrum(
        plain, carry, xs, frame=frame_from_the_top(system), qr_every=1, factorization="householder"
    )
    spectrum = lyapunov_spectrum(system, carry, xs)
    np.testing.assert_allclose(spectrum.exponents, whole.exponents, atol=1e-12)
    assert float(spectrum.sum_rule_residual) < 1e-12
    assert not spectrum.is_partial
    product = jacobian_product(system, carry, xs)
    total = 200 * float(jnp.sum(spectrum.exponents))
    assert abs(total - float(product.log_abs_det())) < 1e-9
    # Coupled layers have other singular values than their blocks.
    assert np.abs(product.log_singular_values() / 200 - spectrum.exponents).max() > 1e-3


def test_a_generic_frame_comes_to_the_exponents_of_the_layers():
    system, carry, xs = two_layers(4000)
    plain = dataclasses.replace(system, unit_jacobians=None)
    errors = []
    for num_steps in (400, 4000):
        whole = lyapunov_spectrum(plain, carry, xs[:num_steps])
        layers = lyapunov_spectrum(system, carry, xs[:num_steps])
        errors.append(np.abs(whole.exponents - layers.exponents).max())
    assert errors[0] < 20 / 400
    assert errors[1] < errors[0] / 5


def test_layers_that_wait_and_a_warm_up_count_no_step():
    system, carry, xs = two_layers(30)
    active = jnp.arange(40) >= 10
    waiting = with_padding(system)
    padded = jnp.concatenate([xs[:10], xs])
    spectrum = lyapunov_spectrum(waiting, carry, (padded, active), num_warmup=10)
    expected = lyapunov_spectrum(system, carry, xs)
    np.testing.assert_allclose(spectrum.exponents, expected.exponents, atol=1e-12)
    assert int(spectrum.num_steps) == 30


def test_many_units_in_layers_need_no_matrix():
    lower = lru(2, 3000, key=jax.random.key(0))
    lower = dataclasses.replace(lower, output=lambda carry: carry[0].reshape(4, -1).sum(axis=1))
    upper = lru(4, 2000, key=jax.random.key(1), radii=(0.5, 0.8))
    both = stack(lower, upper)
    xs = jnp.asarray(normal(0, (40, 2)), jnp.float32)
    logs = [-np.exp(np.asarray(layer.params["log_decay"], float)) for layer in (lower, upper)]
    expected = np.sort(np.repeat(np.concatenate(logs), 2))[::-1]
    spectrum = lyapunov_spectrum(both, zero_carry(both), xs)
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-5)


def test_larger_units_are_orthonormalised_in_a_loop_as_small_ones_are_without(monkeypatch):
    columns = jnp.asarray(normal(0, (5, 5, 3))).at[:, 3, 1].set(0)  # a column that is gone
    columns = columns * jnp.asarray([1, 1e-150, 1e150, 1, 1])[None, :, None]

    def factor(columns):
        frames, pivots, sizes = _units.gram_schmidt(columns)
        return jnp.sum(jnp.where(pivots > 0, jnp.log(pivots), 0)), (frames, pivots, sizes)

    whole = [jax.value_and_grad(factor, has_aux=True)(columns)]
    monkeypatch.setattr(_units, "MOST_UNROLLED", 1)
    whole.append(jax.value_and_grad(factor, has_aux=True)(columns))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14), *whole)
    frames = whole[1][0][1][0][..., 0]
    np.testing.assert_allclose(frames.T @ frames, np.eye(5), atol=1e-14)

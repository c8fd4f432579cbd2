"""Chains of matrices to test on, and what other routes say of them."""

import jax.numpy as jnp
import mpmath
import numpy as np

from jacobian_rnn import Recurrence, trajectory
from jacobian_rnn.linalg.frames import generic_columns
from tests.networks import normal


def haar(generator, n):
    return np.linalg.qr(generator.normal(size=(n, n)))[0]


def known_chain(seed, n, num_steps, draw_logs):
    """Return U_t diag(D_t) U_{t-1}ᵀ with Haar U, and the log singular values of the product."""
    generator = np.random.default_rng(seed)
    frame, jacobians, total = haar(generator, n), [], np.zeros(n)
    for _ in range(num_steps):
        logs, after = draw_logs(generator), haar(generator, n)
        jacobians.append((after * np.exp(logs)) @ frame.T)
        total += logs
        frame = after
    return np.stack(jacobians), np.sort(total)[::-1]


def exact_logs(jacobians, digits):
    """Compute log singular values from the dense product in arbitrary precision."""
    with mpmath.workdps(digits):
        product = mpmath.eye(jacobians.shape[1])
        for jacobian in jacobians:
            product = mpmath.matrix(jacobian.tolist()) * product
        values = mpmath.svd_r(product, compute_uv=False)
        return np.array(sorted((float(mpmath.log(value)) for value in values), reverse=True))


def tanh_step(weights, carry, x):
    return jnp.tanh(weights @ carry + (0 if x is None else x))


def gaussian(n, gain, seed=0):
    return jnp.asarray(gain * normal(seed, (n, n)) / np.sqrt(n))


def benettin(jacobians, k):
    """QR at every step in numpy."""
    frame = generic_columns(jacobians.shape[1], k)
    total = np.zeros(k)
    for jacobian in np.asarray(jacobians):
        frame, r = np.linalg.qr(jacobian @ frame)
        total += np.log(np.abs(np.diag(r)))
    return np.sort(total / len(jacobians))[::-1]


def chaotic_jacobians(n=12, steps=500):
    weights = gaussian(n, 2.0)
    states = trajectory(Recurrence(tanh_step, weights), jnp.ones(n), None, num_steps=steps)
    return (1 - states[1:, :, None] ** 2) * weights[None]

"""Do 95 % intervals over time hold the true exponents 95 % of the time?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from jacobian_rnn import Recurrence, lyapunov_spectrum, lyapunov_spectrum_of


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_intervals_cover_newmans_exponents():
    n, steps, runs = 4, 1000, 1000
    exact = 0.5 * (np.log(2 / n) + digamma((n - np.arange(1, n + 1) + 1) / 2))

    def interval(key):
        jacobians = jax.random.normal(key, (steps, n, n)) / np.sqrt(n)
        return lyapunov_spectrum_of(jacobians, qr_every=1).interval()

    keys = jax.random.split(jax.random.key(1), runs)
    lower, upper = jax.jit(lambda keys: jax.lax.map(interval, keys))(keys)
    covered = float(jnp.mean((lower <= exact[None]) & (exact[None] <= upper)))
    # 4000 intervals: a standard error of 0.35 %.
    assert 0.93 < covered < 0.97, covered


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_intervals_cover_the_exponents_of_a_network_with_slow_input():
    n, k, runs = 16, 4, 200
    weights = 1.5 * jax.random.normal(jax.random.key(1), (n, n)) / np.sqrt(n)
    system = Recurrence(lambda w, h, x: jnp.tanh(w @ h + x), weights)

    def inputs(key, steps):
        """Draw noise with a correlation time of 20 steps."""
        noise = 0.2 * np.sqrt(1 - 0.95**2) * jax.random.normal(key, (steps, n))
        step = lambda last, new: ((0.95 * last + new),) * 2  # noqa: E731
        return jax.lax.scan(step, jnp.zeros(n), noise)[1]

    def spectrum(key, steps):
        xs = inputs(key, steps + 500)
        return lyapunov_spectrum(
            system, jnp.zeros(n), xs, num_exponents=k, num_warmup=500, qr_every=2
        )

    reference = spectrum(jax.random.key(99), 200_000).exponents
    keys = jax.random.split(jax.random.key(5), runs)
    lower, upper = jax.jit(
        lambda keys: jax.lax.map(lambda key: spectrum(key, 2000).interval(), keys)
    )(keys)
    covered = float(jnp.mean((lower <= reference[None]) & (reference[None] <= upper)))
    assert 0.90 < covered < 0.98, covered

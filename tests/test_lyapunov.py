import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import Recurrence, from_linen, jacobian_product, largest_exponent


def logistic(r, carry, x):
    del x
    return r * carry * (1 - carry)


def henon(params, carry, x):
    del x
    a, b = params
    return jnp.stack([1 - a * carry[0] ** 2 + carry[1], b * carry[0]])


def linear(matrix, carry, x):
    del x
    return matrix @ carry


def test_logistic_map_at_4_has_exponent_ln_2():
    system = Recurrence(logistic, jnp.array(4.0))
    rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=200_000, num_warmup=1000)
    # The distribution of log|f'| has standard deviation pi/sqrt(12) around ln 2.
    assert abs(float(rate) - np.log(2)) < 4 * np.pi / np.sqrt(12 * 199_000)


def test_logistic_map_on_its_period_2_orbit_has_the_exact_exponent():
    r = 3.2
    system = Recurrence(logistic, jnp.array(r))
    rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=3000, num_warmup=1000)
    assert float(rate) == pytest.approx(0.5 * np.log(abs(4 + 2 * r - r**2)), abs=1e-12)


def test_henon_map_has_its_published_exponent():
    system = Recurrence(henon, jnp.array([1.4, 0.3]))
    rate = largest_exponent(system, jnp.array([0.1, 0.1]), None, num_steps=400_000, num_warmup=1000)
    assert float(rate) == pytest.approx(0.41927, abs=0.003)


def test_linear_system_grows_at_the_largest_modulus_of_an_eigenvalue():
    matrix = jnp.array([[1.2, 5.0], [0.0, 0.7]])
    system = Recurrence(linear, matrix)
    rate = largest_exponent(system, jnp.zeros(2), None, num_steps=500, num_warmup=200)
    assert float(rate) == pytest.approx(np.log(1.2), abs=1e-12)


def test_exponent_is_the_rate_of_the_norm_of_the_product():
    cell = nn.GRUCell(6, param_dtype=jnp.float64)
    xs = jax.random.normal(jax.random.key(0), (3000, 2), jnp.float64)
    carry = jnp.zeros(6)
    system = from_linen(cell, cell.init(jax.random.key(1), carry, xs[0]))
    rate = largest_exponent(system, carry, xs)
    norm = jacobian_product(system, carry, xs, estimate_error=False).log_norm()
    # The two differ by the overlap of the vector with the leading direction, a few nats in all.
    assert abs(float(rate - norm / 3000)) < 5 / 3000


def test_warm_up_removes_the_transient():
    system = Recurrence(linear, jnp.array([[1.0, 100.0], [0.0, 0.5]]))
    short = largest_exponent(system, jnp.zeros(2), None, num_steps=50)
    settled = largest_exponent(system, jnp.zeros(2), None, num_steps=50, num_warmup=40)
    assert abs(float(settled)) < 1e-10 < abs(float(short))


def test_a_step_to_zero_gives_minus_infinity():
    system = Recurrence(linear, jnp.zeros((2, 2)))
    assert largest_exponent(system, jnp.ones(2), None, num_steps=3) == -jnp.inf


@pytest.mark.parametrize("num_warmup", [-1, 5, 6])
def test_a_warm_up_that_leaves_no_step_is_refused(num_warmup):
    system = Recurrence(linear, jnp.eye(2))
    with pytest.raises(ValueError, match="num_warmup: received"):
        largest_exponent(system, jnp.ones(2), None, num_steps=5, num_warmup=num_warmup)


def test_an_empty_sequence_has_no_rate():
    system = Recurrence(linear, jnp.eye(2))
    with pytest.raises(ValueError, match="num_warmup"):
        largest_exponent(system, jnp.ones(2), None, num_steps=0)

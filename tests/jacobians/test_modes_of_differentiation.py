import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import (
    Recurrence,
    backward_profile,
    finite_time_growth,
    input_jacobians,
    jacobian_product,
    largest_exponent,
    leading_singular_values,
    log_singular_values_by_lag,
    lyapunov_spectrum,
    parameter_gradients,
    predict_regime,
    state_gradients,
    step_jacobians,
)
from tests.networks import normal


@jax.custom_vjp
def only_backwards(x):
    return jnp.tanh(x)


only_backwards.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, g: ((1 - y**2) * g,))


def backward_step(weights, carry, x):
    return only_backwards(weights @ carry + x)


def forward_step(weights, carry, x):
    return jnp.tanh(weights @ carry + x)


def test_forward_mode_is_refused_where_a_custom_vjp_leaves_reverse_mode_alone():
    system = Recurrence(backward_step, jnp.asarray(normal(0, (4, 4))))
    with pytest.raises(ValueError, match="method='forward': the step holds a custom_vjp"):
        step_jacobians(system, jnp.zeros(4), jnp.zeros((3, 4)), method="forward")


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "measure",
    [
        lambda *a: jacobian_product(*a).log_rms_growth(),
        lambda *a: step_jacobians(*a),
        lambda *a: largest_exponent(*a),
        lambda *a: lyapunov_spectrum(*a, num_exponents=2, qr_every=1).exponents,
        lambda *a: finite_time_growth(*a, lags=[4], key=jax.random.key(0)).log_growth,
        lambda *a: input_jacobians(*a, lags=[3]).log_norms,
        lambda *a: log_singular_values_by_lag(*a, lags=[3]),
        lambda *a: predict_regime(*a[:2], jnp.stack([a[2], a[2]]), horizon=9).log_growth,
    ],
)
def test_a_step_without_forward_mode_gives_the_numbers_of_one_with(measure, given):
    weights, xs = jnp.asarray(normal(0, (4, 4)) / 2), jnp.asarray(normal(1, (20, 4)))
    jacobian = (lambda p, c, x: jax.jacrev(backward_step, argnums=1)(p, c, x)) if given else None
    backward = Recurrence(backward_step, weights, jacobian=jacobian)
    expected = measure(Recurrence(forward_step, weights), jnp.zeros(4), xs)
    np.testing.assert_allclose(measure(backward, jnp.zeros(4), xs), expected, atol=1e-12)


def looping_step(weights, carry, x):
    def once(state):
        carry, count = state
        return jnp.tanh(weights @ carry + x), count + 1

    return jax.lax.while_loop(lambda state: state[1] < 2, once, (carry, 0))[0]


def unrolled_step(weights, carry, x):
    return jnp.tanh(weights @ jnp.tanh(weights @ carry + x) + x)


@pytest.mark.parametrize(
    "measure",
    [
        lambda *a: predict_regime(*a[:2], jnp.stack([a[2], a[2]]), horizon=9).log_growth,
        lambda *a: backward_profile(*a, key=jax.random.key(0)).log_growth,
        lambda *a: leading_singular_values(*a, num=2).log_singular_values,
        lambda *a: state_gradients(*a, lambda states: states[-1].sum()),
        lambda *a: jacobian_product(*a).log_rms_growth(),
    ],
)
def test_a_step_without_reverse_mode_gives_the_numbers_of_one_with(measure):
    weights, xs = jnp.asarray(normal(0, (4, 4)) / 2), jnp.asarray(normal(1, (20, 4)))
    looping, unrolled = (
        measure(Recurrence(step, weights), jnp.zeros(4), xs)
        for step in (looping_step, unrolled_step)
    )
    np.testing.assert_allclose(looping, unrolled, atol=1e-12)


def test_what_cannot_be_differentiated_is_named_with_the_way_out():
    weights, xs = jnp.asarray(normal(0, (4, 4)) / 2), jnp.asarray(normal(1, (20, 4)))
    with pytest.raises(ValueError, match=r"without reverse mode.*lax\.scan"):
        parameter_gradients(
            Recurrence(looping_step, weights), jnp.zeros(4), xs, lambda states: states[-1].sum()
        )

    def neither(weights, carry, x):
        return only_backwards(looping_step(weights, carry, x))

    with pytest.raises(ValueError, match=r"which has no derivative.*give the Recurrence"):
        jacobian_product(Recurrence(neither, weights), jnp.zeros(4), xs)
    given = Recurrence(neither, weights, jacobian=lambda w, c, x: jnp.diag(c + x) @ w)
    assert np.isfinite(jacobian_product(given, jnp.zeros(4), xs).log_norm())
    assert np.isfinite(
        backward_profile(given, jnp.zeros(4), xs, key=jax.random.key(0)).log_growth[-1]
    )

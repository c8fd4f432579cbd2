"""What traces of steps tell: fewer bits than the state has, wherever they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jacobian_rnn import (
    Recurrence,
    finite_time_growth,
    from_linen,
    input_jacobians,
    jacobian_product,
    largest_exponent,
    log_singular_values_by_lag,
    lyapunov_spectrum,
    predict_regime,
)
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.traced_steps import rounding_of_step
from tests.networks import normal


def in_float32(cell_class, width, dtype):
    """Return the same float32 weights in a cell that computes in `dtype`, and the carry."""
    cell = cell_class(width, dtype=dtype)
    carry = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.float32),
        cell.initialize_carry(jax.random.key(0), (3,)),
    )
    variables = cell_class(width).init(jax.random.key(1), carry, jnp.zeros(3, jnp.float32))
    return from_linen(cell, variables), carry


def halved(state, x):
    del x
    return jnp.where(state > 0, (0.5 * state.astype(jnp.bfloat16)).astype(state.dtype), state)


@pytest.mark.parametrize(
    ("step", "eps"),
    [
        (lambda state, _: jnp.tanh(state), 2.0**-52),
        (lambda state, _: state.astype(jnp.float32).astype(state.dtype), 2.0**-23),
        (halved, 2.0**-7),
        (jax.jit(halved), 2.0**-7),
        (lambda state, x: lax.cond(x > 0, halved, lambda s, _: s, state, x), 2.0**-7),
        (lambda state, x: lax.fori_loop(0, 3, lambda _, s: halved(s, x), state), 2.0**-7),
        (lambda state, _: lax.reduce_precision(state, 8, 4), 2.0**-4),
        (lambda state, _: state.astype(jnp.float16).astype(state.dtype), 2.0**-10),
    ],
)
def test_the_coarsest_arithmetic_is_found_wherever_it_stands(step, eps):
    assert rounding_of_step(step, jnp.ones(2), jnp.ones(())) == eps


def test_a_device_is_told_not_to_take_fewer_bits_by_itself(monkeypatch):
    network, carry = in_float32(nn.GRUCell, 4, None)
    system = bind(network, carry, jnp.zeros((2, 3), jnp.float32))
    state, x = system.state, system.one_input
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rounding_of_step(system.step, state, x) == 2.0**-23
    # Taken as it is, the same step would multiply in TF32.
    bare = lambda state, x: network.step(network.params, state, x)  # noqa: E731
    assert rounding_of_step(bare, state, x) == 2.0**-10


@pytest.mark.parametrize(
    "function",
    [
        jacobian_product,
        lambda network, carry, xs: predict_regime(network, carry, jnp.stack([xs, xs]), horizon=9),
        lyapunov_spectrum,
        largest_exponent,
        lambda *system: finite_time_growth(*system, lags=[5], key=jax.random.key(0)),
        lambda *system: log_singular_values_by_lag(*system, lags=[5]),
        lambda *system: input_jacobians(*system, lags=[5]),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.usefixtures("standard_promotion")  # of Flax, inside the cell
def test_a_step_that_computes_in_fewer_bits_than_its_state_is_refused(function, dtype):
    network, carry = in_float32(nn.GRUCell, 4, dtype)
    xs = jnp.asarray(normal(0, (40, 3)), jnp.float32)
    with pytest.raises(TypeError, match=r"step: received one that computes .*dtype=None"):
        function(network, carry, xs)
    function(in_float32(nn.GRUCell, 4, None)[0], carry, xs)


def test_a_step_of_plain_floats_is_not_refused_for_its_integers():
    def step(params, carry, x):
        return params * carry + x.astype(jnp.int8).astype(carry.dtype)

    system = Recurrence(step, jnp.array(0.5))
    assert np.isfinite(lyapunov_spectrum(system, jnp.ones(2), jnp.ones((40, 2))).exponents).all()

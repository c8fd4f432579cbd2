import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    backward_profile,
    from_linen,
    jacobian_product,
    predict_regime,
)
from jacobian_rnn.jacobians.rough_functions import rough
from tests.networks import normal


def test_results_of_functions_change_by_a_few_roundings_and_those_of_sums_do_not():
    values, number = jnp.asarray(normal(0, 1000)), jnp.int32(3)
    change = np.abs(rough(jnp.tanh, number)(values) / jnp.tanh(values) - 1)
    eps = float(jnp.finfo(jnp.float64).eps)
    assert change.min() > 0
    assert eps / 2 < change.max() <= 2 * eps
    np.testing.assert_array_equal(rough(lambda x: 2 * x + 1, number)(values), 2 * values + 1)
    other = rough(jnp.tanh, jnp.int32(4))(values)
    assert np.any(other != rough(jnp.tanh, number)(values))


def test_functions_inside_compiled_ones_change_too_and_loops_stay_whole():
    compiled = jax.jit(lambda x: jax.nn.sigmoid(x) + jnp.exp(x))
    values = jnp.asarray(normal(0, 100))
    assert np.any(rough(compiled, jnp.int32(0))(values) != compiled(values))

    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x), x)

    np.testing.assert_allclose(rough(loop, jnp.int32(0))(values), loop(values), rtol=1e-14)


def test_a_slope_that_is_a_difference_of_rounded_numbers_shows_its_digits():
    # At a = 8 the slope 4 e^-16 has half a digit in float32: h is 1 − 2 eps.
    slope = jax.grad(jnp.tanh)
    point = jnp.asarray(8.0, jnp.float32)
    slopes = [float(rough(slope, jnp.int32(i))(point)) for i in range(20)]
    assert np.ptp(slopes) > 0.3 * float(slope(point))
    assert np.ptp([float(rough(slope, jnp.int32(i))(point / 8)) for i in range(20)]) < 1e-5


@pytest.mark.parametrize("declared", [True, False])
def test_a_slope_that_is_zero_by_rounding_is_not_known_and_a_reset_is(declared):
    # In float32 the gate is 1, and its slope is 0 instead of e^-30.
    def gate(params, carry, x):
        return jax.nn.sigmoid(params * carry + x)

    def slopes(params, carry, x):
        h = jax.nn.sigmoid(params * carry + x)
        return (params * h * (1 - h))[None, None]

    single = jnp.ones(4, jnp.float32)
    system = Recurrence(gate, single, unit_jacobians=slopes if declared else None)
    xs = jnp.full((3, 30, 4), 30, jnp.float32)
    product = jacobian_product(system, single, xs[0])
    assert np.isneginf(product.log_norm())
    assert np.isinf(product.log_error)
    profile = backward_profile(system, single, xs[0], key=jax.random.key(0))
    assert np.all(np.isinf(profile.rounding_error))
    for method in ("probes", "exact"):
        assert bool(predict_regime(system, single, xs, horizon=20, method=method).undetermined)
    reset = Recurrence(lambda params, carry, x: params * carry * x, single)
    product = jacobian_product(reset, single, jnp.ones_like(xs[0]).at[7].set(0))
    assert np.isneginf(product.log_norm())
    assert float(product.log_error) == 0


def saturated(dtype, *, closed_form, seed=0):
    """Make a network whose Jacobian has the slopes 1 − h², or those of the closed form."""
    xs = jnp.asarray(normal(seed, (3, 60, 3)), jnp.float32)
    variables = nn.SimpleCell(16).init(jax.random.key(1 + seed), jnp.zeros(16, xs.dtype), xs[0, 0])
    variables["params"]["i"]["bias"] = jnp.full(16, 8, xs.dtype)
    # The same weights in every dtype.
    variables, xs = jax.tree.map(lambda a: jnp.asarray(a, dtype), (variables, xs))
    network = from_linen(nn.SimpleCell(16, param_dtype=dtype), variables)
    network = network if closed_form else dataclasses.replace(network, jacobian=None)
    return network, jnp.zeros(16, dtype), xs


@pytest.mark.parametrize("method", ["probes", "exact"])
def test_a_saturated_network_is_flagged_in_float32_and_known_in_float64(method):
    options = {"horizon": 40, "method": method}
    flagged = predict_regime(*saturated(jnp.float32, closed_form=False), **options)
    assert bool(flagged.borderline)
    # Where all digits are lost, neither growth nor error is a number.
    assert float(np.nanmax(flagged.log_growth_error)) > 0.01
    assert "rounding" in str(flagged)
    known = predict_regime(*saturated(jnp.float64, closed_form=False), **options)
    assert np.all(np.isfinite(known.log_growth))
    assert 1e-9 < float(known.log_growth_error.max()) < 1e-2


def test_a_closed_form_knows_a_saturated_network_in_float32_and_says_so():
    options = {"horizon": 40, "method": "exact"}
    coarse = predict_regime(*saturated(jnp.float32, closed_form=True), **options)
    fine = predict_regime(*saturated(jnp.float64, closed_form=True), **options)
    assert not bool(coarse.borderline)
    errors = np.abs(np.asarray(coarse.log_growth, float) - fine.log_growth)
    assert errors.max() < float(coarse.log_growth_error.max()) < 0.01


def test_products_of_saturated_networks_say_how_much_they_know():
    def norm_and_error(dtype, seed, *, closed_form):
        network, carry, xs = saturated(dtype, closed_form=closed_form, seed=seed)
        product = jacobian_product(network, carry, xs[0])
        return np.asarray([product.log_norm(), product.log_growth_error], float)

    seeds = range(20)
    exact = np.stack([norm_and_error(jnp.float64, seed, closed_form=True) for seed in seeds])
    assert exact[:, 1].max() < 1e-10
    # The estimate is from one draw of roundings, and the error is another draw.
    for dtype, likely in ((jnp.float32, (0.02, 30)), (jnp.float64, (1e-11, 1e-5))):
        norms, estimates = np.stack(
            [norm_and_error(dtype, seed, closed_form=False) for seed in seeds]
        ).T
        errors = np.abs(norms - exact[:, 0])
        assert np.all((likely[0] < estimates) & (estimates < likely[1]))
        assert np.quantile(errors / estimates, 0.8) < 3
        assert np.median(errors / estimates) > 0.02


def test_profiles_of_a_saturated_network_say_how_much_they_know():
    (network, carry, xs), double = (
        saturated(dtype, closed_form=False) for dtype in (jnp.float32, jnp.float64)
    )
    key = jax.random.key(0)
    assert float(backward_profile(network, carry, xs[0], key=key).rounding_error[-1]) > 1
    assert float(backward_profile(*double[:2], double[2][0], key=key).rounding_error[-1]) < 1e-2

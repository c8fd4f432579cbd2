import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import (
    Recurrence,
    backward_profile,
    input_jacobians,
    jacobian_product,
    log_singular_values_by_lag,
    lru,
    lyapunov_spectrum,
    predict_regime,
    step_jacobians,
    with_padding,
    zero_carry,
)
from jacobian_rnn.cells.recurrence import last_array, whole_carry
from jacobian_rnn.linalg.frames import generic_columns
from tests.networks import normal


def coupled(params, carry, x):
    """Three arrays of units: each unit turns its three entries into each other."""
    first, second, third = carry
    a, b = params
    return (
        jnp.tanh(a * second + x[0]),
        first - b * third,
        jnp.sin(third + a * first) + 0.1 * second,
    )


def blocks_of_coupled(params, carry, x):
    def of_unit(params, carry):
        return jnp.stack(coupled(params, tuple(carry), x))

    per_unit = jax.vmap(jax.jacfwd(of_unit, argnums=1), in_axes=(0, 1), out_axes=2)
    return per_unit(jnp.stack(params, axis=1), jnp.stack(carry))


def gates(params, carry, x):
    return jax.nn.sigmoid(params * x) * carry + x


def blocks_of_gates(params, carry, x):
    del carry
    return jax.nn.sigmoid(params * x)[None, None]


def of_lru():
    network = lru(3, 32, key=jax.random.key(0), dtype=jnp.float64)
    return network, zero_carry(network), jnp.asarray(normal(0, (200, 3)))


def of_three_arrays():
    params = tuple(jnp.asarray(normal(1, (2, 6))))
    declared = Recurrence(coupled, params, unit_jacobians=blocks_of_coupled)
    return declared, tuple(0.1 * jnp.ones((3, 6))), jnp.asarray(normal(2, (200, 1)))


def of_gates():
    gated = Recurrence(gates, jnp.asarray(normal(3, 8)), unit_jacobians=blocks_of_gates)
    return gated, jnp.zeros(8), jnp.asarray(normal(4, (1000, 8)))


every_setting = pytest.mark.parametrize("make", [of_lru, of_three_arrays, of_gates])


@every_setting
def test_the_product_of_blocks_is_that_of_whole_jacobians(make):
    system, carry, xs = make()
    product = jacobian_product(system, carry, xs)
    whole = jacobian_product(dataclasses.replace(system, unit_jacobians=None), carry, xs)
    allowed = 1e-9 + 10 * float(whole.log_error)
    values = product.log_singular_values()
    np.testing.assert_allclose(values, whole.log_singular_values(), atol=allowed)
    assert float(product.log_error) <= 1e-9
    cotangent = jnp.asarray(normal(5, values.size))
    rows = jnp.asarray(normal(6, (3, values.size))).at[:, 1].set(0)
    for name, arguments in {
        "log_growth_through": (rows,),
        "log_norm": (),
        "log_abs_det": (),
        "log_rms_growth": (),
        "log_adjoint_growth": (cotangent,),
    }.items():
        ours, theirs = (getattr(one, name)(*arguments) for one in (product, whole))
        np.testing.assert_allclose(ours, theirs, atol=allowed, err_msg=name)
    assert float(product.log_growth_through_error(rows)) <= allowed
    assert float(product.log_growth_error) <= allowed
    for name in ("num_steps", "first_lost_step", "first_underflow_step", "first_nonfinite_step"):
        assert int(getattr(product, name)) == int(getattr(whole, name)), name
    assert product.right_cut.shape == whole.right_cut.shape
    left, right = product.singular_vectors()
    sizes = jnp.exp(values - whole.dense()[1])
    np.testing.assert_allclose((left * sizes[None]) @ right, whole.dense()[0], atol=1e-9)
    matrix, log_scale = product.dense()
    np.testing.assert_allclose(matrix, whole.dense()[0], atol=1e-9)
    assert float(log_scale) == pytest.approx(float(whole.dense()[1]), abs=allowed)
    half = len(xs) // 2
    states = jax.lax.scan(lambda c, x: (system.step(system.params, c, x),) * 2, carry, xs)[1]
    middle = jax.tree.map(lambda a: a[half - 1], states)
    later = jacobian_product(system, middle, xs[half:])
    composed = later @ jacobian_product(system, carry, xs[:half])  # pyright: ignore[reportOperatorIssue]
    np.testing.assert_allclose(composed.log_singular_values(), values, atol=1e-9)
    assert int(composed.num_steps) == len(xs)


@every_setting
def test_the_declared_blocks_are_the_jacobian(make):
    system, carry, xs = make()
    of_blocks = step_jacobians(dataclasses.replace(system, jacobian=None), carry, xs[:5])
    differentiated = step_jacobians(system, carry, xs[:5], method="forward")
    np.testing.assert_allclose(of_blocks, differentiated, atol=1e-14)
    active = jnp.arange(5) > 1
    waiting = dataclasses.replace(with_padding(system), jacobian=None)
    np.testing.assert_allclose(
        step_jacobians(waiting, carry, (xs[:5], active)),
        step_jacobians(waiting, carry, (xs[:5], active), method="forward"),
        atol=1e-14,
    )


@every_setting
def test_exponents_are_those_of_each_unit_by_itself(make):
    system, carry, xs = make()
    spectrum = lyapunov_spectrum(system, carry, xs)
    jacobians = step_jacobians(system, carry, xs)
    n = jacobians.shape[1]
    c = jax.eval_shape(system.unit_jacobians, system.params, carry, xs[0]).shape[0]
    of_units = jacobians.reshape(len(xs), c, n // c, c, n // c)
    frames = np.tile(generic_columns(c, c), (n // c, 1, 1))
    logs = np.zeros((n // c, c))
    for jacobian in np.asarray(of_units):
        blocks = np.stack([jacobian[:, u, :, u] for u in range(n // c)])
        frames, triangles = np.linalg.qr(blocks @ frames)
        logs += np.log(np.abs(np.diagonal(triangles, axis1=1, axis2=2)))
    expected = np.sort(logs.ravel())[::-1] / len(xs)
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-11)
    assert float(spectrum.sum_rule_residual) < 1e-12
    assert int(spectrum.num_checked) == int(spectrum.num_steps) == len(xs)
    assert "WARNING: rounding" not in str(spectrum)


def test_gates_that_close_are_cut_and_a_closed_gate_of_the_warm_up_is_not_counted():
    xs = jnp.ones((50, 8))
    closed = Recurrence(shut, jnp.asarray(normal(3, 8)), unit_jacobians=blocks_of_shut)
    spectrum = lyapunov_spectrum(closed, jnp.zeros(8), xs.at[20, 0].set(-1.0))
    assert int(np.sum(np.isneginf(spectrum.exponents))) == 1
    assert int(spectrum.first_zero_step) == 20
    assert int(spectrum.first_lost_step) == -1
    assert np.isnan(spectrum.standard_errors[-1])
    later = lyapunov_spectrum(closed, jnp.zeros(8), xs.at[20, 0].set(-1.0), num_warmup=30)
    assert np.all(np.isfinite(later.exponents))
    assert int(later.first_zero_step) == -1
    broken = lyapunov_spectrum(closed, jnp.zeros(8), xs.at[40, 0].set(1e200))
    assert int(broken.first_nonfinite_step) == 40
    assert np.all(np.isnan(broken.exponents))


def shut(params, carry, x):
    return jnp.where(x > 0, jnp.exp(0.1 * params), 0) * carry + x * 1e200


def blocks_of_shut(params, carry, x):
    del carry
    return jnp.where(x > 0, jnp.exp(0.1 * params), 0)[None, None]


def test_many_units_need_no_matrix():
    network = lru(2, 3000, key=jax.random.key(0))
    carry, xs = zero_carry(network), jnp.asarray(normal(0, (2, 40, 2)), jnp.float32)
    # A matrix of these states has 36 million entries, and a product three of them at each step.
    radii = np.sort(np.repeat(-np.exp(np.asarray(network.params["log_decay"], float)), 2))[::-1]
    spectrum = lyapunov_spectrum(network, carry, xs[0])
    np.testing.assert_allclose(spectrum.exponents, radii, atol=1e-5)
    product = jacobian_product(network, carry, xs[0], estimate_error=False)
    np.testing.assert_allclose(product.log_singular_values(), 40 * radii, atol=1e-4)
    profile = backward_profile(network, carry, xs[0], key=jax.random.key(1))
    exact = float(product.log_rms_growth())
    error = float(profile.sampling_error[-1])
    assert float(profile.log_growth[-1]) == pytest.approx(exact, abs=4 * error)
    by_lag = log_singular_values_by_lag(network, carry, xs[0], lags=[1, 40])
    np.testing.assert_allclose(by_lag, np.array([[1], [40]]) * radii, atol=1e-4)
    probes = predict_regime(network, carry, xs, horizon=30)
    prediction = predict_regime(network, carry, xs, horizon=30, method="exact")
    np.testing.assert_allclose(prediction.log_singular_values, [30 * radii] * 2, atol=1e-4)
    off = np.abs(prediction.log_growth - probes.log_growth)
    assert np.all(off < 4 * probes.sampling_error)


def test_what_takes_whole_jacobians_still_does():
    network = lru(3, 4, key=jax.random.key(0), dtype=jnp.float64)
    carry, xs = zero_carry(network), jnp.asarray(normal(0, (60, 3)))
    few = lyapunov_spectrum(network, carry, xs, num_exponents=2, num_warmup=5)
    more = lyapunov_spectrum(network, None, xs, resume=few)
    assert int(more.num_steps) == 115
    of_units = lyapunov_spectrum(network, carry, xs)
    with pytest.raises(ValueError, match=r"give dataclasses\.replace"):
        lyapunov_spectrum(network, None, xs, resume=of_units)


@pytest.mark.parametrize(
    ("shape", "dtype", "match"),
    [
        ((1, 1, 3), jnp.float64, r"unit_jacobians: received shape \(1, 1, 3\)"),
        ((8,), jnp.float64, r"unit_jacobians: received shape \(8,\)"),
        ((1, 1, 8), jnp.float32, "unit_jacobians: received float32"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(shape, dtype, match):
    system = Recurrence(gates, jnp.ones(8), unit_jacobians=lambda *_: jnp.ones(shape, dtype))
    with pytest.raises((TypeError, ValueError), match=match):
        lyapunov_spectrum(system, jnp.zeros(8), jnp.ones((5, 8)))


def test_exponents_of_units_have_the_derivative_that_differences_have():
    system, carry, xs = of_gates()
    xs = xs[:20]

    def total(params):
        moved = dataclasses.replace(system, params=params)
        return lyapunov_spectrum(moved, carry, xs).exponents[0]

    gradient = jax.grad(total)(system.params)
    step = 1e-6 * jnp.asarray(normal(9, 8))
    difference = (total(system.params + step) - total(system.params - step)) / 2
    assert float(gradient @ step) == pytest.approx(float(difference), rel=1e-6)
    # A gate that is shut loses its direction, and the derivative of what is left stays finite.
    closed = Recurrence(shut, jnp.asarray(normal(3, 8)), unit_jacobians=blocks_of_shut)
    xs = jnp.ones((50, 8)).at[20, 0].set(-1.0)

    def largest(params):
        moved = dataclasses.replace(closed, params=params)
        return lyapunov_spectrum(moved, jnp.zeros(8), xs).exponents[0]

    assert np.all(np.isfinite(jax.grad(largest)(closed.params)))


def saturated(params, carry, x):
    return jnp.tanh(params * carry + x)


def blocks_of_saturated(params, carry, x):
    return (params * (1 - jnp.tanh(params * carry + x) ** 2))[None, None]


def test_the_error_of_a_block_product_holds_what_saturated_units_lose():
    xs = jnp.full((30, 4), 7.0)
    system = Recurrence(saturated, jnp.ones(4), unit_jacobians=blocks_of_saturated)
    fine = jacobian_product(system, jnp.zeros(4), xs)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (system, jnp.zeros(4), xs))
    coarse = jacobian_product(*single)
    error = abs(float(fine.log_norm()) - float(coarse.log_norm()))
    assert 0.1 < error < 10 * float(coarse.log_error)
    assert float(fine.log_error) < 1e-4


def test_rows_that_show_nothing_have_no_growth_and_without_passes_there_is_no_error():
    product = jacobian_product(*of_gates(), estimate_error=False)
    assert np.isneginf(product.log_growth_through(jnp.zeros((1, 8))))
    assert np.isnan(product.log_growth_through_error(jnp.ones((1, 8))))
    assert np.isnan(product.log_growth_error)
    with pytest.raises(ValueError, match=r"rows: received shape \(1, 7\)"):
        product.log_growth_through(jnp.ones((1, 7)))


def test_units_that_lost_their_digits_leave_the_growth_of_the_others_known():
    xs = jnp.full((30, 4), 7.0).at[:, 0].set(0.1)
    args = jnp.asarray(np.ones(4), jnp.float32), jnp.zeros(4, jnp.float32)
    system = Recurrence(saturated, args[0], unit_jacobians=blocks_of_saturated)
    product = jacobian_product(system, args[1], jnp.asarray(xs, jnp.float32))
    assert float(product.log_error) > 0.1
    assert float(product.log_growth_error) < 1e-2
    fine = jacobian_product(Recurrence(saturated, jnp.ones(4)), jnp.zeros(4), xs)
    assert float(product.log_rms_growth()) == pytest.approx(float(fine.log_rms_growth()), abs=1e-4)


@every_setting
def test_spectra_by_lag_of_units_are_those_of_whole_jacobians(make):
    system, carry, xs = make()
    xs, lags = xs[:40], [40, 0, 3, 17]
    of_units = log_singular_values_by_lag(system, carry, xs, lags=lags)
    plain = dataclasses.replace(system, unit_jacobians=None)
    whole = log_singular_values_by_lag(plain, carry, xs, lags=lags)
    np.testing.assert_allclose(of_units, whole, atol=1e-9)


@every_setting
def test_input_jacobians_of_units_are_those_of_whole_jacobians(make):
    system, carry, xs = make()
    lags = [7, 1, 20]
    of_units = input_jacobians(system, carry, xs, lags=lags)
    whole = input_jacobians(dataclasses.replace(system, unit_jacobians=None), carry, xs, lags=lags)
    np.testing.assert_allclose(of_units.log_norms, whole.log_norms, atol=1e-9)
    np.testing.assert_allclose(of_units.matrices, whole.matrices, atol=1e-12)
    np.testing.assert_allclose(of_units.digits_lost, whole.digits_lost, atol=1e-9)


@pytest.mark.parametrize(
    "output", [whole_carry, last_array, lambda carry: carry[0][:2] + carry[1][:2]]
)
@pytest.mark.filterwarnings("ignore:output. received none:UserWarning")
def test_the_exact_prediction_of_units_is_that_of_whole_jacobians(output):
    network = lru(3, 4, key=jax.random.key(0), dtype=jnp.float64)
    network = dataclasses.replace(network, output=output)
    carry, xs = zero_carry(network), jnp.asarray(normal(0, (3, 40, 3)))
    options = {"horizon": 25, "method": "exact", "seq_lengths": [40, 30, 35]}
    of_units = predict_regime(network, carry, xs, **options)
    plain = dataclasses.replace(network, unit_jacobians=None)
    whole = predict_regime(plain, carry, xs, **options)
    for name in ("log_growth", "log_growth_of_output", "log_singular_values"):
        ours, theirs = getattr(of_units, name), getattr(whole, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-12, err_msg=name)
    assert float(of_units.log_growth_error.max()) < 1e-11

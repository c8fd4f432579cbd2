"""Products of Jacobians [[f I, a], [0, s]] against those of whole matrices."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import BorderedIdentity, Recurrence, jacobian_product
from tests.networks import normal


def scaled_memory(params, carry, x):
    """Keep a memory by one number that the input chooses, and write what a last state shows."""
    memory, last = carry
    kept, written, own = params
    return jnp.cos(kept * x[0]) * memory + written * jnp.sin(last + x[0]), own * jnp.tanh(last) + x[
        0
    ]


def border_of_memory(params, carry, x):
    kept, written, own = params
    _, last = carry
    column = written * jnp.cos(last + x[0])
    return BorderedIdentity(jnp.cos(kept * x[0]), column, own * (1 - jnp.tanh(last) ** 2))


def of_memory(own=0.9, num_states=5, num_steps=60):
    params = jnp.asarray(1.3), jnp.asarray(normal(0, num_states)), jnp.asarray(own)
    system = Recurrence(scaled_memory, params, unit_jacobians=border_of_memory)
    xs = jnp.asarray(normal(1, (num_steps, 1)))
    return system, (jnp.asarray(normal(2, num_states)), jnp.asarray(0.3)), xs


def of_mlstm(forget_bias=3.0):
    """Draw a head whose memory is larger than all inputs, or else often smaller than one."""
    network = jrnn.mlstm(3, 4, num_keys=2, key=jax.random.key(0), dtype=jnp.float64)
    params = network.params
    params["forget"]["bias"] = jnp.asarray(forget_bias)
    params["write"]["kernel"] = jnp.asarray(normal(3, 3))
    carry = jax.tree.map(lambda one: one + 1, jrnn.zero_carry(network))
    carry = (*carry[:2], carry[2] + 20)
    return dataclasses.replace(network, params=params), carry, jnp.asarray(normal(4, (40, 3)))


SETTINGS = {
    "memory": of_memory,
    "last state that grows": lambda: of_memory(own=1.4),
    "last state that is lost": lambda: of_memory(own=0.0),
    "one entry": lambda: of_memory(num_states=1),
    "mlstm that keeps its scale": of_mlstm,
    "mlstm that forgets its scale": lambda: of_mlstm(-1.0),
}
every_setting = pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)


def whole_of(system):
    return dataclasses.replace(system, unit_jacobians=None)


@every_setting
def test_the_product_of_borders_is_that_of_whole_jacobians(make):
    system, carry, xs = make()
    product, whole = (jacobian_product(one, carry, xs) for one in (system, whole_of(system)))
    assert isinstance(product, jrnn.BorderedProduct)
    values = product.log_singular_values()
    np.testing.assert_allclose(values, whole.log_singular_values(), atol=1e-10)
    assert float(product.log_error) <= 1e-10
    rows = jnp.asarray(normal(6, (3, values.size)))
    for name, arguments in {
        "log_growth_through": (rows,),
        "log_norm": (),
        "log_abs_det": (),
        "log_rms_growth": (),
        "log_adjoint_growth": (jnp.asarray(normal(5, values.size)),),
    }.items():
        ours, theirs = (getattr(one, name)(*arguments) for one in (product, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-10, err_msg=name)
    assert float(product.log_growth_through_error(rows)) <= 1e-10
    assert float(product.log_growth_error) <= 1e-10
    for name in ("num_steps", "first_lost_step", "first_underflow_step", "first_nonfinite_step"):
        assert int(getattr(product, name)) == int(getattr(whole, name)), name
    assert product.right_cut.shape == whole.right_cut.shape
    for ours, theirs in zip(product.dense(), whole.dense(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
    left, right = product.singular_vectors()
    sizes = jnp.exp(values - whole.dense()[1])
    np.testing.assert_allclose((left * sizes[None]) @ right, whole.dense()[0], atol=1e-10)


@every_setting
def test_products_of_two_stretches_compose(make):
    system, carry, xs = make()
    half = len(xs) // 2
    middle = carry
    for x in xs[:half]:
        middle = system.step(system.params, middle, x)
    later = jacobian_product(system, middle, xs[half:])
    composed = later @ jacobian_product(system, carry, xs[:half])  # pyright: ignore[reportOperatorIssue]
    assert isinstance(composed, jrnn.BorderedProduct)
    expected = jacobian_product(system, carry, xs)
    np.testing.assert_allclose(
        composed.log_singular_values(), expected.log_singular_values(), atol=1e-10
    )
    np.testing.assert_allclose(composed.dense()[0], expected.dense()[0], atol=1e-10)
    assert int(composed.num_steps) == len(xs)
    with pytest.raises(ValueError, match="later @ earlier"):
        _ = composed @ jacobian_product(*of_memory(num_states=3))  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(TypeError):
        _ = composed @ jacobian_product(whole_of(system), carry, xs)  # pyright: ignore[reportOperatorIssue]


@every_setting
def test_spectra_by_lag_are_those_of_whole_jacobians(make):
    system, carry, xs = make()
    ours, theirs = (
        jrnn.log_singular_values_by_lag(one, carry, xs, lags=[0, 1, 7, len(xs)])
        for one in (system, whole_of(system))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


@every_setting
def test_exponents_are_the_mean_logs_of_what_is_kept(make):
    system, carry, xs = make()
    spectrum = jrnn.lyapunov_spectrum(system, carry, xs)
    numbers = []
    for x in xs:
        border = system.unit_jacobians(system.params, carry, x)
        numbers.append([float(border.kept), float(border.own)])
        carry = system.step(system.params, carry, x)
    with np.errstate(divide="ignore"):
        kept, own = np.mean(np.log(np.abs(numbers)), axis=0)
    expected = np.append(np.full(len(spectrum.exponents) - 1, kept), own)
    np.testing.assert_allclose(spectrum.exponents, -np.sort(-expected), atol=1e-12)


def test_the_column_of_an_mlstm_is_the_change_of_its_memory():
    """Without a step that forgets the scale, J turns a change of scale into the same change."""
    system, carry, xs = of_mlstm()
    product = jacobian_product(system, carry, xs)
    last = jrnn.trajectory(system, carry, xs)[-1]
    before = np.append(np.ravel(carry[0]), carry[1])
    values = product.log_singular_values()
    small = np.array([[1, np.linalg.norm(before - last[:-1])], [0, 1]])
    np.testing.assert_allclose(
        values[np.array([0, -1])], np.log(np.linalg.svd(small)[1]), atol=1e-12
    )
    np.testing.assert_allclose(values[1:-1], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("exponents", "fits"),
    [((-900, 0, 0), True), ((0, -400, 300), True), ((300, 0, 0), True), ((-40, 500, -900), False)],
)
def test_numbers_of_all_sizes_have_the_singular_values_of_mpmath_or_say_so(exponents, fits):
    """Powers of e that one step has no place for, in products of several."""
    parts, steps = np.exp(np.array(exponents) / 10), 10

    def step(params, carry, _):
        return params[0] * carry[0] + params[1] * carry[1] * jnp.ones(2), params[2] * carry[1]

    def border(params, *_):
        return BorderedIdentity(params[0], params[1] * jnp.ones(2), params[2])

    system = Recurrence(step, jnp.asarray(parts), unit_jacobians=border)
    product = jacobian_product(system, (jnp.zeros(2), jnp.zeros(())), None, num_steps=steps)
    with mpmath.workdps(900):
        f, a, s = map(mpmath.mpf, parts)
        jacobian = mpmath.matrix([[f, 0, a], [0, f, a], [0, 0, s]])
        power = jacobian**steps
        squares = mpmath.eigsy(power.T * power, eigvals_only=True)
        expected = sorted((float(mpmath.log(one) / 2) for one in squares), reverse=True)
    values = product.log_singular_values()
    np.testing.assert_allclose(values[:2], expected[:2], atol=1e-9)
    if fits:  # of the last state nothing is left beside what it shows in the others
        np.testing.assert_allclose(values[2], expected[2], atol=1e-9)
    assert bool(jnp.isinf(product.log_error)) is not fits
    assert (int(product.first_underflow_step) < 0) is fits


def test_a_state_that_is_not_finite_is_said():
    system, carry, xs = of_memory(num_steps=8)
    values = jax.jit(lambda xs: jacobian_product(system, carry, xs).first_nonfinite_step)(
        xs.at[5].set(jnp.nan)
    )
    assert int(values) == 5


def test_one_pass_says_nothing_of_the_error():
    product = jacobian_product(*of_memory(), estimate_error=False)
    rows = jnp.ones((1, 6))
    for error in (
        product.log_error,
        product.log_growth_error,
        product.log_growth_through_error(rows),
    ):
        assert np.isnan(error)
    np.testing.assert_allclose(
        product.log_singular_values(), jacobian_product(*of_memory()).log_singular_values()
    )


def test_the_derivative_is_that_of_the_whole_product():
    system, carry, xs = of_memory(num_steps=10)

    def norm(params, system):
        return jacobian_product(dataclasses.replace(system, params=params), carry, xs).log_norm()

    ours, theirs = (jax.grad(norm)(system.params, one) for one in (system, whole_of(system)))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


def test_a_network_that_waits_has_the_identity_as_its_border():
    system, carry, xs = of_memory(num_steps=12)
    active = jnp.arange(12) >= 5
    ours = jacobian_product(jrnn.with_padding(system), carry, (xs, active))
    np.testing.assert_allclose(
        ours.log_singular_values(),
        jacobian_product(system, carry, xs[5:]).log_singular_values(),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: dataclasses.replace(one, kept=1.01 * one.kept), "another Jacobian"),
        (
            lambda one: dataclasses.replace(one, column=one.column.at[2].add(0.1)),
            "another Jacobian",
        ),
        (lambda one: dataclasses.replace(one, own=-one.own), "another Jacobian"),
        (lambda one: dataclasses.replace(one, column=one.column[:-1]), r"c · N = 6"),
        (lambda one: dataclasses.replace(one, kept=one.column), r"c · N = 6"),
        (lambda one: dataclasses.replace(one, own=one.column), r"c · N = 6"),
    ],
)
def test_a_wrong_border_is_refused(change, message):
    system, carry, xs = of_memory()

    def declared(params, carry, x):
        return change(border_of_memory(params, carry, x))

    wrong = dataclasses.replace(system, unit_jacobians=declared)
    with pytest.raises(ValueError, match=message):
        jacobian_product(wrong, carry, xs)


def test_numbers_of_a_border_may_be_numbers():
    def step(params, carry, x):
        return 0.5 * carry[0] + params * carry[1] + x, 0.25 * carry[1]

    def border(params, *_):
        return BorderedIdentity(0.5, params, 0.25)

    system = Recurrence(step, jnp.ones(3), unit_jacobians=border)
    product = jacobian_product(system, (jnp.zeros(3), jnp.zeros(())), jnp.zeros((7, 3)))
    np.testing.assert_allclose(product.log_abs_det(), 7 * (3 * np.log(0.5) + np.log(0.25)))


@every_setting
def test_the_matrix_of_a_border_is_the_derivative_of_the_step(make):
    system, carry, xs = make()
    system = dataclasses.replace(system, jacobian=None)
    np.testing.assert_allclose(
        jrnn.step_jacobians(system, carry, xs),
        jrnn.step_jacobians(system, carry, xs, method="forward"),
        atol=1e-12,
    )


@every_setting
def test_exact_predictions_of_borders_are_those_of_whole_jacobians(make):
    system, carry, xs = make()
    batch = jnp.stack([xs, xs[::-1]])
    shown = dataclasses.replace(system, output=lambda carry: jnp.ravel(carry[0]))
    ours, theirs = (
        jrnn.predict_regime(one, carry, batch, horizon=20, method="exact")
        for one in (shown, whole_of(shown))
    )
    for name in ("regime", "log_growth", "log_growth_of_output", "log_singular_values", "profile"):
        expected = getattr(theirs, name)
        np.testing.assert_allclose(getattr(ours, name), expected, atol=1e-9, err_msg=name)


def test_an_exact_prediction_of_a_wide_memory_takes_no_product_of_matrices():
    """Of whole matrices it would be called a matter of minutes, and be one."""
    network = jrnn.mlstm(3, 32, key=jax.random.key(0))
    xs = jnp.asarray(normal(0, (2, 200, 3)), jnp.float32)
    carry = jrnn.zero_carry(network)
    prediction = jrnn.predict_regime(network, carry, xs, horizon=200, method="exact")
    products = jax.vmap(lambda xs: jacobian_product(network, carry, xs).log_singular_values())(xs)
    np.testing.assert_allclose(prediction.log_singular_values, products, atol=1e-4)


def test_stacks_of_borders_have_their_exponents():
    lower, upper = (
        jrnn.mlstm(3, 4, num_keys=2, key=jax.random.key(0), dtype=jnp.float64),
        jrnn.mlstm(8, 3, num_keys=1, key=jax.random.key(1), dtype=jnp.float64),
    )
    both = jrnn.stack(lower, upper)
    xs = jnp.asarray(normal(4, (300, 3)))
    carry = jrnn.zero_carry(both)
    spectrum = jrnn.lyapunov_spectrum(both, carry, xs)
    assert spectrum.exponents.shape == (4 * 2 + 2 + 1 + 3 + 1 + 1,)
    alone = jrnn.lyapunov_spectrum(lower, carry[0], xs).exponents
    found = np.asarray(spectrum.exponents)
    for exponent in np.unique(alone):
        assert np.sum(np.isclose(found, exponent, atol=1e-12) | (found == exponent)) >= np.sum(
            alone == exponent
        )


@pytest.mark.slow
def test_all_singular_values_of_a_hundred_thousand_numbers_take_seconds():
    network = jrnn.mlstm(8, 316, key=jax.random.key(0))
    xs = jnp.asarray(normal(0, (1000, 8)), jnp.float32)
    start = time.perf_counter()
    product = jacobian_product(network, jrnn.zero_carry(network), xs)
    values = jax.block_until_ready(product.log_singular_values())
    assert values.shape == (316 * 316 + 316 + 1,)
    assert time.perf_counter() - start < 60

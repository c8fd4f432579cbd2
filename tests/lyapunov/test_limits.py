"""Lyapunov runs at their limits: directions lost, numbers out of range, arguments refused."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import (
    Recurrence,
    from_linen,
    lyapunov_spectrum,
    lyapunov_spectrum_of,
    trajectory,
)
from jacobian_rnn.linalg.frames import generic_columns
from tests.chains import benettin, chaotic_jacobians, gaussian, tanh_step
from tests.networks import mostly_slow, normal

FACTORIZATIONS = ["elimination", "householder", "cholesky"]


@pytest.mark.parametrize("gain", mostly_slow([10.0, 20.0], [20.0]))
@pytest.mark.parametrize("qr_every", mostly_slow([1, "auto"], ["auto"]))
def test_saturated_networks_keep_their_most_negative_exponents(gain, qr_every):
    n, steps = 32, 2000
    weights = np.asarray(gaussian(n, gain))
    inputs, carry = [], normal(1, (n,))
    for _ in range(steps):
        inputs.append(weights @ carry)
        carry = np.tanh(inputs[-1])
    size = np.abs(np.array(inputs))
    # sech² and its log without the rounding of 1 − tanh².
    sech2 = 1 / np.cosh(size) ** 2
    log_sech2 = 2 * (np.log(2) - size - np.log1p(np.exp(-2 * size)))
    exact = np.linalg.slogdet(weights)[1] + np.mean(np.sum(log_sech2, axis=1))
    jacobians = jnp.asarray(sech2[:, :, None] * weights)
    spectrum = lyapunov_spectrum_of(jacobians, qr_every=qr_every)
    with np.errstate(divide="ignore"):
        assert abs(benettin(jacobians, n).sum() - exact) > 1e-2
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(exact, abs=1e-8)
    assert spectrum.sum_rule_residual < 1e-8
    assert spectrum.first_lost_step == -1
    # With the weights on the other side, W diag(sech²), a step mixes what it has just graded, and
    # nothing can resolve it: the loss is reported.
    mixed = lyapunov_spectrum_of(jnp.asarray(weights * sech2[:, None, :]), qr_every=qr_every)
    assert mixed.first_lost_step >= 0
    assert mixed.exponents[-1] == -jnp.inf


@pytest.mark.parametrize("num_inputs", [1, 60])
def test_the_closed_form_of_a_saturated_network_gives_tangents_their_digits(num_inputs):
    # With 60 inputs there are so many weights that the matrix is formed.
    xs, n = jnp.zeros((300, num_inputs)), 16
    variables = nn.SimpleCell(n, param_dtype=jnp.float64).init(
        jax.random.key(0), jnp.zeros(n), xs[0]
    )
    variables["params"]["h"]["kernel"] = gaussian(n, 10.0).T
    network = from_linen(nn.SimpleCell(n, param_dtype=jnp.float64), variables)
    options = {"qr_every": 1, "factorization": "elimination"}
    spectrum = lyapunov_spectrum(network, jnp.ones(n), xs, **options)
    states = np.asarray(trajectory(network, jnp.ones(n), xs))[:-1]
    weights = np.asarray(gaussian(n, 10.0))
    size = np.abs(states @ weights.T)
    log_sech2 = 2 * (np.log(2) - size - np.log1p(np.exp(-2 * size)))
    exact = np.linalg.slogdet(weights)[1] + np.mean(np.sum(log_sech2, axis=1))
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(exact, abs=1e-9)
    assert spectrum.sum_rule_residual < 1e-9


def test_derivatives_that_round_to_zero_lose_the_last_directions_only():
    # 1 − tanh² is an exact zero where tanh rounds to one.
    system = Recurrence(tanh_step, gaussian(16, 12.0))
    spectrum = lyapunov_spectrum(system, jnp.ones(16), None, num_steps=300)
    assert spectrum.exponents[-1] == -jnp.inf
    assert bool(jnp.isfinite(spectrum.exponents[0]))


def test_auto_redoes_a_block_in_which_directions_suddenly_collapse():
    calm = jnp.tile(jnp.diag(jnp.array([1.01, 1.0, 0.99])), (256, 1, 1))
    rotation = jnp.asarray(generic_columns(3, 3))
    harsh = jnp.tile(rotation @ jnp.diag(jnp.array([1.0, 1e-5, 1e-10])) @ rotation.T, (256, 1, 1))
    jacobians = jnp.concatenate([calm, harsh, calm])
    spectrum = lyapunov_spectrum_of(jacobians)
    np.testing.assert_allclose(spectrum.exponents, benettin(jacobians, 3), atol=1e-9)


@pytest.mark.parametrize("log_scale", [-150, 150])
@pytest.mark.parametrize("qr_every", mostly_slow([1, "auto"], ["auto"]))
def test_a_common_scale_of_1e150_only_shifts_the_exponents(log_scale, qr_every):
    jacobians = chaotic_jacobians(n=5)
    plain = lyapunov_spectrum_of(jacobians, qr_every=1)
    scaled = lyapunov_spectrum_of(jacobians * 10.0**log_scale, qr_every=qr_every)
    np.testing.assert_allclose(
        scaled.exponents - log_scale * np.log(10), plain.exponents, atol=1e-9
    )


@pytest.mark.parametrize("qr_every", [1, 4, "auto"])
def test_an_exact_zero_loses_one_direction_and_leaves_the_others_right(qr_every):
    jacobians = chaotic_jacobians(n=5)
    dead = jacobians.at[100, 2].set(0)
    spectrum = lyapunov_spectrum_of(dead, qr_every=qr_every)
    assert spectrum.exponents[-1] == -jnp.inf
    assert bool(jnp.isnan(spectrum.standard_errors[-1]))
    np.testing.assert_allclose(spectrum.exponents[:4], benettin(dead, 4), atol=1e-9)
    assert (spectrum.first_lost_step, spectrum.first_zero_step) == (-1, 100)
    assert bool(jnp.all(jnp.isfinite(spectrum.standard_errors[:4])))


@pytest.mark.parametrize("k", mostly_slow([2, 5], [5]))
@pytest.mark.parametrize("rows", mostly_slow([2, slice(None)], [slice(None)]))
def test_directions_lost_in_the_warm_up_start_anew(rows, k):
    jacobians = chaotic_jacobians(n=5)
    cut = jacobians.at[10, rows].set(0)
    options = {"num_warmup": 200, "num_exponents": k}
    spectrum = lyapunov_spectrum_of(cut, **options)
    # A frame forgets where it began as fast as its directions grow apart, here over 190 steps.
    expected = lyapunov_spectrum_of(jacobians, **options).exponents
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-4)
    assert (spectrum.first_lost_step, spectrum.first_zero_step) == (-1, -1)
    assert "inf" not in str(spectrum)


@pytest.mark.parametrize("factorization", mostly_slow(FACTORIZATIONS, ["householder"]))
@pytest.mark.parametrize("qr_every", mostly_slow([1, 7, "auto"], [7]))
@pytest.mark.parametrize("k", mostly_slow([1, 4], [4]))
def test_a_reset_among_the_counted_steps_is_said_and_nothing_else(factorization, qr_every, k):
    jacobians = chaotic_jacobians(n=4).at[300].set(0)
    spectrum = lyapunov_spectrum_of(
        jacobians, num_exponents=k, num_warmup=20, qr_every=qr_every, factorization=factorization
    )
    assert bool(jnp.all(spectrum.exponents == -jnp.inf))
    assert bool(jnp.all(jnp.isnan(spectrum.standard_errors)))
    assert (spectrum.first_lost_step, spectrum.first_zero_step) == (-1, 300)
    text = str(spectrum)
    assert "exact zero: first at step 300" in text
    assert "no error bar: cut" in text
    assert "WARNING" not in text
    assert "nan" not in text
    assert not np.isinf(spectrum.sum_rule_residual)
    assert float(spectrum.kaplan_yorke_dimension().value) == 0


@pytest.mark.parametrize(
    "factorization", mostly_slow(["elimination", "householder"], ["householder"])
)
@pytest.mark.parametrize("qr_every", mostly_slow([1, 4, "auto"], ["auto"]))
def test_a_unit_that_is_always_dead_costs_one_direction(factorization, qr_every):
    jacobians = chaotic_jacobians(n=5).at[:, 2].set(0)
    options = {"qr_every": qr_every, "factorization": factorization}
    spectrum = lyapunov_spectrum_of(jacobians, **options)
    np.testing.assert_allclose(spectrum.exponents[:4], benettin(jacobians, 4), atol=1e-9)
    assert spectrum.exponents[4] == -jnp.inf
    assert (spectrum.first_lost_step, spectrum.first_zero_step) == (-1, 0)
    # Renewed in the warm-up, it dies again with the first counted step.
    settled = lyapunov_spectrum_of(jacobians, num_warmup=300, **options)
    np.testing.assert_array_equal(jnp.isneginf(settled.exponents), [False] * 4 + [True])
    assert (settled.first_lost_step, settled.first_zero_step) == (-1, 300)
    largest = lyapunov_spectrum_of(jacobians, num_warmup=300, num_exponents=1)
    assert largest.sum_rule_residual == 0


def test_a_direction_lost_to_rounding_is_reported_with_its_step():
    jacobians = chaotic_jacobians(n=5)
    nearly = 1 + 1e-15 * normal(0, (5,))
    near = jacobians.at[123, 2].set(jacobians[123, 1] * nearly)
    spectrum = lyapunov_spectrum_of(near, qr_every=1)
    assert np.linalg.matrix_rank(np.asarray(near[123])) == 4
    assert spectrum.first_lost_step == 123
    assert spectrum.exponents[-1] == -jnp.inf
    assert "rounding took a direction, first at step 123" in str(spectrum)


def relu_step(weights, state, x):
    return jax.nn.relu(weights @ jnp.where(x[0] > 1, 0, state) + x)


@pytest.mark.parametrize("factorization", mostly_slow(FACTORIZATIONS, ["elimination"]))
@pytest.mark.parametrize("qr_every", mostly_slow([1, 7, "auto"], ["auto"]))
@pytest.mark.parametrize("num_warmup", mostly_slow([0, 1100], [1100]))
def test_states_that_stop_being_finite_have_no_exponents(factorization, qr_every, num_warmup):
    # Doubled at each step, the state is inf from step 1024 on and NaN from step 1025 on, where the
    # slope of relu is zero. Later inputs above one reset it.
    xs = jnp.full((1200, 3), 0.5).at[1150:].set(2.0)
    system = Recurrence(relu_step, 2 * jnp.eye(3))
    options = {"qr_every": qr_every, "factorization": factorization}
    spectrum = lyapunov_spectrum(system, jnp.zeros(3), xs, num_warmup=num_warmup, **options)
    states = np.asarray(trajectory(system, jnp.zeros(3), xs))
    first = int(np.argmin(np.isfinite(states).all(axis=1))) - 1
    assert spectrum.first_nonfinite_step == first
    assert bool(jnp.all(jnp.isnan(spectrum.exponents)))
    assert bool(jnp.all(jnp.isnan(spectrum.standard_errors)))
    text = str(spectrum)
    assert f"stopped being finite at step {int(spectrum.first_nonfinite_step)}: the netw" in text
    assert "nan" not in text
    before = lyapunov_spectrum(system, jnp.zeros(3), xs[:1000], **options)
    np.testing.assert_allclose(before.exponents, np.log(2), atol=1e-12)
    both = lyapunov_spectrum(system, None, xs[1000:], resume=before, **options)
    assert both.first_nonfinite_step == spectrum.first_nonfinite_step
    assert bool(jnp.all(jnp.isnan(both.exponents)))


def test_one_sequence_that_diverges_leaves_the_others_of_a_batch_alone():
    def run(factor):
        system = Recurrence(lambda factor, state, x: factor * state, factor)  # noqa: ARG005
        return lyapunov_spectrum(system, jnp.ones(2), None, num_steps=1100, qr_every=2)

    spectra = jax.vmap(run)(jnp.array([0.9, 2.0, 1.0]))
    np.testing.assert_allclose(spectra.exponents[:, 0], [np.log(0.9), np.nan, 0], atol=1e-12)
    np.testing.assert_array_equal(spectra.first_nonfinite_step, [-1, 1023, -1])


@pytest.mark.parametrize("qr_every", mostly_slow([1, 4, "auto"], ["auto"]))
@pytest.mark.parametrize("bad", mostly_slow([jnp.nan, jnp.inf], [jnp.nan]))
def test_the_first_non_finite_jacobian_is_reported_where_values_are_traced(qr_every, bad):
    jacobians = chaotic_jacobians(n=4).at[321, 1, 2].set(bad)
    run = jax.jit(lambda j: lyapunov_spectrum_of(j, qr_every=qr_every, num_warmup=10))
    spectrum = run(jacobians)
    assert spectrum.first_nonfinite_step == 321
    assert bool(jnp.all(jnp.isnan(spectrum.exponents)))
    assert "NaN or infinity in the Jacobian, first at step 321" in str(spectrum)


@pytest.mark.parametrize("qr_every", mostly_slow([1, 4, "auto"], ["auto"]))
def test_a_row_that_elimination_may_pass_over_is_reported_at_its_step(qr_every):
    jacobians = chaotic_jacobians(n=4)
    last = len(jacobians) - 1

    @jax.jit
    def first(jacobians):
        spectrum = lyapunov_spectrum_of(jacobians, num_exponents=1, qr_every=qr_every)
        return spectrum.first_nonfinite_step

    for step in (0, 16, 17, last // 2, last - 1, last):
        for row in range(4):
            assert first(jacobians.at[step, row, 0].set(jnp.nan)) == step


@pytest.mark.parametrize("factorization", mostly_slow(FACTORIZATIONS, ["elimination"]))
def test_gradients_stay_finite_where_a_direction_is_lost(factorization):
    jacobians = chaotic_jacobians(n=4, steps=20).at[7, 1].set(0)

    def of_alive(jacobians):
        spectrum = lyapunov_spectrum_of(jacobians, qr_every=1, factorization=factorization)
        return jnp.sum(jnp.where(jnp.isfinite(spectrum.exponents), spectrum.exponents, 0))

    gradient = jax.grad(of_alive)(jacobians)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    direction = jnp.asarray(normal(1, jacobians.shape)).at[7, 1].set(0)
    step = 1e-6
    slope = (of_alive(jacobians + step * direction) - of_alive(jacobians - step * direction)) / (
        2 * step
    )
    assert float(jnp.sum(gradient * direction)) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.slow
def test_equal_exponents_have_finite_gradients():
    gradient = jax.grad(lambda j: lyapunov_spectrum_of(j, qr_every=1).exponents[0])(
        jnp.tile(2 * jnp.eye(3), (30, 1, 1))
    )
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_float32_keeps_its_digits():
    jacobians = chaotic_jacobians()
    with jax.enable_x64(False):
        single = lyapunov_spectrum_of(jnp.asarray(np.asarray(jacobians), jnp.float32))
    assert single.exponents.dtype == single.standard_errors.dtype == jnp.float32
    np.testing.assert_allclose(single.exponents, benettin(jacobians, 12), atol=2e-4)


BAD = [
    ({"num_exponents": 5}, ValueError, "num_exponents: received 5, expected 1 to 4"),
    ({"num_exponents": 0}, ValueError, "num_exponents: received 0"),
    ({"qr_every": np.array([1, 2])}, TypeError, "qr_every"),
    ({"num_exponents": 2.0}, TypeError, "num_exponents: received 2.0"),
    ({"num_warmup": 50}, ValueError, "num_warmup: received 50 for a sequence of 50 steps"),
    ({"num_warmup": -1}, ValueError, "num_warmup: received -1"),
    ({"num_warmup": 1.5}, TypeError, "num_warmup: received 1.5"),
    ({"qr_every": 0}, ValueError, "qr_every: received 0"),
    ({"qr_every": "often"}, TypeError, "qr_every: received 'often'"),
    ({"factorization": "svd"}, ValueError, "factorization: received 'svd'"),
    ({"frame": jnp.ones((4, 4))}, ValueError, "expected orthonormal columns"),
    ({"frame": jnp.eye(3)}, ValueError, "frame: received shape"),
    ({"resume": 3}, TypeError, "resume: received a int"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        lyapunov_spectrum_of(jnp.ones((50, 4, 4)), **options)
    system = Recurrence(tanh_step, jnp.eye(4))
    with pytest.raises(error, match=message):
        lyapunov_spectrum(system, jnp.ones(4), None, num_steps=50, **options)


def test_resume_refuses_what_the_result_holds_itself():
    system = Recurrence(tanh_step, gaussian(3, 1.0))
    first = lyapunov_spectrum(system, jnp.ones(3), None, num_steps=50)
    with pytest.raises(ValueError, match="resume: received it with carry, num_exponents"):
        lyapunov_spectrum(system, jnp.ones(3), None, num_steps=50, resume=first, num_exponents=2)
    with pytest.raises(ValueError, match="resume: received a run of a recurrence with 3 states"):
        lyapunov_spectrum_of(jnp.ones((5, 3, 3)), resume=first)
    batch = jax.tree.map(lambda a: a[None], first)
    with pytest.raises(ValueError, match="resume: received a batch of runs"):
        lyapunov_spectrum(system, None, None, num_steps=50, resume=batch)


def test_an_interval_longer_than_the_run_is_cut_to_it():
    jacobians = chaotic_jacobians(n=3, steps=7)
    spectrum = lyapunov_spectrum_of(jacobians, qr_every=100)
    np.testing.assert_allclose(spectrum.exponents, benettin(jacobians, 3), atol=1e-12)


def test_the_sum_rule_of_few_exponents_allows_for_its_sample():
    angles = jax.random.uniform(jax.random.key(0), (2000,)) * 6
    turns = jnp.stack([jnp.cos(angles), -jnp.sin(angles), jnp.sin(angles), jnp.cos(angles)], 1)
    sizes = jnp.exp(normal(1, (2000,)))
    jacobians = sizes[:, None, None] * turns.reshape(2000, 2, 2)
    spectrum = lyapunov_spectrum_of(jacobians, num_exponents=1, qr_every=1)
    assert spectrum.sum_rule_residual == 0


@pytest.mark.parametrize("num_steps", [50.0, True, "5"])
def test_a_number_of_steps_that_is_no_integer_is_refused(num_steps):
    with pytest.raises(TypeError, match="num_steps: received"):
        lyapunov_spectrum(
            Recurrence(tanh_step, gaussian(3, 1.0)), jnp.ones(3), None, num_steps=num_steps
        )


@pytest.mark.parametrize("jacobians", [jnp.ones((5, 3, 4)), jnp.ones((3, 3)), jnp.ones((0, 3, 3))])
def test_matrices_of_the_wrong_shape_are_refused(jacobians):
    with pytest.raises(ValueError, match=r"jacobians: received shape|num_warmup: received 0"):
        lyapunov_spectrum_of(jacobians)


@pytest.mark.parametrize("factorization", ["elimination", "cholesky"])
def test_directions_that_do_not_mix_keep_their_exponents_as_they_overtake_each_other(factorization):
    num_steps = 1500
    logs = np.random.default_rng(0).normal(size=(num_steps, 4))
    jacobians = np.exp(logs)[:, :, None] * np.eye(4)
    frame = generic_columns(4, 4)
    with mpmath.workdps(400):
        scales = [mpmath.exp(mpmath.fsum(map(mpmath.mpf, column))) for column in logs.T]
        grown = mpmath.diag(scales) * mpmath.matrix(frame.tolist())
        volumes = mpmath.qr(grown)[1]
        exact = [float(mpmath.log(abs(volumes[i, i]))) / num_steps for i in range(4)]
    spectrum = lyapunov_spectrum_of(jacobians, factorization=factorization)
    np.testing.assert_allclose(spectrum.exponents, np.sort(exact)[::-1], atol=1e-12)

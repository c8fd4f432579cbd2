import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from jacobian_rnn import (
    Recurrence,
    lyapunov_spectrum,
    lyapunov_spectrum_of,
    step_jacobians,
    trajectory,
)
from jacobian_rnn.frames import generic_frames
from jacobian_rnn.lyapunov import _lyapunov_spectrum, _lyapunov_spectrum_of

FACTORIZATIONS = ["elimination", "householder", "cholesky"]


def henon(params, carry, x):
    del params, x
    return jnp.array([1 - 1.4 * carry[0] ** 2 + carry[1], 0.3 * carry[0]])


def tanh_step(weights, carry, x):
    return jnp.tanh(weights @ carry + (0 if x is None else x))


def gaussian(n, gain, seed=0):
    return gain * jax.random.normal(jax.random.key(seed), (n, n)) / np.sqrt(n)


def benettin(jacobians, k):
    """QR at every step in numpy."""
    frame = generic_frames(jacobians.shape[1])[0, :, :k]
    total = np.zeros(k)
    for jacobian in np.asarray(jacobians):
        frame, r = np.linalg.qr(jacobian @ frame)
        total += np.log(np.abs(np.diag(r)))
    return np.sort(total / len(jacobians))[::-1]


def chaotic_jacobians(n=12, steps=500):
    weights = gaussian(n, 2.0)
    states = trajectory(Recurrence(tanh_step, weights), jnp.ones(n), None, num_steps=steps)
    return (1 - states[1:, :, None] ** 2) * weights


@pytest.mark.parametrize(
    ("factorization", "qr_every"),
    [
        ("elimination", 1),
        ("elimination", 3),
        ("elimination", "auto"),
        ("householder", 2),
        ("cholesky", 1),
        ("cholesky", "auto"),
    ],
)
@pytest.mark.parametrize("k", [3, 12])
def test_exponents_are_those_of_qr_at_every_step(factorization, qr_every, k):
    jacobians = chaotic_jacobians()
    spectrum = lyapunov_spectrum_of(
        jacobians, num_exponents=k, qr_every=qr_every, factorization=factorization
    )
    tolerance = 1e-7 if qr_every == 3 else 1e-9
    np.testing.assert_allclose(spectrum.exponents, benettin(jacobians, k), atol=tolerance)


def test_elimination_at_every_step_agrees_to_rounding():
    jacobians = chaotic_jacobians()
    spectrum = lyapunov_spectrum_of(jacobians, qr_every=1)
    np.testing.assert_allclose(spectrum.exponents, benettin(jacobians, 12), atol=1e-13)


def test_henon_map_contracts_areas_at_the_exact_rate_and_has_its_published_exponents():
    spectrum = lyapunov_spectrum(
        Recurrence(henon, ()), jnp.array([0.1, 0.1]), None, num_steps=100_000, num_warmup=1000
    )
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(np.log(0.3), abs=1e-9)
    assert abs(spectrum.exponents[0] - 0.41927) < 4 * spectrum.standard_errors[0] + 0.00015
    assert spectrum.sum_rule_residual < 1e-12
    dimension = spectrum.kaplan_yorke_dimension()
    assert abs(dimension.value - 1.2583) < 4 * dimension.standard_error + 1e-4
    assert bool(jnp.all(spectrum.long_enough))


@pytest.mark.parametrize("n", [2, 4, 16])
def test_products_of_gaussian_matrices_have_newmans_exponents(n):
    steps = 20_000
    jacobians = jax.random.normal(jax.random.key(n), (steps, n, n)) / np.sqrt(n)
    spectrum = lyapunov_spectrum_of(jacobians, qr_every=1)
    chi = (n - np.arange(1, n + 1) + 1) / 2
    exact = 0.5 * (np.log(2 / n) + digamma(chi))
    errors = np.sqrt(polygamma(1, chi) / 4 / steps)
    assert np.all(np.abs(spectrum.exponents - exact) < 4 * errors)
    # The estimated standard errors are the exact ones, within what 63 batches allow.
    np.testing.assert_allclose(spectrum.standard_errors, errors, rtol=0.5)


@pytest.mark.parametrize("name", ["LSTMCell", "nnx OptimizedLSTMCell", "GRUCell", "MGUCell"])
def test_all_exponents_of_a_cell_sum_to_the_mean_log_det(network, name):
    recurrence, carry, _ = network(name, 6)
    xs = jax.random.normal(jax.random.key(1), (400, 3))
    spectrum = lyapunov_spectrum(recurrence, carry, xs, num_warmup=50, qr_every=1)
    jacobians = step_jacobians(recurrence, carry, xs, method="reverse")[50:]
    log_dets = np.linalg.slogdet(np.asarray(jacobians))[1]
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(np.mean(log_dets), abs=1e-8)
    assert spectrum.sum_rule_residual < 1e-8
    assert spectrum.exponents.size == (12 if "LSTM" in name else 6)


def test_the_spectrum_of_a_transposed_system_run_backwards_is_the_same():
    jacobians = gaussian(4, 1.0)[None] + 0.2 * jax.random.normal(jax.random.key(3), (40_000, 4, 4))
    forward = lyapunov_spectrum_of(jacobians, qr_every=1)
    adjoint = lyapunov_spectrum_of(jnp.swapaxes(jacobians, 1, 2)[::-1], qr_every=1)
    # The frames begin and end differently: a boundary term of order 1 / T.
    np.testing.assert_allclose(forward.exponents, adjoint.exponents, atol=20 / 40_000)
    # Products of Jᵀ in forward time, a published mistake, are another system.
    wrong = lyapunov_spectrum_of(jnp.swapaxes(chaotic_jacobians(), 1, 2), qr_every=1)
    right = lyapunov_spectrum_of(chaotic_jacobians(), qr_every=1)
    assert jnp.max(jnp.abs(wrong.exponents - right.exponents)) > 1e-3


@pytest.mark.parametrize("k", [1, 3])
def test_fewer_exponents_are_the_first_of_all(k):
    jacobians = chaotic_jacobians()
    few = lyapunov_spectrum_of(jacobians, num_exponents=k)
    everything = lyapunov_spectrum_of(jacobians)
    np.testing.assert_allclose(few.exponents, everything.exponents[:k], atol=1e-10)
    assert few.sum_rule_residual == 0
    assert few.num_checked > 0


def test_tangents_and_closed_form_give_the_same(network):
    recurrence, carry, _ = network("LSTMCell", 5)
    xs = jax.random.normal(jax.random.key(1), (200, 3))
    dense = lyapunov_spectrum(recurrence, carry, xs, qr_every=1)
    without = Recurrence(recurrence.step, recurrence.params)
    matrix_free = lyapunov_spectrum(without, carry, xs, qr_every=1)
    np.testing.assert_allclose(dense.exponents, matrix_free.exponents, atol=1e-10)
    given = lyapunov_spectrum_of(step_jacobians(recurrence, carry, xs), qr_every=1)
    np.testing.assert_allclose(dense.exponents, given.exponents, atol=1e-10)


@pytest.mark.parametrize("gain", [10.0, 20.0])
@pytest.mark.parametrize("qr_every", [1, "auto"])
def test_saturated_networks_keep_their_most_negative_exponents(gain, qr_every):
    n, steps = 32, 2000
    weights = np.asarray(gaussian(n, gain))
    inputs, carry = [], np.asarray(jax.random.normal(jax.random.key(1), (n,)))
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


def test_derivatives_that_round_to_zero_lose_directions_and_the_sum_rule_agrees():
    # 1 − tanh² is an exact zero where tanh rounds to one.
    system = Recurrence(tanh_step, gaussian(16, 12.0))
    spectrum = lyapunov_spectrum(system, jnp.ones(16), None, num_steps=300)
    assert spectrum.exponents[-1] == -jnp.inf
    assert bool(jnp.isfinite(spectrum.exponents[0]))


@pytest.mark.parametrize("qr_every", [1, 4, "auto"])
def test_two_halves_equal_one_run(qr_every):
    n = 8
    system = Recurrence(tanh_step, gaussian(n, 1.5))
    xs = 0.3 * jax.random.normal(jax.random.key(2), (4200, n))
    options = {"num_exponents": 5, "qr_every": qr_every}
    whole = lyapunov_spectrum(system, jnp.zeros(n), xs, num_warmup=200, **options)
    first = lyapunov_spectrum(system, jnp.zeros(n), xs[:2200], num_warmup=200, **options)
    both = lyapunov_spectrum(system, None, xs[2200:], resume=first, qr_every=qr_every)
    np.testing.assert_allclose(both.exponents, whole.exponents, atol=1e-12)
    np.testing.assert_allclose(both.carry, whole.carry, atol=1e-12)
    assert both.num_steps == whole.num_steps == 4000
    assert both.run.num_steps == 4200
    np.testing.assert_allclose(both.standard_errors, whole.standard_errors, rtol=0.5)


def test_given_matrices_can_be_resumed():
    jacobians = chaotic_jacobians(steps=600)
    first = lyapunov_spectrum_of(jacobians[:333], qr_every=2)
    both = lyapunov_spectrum_of(jacobians[333:], resume=first, qr_every=2)
    whole = lyapunov_spectrum_of(jacobians, qr_every=2)
    np.testing.assert_allclose(both.exponents, whole.exponents, atol=1e-12)


def test_memory_does_not_grow_with_the_number_of_steps():
    n = 8
    system = Recurrence(tanh_step, gaussian(n, 1.5))

    def bytes_of(num_steps):
        run = jax.jit(
            lambda params, carry: lyapunov_spectrum(
                Recurrence(tanh_step, params), carry, None, num_steps=num_steps, qr_every=2
            )
        )
        analysis = run.lower(system.params, jnp.zeros(n)).compile().memory_analysis()
        assert analysis is not None
        return analysis

    short, long = bytes_of(10_000), bytes_of(1_000_000)
    # The steps that do not fill a block differ in number, and their buffers by as much.
    assert abs(long.temp_size_in_bytes - short.temp_size_in_bytes) < 1024
    assert long.output_size_in_bytes == short.output_size_in_bytes


@pytest.mark.slow
def test_a_million_steps_keep_the_sum_rule():
    spectrum = lyapunov_spectrum(
        Recurrence(henon, ()), jnp.array([0.1, 0.1]), None, num_steps=1_000_000
    )
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(np.log(0.3), abs=1e-9)
    assert 16 <= int(jnp.min(spectrum.num_batches)) <= int(jnp.max(spectrum.num_batches)) <= 128


def test_auto_factors_rarely_where_directions_grow_alike_and_often_where_not():
    n = 32
    system = Recurrence(tanh_step, gaussian(n, 3.0))
    few = lyapunov_spectrum(system, jnp.ones(n), None, num_steps=5000, num_exponents=2)
    everything = lyapunov_spectrum(system, jnp.ones(n), None, num_steps=5000)
    assert few.run.log_interval >= 3
    assert everything.run.log_interval == 0
    assert few.digits_lost < 6.6  # a third of the digits, and a quarter of that as slack


def test_auto_redoes_a_block_in_which_directions_suddenly_collapse():
    calm = jnp.tile(jnp.diag(jnp.array([1.01, 1.0, 0.99])), (256, 1, 1))
    rotation = jnp.asarray(generic_frames(3)[0])
    harsh = jnp.tile(rotation @ jnp.diag(jnp.array([1.0, 1e-5, 1e-10])) @ rotation.T, (256, 1, 1))
    jacobians = jnp.concatenate([calm, harsh, calm])
    spectrum = lyapunov_spectrum_of(jacobians)
    np.testing.assert_allclose(spectrum.exponents, benettin(jacobians, 3), atol=1e-9)


@pytest.mark.parametrize("log_scale", [-150, 150])
@pytest.mark.parametrize("qr_every", [1, "auto"])
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
    assert (spectrum.first_lost_step == -1) == (qr_every != 4)  # mixed with others by later steps
    assert bool(jnp.all(jnp.isfinite(spectrum.standard_errors[:4])))


def test_a_direction_lost_in_the_warm_up_stays_lost():
    jacobians = chaotic_jacobians(n=5).at[10, 2].set(0)
    spectrum = lyapunov_spectrum_of(jacobians, num_warmup=50)
    assert spectrum.exponents[-1] == -jnp.inf


def test_a_direction_lost_to_rounding_is_reported_with_its_step():
    jacobians = chaotic_jacobians(n=5)
    nearly = 1 + 1e-15 * jax.random.normal(jax.random.key(0), (5,))
    near = jacobians.at[123, 2].set(jacobians[123, 1] * nearly)
    spectrum = lyapunov_spectrum_of(near, qr_every=1)
    assert np.linalg.matrix_rank(np.asarray(near[123])) == 4
    assert spectrum.first_lost_step == 123
    assert spectrum.exponents[-1] == -jnp.inf
    assert "rounding took a direction, first at step 123" in str(spectrum)


@pytest.mark.parametrize("qr_every", [1, 4, "auto"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_the_first_non_finite_jacobian_is_reported_where_values_are_traced(qr_every, bad):
    jacobians = chaotic_jacobians(n=4).at[321, 1, 2].set(bad)
    run = jax.jit(lambda j: lyapunov_spectrum_of(j, qr_every=qr_every, num_warmup=10))
    spectrum = run(jacobians)
    assert spectrum.first_nonfinite_step == 321
    assert bool(jnp.all(jnp.isnan(spectrum.exponents)))
    assert "NaN or infinity in the Jacobian, first at step 321" in str(spectrum)


def test_a_batch_under_vmap_equals_its_members():
    jacobians = 0.5 * jax.random.normal(jax.random.key(0), (3, 200, 4, 4))
    batch = jax.vmap(lambda j: lyapunov_spectrum_of(j, qr_every=1))(jacobians)
    for i in range(3):
        alone = lyapunov_spectrum_of(jacobians[i], qr_every=1)
        np.testing.assert_allclose(batch.exponents[i], alone.exponents, atol=1e-12)
        np.testing.assert_allclose(batch.standard_errors[i], alone.standard_errors, rtol=1e-9)


def test_new_numbers_compile_nothing():
    system = Recurrence(tanh_step, gaussian(4, 1.5))
    lyapunov_spectrum(system, jnp.ones(4), None, num_steps=300)
    lyapunov_spectrum_of(jnp.ones((50, 3, 3)))
    before = _lyapunov_spectrum._cache_size(), _lyapunov_spectrum_of._cache_size()
    other = Recurrence(tanh_step, gaussian(4, 1.2, seed=5))
    lyapunov_spectrum(other, jnp.zeros(4) + 0.5, None, num_steps=300)
    lyapunov_spectrum_of(2 * jnp.ones((50, 3, 3)))
    assert (_lyapunov_spectrum._cache_size(), _lyapunov_spectrum_of._cache_size()) == before


@pytest.mark.parametrize(
    ("factorization", "qr_every"),
    [("elimination", 1), ("elimination", "auto"), ("householder", 2), ("cholesky", 1)],
)
def test_gradients_agree_with_finite_differences(factorization, qr_every):
    n = 4
    xs = 0.3 * jax.random.normal(jax.random.key(2), (40, n))

    def weighted(weights):
        system = Recurrence(tanh_step, weights)
        spectrum = lyapunov_spectrum(
            system, jnp.zeros(n), xs, qr_every=qr_every, factorization=factorization, num_warmup=5
        )
        return jnp.sum(spectrum.exponents * jnp.arange(1.0, n + 1))

    weights, direction = gaussian(n, 0.9), gaussian(n, 1.0, seed=7)
    slope = jnp.sum(jax.grad(weighted)(weights) * direction)
    step = 1e-5
    difference = (weighted(weights + step * direction) - weighted(weights - step * direction)) / (
        2 * step
    )
    assert float(slope) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_gradients_stay_finite_where_a_direction_is_lost(factorization):
    jacobians = chaotic_jacobians(n=4, steps=20).at[7, 1].set(0)

    def of_alive(jacobians):
        spectrum = lyapunov_spectrum_of(jacobians, qr_every=1, factorization=factorization)
        return jnp.sum(jnp.where(jnp.isfinite(spectrum.exponents), spectrum.exponents, 0))

    gradient = jax.grad(of_alive)(jacobians)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    direction = jax.random.normal(jax.random.key(1), jacobians.shape).at[7, 1].set(0)
    step = 1e-6
    slope = (of_alive(jacobians + step * direction) - of_alive(jacobians - step * direction)) / (
        2 * step
    )
    assert float(jnp.sum(gradient * direction)) == pytest.approx(float(slope), rel=1e-5)


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


def test_a_frame_can_be_given():
    jacobians = chaotic_jacobians(n=4)
    frame = jnp.asarray(generic_frames(4)[1, :, :2])
    given = lyapunov_spectrum_of(jacobians, num_exponents=2, frame=frame)
    default = lyapunov_spectrum_of(jacobians, num_exponents=2)
    assert 0 < jnp.max(jnp.abs(given.exponents - default.exponents)) < 10 / 500


BAD = [
    ({"num_exponents": 5}, ValueError, "num_exponents: received 5, expected 1 to 4"),
    ({"num_exponents": 0}, ValueError, "num_exponents: received 0"),
    ({"qr_every": np.array([1, 2])}, TypeError, "qr_every"),
    ({"num_exponents": 2.0}, TypeError, "num_exponents: received 2.0"),
    ({"num_warmup": 50}, ValueError, "num_warmup: received 50 for a sequence of 50 steps"),
    ({"num_warmup": -1}, ValueError, "num_warmup: received -1"),
    ({"num_warmup": 1.5}, TypeError, "num_warmup: received 1.5"),
    ({"qr_every": 0}, ValueError, "qr_every: received 0"),
    ({"qr_every": "often"}, TypeError, "qr_every .* received 'often'"),
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
    sizes = jnp.exp(jax.random.normal(jax.random.key(1), (2000,)))
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

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from jacobian_rnn import Recurrence, lyapunov_spectrum, lyapunov_spectrum_of, step_jacobians
from jacobian_rnn.linalg.frames import generic_columns
from jacobian_rnn.lyapunov.exponents import _finish, _run_along, _run_through
from tests.chains import benettin, chaotic_jacobians, gaussian, tanh_step
from tests.networks import mostly_slow, normal


def henon(params, carry, x):
    del params, x
    return jnp.array([1 - 1.4 * carry[0] ** 2 + carry[1], 0.3 * carry[0]])


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
@pytest.mark.parametrize("k", mostly_slow([3, 12], [12]))
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


@pytest.mark.slow
def test_a_million_steps_of_the_henon_map_contract_areas_as_they_must_and_have_its_exponents():
    spectrum = lyapunov_spectrum(
        Recurrence(henon, ()), jnp.array([0.1, 0.1]), None, num_steps=1_000_000, num_warmup=1000
    )
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(np.log(0.3), abs=1e-9)
    assert abs(spectrum.exponents[0] - 0.41927) < 4 * spectrum.standard_errors[0] + 0.00015
    assert spectrum.sum_rule_residual < 1e-12
    dimension = spectrum.kaplan_yorke_dimension()
    assert abs(dimension.value - 1.2583) < 4 * dimension.standard_error + 1e-4
    assert bool(jnp.all(spectrum.long_enough))
    assert 16 <= int(jnp.min(spectrum.num_batches)) <= int(jnp.max(spectrum.num_batches)) <= 128


@pytest.mark.parametrize("n", mostly_slow([2, 4, 16], [4]))
def test_products_of_gaussian_matrices_have_newmans_exponents(n):
    steps = 20_000
    jacobians = normal(n, (steps, n, n)) / np.sqrt(n)
    spectrum = lyapunov_spectrum_of(jacobians, qr_every=1)
    chi = (n - np.arange(1, n + 1) + 1) / 2
    exact = 0.5 * (np.log(2 / n) + digamma(chi))
    errors = np.sqrt(polygamma(1, chi) / 4 / steps)
    assert np.all(np.abs(spectrum.exponents - exact) < 4 * errors)
    # The estimated standard errors are the exact ones, within what 63 batches allow.
    np.testing.assert_allclose(spectrum.standard_errors, errors, rtol=0.5)


@pytest.mark.parametrize(
    "name",
    mostly_slow(["LSTMCell", "nnx OptimizedLSTMCell", "GRUCell", "MGUCell"], ["LSTMCell"]),
)
def test_all_exponents_of_a_cell_sum_to_the_mean_log_det(network, name):
    recurrence, carry, _ = network(name, 6)
    xs = normal(1, (400, 3))
    spectrum = lyapunov_spectrum(recurrence, carry, xs, num_warmup=50, qr_every=1)
    jacobians = step_jacobians(recurrence, carry, xs, method="reverse")[50:]
    log_dets = np.linalg.slogdet(np.asarray(jacobians))[1]
    assert float(jnp.sum(spectrum.exponents)) == pytest.approx(np.mean(log_dets), abs=1e-8)
    assert spectrum.sum_rule_residual < 1e-8
    assert spectrum.exponents.size == (12 if "LSTM" in name else 6)


def test_the_spectrum_of_a_transposed_system_run_backwards_is_the_same():
    jacobians = gaussian(4, 1.0)[None] + 0.2 * normal(3, (40_000, 4, 4))
    forward = lyapunov_spectrum_of(jacobians, qr_every=1)
    adjoint = lyapunov_spectrum_of(jnp.swapaxes(jacobians, 1, 2)[::-1], qr_every=1)
    # The frames begin and end differently: a boundary term of order 1 / T.
    np.testing.assert_allclose(forward.exponents, adjoint.exponents, atol=20 / 40_000)
    # Products of Jᵀ in forward time, a published mistake, are another system.
    wrong = lyapunov_spectrum_of(jnp.swapaxes(chaotic_jacobians(), 1, 2), qr_every=1)
    right = lyapunov_spectrum_of(chaotic_jacobians(), qr_every=1)
    assert jnp.max(jnp.abs(wrong.exponents - right.exponents)) > 1e-3


@pytest.mark.parametrize("k", mostly_slow([1, 3], [3]))
def test_fewer_exponents_are_the_first_of_all(k):
    jacobians = chaotic_jacobians()
    few = lyapunov_spectrum_of(jacobians, num_exponents=k)
    everything = lyapunov_spectrum_of(jacobians)
    np.testing.assert_allclose(few.exponents, everything.exponents[:k], atol=1e-10)
    assert few.sum_rule_residual == 0
    assert few.num_checked > 0


@pytest.mark.slow
def test_tangents_and_closed_form_give_the_same(network):
    recurrence, carry, _ = network("GRUCell", 5)
    xs = normal(1, (200, 3))
    dense = lyapunov_spectrum(recurrence, carry, xs, qr_every=1)
    without = Recurrence(recurrence.step, recurrence.params)
    matrix_free = lyapunov_spectrum(without, carry, xs, qr_every=1)
    np.testing.assert_allclose(dense.exponents, matrix_free.exponents, atol=1e-10)
    given = lyapunov_spectrum_of(step_jacobians(recurrence, carry, xs), qr_every=1)
    np.testing.assert_allclose(dense.exponents, given.exponents, atol=1e-10)


@pytest.mark.parametrize("qr_every", mostly_slow([1, 4, "auto"], ["auto"]))
def test_two_halves_equal_one_run(qr_every):
    n = 8
    system = Recurrence(tanh_step, gaussian(n, 1.5))
    xs = 0.3 * normal(2, (4200, n))
    options = {"num_exponents": 5, "qr_every": qr_every}
    whole = lyapunov_spectrum(system, jnp.zeros(n), xs, num_warmup=200, **options)
    first = lyapunov_spectrum(system, jnp.zeros(n), xs[:2200], num_warmup=200, **options)
    both = lyapunov_spectrum(system, None, xs[2200:], resume=first, qr_every=qr_every)
    np.testing.assert_allclose(both.exponents, whole.exponents, atol=1e-12)
    np.testing.assert_allclose(both.carry, whole.carry, atol=1e-12)
    assert both.num_steps == whole.num_steps == 4000
    assert both.run.num_steps == 4200
    np.testing.assert_allclose(both.standard_errors, whole.standard_errors, rtol=0.5)


@pytest.mark.slow
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

    # Both are whole blocks of 128 steps: a block that is not full has buffers of its own length.
    short, long = bytes_of(12_800), bytes_of(1_280_000)
    assert abs(long.temp_size_in_bytes - short.temp_size_in_bytes) < 1024
    assert long.output_size_in_bytes == short.output_size_in_bytes


def test_auto_factors_rarely_where_directions_grow_alike_and_often_where_not():
    n = 32
    system = Recurrence(tanh_step, gaussian(n, 3.0))
    few = lyapunov_spectrum(system, jnp.ones(n), None, num_steps=2000, num_exponents=2)
    everything = lyapunov_spectrum(system, jnp.ones(n), None, num_steps=2000)
    assert few.run.log_interval >= 3
    assert everything.run.log_interval == 0
    assert few.digits_lost < 6.6  # a third of the digits, and a quarter of that as slack


def test_a_batch_under_vmap_equals_its_members():
    jacobians = 0.5 * normal(0, (3, 200, 4, 4))
    batch = jax.vmap(lambda j: lyapunov_spectrum_of(j, qr_every=1))(jacobians)
    for i in range(3):
        alone = lyapunov_spectrum_of(jacobians[i], qr_every=1)
        np.testing.assert_allclose(batch.exponents[i], alone.exponents, atol=1e-12)
        np.testing.assert_allclose(batch.standard_errors[i], alone.standard_errors, rtol=1e-9)


def test_new_numbers_compile_nothing():
    system = Recurrence(tanh_step, gaussian(4, 1.5))
    lyapunov_spectrum(system, jnp.ones(4), None, num_steps=300)
    lyapunov_spectrum_of(jnp.ones((50, 3, 3)))
    programs = (_run_along, _run_through, _finish)
    before = [program._cache_size() for program in programs]
    other = Recurrence(tanh_step, gaussian(4, 1.2, seed=5))
    lyapunov_spectrum(other, jnp.zeros(4) + 0.5, None, num_steps=300)
    lyapunov_spectrum_of(2 * jnp.ones((50, 3, 3)))
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    ("factorization", "qr_every"),
    mostly_slow(
        [("elimination", 1), ("elimination", "auto"), ("householder", 2), ("cholesky", 1)],
        [("elimination", "auto")],
    ),
)
def test_gradients_agree_with_finite_differences(factorization, qr_every):
    n = 4
    xs = 0.3 * normal(2, (40, n))

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


@pytest.mark.slow
def test_a_frame_can_be_given():
    jacobians = chaotic_jacobians(n=4)
    frame = jnp.asarray(generic_columns(4, 2, 1))
    given = lyapunov_spectrum_of(jacobians, num_exponents=2, frame=frame)
    default = lyapunov_spectrum_of(jacobians, num_exponents=2)
    assert 0 < jnp.max(jnp.abs(given.exponents - default.exponents)) < 10 / 500

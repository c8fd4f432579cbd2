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
    log_singular_values_by_lag,
    lru,
    trajectory,
)
from tests.networks import normal, random_variables
from tests.systems import through


def of_matrices(matrices, **options):
    return through(backward_profile, matrices, **{"key": jax.random.key(0)} | options)


def network(cell_class, width, num_steps, seed=0):
    cell = cell_class(width, param_dtype=jnp.float64)
    xs = jnp.asarray(normal(seed, (num_steps, 3)))
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    return from_linen(cell, random_variables(cell, carry, xs[0])), carry, xs


def root_mean_square(log_values):
    return jax.nn.logsumexp(2 * log_values, axis=-1) / 2 - np.log(log_values.shape[-1]) / 2


@pytest.mark.parametrize("cell_class", [nn.SimpleCell, nn.LSTMCell])
def test_as_many_probes_as_states_give_the_growth_of_the_product_at_every_lag(cell_class):
    system, carry, xs = network(cell_class, 4, 30)
    n = sum(leaf.size for leaf in jax.tree.leaves(carry))
    profile = backward_profile(system, carry, xs, key=jax.random.key(1), num_probes=n)
    by_lag = log_singular_values_by_lag(system, carry, xs, lags=range(1, 31))
    np.testing.assert_allclose(profile.log_growth, root_mean_square(by_lag), atol=1e-11)
    np.testing.assert_array_equal(profile.sampling_error, 0)
    assert 0 < float(profile.rounding_error.max()) < 1e-11


@pytest.mark.parametrize(
    "log_values",
    [[0.0], np.zeros(4), -0.1 * np.arange(24), -0.7 * np.arange(24)],
    ids=["one direction", "four directions", "a slow descent", "a fast descent"],
)
def test_the_sampling_error_is_the_spread_of_the_estimate_over_probes(log_values):
    log_values = np.asarray(log_values)
    values = np.zeros(24)
    values[: log_values.size] = np.exp(log_values)
    matrix = jnp.diag(jnp.asarray(values))[None]
    exact = np.log(np.sqrt(np.mean(values**2)))
    profiles = jax.vmap(lambda key: of_matrices(matrix, key=key))(
        jax.random.split(jax.random.key(0), 2000)
    )
    errors = profiles.sampling_error[:, 0]
    deviations = np.asarray(profiles.log_growth[:, 0]) - exact
    assert np.mean(np.abs(deviations) < 3 * errors) > 0.98
    assert 0.95 < float(np.median(errors)) / np.sqrt(np.mean(deviations**2)) < 1.6
    # The mean of the squares has no bias, though that of their logarithm has.
    assert np.mean(np.exp(2 * deviations)) == pytest.approx(1, abs=0.04)


def test_one_probe_has_the_error_of_the_worst_case():
    matrix = jnp.asarray(normal(0, (1, 24, 24)))
    error = of_matrices(matrix, num_probes=1).sampling_error[0]
    single = of_matrices(jnp.ones((1, 24, 24)), num_probes=1).sampling_error[0]
    assert float(error) == pytest.approx(float(single), rel=1e-12)
    assert float(error) > 1


def test_given_cotangents_have_the_growth_of_their_root_mean_square_and_no_sampling_error():
    system, carry, xs = network(nn.GRUCell, 6, 40)
    rows = jnp.asarray(normal(2, (3, 6)))
    profile = backward_profile(system, carry, xs, cotangents=rows)
    product = jacobian_product(system, carry, xs)
    growth = product.log_growth_through(rows)
    assert float(profile.log_growth[-1]) == pytest.approx(float(growth), abs=1e-11)
    np.testing.assert_array_equal(profile.sampling_error, 0)
    one = backward_profile(system, carry, xs, cotangents=rows[0])
    adjoint = product.log_adjoint_growth(rows[0])
    assert float(one.log_growth[-1]) == pytest.approx(float(adjoint), abs=1e-11)
    # The whole of a loss gradient is pulled back, whatever its length.
    longer = backward_profile(system, carry, xs, cotangents=1e-200 * rows)
    np.testing.assert_allclose(longer.log_growth, profile.log_growth, atol=1e-11)


def test_growth_and_decay_of_the_same_directions_are_flagged_from_the_lag_where_digits_end():
    matrix = normal(0, (6, 6))
    back_and_forth = np.repeat([matrix, np.linalg.inv(matrix)], 100, axis=0)
    profile = of_matrices(back_and_forth)
    # Over the last hundred steps nothing cancels. The same hundred steps back undo all of it.
    assert float(profile.rounding_error[:100].max()) < 1e-9
    assert float(profile.rounding_error[-1]) > 1
    few = of_matrices(np.repeat([matrix, np.linalg.inv(matrix)], 5, axis=0), num_probes=6)
    assert float(few.log_growth[-1]) == pytest.approx(0, abs=float(few.rounding_error[-1]))
    assert float(few.rounding_error[-1]) < 1e-6


@pytest.mark.parametrize("seed", [0, 9])  # 9 has lags at which the repeated probe is the same
def test_the_rounding_error_is_at_least_the_error_where_products_cancel(seed):
    generator = np.random.default_rng(seed)
    for steps in (2, 4, 6, 8, 10):
        matrix = generator.standard_normal((6, 6))
        cancelling = np.repeat([matrix, np.linalg.inv(matrix)], steps, axis=0)
        profile = of_matrices(cancelling.astype(np.float32), num_probes=6)
        precise = of_matrices(cancelling.astype(np.float32).astype(np.float64), num_probes=6)
        error = np.abs(np.asarray(profile.log_growth, float) - np.asarray(precise.log_growth))
        estimate = np.asarray(profile.rounding_error, float)
        assert np.all((error < 10 * estimate) | (estimate > 0.01))


@pytest.mark.parametrize("rate", [-0.5, 0.5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_growth_far_beyond_the_float_range_is_kept_in_logs(rate, dtype):
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    matrices = jnp.asarray(np.exp(rate) * np.tile(turn, (1000, 1, 1)), dtype)
    profile = of_matrices(matrices)
    # The logarithm of one step is known to eps.
    exact = 1000 * np.log(np.linalg.norm(np.asarray(matrices[0], np.float64)) / np.sqrt(2))
    assert float(profile.log_growth[-1]) == pytest.approx(
        exact, abs=2e3 * float(jnp.finfo(dtype).eps)
    )
    assert profile.log_growth.dtype == dtype


def test_a_reset_cuts_the_growth_to_an_exact_zero_from_its_lag_on():
    matrices = np.tile(0.9 * np.eye(3), (50, 1, 1))
    matrices[29] = 0
    profile = of_matrices(matrices)
    assert int(profile.first_zero_lag) == 21
    np.testing.assert_allclose(profile.log_growth[:20], np.arange(1, 21) * np.log(0.9), atol=1e-12)
    np.testing.assert_array_equal(profile.log_growth[20:], -np.inf)
    np.testing.assert_array_equal(profile.rounding_error[20:], 0)
    assert int(of_matrices(np.tile(np.eye(3), (5, 1, 1))).first_zero_lag) == -1


def test_what_is_not_finite_is_named_and_says_nothing_before():
    def square(params, carry, x):
        return params * carry**2 + 0 * x

    # 1e60, 1e120, 1e240, inf
    overflow = backward_profile(
        Recurrence(square, jnp.array(1.0)),
        jnp.array([1e30]),
        jnp.zeros((9, 1)),
        key=jax.random.key(0),
    )
    assert int(overflow.first_nonfinite_step) == 3
    assert np.all(np.isnan(overflow.log_growth))

    def root(params, carry, x):
        return params * jnp.sqrt(carry * x)

    broken = backward_profile(
        Recurrence(root, jnp.array(1.0)),
        jnp.array([4.0]),
        jnp.ones((9, 1)).at[4].set(0.0).at[5:].set(0.0),
        key=jax.random.key(0),
    )
    assert int(broken.first_nonfinite_step) == 8
    assert np.all(np.isnan(broken.log_growth))
    partly = of_matrices(np.ones((6, 1, 1)), cotangents=jnp.ones(1))
    assert int(partly.first_nonfinite_step) == -1


def test_a_sequence_too_long_to_store_gives_what_its_matrices_say():
    network = lru(1, 3, key=jax.random.key(0), dtype=jnp.float64)
    carry = (jnp.zeros(3), jnp.zeros(3))
    xs = jnp.asarray(normal(0, (9001, 1)))
    profile = backward_profile(network, carry, xs, key=jax.random.key(1))
    radii = -np.exp(network.params["log_decay"])
    lags = np.arange(1, 9002)
    exact = root_mean_square(jnp.asarray(lags[:, None] * radii[None]))
    np.testing.assert_allclose(profile.log_growth, exact, atol=1e-9)


def test_no_steps_have_an_empty_profile():
    profile = of_matrices(np.zeros((0, 3, 3)))
    assert profile.log_growth.shape == (0,)
    assert int(profile.first_zero_lag) == int(profile.first_nonfinite_step) == -1


def test_the_profile_has_a_derivative():
    def growth(scale):
        return of_matrices(scale * jnp.asarray(normal(0, (20, 5, 5)))).log_growth[-1]

    # Each of the 20 steps is multiplied by the scale.
    assert float(jax.grad(growth)(jnp.array(1.5))) == pytest.approx(20 / 1.5, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": None}, "key: received None"),
        ({"num_probes": 0}, "num_probes: received 0"),
        ({"num_probes": 2.0}, "num_probes: received 2.0"),
        ({"cotangents": np.ones((2, 4))}, r"cotangents: received shape \(2, 4\)"),
        ({"cotangents": np.full(3, np.nan)}, "cotangents: received 3 of 3 values"),
        ({"cotangents": np.zeros(3)}, "cotangents: received zeros"),
        ({"cotangents": np.ones(3, np.float32)}, "cotangents: received float32"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        of_matrices(np.ones((2, 3, 3)), **options)


def test_states_are_those_of_the_trajectory():
    system, carry, xs = network(nn.GRUCell, 4, 10)
    last = trajectory(system, carry, xs)[-1]
    half = backward_profile(system, carry, xs[:5], cotangents=jnp.ones(4))
    after = backward_profile(system, trajectory(system, carry, xs[:5])[-1], xs[5:], cotangents=last)
    whole = backward_profile(system, carry, xs, cotangents=last)
    np.testing.assert_allclose(whole.log_growth[:5], after.log_growth, atol=1e-12)
    assert half.log_growth.shape == (5,)


def test_the_derivative_of_a_lag_that_does_not_reach_a_reset_knows_nothing_of_it():
    matrices = normal(0, (20, 4, 4))
    matrices[9] = 0

    def growth(matrices):
        return of_matrices(matrices).log_growth[4]

    gradient = jax.grad(growth)(jnp.asarray(matrices))
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient[15:] != 0)
    np.testing.assert_array_equal(gradient[:15], 0)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy.optimize import brentq
from scipy.special import stdtrit

from jacobian_rnn import Recurrence, step_jacobians, zero_carry
from jacobian_rnn.cells.changes import with_gain, with_gate_bias
from jacobian_rnn.initialization._rate_curve import RateCurve
from jacobian_rnn.initialization.initializers import gaussian
from jacobian_rnn.initialization.rate_search import _rates, at_rate, draw
from tests.networks import mostly_slow

SHORT = {"num_inputs": 2, "num_steps": 60, "num_warmup": 20}


def linear_cell(width):
    return nn.SimpleCell(width, activation_fn=jax.nn.identity, param_dtype=jnp.float64)


def nnx_linear_cell(key):
    """Make one in single precision."""
    return nnx.SimpleCell(2, 6, activation_fn=jax.nn.identity, rngs=nnx.Rngs(key))


def scalar(params, carry, x):
    del x
    return params * carry


def scalar_network(key):
    """Draw h' = a h with log a ~ N(0, 0.3²): its rate is log a."""
    return Recurrence(scalar, jnp.exp(0.3 * jax.random.normal(key, (), jnp.float64)))


def unit_network(key):
    del key
    return Recurrence(scalar, jnp.ones(()))


def multiplied(network, value):
    return Recurrence(scalar, network.params * value)


def divided(network, value):
    return Recurrence(scalar, network.params / value)


def with_hump(network, value):
    return Recurrence(scalar, network.params * jnp.exp(-(value - 1) * (value - 3)))


def with_jump(network, value):
    return Recurrence(scalar, network.params * jnp.where(value < 1.03, 0.5, 2.0))


def with_nan(network, value):
    return Recurrence(scalar, network.params * jnp.where(value < 1.5, value, jnp.nan))


def with_death(network, value):
    return Recurrence(scalar, network.params * jnp.where(value < 0.5, 0.0, value))


def search(make, rate, vary, bounds, **options):
    return at_rate(
        make,
        rate,
        vary=vary,
        bounds=bounds,
        carry=jnp.ones(1),
        **{**SHORT, "key": a_key()} | options,
    )


def a_key(seed=0):
    return jax.random.key(seed)


@pytest.mark.parametrize(
    ("cell", "tolerance"),
    [pytest.param(nnx_linear_cell, 1e-6, marks=pytest.mark.slow), (linear_cell(6), 1e-10)],
    ids=["nnx", "linen"],
)
def test_a_linear_orthogonal_network_has_the_rate_log_gain(cell, tolerance):
    result = at_rate(cell, float(np.log(0.9)), key=a_key(), tolerance=tolerance, **SHORT)
    assert result.found
    assert result.confirmed
    assert float(result.value) == pytest.approx(0.9, rel=3 * tolerance)
    assert result.interval[0] <= 0.9 <= result.interval[1]
    np.testing.assert_allclose(result.interval, 0.9, rtol=10 * tolerance)
    # In float32 the states of 1000 steps of larger growth overflow, and have no exponent.
    known = np.isfinite(result.rates)
    assert np.all(known[result.searched < 1])
    expected = np.log(result.searched)[known]
    np.testing.assert_allclose(result.rates[known], expected, atol=10 * tolerance)
    assert np.all(np.diff(result.searched) > 0)
    # The rate of the same networks holds for others.
    network = draw(linear_cell(6), key=a_key(8), num_inputs=2, gain=result.value)
    kernel = network.params["params"]["h"]["kernel"]
    np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), 0.9, rtol=1e-5)


@pytest.mark.parametrize(("vary", "sign"), [(multiplied, 1), (divided, -1)])
def test_value_and_interval_are_those_of_student_where_rates_are_logs(vary, sign):
    result = search(scalar_network, 0.2, vary, (0.1, 20.0), tolerance=1e-10)
    offset = result.rates - sign * np.log(result.searched)
    # Common random numbers: the networks are the same at every value.
    np.testing.assert_allclose(offset, offset[0], atol=1e-12)
    np.testing.assert_allclose(result.standard_errors, result.standard_errors[0], atol=1e-12)
    error = float(result.standard_errors[0])
    assert 0.05 < error * np.sqrt(8) < 0.6
    assert abs(offset[0]) < 4 * 0.3 / np.sqrt(8)
    log_value = sign * (0.2 - float(offset[0]))
    assert np.log(result.value) == pytest.approx(log_value, abs=1e-9)
    half = stdtrit(7, 0.975) * error
    # The package's quantile of Student's distribution is good to 1e-3.
    np.testing.assert_allclose(
        np.log(result.interval), log_value + half * np.array([-1, 1]), atol=1e-3 * half
    )
    # Other networks have other rates, and an error of their own.
    assert 1e-3 < abs(float(result.fresh_rate.value) - 0.2) < 4 * 0.3 / 2
    assert result.fresh_rate.standard_error != error
    assert result.confirmed


def test_errors_are_standard_errors_of_the_mean_over_networks():
    curve = RateCurve(lambda value: value * np.array([1.0, 2.0, 3.0, 6.0]), 0.0, 1e-3)
    # Variance (4 + 1 + 0 + 9) / 3 of four.
    assert curve.at(1.0) == pytest.approx((3.0, np.sqrt(14 / 3 / 4)))


@pytest.mark.slow
def test_the_interval_covers_the_value_of_the_ensemble():
    # The value of the ensemble is 1. Twenty intervals of 95 % miss it more than four times with
    # probability 0.003.
    covered = 0
    for seed in range(20):
        result = search(scalar_network, 0.0, multiplied, (0.2, 5.0), key=a_key(seed))
        covered += bool(result.interval[0] <= 1 <= result.interval[1])
    assert covered >= 16


def fixed(cell, width):
    """Return one network at rest for all keys, and the eigenvalues of a kernel of its candidate."""
    network = draw(cell(width, param_dtype=jnp.float64), key=a_key(4), num_inputs=2)
    name = "hn" if cell is nn.GRUCell else "hg"
    eigenvalues = np.linalg.eigvals(network.params["params"][name]["kernel"])
    return network, eigenvalues


def test_gru_at_rest_grows_as_its_fixed_point_says():
    network, eigenvalues = fixed(nn.GRUCell, 5)

    def excess(gain):
        return np.log(np.abs(0.5 + 0.25 * gain * eigenvalues).max()) - 0.05

    result = at_rate(lambda _: network, 0.05, num_inputs=2, key=a_key(), input_std=0.0)
    assert float(result.value) == pytest.approx(brentq(excess, 0.5, 10), rel=0.01)
    np.testing.assert_allclose(result.rate.standard_error, 0, atol=1e-12)


def test_lstm_at_rest_grows_as_its_forget_bias_says():
    network, eigenvalues = fixed(nn.LSTMCell, 5)

    def excess(bias):
        return np.log(np.abs(1 / (1 + np.exp(-bias)) + 0.25 * eigenvalues).max()) + 0.1

    result = at_rate(
        lambda _: network, -0.1, num_inputs=2, key=a_key(), input_std=0.0, vary="forget_bias"
    )
    assert float(result.value) == pytest.approx(brentq(excess, -5, 5), abs=0.03)
    assert result.parameter == "forget bias"


def nnx_gru(key):
    return nnx.GRUCell(2, 8, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(key))


FRESH = {
    "SimpleCell": nn.SimpleCell(16, param_dtype=jnp.float64),
    "GRUCell": nn.GRUCell(8, param_dtype=jnp.float64),
    "LSTMCell": nn.LSTMCell(8, param_dtype=jnp.float64),
}


def growth(chain, num_warmup=200):
    """Return the mean log growth of a vector that a chain of matrices is applied to."""
    vector, logs = np.ones(chain.shape[1]), []
    for matrix in np.asarray(chain):
        vector = matrix @ vector
        logs.append(np.log(np.linalg.norm(vector)))
        vector /= np.linalg.norm(vector)
    return np.mean(logs[num_warmup:])


@pytest.mark.parametrize("name", mostly_slow(FRESH, list(FRESH)[:1]))
def test_fresh_networks_have_the_rate_by_another_route(name):
    cell, rate = FRESH[name], 0.0
    result = at_rate(cell, rate, num_inputs=2, key=a_key())
    assert result.found
    assert result.confirmed
    error = jnp.hypot(result.rate.standard_error, result.fresh_rate.standard_error)
    assert 0 < float(error) < 0.03
    assert abs(result.fresh_rate.value - rate) < 3 * error + 1e-3
    assert result.interval[0] < result.value < result.interval[1]

    networks = jax.vmap(lambda key: draw(cell, key=key, num_inputs=2, gain=result.value))(
        jax.random.split(a_key(77), 8)
    )

    @jax.jit
    @jax.vmap
    def jacobians(network, key):
        xs = jax.random.normal(key, (1000, 2))
        return step_jacobians(network, zero_carry(network), xs, method="closed_form")

    chains = jacobians(networks, jax.random.split(a_key(78), 8))
    rates = np.array([growth(chain) for chain in chains])
    own = np.std(rates, ddof=1) / np.sqrt(8)
    assert abs(np.mean(rates) - rate) < 3 * np.hypot(own, result.rate.standard_error)


@pytest.mark.slow
def test_a_wide_driven_tanh_network_is_critical_where_mean_field_theory_says():
    cell = nn.SimpleCell(64, recurrent_kernel_init=gaussian(1.0), param_dtype=jnp.float64)
    result = at_rate(cell, 0.0, num_inputs=64, key=a_key(), bounds=(1.0, 4.0), num_steps=600)
    # Inputs of variance 1 into each unit; as N → ∞ the critical gain is 1.855589.
    assert float(result.value) == pytest.approx(1.8556, rel=0.08)


def test_a_rate_out_of_reach_is_not_found():
    result = at_rate(linear_cell(4), 1.0, key=a_key(), bounds=(0.5, 2.0), **SHORT)
    assert not result.found
    assert not result.confirmed
    unknown = (result.value, result.interval, result.rate, result.fresh_rate)
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in jax.tree.leaves(unknown))
    np.testing.assert_allclose(result.searched[jnp.array([0, -1])], [0.5, 2.0])
    np.testing.assert_allclose(result.rates[jnp.array([0, -1])], np.log([0.5, 2.0]), atol=1e-12)
    text = str(result)
    assert "NOT FOUND: a gain for λ₁ = +1 nats per step; none does within the bounds" in text
    assert "lowest gain 0.5: λ₁ = -0.693147" in text
    assert "highest gain 2: λ₁ = +0.693147" in text
    assert "95 %" not in text


def test_a_jump_across_the_rate_is_not_found():
    result = search(unit_network, 0.0, with_jump, (0.0, 2.0))
    assert not result.found
    assert np.isnan(result.value)
    assert "jumps across it" in str(result)


def test_of_several_crossings_the_lowest_is_taken_and_said():
    result = search(unit_network, 0.0, with_hump, (-1.0, 6.3), tolerance=1e-9)
    assert result.num_crossings == 2
    assert float(result.value) == pytest.approx(1, abs=1e-8)
    assert "crosses this rate 2 times: this is the lowest" in str(result)
    falling = search(unit_network, 0.0, with_hump, (2.0, 6.3), tolerance=1e-9)
    assert float(falling.value) == pytest.approx(3, abs=1e-8)
    assert "times" not in str(falling)


def test_where_the_rate_is_not_a_number_the_search_stays_away_and_says_so():
    result = search(unit_network, 0.0, with_nan, (0.5, 2.5))
    assert float(result.value) == pytest.approx(1, abs=1e-3)
    assert "of them λ₁ is NaN" in str(result)
    assert not search(unit_network, 0.5, with_nan, (0.5, 2.5)).found


def test_a_network_without_memory_has_a_rate_below_all_others():
    result = search(unit_network, -0.1, with_death, (0.01, 2.0))
    assert float(result.value) == pytest.approx(np.exp(-0.1), rel=2e-3)
    assert result.rates[0] == -np.inf
    # From −∞ it jumps to log 0.5.
    assert not search(unit_network, -2.0, with_death, (0.01, 2.0)).found


def test_an_interval_that_the_bounds_do_not_close_is_open():
    wide = search(scalar_network, 0.0, multiplied, (0.1, 9.0))
    rate = float(wide.rates[0] - np.log(wide.searched[0]))
    result = search(scalar_network, rate, multiplied, (0.95, 1.06))
    assert result.found
    np.testing.assert_array_equal(result.interval, [-np.inf, np.inf])


def test_the_text_says_over_what_the_errors_are():
    text = str(search(scalar_network, 0.0, multiplied, (0.1, 9.0), num_networks=5))
    assert "over networks drawn afresh, for λ₁ = +0 nats per step" in text
    assert "5 searched networks: λ₁ = " in text
    assert "5 fresh networks: λ₁ = " in text
    assert "± are standard errors over 5 networks, each with an input sequence of its own" in text
    assert "WARNING" not in text


def test_fresh_networks_that_disagree_are_reported():
    result = search(scalar_network, 0.0, multiplied, (0.1, 9.0))
    wrong = result._replace(fresh_rate=result.fresh_rate._replace(value=jnp.array(1.0)))
    assert not wrong.confirmed
    assert "WARNING: the fresh networks disagree" in str(wrong)


def test_a_search_compiles_one_program_and_a_second_one_nothing():
    before = _rates._cache_size()
    first = at_rate(linear_cell(3), -0.5, key=a_key(), **SHORT)
    assert _rates._cache_size() == before + 1
    second = at_rate(linear_cell(3), -0.2, key=a_key(1), input_std=0.5, bounds=(0.3, 3.0), **SHORT)
    assert _rates._cache_size() == before + 1
    assert first.value < second.value
    again = at_rate(linear_cell(3), -0.5, key=a_key(), **SHORT)
    jax.tree.map(np.testing.assert_array_equal, first[1:-1], again[1:-1])


def test_inputs_have_the_standard_deviation_asked_for():
    cell = nn.SimpleCell(8, param_dtype=jnp.float64)
    values = [
        float(at_rate(cell, -0.3, num_inputs=2, key=a_key(), input_std=std).value)
        for std in (0.0, 2.0)
    ]
    # At rest λ₁ = log gain; strong inputs saturate the units.
    assert values[0] == pytest.approx(np.exp(-0.3), rel=1e-2)
    assert values[1] > 1.3 * values[0]


@pytest.mark.slow
def test_drawn_networks_are_scaled_and_biased():
    cell = nn.LSTMCell(4, param_dtype=jnp.float64)
    plain = draw(cell, key=a_key(), num_inputs=2)
    both = draw(cell, key=a_key(), num_inputs=2, gain=2.0, forget_bias=jnp.arange(4.0))
    expected = with_gate_bias(with_gain(plain, 2.0), "f", jnp.arange(4.0))
    jax.tree.map(np.testing.assert_array_equal, both.params, expected.params)
    assert both.step == plain.step
    traced = jax.vmap(lambda g, b: draw(cell, key=a_key(), num_inputs=2, gain=g, forget_bias=b))
    batch = traced(jnp.full(1, 2.0), jnp.arange(4.0)[None]).params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), batch, expected.params)
    other = draw(cell, key=a_key(1), num_inputs=2)
    assert (
        other.params["params"]["hf"]["kernel"][0, 0] != plain.params["params"]["hf"]["kernel"][0, 0]
    )
    assert draw(nnx_gru, key=a_key(), num_inputs=2).params["dense_h"]["kernel"].shape == (8, 24)
    single = draw(nn.GRUCell(4), key=a_key(), num_inputs=2, gain=2.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(single.params)} == {jnp.dtype(jnp.float32)}


def wrong(**options):
    return lambda: at_rate(linear_cell(3), **{"rate": 0.0, "key": a_key(), **SHORT, **options})


ERRORS = {
    "rate: received nan, expected a finite number": (ValueError, wrong(rate=float("nan"))),
    "input_std: received -1.0": (ValueError, wrong(input_std=-1.0)),
    "tolerance: received 0.0": (ValueError, wrong(tolerance=0.0)),
    "num_networks: received 3, expected at least 4": (ValueError, wrong(num_networks=3)),
    "num_networks: received 8.0": (TypeError, wrong(num_networks=8.0)),
    "num_warmup: received 60": (ValueError, wrong(num_warmup=60)),
    "num_steps: received '9'": (TypeError, wrong(num_steps="9")),
    "num_inputs: received 0": (ValueError, wrong(num_inputs=0)),
    "vary: received 'bias', expected 'gain', 'forget_bias', or a fun": (
        ValueError,
        wrong(vary="bias"),
    ),
    r"bounds: received \(0.0, 1.0\), .*, above zero": (ValueError, wrong(bounds=(0.0, 1.0))),
    r"bounds: received \(2.0, 1.0\), expected": (ValueError, wrong(bounds=(2.0, 1.0))),
    r"bounds: received \(1.0,\), expected": (ValueError, wrong(bounds=(1.0,))),
    "bounds: received None, expected": (ValueError, wrong(vary=multiplied)),
    "gate: received 'forget' of a SimpleCell": (ValueError, wrong(vary="forget_bias")),
    "cell: received a GRUCell, expected a linen cell, or a function": (
        TypeError,
        lambda: draw(nnx_gru(a_key()), key=a_key(), num_inputs=2),
    ),
    "cell: received a RNN, .*of a layer pass its cell": (
        TypeError,
        lambda: draw(nn.RNN(nn.GRUCell(3)), key=a_key(), num_inputs=2),
    ),
    "cell: received a function that makes a ArrayImpl": (
        TypeError,
        lambda: draw(lambda _: jnp.ones(2), key=a_key(), num_inputs=2),
    ),
    "cell: received a int": (TypeError, lambda: draw(3, key=a_key(), num_inputs=2)),
    "gain: received 1 of 1 values that are NaN": (
        ValueError,
        lambda: draw(linear_cell(3), key=a_key(), num_inputs=2, gain=float("nan")),
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_say_what_was_received_and_what_is_expected(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=message):
        call()

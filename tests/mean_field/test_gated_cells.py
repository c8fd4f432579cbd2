"""Growth in gated cells: fresh weights, weights that stay, gates that stand still."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobian_rnn.mean_field import (
    Gate,
    GRUUnits,
    LSTMUnits,
    MinimalUnits,
    SimpleUnits,
    fresh_growth,
    frozen_growth,
    kept_growth,
    order_parameters,
    reference,
)
from jacobian_rnn.mean_field.kept_weights import _spectral_edge
from tests.networks import mostly_slow

INPUT = 0.3**0.5


def gru(std=1.0, update_bias=0.0):
    return GRUUnits(Gate(std, INPUT), Gate(std, INPUT, update_bias), Gate(std, INPUT))


def lstm(std=1.0, forget_bias=0.0):
    return LSTMUnits(
        Gate(std, INPUT), Gate(std, INPUT, forget_bias), Gate(std, INPUT), Gate(std, INPUT)
    )


@partial(jax.jit, static_argnames=("width", "num_steps", "kept"))
def simulated(units, keys, *, width, num_steps, kept):
    """Grow one tangent in each of several networks: kernels drawn once, or at every step."""
    num_gates = len(units)
    weight_stds, input_stds, means = (
        jnp.stack([jnp.asarray(getattr(gate, name)) for gate in units])
        for name in ("weight_std", "input_std", "bias_mean")
    )

    def kernels(key):
        return jax.random.normal(key, (num_gates, width, width)) * (
            weight_stds[:, None, None] / width**0.5
        )

    def one(key):
        kernel_key, tangent_key, key = jax.random.split(key, 3)
        kernel = kernels(kernel_key)

        def step(carried, key):
            state, tangent = carried
            fresh_key, input_key = jax.random.split(key)
            weights = kernel if kept else kernels(fresh_key)
            noise = jax.random.normal(input_key, (num_gates, width))
            external = means[:, None] + input_stds[:, None] * noise

            def advance(state):
                return units.step(state, weights @ state[-1], external)

            state, tangent = jax.jvp(advance, (state,), (tangent,))
            size = jnp.linalg.norm(tangent)
            return (state, tangent / size), jnp.log(size)

        shape = (units.num_states, width)
        start = (jnp.zeros(shape), jax.random.normal(tangent_key, shape))
        _, rates = lax.scan(step, start, jax.random.split(key, num_steps))
        return jnp.mean(rates[num_steps // 4 :])

    return lax.map(one, keys)


def test_the_published_critical_point_of_minimalrnn():
    for std, read, square, mean, chi in zip(
        *reference("minimal_rnn").columns.values(), strict=True
    ):
        units = MinimalUnits(Gate(std, read * square**0.5, mean), Gate(0.0, square**0.5))
        assert fresh_growth(units).squared_growth == pytest.approx(chi, abs=4e-4)


@pytest.mark.slow
def test_fresh_weights_in_a_gru():
    for std, bias, chi in zip(*reference("gru_fresh").columns.values(), strict=True):
        assert fresh_growth(gru(std, bias)).squared_growth == pytest.approx(chi, abs=6e-5)
    assert fresh_growth(gru()).activity == pytest.approx(0.0763, abs=6e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_fresh_weights_in_an_lstm():
    for bias, chi in zip(*reference("lstm_fresh").columns.values(), strict=True):
        growth = fresh_growth(lstm(forget_bias=bias))
        assert growth.squared_growth == pytest.approx(chi, abs=6e-4)
        assert 0 < growth.standard_error < 1e-3


# Gates that differ, and a candidate whose mean is not zero.
UNEQUAL = [
    GRUUnits(Gate(0.3, 0.2), Gate(2.0, INPUT, -0.5), Gate(3.0, INPUT, 0.5)),
    LSTMUnits(
        Gate(0.3, INPUT), Gate(1.5, INPUT, 1.0), Gate(2.5, INPUT, 0.5), Gate(0.2, INPUT, -1.0)
    ),
    MinimalUnits(Gate(3.0, 0.8, 0.4), Gate(0.0, 1.0, 1.0)),
]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("units", mostly_slow(UNEQUAL, UNEQUAL[2:]), ids=["gru", "lstm", "minimal"])
def test_theory_with_fresh_weights_is_what_networks_with_fresh_weights_do(units):
    keys = jax.random.split(jax.random.key(0), 1)
    (found,) = simulated(units, keys, width=200, num_steps=300, kept=False)
    # The typical vector of a network of 200 units shrinks by a few hundredths more.
    assert fresh_growth(units).rate == pytest.approx(float(found), abs=0.03)


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
@pytest.mark.parametrize(
    "units",
    [gru(), gru(2.0), lstm(), lstm(1.0, 1.0)],
    ids=["gru", "gru gain 2", "lstm", "lstm bias 1"],
)
def test_theory_with_kept_weights_is_what_networks_do_and_fresh_weights_are_not(units):
    keys = jax.random.split(jax.random.key(0), 4)
    found = simulated(units, keys, width=256, num_steps=400, kept=True)
    mean, error = np.mean(found), np.std(found, ddof=1) / 2
    theory = kept_growth(units, key=jax.random.key(9))
    assert theory.settled
    assert theory.rate == pytest.approx(mean, abs=4 * np.hypot(error, theory.standard_error) + 0.01)
    assert abs(fresh_growth(units).rate - mean) > 0.05


def test_candidates_with_a_mean_are_kept_and_written_together():
    # Gates without weights: h' = z h + (1 − z) n with fresh z and n in every unit.
    generator = np.random.default_rng(0)
    h = np.zeros(200_000)
    for _ in range(60):
        z = 1 / (1 + np.exp(-(0.4 + 0.8 * generator.standard_normal(h.size))))
        h = z * h + (1 - z) * (1 + generator.standard_normal(h.size))
    minimal = MinimalUnits(Gate(0.0, 0.8, 0.4), Gate(0.0, 1.0, 1.0))
    growth = fresh_growth(minimal)
    assert growth.activity == pytest.approx(np.mean(h**2), rel=0.01)
    large = fresh_growth(MinimalUnits(Gate(0.0), Gate(0.0, 100.0)))
    assert large.activity == pytest.approx(1e4 / 3, rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_population_that_remembers_longer_than_it_runs_says_so():
    open_gate = lstm(forget_bias=2.0)
    growth = fresh_growth(open_gate, num_steps=20)
    assert not growth.settled
    assert "NOT settled" in str(growth)
    longer = fresh_growth(open_gate, num_steps=100)
    assert longer.settled
    short = fresh_growth(lstm(), num_steps=100)
    assert short.settled
    assert "NOT" not in str(short)
    longest = fresh_growth(lstm(), num_steps=800)
    # Errors shrink as the root of the time, up to the chance of ten blocks.
    assert 1.2 < short.standard_error / longest.standard_error < 8
    error = np.hypot(short.standard_error, longest.standard_error)
    assert longest.rate == pytest.approx(float(short.rate), abs=4 * error)


@pytest.mark.slow
def test_populations_at_rest_keep_their_digits_in_single_precision():
    with jax.enable_x64(False):
        growth = kept_growth(GRUUnits(), key=jax.random.key(0), num_units=800)
        assert growth.rate == pytest.approx(np.log(0.75), abs=1e-5)
        assert growth.settled


@pytest.mark.slow
def test_units_without_feedback_have_only_their_own_memory():
    options = {"key": jax.random.key(0), "num_units": 20, "num_populations": 2}
    assert frozen_growth(SimpleUnits(Gate(0.0)), **options).rate == -np.inf
    alone = frozen_growth(GRUUnits(candidate=Gate(0.0)), **options)
    assert alone.rate == pytest.approx(np.log(0.5), abs=1e-6)


@pytest.mark.slow
def test_kept_and_fresh_weights_agree_in_a_vanilla_network():
    growth = kept_growth(SimpleUnits(Gate(2.0, 0.3)), key=jax.random.key(0))
    exact = order_parameters(2.0, input_std=0.3)
    assert growth.rate == pytest.approx(float(exact.rate), abs=4 * float(growth.standard_error))


@pytest.mark.slow
def test_slow_cells_are_reported_as_not_settled():
    growth = kept_growth(
        lstm(1.0, 5.0), key=jax.random.key(0), num_units=300, num_steps=40, num_warmup=4
    )
    assert not growth.settled
    assert "NOT settled" in str(growth)
    assert "same weights at every step" in str(growth)


@pytest.mark.slow
def test_cells_at_rest_have_the_edge_of_their_spectrum():
    cases = {
        GRUUnits(candidate=Gate(1.5)): 0.5 + 0.25 * 1.5,
        LSTMUnits(candidate=Gate(1.5)): 0.5 + 0.25 * 1.5,
        SimpleUnits(Gate(0.8)): 0.8,
    }
    for units, radius in cases.items():
        growth = frozen_growth(
            units, key=jax.random.key(0), num_units=50, num_steps=150, num_populations=2
        )
        assert growth.rate == pytest.approx(np.log(radius), abs=1e-6)


@pytest.mark.slow
def test_the_edge_is_that_of_the_eigenvalues_of_a_network_with_unequal_gates():
    # A GRU at rest whose update biases have variance one, and whose reset gate is ½.
    width, gain = 1000, 2.5
    units = GRUUnits(Gate(0.0), Gate(0.0, bias_std=1.0), Gate(gain))
    generator = np.random.default_rng(0)
    keep = 1 / (1 + np.exp(-generator.standard_normal(width)))
    kernel = generator.standard_normal((width, width)) * gain / width**0.5
    matrix = np.diag(keep) + ((1 - keep) * 0.5)[:, None] * kernel
    radius = np.max(np.abs(np.linalg.eigvals(matrix)))
    biases = jnp.zeros((3, width)).at[1].set(jnp.log(keep / (1 - keep)))
    edge = _spectral_edge(units, jnp.zeros((1, width)), jnp.zeros((3, width)), biases)
    assert edge == pytest.approx(radius, rel=0.02)


def test_predictions_say_what_they_assume():
    units = MinimalUnits(Gate(1.0, INPUT), Gate(0.0, 1.0))
    assert "fresh weights" in str(fresh_growth(units))
    frozen = frozen_growth(units, key=jax.random.key(0), num_units=20, num_populations=2)
    assert "same gates" in str(frozen)


def test_a_gru_without_input_rests_below_the_transition_and_is_active_above():
    assert fresh_growth(GRUUnits()).activity == 0
    assert fresh_growth(GRUUnits(candidate=Gate(6.0))).activity > 0.01


def test_bad_units_are_refused():
    with pytest.raises(TypeError, match="units: received a int, expected SimpleUnits"):
        kept_growth(3, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"units.update: received a float, expected a Gate"):
        fresh_growth(GRUUnits(Gate(), 1.0))
    with pytest.raises(TypeError, match=r"units: received SimpleUnits, .*see order_parameters"):
        fresh_growth(SimpleUnits())
    with pytest.raises(ValueError, match=r"units.reset.weight_std: received -1.0, expected a fin"):
        fresh_growth(GRUUnits(Gate(-1.0)))
    with pytest.raises(ValueError, match=r"units.input.bias_mean: received inf"):
        fresh_growth(LSTMUnits(Gate(bias_mean=float("inf"))))
    with pytest.raises(ValueError, match="num_populations: received 1, expected at least 2"):
        kept_growth(gru(), key=jax.random.key(0), num_populations=1)
    with pytest.raises(ValueError, match="num_units: received 100, expected at least 640: four"):
        kept_growth(gru(), key=jax.random.key(0), num_units=100)
    with pytest.raises(ValueError, match=r"units.embedding.weight_std: received 5.0, expected 0"):
        fresh_growth(MinimalUnits(embedding=Gate(5.0, 1.0)))
    with pytest.raises(ValueError, match="num_steps: received 3, expected at least 20"):
        fresh_growth(lstm(), num_steps=3)
    with pytest.raises(ValueError, match="num_warmup: received 160, expected 0 to 156"):
        kept_growth(gru(), key=jax.random.key(0), num_warmup=160)

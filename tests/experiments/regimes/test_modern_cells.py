"""Tests of the recurrences of today that ensembles draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from experiments.regimes import _ensemble as ensemble
from experiments.regimes import _learning as learning
from experiments.regimes._modern_cells import MODERN, draw_modern
from experiments.regimes._state_tracking import parity_networks

NUM_INPUTS, WIDTH = 3, 8
X = np.array([0.7, -0.2, 0.4])


def network_of(cell, factor):
    return draw_modern(cell, NUM_INPUTS, WIDTH, factor, key=jax.random.key(0), dtype=jnp.float64)


def kept_of(cell, factor):
    """Return the mean size of what each number of the state keeps of itself in the second step."""
    network, x = network_of(cell, factor), jnp.asarray(X)
    carry = network.step(network.params, jrnn.zero_carry(network), x)
    jacobian = network.jacobian(network.params, carry, x)
    return float(jnp.mean(jnp.abs(jnp.diag(jacobian))))


@pytest.mark.parametrize("cell", MODERN)
def test_a_larger_factor_forgets_faster_and_a_factor_of_one_is_as_published(cell):
    low, high = MODERN[cell].factors
    assert low < 1 < high
    assert kept_of(cell, low) > kept_of(cell, 1.0) > kept_of(cell, high)
    published = MODERN[cell].draw(NUM_INPUTS, WIDTH, key=jax.random.key(0), dtype=jnp.float64)
    changed = network_of(cell, 1.0)
    assert changed.step == published.step
    for one, other in zip(
        jax.tree.leaves(changed.params), jax.tree.leaves(published.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cell", ["S5", "S6", "GatedDeltaNet"])
def test_rates_are_multiplied_by_the_factor_where_they_are_small(cell):
    rates = []
    for factor in (0.02, 0.01):
        network = network_of(cell, factor)
        jacobian = network.jacobian(network.params, jrnn.zero_carry(network), jnp.zeros(NUM_INPUTS))
        rates.append(np.log(np.linalg.norm(jacobian, axis=0)))
    np.testing.assert_allclose(rates[1], rates[0] / 2, rtol=2e-3)


@pytest.mark.parametrize("task", ["selective_copying", "parity"])
def test_ensembles_draw_them_and_deal_out_the_new_tasks(task):
    config = ensemble.Ensemble(cells=("minGRU", "sLSTM"), tasks=(task,), widths=(8,), retrained=0)
    for shape in ensemble.shapes(config):
        assert shape.kernel == "published"
        made = ensemble.task_of(shape, "float32")
        assert (made.name, made.horizon) == (task, int(shape.horizon))
        rows = ensemble.rows_of(config, shape)
        low, high = MODERN[shape.cell].factors
        assert np.all((low <= rows["gain"]) & (rows["gain"] <= high))
        labels = ensemble.labels_of(config, shape, rows)
        assert np.all(labels["num_parameters"][1] > 0)


def test_cells_without_a_recurrent_kernel_have_no_radius_and_those_with_one_do():
    found = {}
    for cell in ("IndRNN", "SimpleCell", "LRU"):
        shape = ensemble.Shape(cell, "recall", "4", "4", "adam", "orthogonal")
        config = learning.LearningEnsemble(dtype="float64")
        row = {"gain": 1.0, "forget_bias": 0.0, "seed": 0}
        network = ensemble.draw(config, shape, row)
        xs = jax.random.normal(jax.random.key(1), (4, 3, 4), jnp.float64)
        found[cell] = learning.measure_rules(
            cell, network, jrnn.zero_carry(network), xs, jax.random.key(2)
        )
    assert "kernel" not in found["IndRNN"]
    numbers = {name: np.asarray(value)[None] for name, value in found["SimpleCell"].items()}
    # An orthogonal matrix has both of one.
    recorded = learning.record_measurements(numbers)
    np.testing.assert_allclose(recorded["spectral_radius"], 1)
    np.testing.assert_allclose(recorded["kernel_norm"], 1)
    assert "spectral_radius" not in learning.record_measurements(
        {name: np.asarray(value)[None] for name, value in found["IndRNN"].items()}
    )


@pytest.mark.slow
def test_negative_eigenvalues_learn_parity_and_others_do_not():
    skills = {}
    for eigenvalues in ("positive", "signed"):
        networks = parity_networks(
            eigenvalues, num_steps=12, width=8, num_networks=2, num_updates=300, dtype="float32"
        )
        rows = {name: jnp.asarray(values) for name, values in networks.rows.items()}
        found = networks.record(jax.jit(jax.vmap(networks.program))(rows))
        skills[eigenvalues] = found["longer_skill"].to_numpy()
    assert skills["positive"].max() < 0.2
    assert skills["signed"].max() > 0.9

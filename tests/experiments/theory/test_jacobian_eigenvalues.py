import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import drawing, gaussian_cells
from experiments.theory import jacobian_eigenvalues as experiment
from paper_figures.theory import jacobian_eigenvalues as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of

SMALL = dataclasses.replace(experiment.PRESETS["quick"], width=6, num_warmup=7, num_angles=5)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["GRUCell", "LSTMCell"])
def test_slopes_and_kernels_of_the_units_make_up_the_jacobian(cell):
    unit, key = experiment.Unit(cell, "1"), jax.random.key(0)
    jacobian, (blocks, slopes) = experiment.snapshot(SMALL, unit, key)
    draw_key, input_key = jax.random.split(key)
    network = gaussian_cells.draw(
        cell, 6, SMALL.gain, 1.0, SMALL.input_std, dtype="float64", key=draw_key
    )
    carry = drawing.zero_carry(cell, 6, jnp.dtype("float64"))
    xs = jax.random.normal(input_key, (8, 6))
    for x in xs[:-1]:
        carry = network.step(network.params, carry, x)
    expected = jax.jacfwd(
        lambda state: jnp.concatenate(jax.tree.leaves(_step(network, cell, state, xs[-1])))
    )(jnp.concatenate(jax.tree.leaves(carry)))
    np.testing.assert_allclose(jacobian, expected, atol=1e-12)

    kernels = network.jacobian.parts(network.params, carry, xs[-1]).kernels
    num_states = blocks.shape[1]
    rebuilt = np.zeros((num_states, 6, num_states, 6))
    for unit in range(6):
        rebuilt[:, unit, :, unit] += blocks[unit]
    for gate, kernel in enumerate(kernels):
        rebuilt[:, :, -1, :] += slopes[:, :, gate].T[:, :, None] * np.asarray(kernel).T
    size = num_states * 6
    np.testing.assert_allclose(rebuilt.reshape(size, size), jacobian, atol=1e-12)


def test_the_edge_is_carried_by_the_units_that_respond():
    # Responses 1/(2 − d)², times one slope each: 1, 1 and 4.
    blocks = np.array([1.0, 1.0, 1.5]).reshape(3, 1, 1)
    slopes = experiment.Slopes(blocks, np.ones((3, 1, 1)))
    np.testing.assert_allclose(experiment.response(slopes, 2.0), [1, 1, 4])
    assert experiment.participation(slopes, 2.0) == pytest.approx(36 / 18)
    assert experiment.participation(slopes, 1.5) == 1  # its own eigenvalue


def _step(network, cell, state, x):
    return network.step(network.params, (state[:6], state[6:]) if cell == "LSTMCell" else state, x)


@pytest.mark.parametrize(
    ("cell", "bias", "critical"),
    # At rest the spectrum reaches one at a gain of 1/r, or of (1 − f)/(i o).
    [("GRUCell", 0, 2), ("GRUCell", 4, 2), ("LSTMCell", 0, 2), ("LSTMCell", 1, 1.0757656854799804)],
)
def test_the_edge_of_a_network_at_rest_reaches_one_at_the_critical_gain(cell, bias, critical):
    at_rest = dataclasses.replace(SMALL, input_std=1e-30, gain=critical)
    _, slopes = experiment.snapshot(at_rest, experiment.Unit(cell, str(bias)), jax.random.key(0))
    np.testing.assert_allclose(experiment.real_edge(slopes, critical), 1, rtol=1e-9)
    assert experiment.real_edge(slopes, 1.1 * critical) > 1
    assert experiment.participation(slopes, 1.1) == pytest.approx(6)  # all units are alike
    # The edge is a circle about the open gate.
    gate = 1 / (1 + np.exp(-bias))
    for angle in (0.0, 1.0, np.pi):
        point = experiment.edge(slopes, critical, gate, angle)
        np.testing.assert_allclose(point, gate + (1 - gate) * np.exp(1j * angle), atol=1e-8)


def test_eigenvalues_of_a_large_matrix_end_at_its_edge():
    random = np.random.default_rng(0)
    diagonal, scale = random.uniform(0, 1, size=400), random.uniform(0.2, 0.8, size=400)
    slopes = experiment.Slopes(diagonal[:, None, None], scale[:, None, None])
    kernel = random.normal(size=(400, 400)) / 20
    eigenvalues = np.linalg.eigvals(np.diag(diagonal) + scale[:, None] * kernel)
    predicted = experiment.real_edge(slopes, 1.0)
    np.testing.assert_allclose(eigenvalues.real.max(), predicted, rtol=0.05)
    top = experiment.edge(slopes, 1.0, 0.5, np.pi / 2)
    np.testing.assert_allclose(eigenvalues.imag.max(), top.imag, rtol=0.08)
    outside = 0.5 + 1.1 * (experiment.edge(slopes, 1.0, 0.5, 0.3) - 0.5)
    assert experiment.gain_at(slopes, 1.0, outside) < 1


def constructed(radii, near, outside):
    """One cell at three biases: one network's spectral radius, and eigenvalues near one of four."""
    biases = [0.0, 1.0, 2.0]
    eigenvalues = np.zeros((1, 3, 2, 2, 4))
    eigenvalues[0, :, :, 0, 0] = np.array(radii)[:, None]
    for number, count in enumerate(near):
        eigenvalues[0, number, :, 0, 1 : 1 + count] = 0.95
    dataset = xr.Dataset(
        {
            "eigenvalue": (("cell", "bias", "network", "part", "index"), eigenvalues),
            "edge": (("cell", "bias", "network", "part", "angle"), np.ones((1, 3, 2, 2, 1))),
            "real_edge": (("cell", "bias", "network"), np.full((1, 3, 2), 2.0)),
            "outside": (("cell", "bias", "network"), np.full((1, 3, 2), outside)),
            "participation": (("cell", "bias", "network"), np.full((1, 3, 2), 4.0)),
            "mean_field_edge": (("cell", "bias"), np.full((1, 3), 2.0)),
            "mean_field_error": (("cell", "bias"), np.full((1, 3), 0.01)),
        },
        coords={"cell": ["GRUCell"], "bias": biases, "part": ["real", "imaginary"]},
    )
    config = dataclasses.replace(SMALL, biases=tuple(biases), width=4)
    return described(experiment.compared(dataset, config), config)


@pytest.mark.parametrize(
    ("radii", "near", "outside", "verdicts"),
    [
        ((2.0, 2.02, 1.98), (0, 1, 2), 0.19, ["holds", "holds", "holds", "holds"]),
        ((2.0, 2.06, 1.98), (0, 2, 1), 0.21, ["fails", "fails", "fails", "fails"]),
    ],
)
def test_claims_hold_or_fail_by_edge_and_slow_modes(radii, near, outside, verdicts):
    dataset = constructed(radii, near, outside)
    np.testing.assert_allclose(dataset["near_one_mean"].squeeze(), np.array(near) / 4)
    np.testing.assert_allclose(dataset["ratio_mean"].squeeze(), np.array(radii) / 2)
    assert [claim.verdict for claim in figure.claims(dataset)] == verdicts


@pytest.mark.slow
def test_the_experiment_measures_and_is_drawn(tmp_path):
    both = dataclasses.replace(SMALL, cells=("LSTMCell", "GRUCell"), biases=(0.0, 1.0))
    dataset = result_of(experiment, both)
    assert "near one" in text_of(experiment, dataset)
    counts = dataset["eigenvalue"].isel(bias=0, network=0, part=0).notnull().sum("index")
    np.testing.assert_array_equal(counts, [12, 6])
    check_drawing(figure.draw(dataset), tmp_path)


def test_biases_have_to_ascend():
    with pytest.raises(ValueError, match=r"--biases: received \(1.0, 0.0\)"):
        dataclasses.replace(SMALL, biases=(1.0, 0.0))

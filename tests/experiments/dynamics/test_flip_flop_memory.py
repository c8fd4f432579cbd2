import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobian_rnn as jrnn
from experiments.dynamics import flip_flop_memory as experiment
from jacobian_rnn.training import Network
from paper_figures.dynamics import flip_flop_memory as figure
from tests.experiments.in_process import check_drawing, described, text_of

UNIT = experiment.Unit("SimpleCell", "0")
CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], cells=("SimpleCell",), num_starts=256, num_let_go=200, width=3
)


@pytest.fixture(scope="module")
def dataset():
    """Examine a network that was built to hold three bits, in place of one that was trained."""
    with jax.enable_x64(True):
        recurrence = jrnn.Recurrence(built, jnp.asarray(2.0), output=shown)
        network = Network(recurrence, jnp.eye(3), jnp.zeros(3))
        part = experiment.examined(CONFIG, UNIT, network).assign(skill=1.0)
        return described(experiment.combine(CONFIG, {UNIT: part}), CONFIG)


def built(slope, carry, x):
    return jnp.tanh(slope * carry + 10 * x)


def shown(carry):
    return carry


def test_all_27_points_of_three_independent_bits_are_found(dataset):
    one = dataset.isel(cell=0, network=0)
    assert int(one["num_points"]) == 27
    assert (int(one["num_corners"]), int(one["num_stable"])) == (8, 8)
    assert (int(one["num_saddles"]), int(one["num_edges"])) == (12, 12)
    assert float(one["largest_residual"]) < 1e-25
    counts = np.bincount(one["num_unstable"].to_numpy().astype(int))
    np.testing.assert_array_equal(counts, [8, 12, 6, 1])


def test_memories_have_numbers_and_what_is_between_them_has_none():
    corners = [experiment.corner_of(corner.astype(float)) for corner in experiment.CORNERS]
    assert corners == list(range(8))
    assert experiment.corner_of(np.array([0.9, 1.1, 0.3])) == -1


def test_claims_fail_where_a_memory_is_missing(dataset):
    assert [claim.verdict for claim in figure.claims(dataset)] == ["holds"] * 3
    missing = dataset.assign(
        num_corners=dataset["num_corners"] - 1,
        largest_residual=dataset["largest_residual"] + 1e-9,
        num_edges=0 * dataset["num_edges"],
    )
    assert [claim.verdict for claim in figure.claims(missing)] == ["fails"] * 3


def test_the_figure_shows_points_eigenvalues_and_times(dataset, tmp_path):
    assert "saddles" in text_of(experiment, dataset)
    drawing = figure.draw(dataset)
    assert len(drawing.axes) == 3
    stable = next(line for line in drawing.axes[0].lines if line.get_label() == figure.KINDS[0])
    assert len(stable.get_xdata()) == 8
    check_drawing(drawing, tmp_path)


@pytest.mark.slow
def test_a_network_is_trained_and_examined():
    with jax.enable_x64(True):
        config = experiment.PRESETS["quick"]
        unit = experiment.units(config)[0]
        part = experiment.work(config, unit, lambda *_: None)
    assert 0.3 < float(part["skill"]) < 1
    assert float(part["largest_residual"]) < 1e-20

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tests.experiments.constructed_maps as maps
from experiments import gate_bias_map as experiment
from experiments import trainability
from jacobian_rnn import mean_field
from jacobian_rnn.mean_field import Gate, GRUUnits, LSTMUnits
from paper_figures import gate_bias_map as figure

QUICK = dataclasses.replace(experiment.PRESETS["quick"], dtype="float64")


@pytest.fixture(scope="module")
def grus():
    with jax.enable_x64(True):
        config = dataclasses.replace(QUICK, width=40)
        return trainability.draw_networks(experiment.draw_gru, config, (0.0, 2.5))


def test_columns_differ_in_one_gate_s_bias_alone(grus):
    layers = grus.params["params"]
    for name, layer in layers.items():
        for entry, leaf in layer.items():
            changes = (name, entry) == ("iz", "bias")
            np.testing.assert_allclose(leaf[1] - leaf[0], 2.5 if changes else 0, atol=1e-12)
    for gate in "rzn":
        kernel = layers[f"h{gate}"]["kernel"][0, 0]
        np.testing.assert_allclose(40 * np.mean(kernel**2), 1, atol=0.15)
        # Orthogonal kernels would have singular values of 1, Gaussian ones reach 2.
        np.testing.assert_allclose(np.linalg.norm(kernel, 2), 2, atol=0.25)


@pytest.fixture
def told(monkeypatch):
    """Collect what theory is told, which says nothing but its number of steps."""
    calls = []

    def fresh_growth(units, *, num_steps=400):
        calls.append(units)
        return mean_field.FreshGrowth(*np.zeros(2), -1.0 / num_steps, *np.zeros(2), num_steps > 99)

    monkeypatch.setattr(mean_field, "fresh_growth", fresh_growth)
    return calls


def test_theory_of_the_gru_hears_of_the_variances_that_networks_have(grus, told):
    def scaled(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        factor = {"hr": 0.5, "hz": 2.0, "hn": 3.0, "iz": 1.5}.get(names[-2], 1.0)
        return leaf * factor if names[-1] == "kernel" else leaf

    changed = jax.tree_util.tree_map_with_path(scaled, grus)
    opened = jax.tree.map(lambda leaf: leaf[1], changed)
    assert experiment.gru_rate(QUICK, opened, 2.5) == (-1 / 400, True)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in grus.params["params"].items()}
    size = {name: np.std(kernel) * kernel.shape[-2] ** 0.5 for name, kernel in kernels.items()}
    expected = GRUUnits(
        Gate(0.5 * size["hr"], 0.5 * size["ir"]),
        Gate(2.0 * size["hz"], 0.75 * size["iz"], 2.5),
        Gate(3.0 * size["hn"], 0.5 * size["in"]),
    )
    # Standard deviations here are about the mean, which is not quite zero.
    np.testing.assert_allclose(np.array(told[0]), np.array(expected), rtol=0.03)


def test_theory_of_the_lstm_hears_of_every_gate_and_takes_the_steps_of_its_bias(told):
    sizes = dict(zip("ifgo", (1.0, 2.0, 3.0, 4.0), strict=True))
    biases = (0.0, 6.0)

    def scaled(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        size = sizes[names[-2][1]] / leaf.shape[-2] ** 0.5
        return jnp.full_like(leaf, size) if names[-1] == "kernel" else leaf

    networks = trainability.draw_networks(experiment.draw_lstm, QUICK, biases)
    networks = jax.tree_util.tree_map_with_path(scaled, networks)
    closed, opened = (jax.tree.map(lambda leaf, i=i: leaf[i], networks) for i in range(2))
    config = dataclasses.replace(QUICK, biases=biases, theory_steps=(50, 200))
    assert experiment.lstm_rate(config, closed, 0.0) == (-1 / 50, False)
    assert experiment.lstm_rate(config, opened, 6.0) == (-1 / 200, True)
    expected = LSTMUnits(Gate(1, 0.5), Gate(2, 1.0, 6.0), Gate(3, 1.5), Gate(4, 2.0))
    np.testing.assert_allclose(np.array(told[1]), np.array(expected))


def test_measured_rates_are_those_of_a_network_that_only_keeps():
    # Without kernels a GRU keeps σ(bias) of its state in a step.
    networks = trainability.draw_networks(experiment.draw_gru, QUICK, QUICK.biases)
    silent = jax.tree.map(lambda leaf: leaf if leaf.ndim == 3 else 0 * leaf, networks)
    rates = trainability.measured_rates(silent, QUICK)
    expected = np.log(1 / (1 + np.exp(-np.array(QUICK.biases))))
    np.testing.assert_allclose(rates, np.tile(expected[:, None], 2), rtol=1e-9)


@functools.cache
def constructed(multiple_of):
    told = dict.fromkeys(experiment.CELLS, (multiple_of, time_constant, falling))
    config = dataclasses.replace(
        QUICK, biases=(0.0, 1.0, 2.0, 3.0, 4.0), horizons=(2, 4, 8, 16, 32, 64), num_seeds=3
    )
    return maps.constructed(config, experiment.CELLS, told, gated=True)


def time_constant(bias):
    return -1 / np.log(1 / (1 + np.exp(-bias)))


def twice(bias):
    return 2 * time_constant(bias)


def falling(bias):
    return 40 * np.exp(-bias)


@pytest.mark.slow
def test_claims_hold_where_the_kept_weights_and_the_gate_decide_and_fail_elsewhere():
    dataset = constructed(twice)
    np.testing.assert_allclose(
        dataset["depth_scale"].sel(cell=experiment.LSTM, scale="gate"),
        time_constant(np.array(dataset["value"].sel(cell=experiment.LSTM))),
    )
    made = figure.claims(dataset)
    assert [claim.verdict for claim in made] == ["holds"] * 7
    np.testing.assert_allclose([claim.measured for claim in made[2:6:2]], 1, atol=0.02)

    made = figure.claims(constructed(falling))
    assert [claim.verdict for claim in made] == ["fails"] * 7


def test_the_figure_draws_each_scale_times_its_multiple(tmp_path):
    dataset = constructed(twice)
    drawing = figure.draw(dataset)
    gru, lstm, correlations = drawing.axes[:3]
    assert gru.get_title() == "linen GRUCell"
    one = dataset.sel(cell=experiment.LSTM)
    for line, scale in zip(lstm.lines[1::2], ("fresh", "kept", "gate"), strict=True):
        expected = one["multiple"].sel(scale=scale) * one["depth_scale"].sel(scale=scale)
        np.testing.assert_allclose(line.get_ydata(), expected)
    bars = correlations.containers[1]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), one["correlation"])
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("preset", experiment.PRESETS.values())
def test_every_bias_has_its_number_of_theory_steps(preset):
    assert len(preset.theory_steps) == len(preset.biases)

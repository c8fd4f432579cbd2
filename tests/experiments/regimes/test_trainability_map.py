import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from experiments.regimes import trainability_map as experiment
from experiments.regimes.trainability_map import GRU, LSTM, MINIMAL, PLAIN
from jacobian_rnn import mean_field
from jacobian_rnn.mean_field import Gate, GRUUnits, LSTMUnits, MinimalUnits
from paper_figures.regimes import trainability_map as figure
from tests.experiments.regimes import constructed_maps as maps

QUICK = dataclasses.replace(experiment.PRESETS["quick"], dtype="float64")


def silent(*_):
    pass


def drawn(cell, *columns, **fields):
    """Draw networks of given columns in float64."""
    config = dataclasses.replace(QUICK, **fields)
    with jax.enable_x64(True):
        return experiment.draw_networks(config, cell, np.array(columns))


def test_networks_are_gaussian_with_the_column_s_value():
    plain = drawn(PLAIN, 1.0, 2.5, width=60).params["params"]
    recurrent = plain["h"]["kernel"]
    np.testing.assert_allclose(recurrent[1], 2.5 * recurrent[0])
    np.testing.assert_array_equal(plain["i"]["kernel"][1], plain["i"]["kernel"][0])
    minimal = drawn(MINIMAL, -1.0, 3.5, width=60).params["recurrent"]
    np.testing.assert_array_equal(minimal["bias"][:, 0], np.repeat([[-1.0], [3.5]], 60, axis=1))
    for kernel in (recurrent[0, 0], minimal["kernel"][1, 1]):
        # The mean of 3600 squares has a standard error of 2.4 %.
        np.testing.assert_allclose(60 * np.mean(kernel**2), 1, atol=0.1)
        # Orthogonal kernels would have singular values of 1, Gaussian ones reach 2.
        np.testing.assert_allclose(np.linalg.norm(kernel, 2), 2, atol=0.25)
    np.testing.assert_allclose(60 * np.mean(recurrent[1] ** 2), 2.5**2, rtol=0.1)


@pytest.fixture(scope="module")
def grus():
    return drawn(GRU, 0.0, 2.5, width=40)


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


def flat(networks, **sizes):
    """Give the kernels of each layer equal entries of the named size σ."""

    def change(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        if names[-1] != "kernel":
            return leaf
        return jnp.full_like(leaf, sizes[names[-2]] / leaf.shape[-2] ** 0.5)

    one = jax.tree.map(lambda leaf: leaf[0], networks)
    return jax.tree_util.tree_map_with_path(change, one)


def test_theory_of_the_plain_network_hears_of_the_variances_that_networks_have(monkeypatch):
    told = {}

    def order_parameters(weight_std, *, input_std):
        told.update(weight_std=weight_std, input_std=input_std)
        return mean_field.OrderParameters(*np.zeros(2), -0.25, *np.zeros(2))

    monkeypatch.setattr(mean_field, "order_parameters", order_parameters)
    networks = flat(drawn(PLAIN, 1.0), h=1.5, i=2.0)
    assert experiment.fresh_rate(PLAIN, networks, 1.0) == (-0.25, True)
    # Noise of standard deviation ½ through kernels that keep its size twice.
    np.testing.assert_allclose([told["weight_std"], told["input_std"]], [1.5, 1.0])


@pytest.fixture
def told(monkeypatch):
    """Collect what theory is told, which says nothing but its number of steps."""
    calls = []

    def fresh_growth(units, *, num_steps):
        calls.append(units)
        return mean_field.FreshGrowth(*np.zeros(2), -1.0 / num_steps, *np.zeros(2), num_steps > 999)

    monkeypatch.setattr(mean_field, "fresh_growth", fresh_growth)
    return calls


def test_theory_of_the_minimal_network_hears_of_its_embedding(told):
    networks = flat(drawn(MINIMAL, 0.5), embedding=2.0, input=1.5, recurrent=3.0)
    assert experiment.fresh_rate(MINIMAL, networks, 0.5) == (-1 / 400, False)
    # Every unit's embedding reads noise of standard deviation 1/2 · 2.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    embedding_std = (weights @ np.tanh(nodes) ** 2 / weights.sum()) ** 0.5
    expected = MinimalUnits(Gate(3.0, 1.5 * embedding_std, 0.5), Gate(0.0, embedding_std))
    np.testing.assert_allclose(np.array(told[0]), np.array(expected), rtol=1e-6, atol=1e-12)


def test_theory_of_the_gru_hears_of_the_variances_that_networks_have(grus, told):
    def scaled(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        factor = {"hr": 0.5, "hz": 2.0, "hn": 3.0, "iz": 1.5}.get(names[-2], 1.0)
        return leaf * factor if names[-1] == "kernel" else leaf

    changed = jax.tree_util.tree_map_with_path(scaled, grus)
    opened = jax.tree.map(lambda leaf: leaf[1], changed)
    assert experiment.fresh_rate(GRU, opened, 2.5) == (-1 / 400, False)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in grus.params["params"].items()}
    size = {name: np.std(kernel) * kernel.shape[-2] ** 0.5 for name, kernel in kernels.items()}
    expected = GRUUnits(
        Gate(0.5 * size["hr"], 0.5 * size["ir"]),
        Gate(2.0 * size["hz"], 0.75 * size["iz"], 2.5),
        Gate(3.0 * size["hn"], 0.5 * size["in"]),
    )
    # Standard deviations here are about the mean, which is not quite zero.
    np.testing.assert_allclose(np.array(told[0]), np.array(expected), rtol=0.03)


def test_theory_of_the_lstm_hears_of_every_gate_and_takes_longer_to_settle_if_open(told):
    sizes = dict(zip("ifgo", (1.0, 2.0, 3.0, 4.0), strict=True))

    def scaled(path, leaf):
        names = [getattr(part, "key", "") for part in path]
        size = sizes[names[-2][1]] / leaf.shape[-2] ** 0.5
        return jnp.full_like(leaf, size) if names[-1] == "kernel" else leaf

    networks = drawn(LSTM, 0.0, 6.0)
    networks = jax.tree_util.tree_map_with_path(scaled, networks)
    closed, opened = (jax.tree.map(lambda leaf, i=i: leaf[i], networks) for i in range(2))
    assert experiment.fresh_rate(LSTM, closed, 0.0) == (-1 / 400, False)
    assert experiment.fresh_rate(LSTM, opened, 6.0) == (-1 / 1600, True)
    expected = LSTMUnits(Gate(1, 0.5), Gate(2, 1.0, 6.0), Gate(3, 1.5), Gate(4, 2.0))
    np.testing.assert_allclose(np.array(told[1]), np.array(expected))


def test_measured_rates_are_those_of_a_network_that_only_keeps():
    # Without kernels a GRU keeps σ(bias) of its state in a step.
    biases = np.array([0.0, 1.0])
    networks = drawn(GRU, *biases)
    kept = jax.tree.map(lambda leaf: leaf if leaf.ndim == 3 else 0 * leaf, networks)
    rates = experiment.measured_rates(kept, QUICK)
    expected = np.log(1 / (1 + np.exp(-biases)))
    np.testing.assert_allclose(rates, np.tile(expected[:, None], 2), rtol=1e-9)


def test_training_teaches():
    # Untrained networks, and those of another task, have a skill of about zero.
    config = dataclasses.replace(QUICK, learning_rate=0.03, num_updates=100)
    skill = experiment.trained(config, drawn(PLAIN, 0.25, 1.5), 2, silent)
    assert skill.shape == (2, 2)
    assert ((skill > 0.6) & (skill <= 1)).all()


def plain(std):
    return 2 * std**2


def time_constant(bias):
    return -1 / np.log(1 / (1 + np.exp(-bias)))


def falling(values):
    return 40 * np.exp(-values / 2)


@functools.cache
def constructed(*, as_said):
    """Build networks that learn up to six of the true scales, or against all theory."""
    config = dataclasses.replace(
        QUICK,
        cells=(PLAIN, MINIMAL, GRU, LSTM),
        weight_stds=(0.5, 2.0),
        minimal_biases=(-1.0, 5.0),
        gate_biases=(0.0, 4.0),
        num_columns=5,
        horizons=(2, 4, 8, 16, 32, 64, 128),
        num_seeds=3,
    )
    told = {}
    for cell, scale in {PLAIN: plain, **dict.fromkeys((MINIMAL, GRU, LSTM), time_constant)}.items():
        if as_said:
            told[cell] = (lambda x, scale=scale: 6 * scale(x), scale, scale)
        else:
            told[cell] = (lambda x: 0.05 * falling(x), falling, scale)
    if not as_said:
        told[PLAIN] = (lambda x: 8 * falling(x), falling, plain)
    return maps.constructed(config, told)


@pytest.mark.slow
def test_claims_hold_where_networks_learn_as_theory_says_and_fail_elsewhere():
    made = figure.claims(constructed(as_said=True))
    assert [claim.verdict for claim in made] == ["holds"] * 12
    np.testing.assert_allclose([claim.measured for claim in made[7:9]], np.log(6), atol=0.2)

    made = figure.claims(constructed(as_said=False))
    assert [claim.verdict for claim in made] == ["fails"] * 12
    # The plain networks' bands are wider here.
    assert made[6].measured < -0.5


def test_a_gate_has_a_time_constant_and_the_plain_cell_has_none():
    dataset = constructed(as_said=True)
    gate = dataset["depth_scale"].sel(scale="gate")
    assert gate.sel(cell=PLAIN).isnull().all()
    for cell in (MINIMAL, GRU, LSTM):
        expected = time_constant(np.array(dataset["value"].sel(cell=cell)))
        np.testing.assert_allclose(gate.sel(cell=cell), expected)


def test_the_figure_lays_multiples_of_the_scales_over_the_skill(tmp_path):
    dataset = constructed(as_said=True)
    drawing = figure.draw(dataset)
    by_title = {axes.get_title(): axes for axes in drawing.axes}
    axes, one = by_title["linen OptimizedLSTMCell"], dataset.sel(cell=LSTM)
    np.testing.assert_allclose(
        axes.collections[0].get_array(), one["skill"].mean("seed").transpose("horizon", "column")
    )
    for line, scale in zip(axes.lines[1::2], ("fresh", "kept", "gate"), strict=True):
        expected = one["multiple"].sel(scale=scale) * one["depth_scale"].sel(scale=scale)
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert len(by_title["linen SimpleCell"].lines) == 4
    x, y = map(np.asarray, by_title["all points of the maps"].lines[0].get_data())
    np.testing.assert_allclose(x[0], 2 / (2 * 0.5**2))
    np.testing.assert_allclose(y[0], dataset["skill"][0, 0, 0].mean())
    bars = by_title["what scales tell of success"].containers[3]
    np.testing.assert_allclose(bars.lines[0].get_ydata(), one["beyond"])
    drawing.savefig(tmp_path / "figure.png")
    plt.close(drawing)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_map_is_printed():
    text = io.StringIO()
    dataset = constructed(as_said=True)
    experiment.show(dataset, Console(file=text, width=100))
    rows = [[part.strip() for part in line.split("│")] for line in text.getvalue().splitlines()]
    (row,) = (row for row in rows if row[1:3] == ["2", "8.00"])  # σ_w, and ξ
    assert f"{float(dataset['skill'].isel(cell=0, column=4, horizon=2).mean()):.2f}" in row
    assert "…" not in text.getvalue()

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.initialization import unit_memory as experiment
from paper_figures import style
from paper_figures.initialization import unit_memory as figure

CONFIG = experiment.UnitMemory(widths=(3,), num_networks=3, num_steps=30, num_warmup=5)


def measured(cell):
    with jax.enable_x64(False):
        return experiment.work(CONFIG, experiment.Unit(cell, "3"), lambda *_: None)


def test_eigenvalues_and_gates_are_those_of_the_steps():
    with jax.enable_x64(False):
        draw_key, input_key = jax.random.split(jax.random.key(CONFIG.seed))
        network = jrnn.min_gru(3, 3, key=jax.random.fold_in(draw_key, 1))
        xs = jax.random.normal(jax.random.fold_in(input_key, 1), (35, 3))
        layer = network.params["update"]
        kept = np.asarray(jax.nn.sigmoid(-(xs @ layer["kernel"] + layer["bias"][None])))[5:]
    one = measured("minGRU").isel(network=1)
    assert float(one["smallest_eigenvalue"]) == pytest.approx(kept.min(), rel=1e-5)
    assert float(one["largest_eigenvalue"]) == pytest.approx(kept.max(), rel=1e-5)
    rates = np.log(kept).mean(axis=0)
    assert float(one["exponent"]) == pytest.approx(rates.max(), rel=1e-4)
    assert float(one["spread"]) == pytest.approx(np.ptp(rates), rel=1e-3)
    assert float(one["saturated"]) == 0


@pytest.mark.parametrize("cell", ["RG-LRU", "ParaGRU", "minLSTM"])
def test_gates_are_what_the_jacobian_is_made_of(cell):
    network = experiment.CELLS[cell](2, 3, key=jax.random.key(0), dtype=jnp.float64)
    carry, x = jnp.asarray([0.3, -0.2, 0.5]), jnp.asarray([1.0, -2.0])
    first, second = np.split(experiment.gates_of(cell, network.params, carry, x), 2)
    blocks = network.unit_jacobians(network.params, carry, x)[0, 0]
    if cell == "RG-LRU":
        root = 8 * jax.nn.log_sigmoid(network.params["decay"])
        np.testing.assert_allclose(blocks, np.exp(root * first), rtol=1e-12)
    elif cell == "minLSTM":
        np.testing.assert_allclose(blocks, first / (first + second), rtol=1e-12)
    else:
        layer = network.params["candidate"]
        c = np.tanh(layer["recurrent"] * carry * second + x @ layer["kernel"])
        new = network.step(network.params, carry, x)
        np.testing.assert_allclose(new, (1 - first) * carry + first * c, rtol=1e-12)


@pytest.mark.parametrize(
    ("exponents", "value", "interval"),
    [
        ([-np.inf, -np.inf], 0, [0, 0]),
        ([-np.inf, -1], 0, [np.nan, np.nan]),
        ([-0.5, -0.5], 2, [2, 2]),
    ],
)
def test_a_memory_is_zero_where_all_is_forgotten_at_once(exponents, value, interval):
    memory = experiment.memory_of(np.array(exponents))
    assert float(memory.value) == value
    np.testing.assert_allclose(memory.interval, interval)


@pytest.mark.slow
def test_results_are_printed_drawn_and_claimed():
    parts = {unit: measured(unit.cell) for unit in experiment.units(CONFIG)}
    dataset = experiment.combine(CONFIG, parts)
    console = Console(file=io.StringIO(), width=100)
    experiment.show(dataset, console)
    text = console.file.getvalue()
    assert all(cell in text for cell in experiment.CELLS)
    assert "0 [0, 0]" in text
    dataset.attrs["configuration"] = '{"num_networks": 3}'
    style.use()
    drawn = figure.draw(dataset)
    assert [axes.get_title() for axes in drawn.axes] == [
        "(a) memory",
        "(b) exponents",
        "(c) eigenvalues",
    ]
    made = figure.claims(dataset)
    assert len(made) == 8
    assert made[0].verdict == "holds"

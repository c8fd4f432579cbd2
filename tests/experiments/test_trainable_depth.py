import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import tests.experiments.constructed_maps as maps
from experiments import trainability
from experiments import trainable_depth as experiment
from jacobian_rnn import mean_field
from jacobian_rnn.mean_field import Gate, MinimalUnits
from paper_figures import trainable_depth as figure
from paper_figures.trainability_maps import beyond_the_horizon

QUICK = dataclasses.replace(experiment.PRESETS["quick"], dtype="float64")


def test_networks_are_gaussian_with_the_column_s_value():
    wide = dataclasses.replace(QUICK, width=60)
    plain = trainability.draw_networks(experiment.draw_plain, wide, (1.0, 2.5)).params["params"]
    recurrent = plain["h"]["kernel"]
    np.testing.assert_allclose(recurrent[1], 2.5 * recurrent[0])
    np.testing.assert_array_equal(plain["i"]["kernel"][1], plain["i"]["kernel"][0])
    minimal = trainability.draw_networks(experiment.draw_minimal, wide, (-1.0, 3.5)).params[
        "recurrent"
    ]
    np.testing.assert_array_equal(minimal["bias"][:, 0], np.repeat([[-1.0], [3.5]], 60, axis=1))
    for kernel in (recurrent[0, 0], minimal["kernel"][1, 1]):
        # The mean of 3600 squares has a standard error of 2.4 %.
        np.testing.assert_allclose(60 * np.mean(kernel**2), 1, atol=0.1)
        # Orthogonal kernels would have singular values of 1, Gaussian ones reach 2.
        np.testing.assert_allclose(np.linalg.norm(kernel, 2), 2, atol=0.25)
    np.testing.assert_allclose(60 * np.mean(recurrent[1] ** 2), 2.5**2, rtol=0.1)


def silent(*_):
    pass


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
    networks = flat(trainability.draw_networks(experiment.draw_plain, QUICK, (1.0,)), h=1.5, i=2.0)
    assert experiment.plain_rate(QUICK, networks, 0.0) == (-0.25, True)
    # Noise of standard deviation ½ through kernels that keep its size twice.
    np.testing.assert_allclose([told["weight_std"], told["input_std"]], [1.5, 1.0])


def test_theory_of_the_minimal_network_hears_of_its_embedding(monkeypatch):
    told = []

    def fresh_growth(units):
        told.append(units)
        return mean_field.FreshGrowth(*np.zeros(2), -0.5, *np.zeros(2), True)

    monkeypatch.setattr(mean_field, "fresh_growth", fresh_growth)
    drawn = trainability.draw_networks(experiment.draw_minimal, QUICK, (0.5,))
    networks = flat(drawn, embedding=2.0, input=1.5, recurrent=3.0)
    assert experiment.minimal_rate(QUICK, networks, 0.5) == (-0.5, True)
    # Every unit's embedding reads noise of standard deviation 1/2 · 2.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    embedding_std = (weights @ np.tanh(nodes) ** 2 / weights.sum()) ** 0.5
    expected = MinimalUnits(Gate(3.0, 1.5 * embedding_std, 0.5), Gate(0.0, embedding_std))
    np.testing.assert_allclose(np.array(told[0]), np.array(expected), rtol=1e-6, atol=1e-12)


def test_training_teaches():
    # Untrained networks, and those of another task, have a skill of about zero.
    config = dataclasses.replace(QUICK, learning_rate=0.03, num_updates=100)
    networks = trainability.draw_networks(experiment.draw_plain, config, config.weight_stds)
    skill = trainability.trained(config, networks, trainability.recall(2, "float64"), silent)
    assert skill.shape == (2, 2)
    assert ((skill > 0.6) & (skill <= 1)).all()


@functools.cache
def constructed(plain_multiple, minimal_multiple, *, wrong=False):
    config = dataclasses.replace(
        QUICK,
        weight_stds=(0.5, 1.0, 1.5, 2.0),
        bias_means=(-1.0, 1.0, 3.0, 5.0),
        horizons=(5, 10, 20, 40, 80),
    )

    def plain(std):
        return 2 * std**2

    def minimal(bias):
        return 1 + np.exp(bias)

    told = {
        experiment.PLAIN: (lambda std: plain_multiple * plain(std), plain, plain),
        experiment.MINIMAL: (lambda bias: minimal_multiple * minimal(bias), minimal, minimal),
    }
    if wrong:
        told = {
            cell: (reach, lambda x: 50 - 9 * x, kept) for cell, (reach, kept, _) in told.items()
        }
    return maps.constructed(config, experiment.CELLS, told)


@pytest.mark.slow
def test_claims_hold_where_networks_learn_as_theory_says_and_fail_elsewhere():
    as_said = constructed(6.0, 6.0)
    verdicts = [claim.verdict for claim in figure.claims(as_said)]
    assert verdicts == ["holds"] * 9
    correlations = [figure.claims(as_said)[index].measured for index in (0, 1, 3, 4)]
    np.testing.assert_allclose(correlations, 1, atol=0.02)
    multiples = [claim.measured for claim in figure.claims(as_said)[-2:]]
    np.testing.assert_allclose(multiples, np.log(6), atol=0.2)

    otherwise = constructed(20.0, 1.0, wrong=True)
    verdicts = [claim.verdict for claim in figure.claims(otherwise)]
    assert verdicts[:6] == ["holds", "fails", "holds"] * 2
    one = otherwise.sel(cell=experiment.MINIMAL)
    assert beyond_the_horizon(one, "kept", "cell", "nobody", num_resamples=5).verdict == "fails"
    assert verdicts[6:] == ["fails"] * 3
    # The plain networks' bands are wider here.
    assert figure.claims(otherwise)[6].measured < -0.5


def test_the_figure_lays_multiples_of_the_scale_over_the_skill(tmp_path):
    dataset = constructed(6.0, 6.0)
    drawing = figure.draw(dataset)
    plain, minimal, points = drawing.axes[:3]
    assert [axes.get_title() for axes in (plain, minimal)] == ["linen SimpleCell", "minimalRNN"]
    for axes, cell in ((plain, experiment.PLAIN), (minimal, experiment.MINIMAL)):
        one = dataset.sel(cell=cell)
        colours = axes.collections[0].get_array()
        np.testing.assert_allclose(
            colours, one["skill"].mean("seed").transpose("horizon", "column")
        )
        once, six, fitted = (np.asarray(line.get_ydata()) for line in axes.lines[1:6:2])
        np.testing.assert_allclose(once, one["depth_scale"].sel(scale="fresh"))
        np.testing.assert_allclose(six, 6 * once)
        np.testing.assert_allclose(fitted, float(one["multiple"].sel(scale="fresh")) * once)
    x, y = map(np.asarray, points.lines[0].get_data())
    first = dataset.isel(cell=0, column=0, horizon=0)
    np.testing.assert_allclose(x[0], 5 / (2 * 0.5**2))
    np.testing.assert_allclose(y[0], first["skill"].mean())
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_map_is_printed():
    text = io.StringIO()
    dataset = constructed(6.0, 6.0)
    trainability.show(dataset, Console(file=text, width=100))
    (row,) = (line for line in text.getvalue().splitlines() if line.strip("│ ").startswith("2 "))
    assert f"{float(dataset['skill'].isel(cell=0, column=3, horizon=2).mean()):.2f}" in row
    assert "…" not in text.getvalue()


@pytest.mark.parametrize("preset", experiment.PRESETS.values())
def test_both_maps_have_as_many_columns(preset):
    assert len({len(cell.columns(preset)) for cell in experiment.CELLS.values()}) == 1

import dataclasses
import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.folklore import _gradients as gradients
from experiments.folklore import _rules as rules
from experiments.folklore import _training as trained
from experiments.folklore import _verdicts as judge
from experiments.folklore import folklore as experiment
from experiments.runner import results
from jacobian_rnn import training
from paper_figures.folklore import folklore as figure

QUICK = experiment.PRESETS["quick"]
KEY = jax.random.key(0)


def test_gradients_of_linear_chains_follow_straight_lines_of_slope_log_growth():
    gains, depth, width = jnp.array([0.5, 3.0]), 30, 4
    keys = jax.random.split(jax.random.key(0), (2, depth))
    orthogonal = jax.vmap(jax.vmap(lambda key: jax.random.orthogonal(key, width)))(keys)
    layers = {
        "kernel": gains[:, None, None, None] * orthogonal,
        "bias": jnp.zeros((2, depth, width)),
    }
    config = dataclasses.replace(QUICK, num_warmup=5, num_steps=25, horizon=25, num_probes=2)
    chain = jrnn.dense_chain(jax.nn.identity)
    growth = gradients.growth_of(config, chain, jnp.ones(width), layers, KEY)
    np.testing.assert_allclose(growth.exponent, np.log(gains), rtol=1e-12)
    expected = np.log(gains)[:, None] * np.arange(26)
    np.testing.assert_allclose(growth.log_gradient, expected, atol=1e-12)
    expected = np.log(gains)[:, None] * np.array([1, 20, 25])
    np.testing.assert_allclose(growth.exact, expected, atol=1e-12)
    np.testing.assert_allclose(growth.profile, expected, atol=1e-12)
    slopes = gradients.slope_of(np.asarray(growth.log_gradient))
    np.testing.assert_allclose(slopes, np.log(gains), rtol=1e-10)


def test_the_exact_growth_is_that_of_the_product_and_of_a_profile_of_all_directions():
    config = dataclasses.replace(QUICK, width=6, num_steps=60, num_probes=6)
    networks = gradients.draw(
        config, gradients.gaussian_cell(config, "SimpleCell", 6), [1.0, 3.0], KEY
    )
    xs = gradients.white(config, jax.random.key(1), 2)
    growth = gradients.growth_of(config, networks, jnp.zeros(6), xs, jax.random.key(2))
    assert growth.exact.shape == (2, 3)
    for number in range(2):
        network = jax.tree.map(lambda leaf, number=number: leaf[number], networks)
        states = jrnn.trajectory(network, jnp.zeros(6), xs[number])
        product = jrnn.jacobian_product(network, states[20], xs[number, 20:])
        np.testing.assert_allclose(growth.exact[number, -1], product.log_rms_growth(), rtol=1e-9)
        gradient = product.log_adjoint_growth(jnp.ones(6))
        np.testing.assert_allclose(growth.log_gradient[number, -1], gradient, rtol=1e-9)
    np.testing.assert_allclose(growth.profile, growth.exact, atol=1e-9)
    np.testing.assert_array_equal(growth.profile_error, 0)


def test_a_gradient_can_double_though_all_eigenvalues_of_w_are_zero():
    assert not (rules.NILPOTENT @ rules.NILPOTENT).any()
    ordinary = np.array([[0.0, -3.0], [1.0, 0.0]])
    sizes = rules.sizes_of(np.stack([rules.NILPOTENT, ordinary]))
    np.testing.assert_allclose(sizes, [[8, 0, 16], [3, 3**0.5, 3]], rtol=1e-12)
    np.testing.assert_allclose(rules.nilpotent_rate(), np.log(2), rtol=1e-14)


def squared(params, carry, x):
    return params * carry + x**2


def test_the_error_of_a_finite_difference_is_the_half_second_derivative_times_the_step():
    params, xs = jnp.array([[0.5], [2.0]]), jnp.array([[[3.0], [4.0], [5.0]]] * 2)
    steps, lags = jnp.array([1e-3, 0.1]), (1, 3)
    error = gradients.relative_errors(
        jrnn.Recurrence(squared, params), jnp.zeros(1), xs, jnp.ones((2, 1)), steps, lags
    )
    # (x + ε)² − x² = ε (2 x + ε), and each later step multiplies by the parameter.
    expected = np.asarray(steps) / (2 * np.array([5.0, 3.0])[:, None])
    np.testing.assert_allclose(error, [expected] * 2, rtol=1e-7)


def test_networks_of_one_seed_share_weights_up_to_the_gain_and_data(monkeypatch):
    given = {}

    def train(task, networks, carry, **options):
        given.update(options, task=task, networks=networks, carry=carry)
        norms = np.exp(np.arange(11.0)) * np.ones((2, QUICK.num_seeds, 2, 1))
        return None, SimpleNamespace(records=SimpleNamespace(gradient_norm_by_lag=norms))

    monkeypatch.setattr(training, "train", train)
    growth, _ = trained.trained(QUICK, 4, (1.0, 3.0), "optimizer", KEY)
    np.testing.assert_allclose(growth, np.full((2, QUICK.num_seeds), 4.0))
    kernels = np.asarray(jrnn.recurrent_kernels(given["networks"])["h"])
    assert kernels.shape[:2] == (2, QUICK.num_seeds)
    np.testing.assert_allclose(kernels[1], 3 * kernels[0], rtol=1e-12)
    assert not np.allclose(kernels[0, 0], kernels[0, 1])
    assert given["key"].shape == (1, QUICK.num_seeds)
    assert len(np.unique(jax.random.key_data(given["key"])[0], axis=0)) == QUICK.num_seeds


def test_an_update_that_is_not_a_number_is_the_largest(monkeypatch):
    history = SimpleNamespace(
        loss=np.full((2, 2, 3), 1.0),
        update_norm=np.array([[[1.0, 3.0, 2.0]] * 2, [[1.0, np.nan, 2.0]] * 2]),
        test_skill=np.full((2, 2), 0.9),
        baseline_loss=np.full((2, 2), 1.0),
    )
    monkeypatch.setattr(trained, "trained", lambda *_: (np.zeros((2, 2)), history))
    dataset = trained.updates(QUICK, 0, KEY)
    np.testing.assert_array_equal(dataset["update_largest"], [[3, 3], [np.inf, np.inf]])
    np.testing.assert_array_equal(dataset["update_outcome"], [[0, 0], [1, 1]])


def test_a_gradient_is_faithful_up_to_where_its_error_passes_a_tenth():
    steps = np.logspace(-6, 0, 7)
    # Rounding below, curvature above: 30 ε passes 0.1 between two steps.
    error = xr.DataArray(
        np.maximum(1e-6 / steps, 30 * steps), dims="step_size", coords={"step_size": steps}
    )
    np.testing.assert_allclose(judge.reach_of(error), 1 / 300, rtol=1e-9)
    assert judge.reach_of(error / 1e4) == 1
    assert np.isnan(judge.reach_of(error + 1))


def test_a_profile_that_is_off_by_more_than_its_error_says_is_counted():
    dims = ("network", "compared_lag")
    off = np.tile([0.1, 0.2], (10, 1))
    off[:3, 1] = -2.0
    dataset = xr.Dataset()
    for name in ("chain", "memory"):
        dataset[f"{name}_exact"] = (dims, np.ones((10, 2)))
        dataset[f"{name}_profile"] = (dims, 1 + off)
        dataset[f"{name}_profile_error"] = (dims, np.full((10, 2), 0.5))
    found = judge._profile(dataset)
    share, error = found["profile within three errors"]
    assert share == 0.7
    # Two successes and two failures more.
    np.testing.assert_allclose(error, np.sqrt(16 / 24 * 8 / 24 / 24))
    np.testing.assert_allclose(found["profile minus exact"][0], (7 * 0.2 - 3 * 2) / 10)
    np.testing.assert_allclose(found["largest profile score"][0], 4)


NUMBERS = {
    "slope over λ₁": (1.01, 0.01),
    "W alone minus λ₁": (1.2, 0.1),
    "right, norm": (0.5, 0.1),
    "right, spectral radius": (0.7, 0.1),
    "log10 error, best step": (-6.0, 0.1),
    "reach, stable": (0.03, np.nan),
    "reach, chaotic": (1e-8, np.nan),
    "zero slope networks": (4.0, np.nan),
    "skill far, zero slope, sgd": (-0.001, 0.02),
    "skill near, zero slope, sgd": (0.99, 0.01),
    "log10 update ratio": (np.log10(4321), 0.1),
    "diverged, no clipping": (0.0, 0.0),
    "stuck, no clipping": (1.0, 0.0),
    "log growth, LSTM": (-38.0, 1.0),
    "log growth, LSTM, chrono biases": (-2.0, 1.0),
    "exponent, LSTM, large gain": (0.1, 0.01),
}


@pytest.mark.parametrize(
    ("statement", "begins", "changes", "instead"),
    [
        ("a", "True", {"slope over λ₁": (1.2, 0.01)}, "False"),
        ("b", "False: W alone is off by up to 1.20", {"W alone minus λ₁": (0.01, 0.1)}, "True"),
        (
            "c",
            "None decides: spectral radius is best, 70% right",
            {"right, norm": (0.95, 0.0)},
            "Norm decides, 95% right",
        ),
        ("d", "True, if", {"log10 error, best step": (-0.7, np.nan)}, "False"),
        (
            "e",
            "Half true: skill far back 0.00, near 0.99",
            {"skill near, zero slope, sgd": (0.0, 0.0)},
            "True",
        ),
        ("f", "Half true: updates × 4,300; diverged 0%", {"log10 update ratio": (0, 1)}, "False"),
        ("f", "Half true", {"diverged, no clipping": (0.5, 0.1)}, "True"),
        ("g", "Half true: they vanish unless", {"log growth, LSTM": (-3.0, 0.1)}, "True"),
    ],
)
def test_the_numbers_choose_the_verdicts(statement, begins, changes, instead):
    assert judge.verdicts(NUMBERS)[statement].startswith(begins)
    assert judge.verdicts(NUMBERS | changes)[statement].startswith(instead)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"horizon": 201}, "--horizon: received 201, expected at most num_steps, which is 200"),
        ({"lags": (1, 60)}, "--lags"),
        ({"short_delay": 10}, "--short-delay"),
    ],
)
def test_lags_that_do_not_fit_are_refused_by_the_name_of_the_option(changes, option):
    with pytest.raises(ValueError, match=option):
        dataclasses.replace(QUICK, **changes)


@pytest.mark.slow
def test_the_experiment_measures_and_judges_every_statement(tmp_path):
    parts = {
        unit: experiment.work(QUICK, unit, lambda *_: None) for unit in experiment.units(QUICK)
    }
    dataset = experiment.combine(QUICK, parts)
    dataset = results.described(dataset, QUICK, {"device": "cpu"}, seconds=1.0)
    dataset = results.read(results.write(dataset, tmp_path / "quick.nc"))
    assert list(dataset["statement"]) == list("abcdefg")
    text = io.StringIO()
    experiment.show(dataset, Console(file=text, width=200))
    drawing = figure.draw(dataset)
    for verdict, axes in zip(dataset["verdict"].to_numpy(), drawing.axes, strict=False):
        assert verdict in text.getvalue()
        assert axes.get_title(loc="left").replace("\n", " ") == verdict
    scores = drawing.axes[7].lines[1].get_ydata()
    expected = judge.profile_scores(dataset, "chain").sel(chain="recurrent").isel(compared_lag=-1)
    np.testing.assert_allclose(scores, expected.to_numpy().ravel())
    claims = figure.claims(dataset)
    assert {one.kind for one in claims} == {"reproduction", "finding"}
    drawing.savefig(tmp_path / "figure.png")

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments import folklore as experiment
from experiments import folklore_findings as judge
from experiments import folklore_gradients as gradients
from experiments import folklore_networks as measured
from experiments import folklore_rules as rules
from experiments import folklore_training as trained
from experiments import results
from jacobian_rnn import tasks
from paper_figures import folklore as figure

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
    chain = jrnn.dense_chain(jax.nn.identity)
    growth = measured.growth_of(chain, jnp.ones(width), layers, num_warmup=5)
    np.testing.assert_allclose(growth.exponent, np.log(gains), rtol=1e-12)
    expected = np.log(gains)[:, None] * np.arange(depth + 1)
    np.testing.assert_allclose(growth.log_gradient, expected, atol=1e-12)
    slopes = gradients.slope_of(np.asarray(growth.log_gradient), 10)
    np.testing.assert_allclose(slopes, np.log(gains), rtol=1e-10)


def test_a_gradient_can_double_though_all_eigenvalues_of_w_are_zero():
    assert not (rules.NILPOTENT @ rules.NILPOTENT).any()
    sizes = rules.matrix_sizes(rules.NILPOTENT)
    np.testing.assert_allclose(sizes, [8, 0, 16], rtol=1e-15)
    np.testing.assert_allclose(rules.nilpotent_rate(), np.log(2), rtol=1e-14)
    ordinary = rules.matrix_sizes(np.array([[0.0, -3.0], [1.0, 0.0]]))
    np.testing.assert_allclose(ordinary, [3, 3**0.5, 3], rtol=1e-12)


def squared(params, carry, x):
    return params * carry + x**2


def test_the_error_of_a_finite_difference_is_the_half_second_derivative_times_the_step():
    params, xs = jnp.array([[0.5], [2.0]]), jnp.array([[[3.0], [4.0], [5.0]]] * 2)
    steps, lags = jnp.array([1e-3, 0.1]), (1, 3)
    error, log_growth = gradients.relative_errors(
        jrnn.Recurrence(squared, params), jnp.zeros(1), xs, jnp.ones((2, 1)), steps, lags
    )
    # (x + ε)² − x² = ε (2 x + ε), and each later step multiplies by the parameter.
    of_lag = np.array([5.0, 3.0])
    expected = np.asarray(steps) / (2 * of_lag[:, None])
    np.testing.assert_allclose(error, [expected] * 2, rtol=1e-7)
    expected = np.log(2 * of_lag) + np.array([[0, 2 * np.log(0.5)], [0, 2 * np.log(2)]])
    np.testing.assert_allclose(log_growth, expected, rtol=1e-12)


def test_a_symbol_is_shown_as_many_steps_before_the_end_as_asked():
    task = tasks.delayed_recall(9, noise_std=0.0, dtype=jnp.float64)
    for lag in (1, 4, 9):
        for batch in (
            trained.shown_later(task, lag).sample(jax.random.key(0), 5),
            trained.shown_later(task, lag).sample_held_out(jax.random.key(0), 5, "test"),
        ):
            shown = np.zeros((5, 10, 4))
            shown[np.arange(5), 9 - lag, np.asarray(batch.targets)[:, 0]] = 1
            np.testing.assert_array_equal(batch.xs, shown)


def test_clipping_shortens_long_gradients_only_and_an_infinite_norm_none():
    gradient = [jnp.array([300.0]), jnp.array([0.0, 400.0])]
    for clip_norm, length in ((1.0, 1.0), (1000.0, 500.0), (np.inf, 500.0)):
        optimizer = trained.clipped_descent(jnp.asarray(clip_norm), 0.1)
        change, _ = optimizer.update(gradient, optimizer.init(gradient))
        change = np.concatenate(jax.tree.leaves(change))
        np.testing.assert_allclose(change, -0.1 * length * np.array([0.6, 0, 0.8]), rtol=1e-12)


def test_networks_of_one_seed_share_their_key_and_all_conditions_occur():
    lags, gains, clips, keys = trained.points((2, 9), (1.0, 4.0), (np.inf, 1.0), QUICK, KEY)
    seeds = jax.random.key_data(keys).reshape(8, QUICK.num_seeds, -1)
    assert (seeds == seeds[:1]).all()
    assert len(np.unique(seeds[0], axis=0)) == QUICK.num_seeds
    conditions = set(zip(*(np.asarray(one).tolist() for one in (lags, gains, clips)), strict=True))
    assert len(conditions) == 8
    # The order of the axes in which results are unfolded.
    shape = (2, 2, 2, QUICK.num_seeds)
    assert (np.reshape(lags, shape)[1] == 9).all()
    assert (np.reshape(gains, shape)[:, 1] == 4).all()
    assert (np.reshape(clips, shape)[:, :, 1] == 1).all()


def test_a_gradient_is_faithful_up_to_where_its_error_passes_a_tenth():
    steps = np.logspace(-6, 0, 7)
    # Rounding below, curvature above: 30 ε passes 0.1 between two steps.
    error = xr.DataArray(
        np.maximum(1e-6 / steps, 30 * steps), dims="step_size", coords={"step_size": steps}
    )
    np.testing.assert_allclose(judge.reach_of(error), 1 / 300, rtol=1e-9)
    assert judge.reach_of(error / 1e4) == 1
    assert np.isnan(judge.reach_of(error + 1))


NUMBERS = {
    "slope ratio": (1.01, 0.01),
    "factor excess": (1.2, 0.1),
    "rule right, norm": (0.5, 0.1),
    "rule right, spectral radius": (0.7, 0.1),
    "best error": (1e-6, np.nan),
    "reach, stable": (0.03, np.nan),
    "reach, chaotic": (1e-8, np.nan),
    "zero slope networks": (4.0, np.nan),
    "skill far, zero slope, gradient descent": (0.01, 0.02),
    "skill near, zero slope, gradient descent": (0.99, 0.01),
    "update ratio": (4321.0, 10.0),
    "diverged, no clipping": (0.0, 0.0),
    "stuck, no clipping": (1.0, 0.0),
    "log growth, LSTM": (-38.0, 1.0),
    "log growth, LSTM, chrono biases": (-2.0, 1.0),
    "exponent, LSTM, large gain": (0.1, 0.01),
}


@pytest.mark.parametrize(
    ("statement", "begins", "changes", "instead"),
    [
        ("a", "True", {"slope ratio": (1.2, 0.01)}, "False"),
        ("b", "False: W alone is off by up to 1.20", {"factor excess": (0.01, 0.1)}, "True"),
        (
            "c",
            "None decides: spectral radius is best, 70% right",
            {"rule right, norm": (0.95, 0.0)},
            "Norm decides, 95% right",
        ),
        ("d", "True, if", {"best error": (0.2, np.nan)}, "False"),
        (
            "e",
            "Half true: skill far back 0.01, near 0.99",
            {"skill near, zero slope, gradient descent": (0.0, 0.0)},
            "True",
        ),
        ("f", "Half true: updates × 4,300; diverged 0%", {"update ratio": (2.0, 0.1)}, "False"),
        ("f", "Half true", {"diverged, no clipping": (0.5, 0.1)}, "True"),
        ("g", "Half true: they vanish unless", {"log growth, LSTM": (-3.0, 0.1)}, "True"),
    ],
)
def test_the_numbers_choose_the_verdicts(statement, begins, changes, instead):
    assert judge.verdicts(NUMBERS)[statement].startswith(begins)
    assert judge.verdicts(NUMBERS | changes)[statement].startswith(instead)


@pytest.mark.slow
def test_the_experiment_measures_and_judges_every_statement(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    text = io.StringIO()
    console = Console(file=text, width=150)
    assert experiment.run(QUICK, "quick", num_workers=2, console=console) == 0
    dataset = results.read(results.path_of(experiment.NAME, "quick", "float64"))
    assert json.loads(dataset.attrs["configuration"])["width"] == QUICK.width
    assert list(dataset["statement"]) == list("abcdefg")
    for verdict in dataset["verdict"].to_numpy():
        assert verdict[:30] in text.getvalue()
    drawing = figure.draw(dataset)
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in drawing.axes[:7]]
    assert titles == list(dataset["verdict"])
    claims = figure.claims(dataset)
    assert {one.statement for one in claims} >= set(dataset["text"].to_numpy())
    drawing.savefig(tmp_path / "figure.png")

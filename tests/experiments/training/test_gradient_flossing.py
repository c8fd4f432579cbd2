import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.training import gradient_flossing as experiment
from jacobian_rnn import tasks
from jacobian_rnn.linalg.frames import generic_columns
from paper_figures.training import gradient_flossing as figure
from tests.experiments.in_process import done

TINY = dataclasses.replace(
    experiment.PRESETS["quick"],
    width=5,
    num_exponents=3,
    flossing_steps=9,
    num_warmup=3,
    dtype="float64",
)


def jacobians_by_hand(weights, xs):
    """Return the step Jacobians of h' = tanh(W h + V x + b)."""
    kernel, inputs, bias = weights
    h, jacobians = np.zeros(len(bias)), []
    for x in xs:
        h = np.tanh(h @ kernel + x @ inputs + bias)
        jacobians.append((1 - h[:, None] ** 2) * kernel.T)
    return jacobians


def loss_by_hand(weights, xs):
    """Follow Benettin: QR at every step, warm-up not counted."""
    frame = generic_columns(TINY.width, TINY.num_exponents)
    logs = []
    for jacobian in jacobians_by_hand(weights, xs):
        frame, r = np.linalg.qr(jacobian @ frame)
        logs.append(np.log(np.abs(np.diagonal(r))))
    return np.sum(np.mean(logs[TINY.num_warmup :], axis=0) ** 2)


def weights_of(params):
    layers = params["params"]
    return [np.asarray(layers["h"]["kernel"])] + [
        np.asarray(layers["i"][name]) for name in ("kernel", "bias")
    ]


@pytest.fixture(scope="module")
def loss_and_gradient():
    with jax.enable_x64(True):
        return jax.jit(
            lambda network, xs: jax.value_and_grad(experiment.squared_exponents)(network, xs, TINY)
        )


@pytest.mark.slow
def test_the_flossing_gradient_is_that_of_finite_differences(loss_and_gradient):
    network = jax.tree.map(lambda leaf: leaf[0], experiment.draw(TINY))
    xs = np.random.default_rng(0).integers(0, 2, (TINY.flossing_steps, 1)).astype(float)
    loss, gradient = loss_and_gradient(network, jnp.asarray(xs))
    weights = weights_of(network.params)
    np.testing.assert_allclose(loss, loss_by_hand(weights, xs), rtol=1e-10)
    for layer, slopes in enumerate(weights_of(gradient.params)):
        for index in np.ndindex(slopes.shape):
            sides = []
            for shift in (1e-6, -1e-6):
                moved = [weight.copy() for weight in weights]
                moved[layer][index] += shift
                sides.append(loss_by_hand(moved, xs))
            slope = (sides[0] - sides[1]) / 2e-6
            np.testing.assert_allclose(slopes[index], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_equal_exponents_and_those_at_zero_have_a_finite_gradient(scale, loss_and_gradient):
    orthogonal = generic_columns(TINY.width, TINY.width, 1)
    network = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), experiment.draw(TINY))
    network.params["params"]["h"]["kernel"] = jnp.asarray(scale * orthogonal)
    loss, gradient = loss_and_gradient(network, jnp.zeros((TINY.flossing_steps, 1)))
    k, rate = TINY.num_exponents, np.log(scale)
    np.testing.assert_allclose(loss, k * rate**2, atol=1e-12)
    # A larger kernel adds to all k exponents alike.
    slopes = gradient.params["params"]["h"]["kernel"]
    np.testing.assert_allclose(np.sum(slopes * orthogonal) * scale, 2 * k * rate, atol=1e-12)


def constructed(*, exponents, conditions, trained, crossings, skills):
    """Make a dataset of two flossed and two other networks, from pairs that end at what is given.

    Exponents begin at −1; every other pair is (flossed, as drawn).
    """
    arm_seed = ("arm", "seed")
    spectra = np.array([[[-1.0, -1.0, -9.0], [*exponents, -9.0]], 2 * [[-1.0, -1.0, -9.0]]])
    return xr.Dataset(
        {
            "exponents": (
                (*arm_seed, "flossing", "exponent"),
                np.repeat(spectra[:, None], 2, axis=1),
            ),
            "log_condition": (
                (*arm_seed, "flossing"),
                np.stack([np.zeros((2, 2)), conditions], axis=-1),
            ),
            "log_condition_trained": (arm_seed, np.array(trained)),
            "crossing": (arm_seed, np.array(crossings)),
            "skill": ((*arm_seed, "record"), [2 * [[0.0, one]] for one in skills]),
        },
        coords={"arm": [experiment.FLOSSED, experiment.UNFLOSSED]},
        attrs={"configuration": '{"num_exponents": 2, "num_updates": 100}'},
    )


def test_claims_hold_where_flossing_helps():
    claims = figure.claims(
        constructed(
            exponents=(0.1, -0.2),
            conditions=[[5.0, 6.0], [25.0, 24.0]],
            trained=[[20.0, 20.0], [22.0, 24.0]],
            crossings=[[20.0, 40.0], [90.0, np.nan]],
            skills=(1.0, 0.2),
        )
    )
    assert [one.verdict for one in claims] == ["holds"] * 6
    np.testing.assert_allclose(
        [one.measured for one in claims],
        [np.sqrt((0.01 + 0.04) / 2), 19, 3, 14.5, (70 + 60) / 2, 0.4],
    )
    np.testing.assert_allclose(claims[4].uncertainty, np.std([70, 60], ddof=1) / np.sqrt(2))


def test_claims_fail_where_it_does_not():
    claims = figure.claims(
        constructed(
            exponents=(0.3, -0.3),
            conditions=[[20.0, 30.0], [25.0, 29.0]],
            trained=[[21.0, 30.0], [19.0, 27.0]],
            crossings=[[np.nan, np.nan], [90.0, 90.0]],
            skills=(0.0, 0.0),
        )
    )
    assert [one.verdict for one in claims] == ["fails"] * 6


def check_by_hand(measured, config):
    """Compare with plain products over the horizon, and with determinants."""
    task = tasks.delayed_xor(config.num_steps, config.delay, dtype=jnp.float64)
    sequences = task.sample_held_out(
        jax.random.key(experiment.SEQUENCES), config.num_sequences, "test"
    ).xs
    key = jax.random.key(experiment.DRIVE)
    bits = np.asarray(jax.random.bernoulli(key, 0.5, (config.spectrum_steps, 1)))
    for seed in range(config.num_seeds):
        one = measured.isel(seed=seed)
        network = jax.tree.map(lambda leaf, seed=seed: leaf[seed], experiment.draw(config))
        weights = weights_of(network.params)
        conditions = []
        for xs in np.asarray(sequences):
            product = np.linalg.multi_dot(
                jacobians_by_hand(weights, xs)[: -1 - 2 * config.delay : -1]
            )
            logs = np.log(np.linalg.svd(product, compute_uv=False))
            conditions.append(logs[0] - logs[[config.num_exponents - 1, -1]])
        # Plain products lose digits to their condition.
        names = ["log_condition", "whole_log_condition"]
        found = [float(one[name]) for name in names]
        np.testing.assert_allclose(found, np.median(conditions, axis=0), rtol=1e-6)
        jacobians = jacobians_by_hand(weights, bits)[config.num_warmup :]
        log_dets = [np.linalg.slogdet(jacobian)[1] for jacobian in jacobians]
        np.testing.assert_allclose(one["exponents"].sum(), np.mean(log_dets), rtol=1e-9)
        assert (one["exponents"].diff("exponent") < 0).all()


@pytest.mark.slow
def test_flossing_precedes_training_and_the_figure_shows_both(tmp_path):
    config = dataclasses.replace(
        experiment.PRESETS["quick"], num_warmup=0, spectrum_steps=32, dtype="float64"
    )
    dataset = done(experiment, config)
    flossed, drawn = (dataset.sel(arm=arm) for arm in (experiment.FLOSSED, experiment.UNFLOSSED))
    # Both start from the same networks; flossing alone moves exponents towards zero.
    before = flossed["exponents"]
    for unchanged in drawn["exponents"]:
        np.testing.assert_array_equal(unchanged, before[0])
    squares = (before.isel(exponent=slice(config.num_exponents)) ** 2).sum("exponent")
    assert (squares[-1] < 0.7 * squares[0]).all()
    check_by_hand(drawn.isel(flossing=0), config)
    assert dataset["record"].to_numpy().tolist() == [0, 20, 40, 60]
    assert dataset["flossing"].to_numpy().tolist() == [0, 10, 20, 30]
    # Training moves exponents, too.
    assert (drawn["exponents_trained"] != drawn["exponents"].isel(flossing=-1)).all()
    np.testing.assert_allclose(dataset["baseline"], np.log(2))

    drawing = figure.draw(dataset)
    _, flossing, training, _ = drawing.axes
    shown = [line.get_ydata() for line in flossing.lines]
    expected = [*drawn["log_condition"].T, *flossed["log_condition"].T]
    np.testing.assert_allclose(shown, expected)
    ends = [np.asarray(line.get_ydata())[1] for line in training.lines]
    expected = [*drawn["log_condition_trained"], *flossed["log_condition_trained"]]
    np.testing.assert_allclose(ends, expected)
    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_steps": 4}, "--num-steps: received 4, expected at least 5"),
        ({"width": 5}, "--width: received 5, expected at least 6"),
        ({"flossing_steps": 5}, "--flossing-steps: received 5, expected at least 6"),
        ({"spectrum_steps": 5}, "--spectrum-steps: received 5, expected at least 6"),
        ({"num_looks": 4}, "--num-looks: received 4, expected a divisor"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(experiment.PRESETS["quick"], **options)

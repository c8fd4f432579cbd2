import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.spectra import full_spectrum as experiment
from jacobian_rnn.mean_field.singular_values import full_spectrum, spectrum_summary
from jacobian_rnn.mean_field.vanilla import order_parameters
from paper_figures.spectra import full_spectrum as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of

QUICK = dataclasses.replace(experiment.PRESETS["quick"], num_fractions=20)


@pytest.mark.slow
def test_resting_networks_have_the_log_moduli_of_the_eigenvalues_as_exponents():
    # Below a gain of one activity dies out, and each step has the Jacobian W.
    quiet = dataclasses.replace(QUICK, num_steps=2000, num_warmup=500)
    key = jax.random.key(0)
    for kernel, tolerance in (("orthogonal", 1e-12), ("gaussian", 0.02)):
        spectrum = experiment.measure(quiet, experiment.Unit(kernel, "autonomous", "0.5", "8"), key)
        weights = 0.5 * experiment.kernel_of(kernel, 8, jnp.float64, jax.random.split(key, 3)[0])
        expected = np.sort(np.log(np.abs(np.linalg.eigvals(np.asarray(weights)))))[::-1]
        np.testing.assert_allclose(spectrum.exponents, expected, atol=tolerance)
        assert spectrum.sum_rule_residual < 1e-12


def test_driven_networks_feel_noise_of_the_given_strength():
    driven = dataclasses.replace(QUICK, input_std=2.0, num_steps=4000)
    unit = experiment.Unit("gaussian", "driven", "0.01", "8")
    spectrum = experiment.measure(driven, unit, jax.random.key(0))
    weights = 0.01 * np.asarray(
        experiment.kernel_of("gaussian", 8, jnp.float64, jax.random.split(jax.random.key(0), 3)[0])
    )
    # Next to no recurrence: log|det J| = log|det W| + Σ log sech² x with x ~ N(0, 4).
    x = np.random.default_rng(0).normal(scale=2, size=1_000_000)
    expected = np.linalg.slogdet(weights)[1] / 8 - 2 * np.log(np.cosh(x)).mean()
    np.testing.assert_allclose(spectrum.exponents.mean(), expected, atol=0.05)


def test_kernels_have_the_scale_that_theory_assumes():
    key = jax.random.key(0)
    w = np.asarray(experiment.kernel_of("gaussian", 200, jnp.float64, key))
    np.testing.assert_allclose(200 * w.var(), 1, rtol=4 * np.sqrt(2 / w.size))
    q = np.asarray(experiment.kernel_of("orthogonal", 50, jnp.float64, key))
    np.testing.assert_allclose(q @ q.T, np.eye(50), atol=1e-12)


def test_a_spectrum_is_summarised_per_unit():
    summary = experiment.summary_of(np.array([0.5, 0.1, -0.4, -1.0]))
    # 0.5 + 0.1 − 0.4 = 0.2, a fifth of the last.
    np.testing.assert_allclose(summary, [0.5, 0.5, 0.15, 0.8, -0.2], rtol=1e-12)


@pytest.mark.slow
def test_fresh_orthogonal_weights_lose_only_what_the_slopes_spread_costs():
    # The vector that an orthogonal matrix makes of a unit vector is uniform on the sphere.
    config = dataclasses.replace(QUICK, kernels=("gaussian", "orthogonal"), num_fractions=1)
    theory = experiment.theory_of(config).sel(drive="autonomous", gain=3.0)
    width, num, random = 200, 40_000, np.random.default_rng(0)
    variance = float(order_parameters(3.0).variance)
    slopes = 1 / np.cosh(random.normal(scale=variance**0.5, size=(num, width))) ** 2
    vectors = random.normal(size=(num, width))
    lengths = np.linalg.norm(vectors, axis=1)
    rate = float(theory["theory"].sel(quantity="largest", kernel="gaussian"))
    for kernel, of_product in (("gaussian", width**0.5), ("orthogonal", lengths)):
        growth = np.log(3 * np.linalg.norm(slopes * vectors, axis=1) / of_product)
        error = growth.std() / num**0.5
        measured = width * (growth.mean() - rate)
        # Terms of order 1/N remain.
        expected = float(theory["theory_slope"].sel(kernel=kernel))
        assert abs(measured - expected) < 4 * width * error + 0.1


def constructed(values):
    """One kind of network at width 256 whose measured summaries are theory plus `values`."""
    config = dataclasses.replace(
        QUICK, kernels=("gaussian",), drives=("autonomous",), widths=(256,), num_networks=(2,)
    )
    theory = np.asarray(spectrum_summary(3.0))
    parts = {
        experiment.Unit("gaussian", "autonomous", "3", "256"): xr.Dataset(
            {
                "exponents": (("network", "index"), np.zeros((2, 256))),
                "measured": (
                    ("network", "quantity"),
                    theory + np.array(values) + [[1e-4], [-1e-4]],
                ),
                "error_over_time": ("network", [0.1, 0.1]),
                "sum_rule_residual": ("network", [1e-9, 2e-9]),
            },
            coords={"network": range(2), "index": range(256), "quantity": [*experiment.QUANTITIES]},
        )
    }
    return described(experiment.combine(config, parts), config)


@pytest.mark.slow
def test_targets_are_missed_by_what_is_too_far_from_theory():
    dataset = constructed([-0.019, 0.011, 0.0, 0.014, 0.0])
    np.testing.assert_allclose(dataset["slope"].item(), -0.019 * 256)
    np.testing.assert_allclose(dataset["slope_error"].item(), 256 * 1e-4)
    largest, fraction, dimension, residual = experiment.checks(dataset)
    assert largest.endswith("1 of 1, largest 0.0190, pass")
    assert "0 of 1" in fraction
    assert fraction.endswith("FAIL: gaussian, autonomous, g = 3 (0.0110)")
    assert dimension.endswith("pass")
    assert residual == "largest sum rule residual 2e-09 nats per step"
    verdicts = [claim.verdict for claim in figure.claims(dataset)]
    assert verdicts == ["holds", "fails", "holds", "holds"]


@pytest.mark.slow
def test_the_experiment_lays_theory_over_what_it_measured(tmp_path):
    first = result_of(experiment, QUICK)
    text = text_of(experiment, first)
    for line in ("gaussian", "driven", "D_KY/N", "slope", "targets are for N = 256"):
        assert line in text
    assert first["exponents"].dtype == np.float64

    for drive, input_std in (("autonomous", 0.0), ("driven", 0.5)):
        one = first.sel(kernel="gaussian", drive=drive, gain=3.0)
        summary = spectrum_summary(3.0, input_std=input_std)
        np.testing.assert_allclose(one["theory"], summary, rtol=1e-12)
        curve = full_spectrum(3.0, one["curve_fraction"].to_numpy(), input_std=input_std)
        np.testing.assert_allclose(one["curve"], curve, rtol=1e-9)
        wide = one.sel(width=24).dropna("network", how="all")
        assert wide.sizes["network"] == 2
        np.testing.assert_allclose(
            wide["measured"].sel(quantity="mean"), wide["exponents"].mean("index"), rtol=1e-12
        )
        assert (wide["exponents"].diff("index") <= 0).all()
        assert wide["sum_rule_residual"].max() < 1e-9
        narrow = one.sel(width=12)
        assert narrow["exponents"].notnull().sum() == 4 * 12
    np.testing.assert_allclose(first["fraction"].sel(width=12)[:12], (np.arange(12) + 0.5) / 12)

    drawing = figure.draw(first)
    autonomous, driven, errors = drawing.axes[:3]
    assert autonomous.get_title() == "Gaussian W, no input"
    line = next(line for line in driven.lines if len(line.get_xdata()) == 20)
    np.testing.assert_allclose(line.get_ydata(), first["curve"].sel(drive="driven").squeeze())
    drawn = errors.containers[0].lines[0].get_ydata()
    largest = first.sel(quantity="largest", drive="autonomous").squeeze()
    expected = (largest["average"] - largest["theory"]).to_numpy()
    np.testing.assert_allclose(np.asarray(drawn, float), expected)
    check_drawing(drawing, tmp_path)


def test_saturated_networks_lose_no_exponent_and_keep_their_sum_rule():
    # At this gain 1 − h² is zero for many units at every step.
    spectrum = experiment.measure(
        QUICK, experiment.Unit("gaussian", "driven", "20", "12"), jax.random.key(0)
    )
    assert np.isfinite(spectrum.exponents).all()
    assert spectrum.exponents[-1] < -40
    assert spectrum.sum_rule_residual < 1e-9


def test_the_closed_form_is_the_derivative_of_the_step():
    random = np.random.default_rng(0)
    weights, h, noise = random.normal(size=(4, 4)), random.normal(size=4), random.normal(size=4)
    expected = jax.jacfwd(experiment.step, argnums=1)(*map(jnp.asarray, (weights, h, noise)))
    found = experiment.jacobian(*map(jnp.asarray, (weights, h, noise)))
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_every_width_has_its_number_of_networks():
    with pytest.raises(ValueError, match=r"--num-networks: received \(4, 2\), expected one number"):
        dataclasses.replace(QUICK, widths=(12, 24, 48))

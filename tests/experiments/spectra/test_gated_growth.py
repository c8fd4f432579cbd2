import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments import drawing, gaussian_cells
from experiments.spectra import gated_growth as experiment
from jacobian_rnn.mean_field.cell_units import Gate, GRUUnits, LSTMUnits
from jacobian_rnn.mean_field.fresh_weights import fresh_growth
from jacobian_rnn.mean_field.kept_weights import frozen_growth, kept_growth
from paper_figures.spectra import gated_growth as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of
from tests.networks import mostly_slow

QUICK = experiment.PRESETS["quick"]
STD = QUICK.input_std


@pytest.mark.parametrize(
    ("cell", "recurrent", "inputs", "keeps"),
    [
        ("GRUCell", ["hr", "hz", "hn"], ["ir", "iz", "in"], "iz"),
        ("LSTMCell", ["hi", "hf", "hg", "ho"], ["ii", "if", "ig", "io"], "hf"),
    ],
)
def test_networks_have_the_statistics_that_they_are_described_by(cell, recurrent, inputs, keeps):
    width, gain, bias = 200, 2.0, 3.0
    network = gaussian_cells.draw(
        cell, width, gain, bias, STD, dtype="float64", key=jax.random.key(0)
    )
    params = network.params["params"]
    noise = 4 * np.sqrt(2 / width**2)
    for name in recurrent:
        np.testing.assert_allclose(width * params[name]["kernel"].var(), gain**2, rtol=noise)
    for name in inputs:
        kernel = np.asarray(params[name]["kernel"])
        np.testing.assert_allclose((kernel**2).sum(axis=0).mean(), STD**2, rtol=noise)
    for name, layer in params.items():
        if "bias" in layer:
            np.testing.assert_array_equal(layer["bias"], bias if name == keeps else 0.0)
    kernels = np.stack([np.ravel(params[name]["kernel"]) for name in recurrent + inputs])
    correlations = np.corrcoef(kernels) - np.eye(len(kernels))
    assert np.abs(correlations).max() < 5 / width


def test_theory_is_told_which_gate_keeps_the_state():
    gate, keeps = Gate(2.0, 0.5), Gate(2.0, 0.5, 3.0)
    assert gaussian_cells.units_of("GRUCell", 2.0, 3.0, 0.5) == GRUUnits(gate, keeps, gate)
    assert gaussian_cells.units_of("LSTMCell", 2.0, 3.0, 0.5) == LSTMUnits(gate, keeps, gate, gate)


@pytest.mark.parametrize("cell", mostly_slow(["GRUCell", "LSTMCell"], ["LSTMCell"]))
def test_without_recurrence_the_open_gate_alone_keeps_gradients(cell):
    # Next to no gain and input: λ₁ = log σ(3).
    quiet = dataclasses.replace(
        QUICK, width=8, input_std=1e-6, num_steps=200, num_warmup=400, dtype="float64"
    )
    keys = jax.random.split(jax.random.key(0), 2)
    rates = experiment.measure(quiet, cell, 1e-6, 3.0, keys)
    np.testing.assert_allclose(rates, -np.log1p(np.exp(-3)), atol=1e-4)


@pytest.mark.slow
def test_measured_rates_are_those_of_the_networks_that_are_drawn():
    key = jax.random.key(3)
    few = dataclasses.replace(QUICK, width=6, num_steps=50, num_warmup=10, dtype="float64")
    rates = experiment.measure(few, "LSTMCell", 1.5, 1.0, key[None])
    draw_key, input_key = jax.random.split(key)
    network = gaussian_cells.draw("LSTMCell", 6, 1.5, 1.0, STD, dtype="float64", key=draw_key)
    xs = jax.random.normal(input_key, (60, 6))
    carry = drawing.zero_carry("LSTMCell", 6, "float64")
    expected = jrnn.lyapunov_spectrum(network, carry, xs, num_warmup=10, qr_every=1)
    # Another starting tangent: after 50 steps not the same to the last digit.
    np.testing.assert_allclose(rates[0], expected.exponents[0], atol=0.05)


def test_a_sign_is_wrong_only_where_the_interval_excludes_zero():
    interval = xr.DataArray(
        [[0.1, 0.3], [-0.1, 0.3], [-0.3, -0.1], [0.1, 0.3]], dims=("gain", "end")
    )
    rates = xr.DataArray([-0.1, -0.1, 0.1, 0.1], dims="gain")
    wrong = experiment.wrong_sign(rates, interval)
    assert wrong.to_numpy().tolist() == [True, False, True, False]


def test_theories_are_scored_against_the_mean_over_networks():
    # Means 0.2 and −0.2, standard errors 0.01: the interval of each excludes zero.
    spread = 0.01 * np.array([-1, 0, 1]) * np.sqrt(3)
    exponents = np.array([[0.2], [-0.2]]) + spread
    rates = np.array([[0.2, -0.1, 0.3], [-0.2, -0.5, 0.1]])
    dataset = xr.Dataset(
        {
            "exponent": (("cell", "bias", "gain", "network"), exponents[None, None]),
            "rate": (("cell", "bias", "gain", "theory"), rates[None, None]),
            "rate_error": (("cell", "bias", "gain", "theory"), 0 * rates[None, None]),
            "settled": (("cell", "bias", "gain"), [[[True, False]]]),
        },
        coords={
            "cell": ["GRUCell"],
            "bias": [0.0],
            "gain": [1.0, 2.0],
            "theory": [*experiment.THEORIES],
        },
    )
    dataset = experiment.compared(dataset)
    np.testing.assert_allclose(dataset["standard_error"].squeeze(), 0.01)
    # Student's t with 2 degrees of freedom.
    half = 4.302653 * 0.01
    np.testing.assert_allclose(dataset["interval"].squeeze()[0], [0.2 - half, 0.2 + half])
    rms = [0, 0.3, np.sqrt((0.1**2 + 0.3**2) / 2)]
    np.testing.assert_allclose(dataset["rms_error"].squeeze(), rms, atol=1e-12)
    assert dataset["num_wrong"].squeeze().to_numpy().tolist() == [0, 1, 1]

    text = text_of(experiment, dataset)
    explodes, vanishes = (line for line in text.splitlines() if line.startswith("│GRU"))
    assert "-0.1000!" in explodes
    assert explodes.count("!") == 1
    assert "†" not in explodes
    assert "?" not in explodes
    assert "+0.1000†" in vanishes
    assert "-0.2000?" in vanishes
    assert "!" not in vanishes
    assert "fresh (fresh weights). GRUCell: rms error 0.3000" in text

    dataset = described(dataset, QUICK)
    right, finding = figure.claims(dataset)
    assert (right.verdict, right.measured) == ("holds", 0)
    assert (finding.verdict, finding.measured) == ("holds", pytest.approx(0.2))
    # Where theory has the wrong sign next to zero, no harm is done; and farther off there is.
    for mean, verdict in ((0.009, "holds"), (0.012, "fails")):
        means = dataset["mean_exponent"].where(dataset["gain"] == 1.0, mean)
        sure = dataset.assign(mean_exponent=means, standard_error=0.0 * means + 1e-5)
        assert figure.claims(sure)[0].verdict == verdict
    calm = dataset.assign(mean_exponent=0 * dataset["mean_exponent"] - 0.1)
    assert figure.claims(calm)[1].verdict == "fails"
    (panel,) = figure.draw(dataset).axes
    rings = [ring.get_offsets().tolist() for ring in panel.collections[:6] if len(_offsets(ring))]
    assert [[1.0, -0.1]] in rings
    assert [[2.0, 0.1]] in rings


def _offsets(collection):
    return [point for point in collection.get_offsets().tolist() if point != [0.0, 0.0]]


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_experiment_lays_theory_over_what_it_measured(tmp_path):
    first = result_of(experiment, QUICK)
    assert "gates stand still" in text_of(experiment, first)
    one = first.sel(cell="LSTMCell", bias=0.0, gain=4.0)
    units = gaussian_cells.units_of("LSTMCell", 4.0, 0.0, STD)
    kept_key, frozen_key = jax.random.split(jax.random.key(QUICK.seed))
    kept = kept_growth(
        units, key=kept_key, num_units=200, num_steps=40, num_warmup=20, num_populations=2
    )
    frozen = frozen_growth(units, key=frozen_key, num_units=24, num_steps=40)
    expected = [kept.rate, fresh_growth(units).rate, frozen.rate]
    np.testing.assert_allclose(one["rate"], expected, rtol=1e-9)
    # Networks this small are noisy, but below criticality gradients vanish.
    assert (first["interval"].sel(gain=0.5) < 0).all()

    drawing = figure.draw(first)
    panel = drawing.axes[1]
    assert panel.get_title() == "OptimizedLSTMCell, forget bias 0"
    (bars,) = panel.containers
    mean = first["mean_exponent"].sel(cell="LSTMCell", bias=0.0)
    np.testing.assert_allclose(bars.lines[0].get_ydata(), mean)
    check_drawing(drawing, tmp_path)


def test_every_bias_has_its_number_of_theory_steps_and_populations_large_enough_for_them():
    with pytest.raises(ValueError, match=r"--theory-steps: received \(40,\), expected one number"):
        dataclasses.replace(QUICK, biases=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"--theory-units: received 159"):
        dataclasses.replace(QUICK, theory_units=159)

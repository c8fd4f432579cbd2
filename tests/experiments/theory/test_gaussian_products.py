import dataclasses

import jax
import numpy as np
import pytest

from experiments.theory import gaussian_products as experiment
from jacobian_rnn.mean_field import ginibre_exponents
from paper_figures.theory import gaussian_products as figure
from tests.experiments.in_process import check_drawing, result_of, text_of

CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], widths=(3,), num_factors=256, bias_width=3, bias_lengths=(1, 40)
)


@pytest.fixture(scope="module")
def dataset():
    with jax.enable_x64(True):
        return result_of(experiment, CONFIG)


def complex_factors(blocks):
    return blocks[:, ::2, ::2] + 1j * blocks[:, 1::2, ::2]


def test_complex_matrices_are_held_as_blocks_that_multiply_like_them():
    blocks = np.asarray(
        experiment.factors_of("complex", 2000, 3, jax.random.key(0), np.dtype("float64"))
    )
    factors = complex_factors(blocks)
    np.testing.assert_allclose(
        complex_factors(blocks[:1] @ blocks[1:2]), factors[:1] @ factors[1:2]
    )
    # E |z|² = 1/N, and real and imaginary parts are independent.
    np.testing.assert_allclose(3 * np.mean(abs(factors) ** 2), 1, atol=4 / factors.size**0.5)
    np.testing.assert_allclose(3 * np.mean(factors**2), 0, atol=4 / factors.size**0.5)


@pytest.mark.slow
def test_exponents_of_complex_products_are_those_of_complex_qr(dataset):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(CONFIG.seed), 3), 1)
    total = np.zeros(3)
    for chain_key in jax.random.split(key, CONFIG.num_chains):
        frame = np.eye(3, dtype=complex)
        blocks = experiment.factors_of("complex", 256, 3, chain_key, np.dtype("float64"))
        for factor in complex_factors(np.asarray(blocks)):
            frame, upper = np.linalg.qr(factor @ frame)
            total += np.log(np.abs(np.diagonal(upper)))
    one = dataset.sel(ensemble="complex", width=3)
    np.testing.assert_allclose(one["exponents"], total / 512, atol=1e-12)
    assert one["pair_mismatch"] < 1e-12
    np.testing.assert_allclose(one["exact"], ginibre_exponents(3).exponents, rtol=1e-12)


@pytest.mark.slow
def test_variances_and_scores_are_those_of_numpy(dataset):
    one = dataset.sel(ensemble="real", width=3)
    key = jax.random.fold_in(jax.random.key(CONFIG.seed), 3)
    growth = []
    for chain_key in jax.random.split(jax.random.fold_in(key, 0), CONFIG.num_chains):
        frame = np.eye(3)
        factors = experiment.factors_of("real", 256, 3, chain_key, np.dtype("float64"))
        for factor in np.asarray(factors):
            frame, upper = np.linalg.qr(factor @ frame)
            growth.append(np.log(np.abs(np.diagonal(upper))))
    blocks = np.reshape(growth, (-1, 8, 3)).mean(axis=1)
    assert one["block"] == 8
    assert one["degrees_of_freedom"] == len(blocks) - 1 == 63
    np.testing.assert_allclose(one["variance"], 8 * blocks.var(axis=0, ddof=1), rtol=1e-9)
    # ½ log χ² with 1 degree of freedom: T Var = π²/8, mean −½ (log 2 + γ), entries of N(0, 1/3).
    last = one.sel(index=3)
    np.testing.assert_allclose(last["exact_variance"], np.pi**2 / 8, rtol=1e-12)
    exact = -(np.log(2) + np.euler_gamma + np.log(3)) / 2
    expected = (blocks[:, 2].mean() - exact) / np.sqrt(np.pi**2 / 8 / 512)
    np.testing.assert_allclose(last["score"], expected, atol=1e-9)
    assert abs(one["score"]).max() < 4


def test_the_limit_of_the_bias_is_what_a_uniform_frame_loses(dataset):
    # log |det| of the leading blocks of uniform orthogonal matrices, in differences.
    random = np.random.default_rng(0).standard_normal((20_000, 4, 4))
    uniform = np.linalg.qr(random)[0]
    logs = [np.linalg.slogdet(uniform[:, :size, :size])[1] for size in range(1, 5)]
    loss = np.diff(np.stack(logs, axis=1), axis=1, prepend=0)
    error = loss.std(axis=0) / np.sqrt(len(loss))
    limit = experiment.asymptotic_bias(4)
    assert np.all(abs(-loss.mean(axis=0) - limit) < 4 * error)
    assert limit.sum() == pytest.approx(0, abs=1e-12)

    longest = dataset.sel(length=40)
    assert np.all(abs(longest["bias"] - longest["bias_limit"]) < 4 * longest["bias_error"])
    # Determinants are multiplicative: what one singular value gains, the others lose.
    np.testing.assert_allclose(dataset["bias"].sum("bias_index"), 0, atol=1e-10)
    assert dataset["bias"].sel(length=1, bias_index=1) < longest["bias"].sel(bias_index=1)


def test_claims_fail_for_wrong_exponents_variances_errors_and_bias(dataset):
    # As certain as many more products would make them.
    sure = dataset.assign(
        exact_error=0.01 * dataset["exact_error"],
        degrees_of_freedom=10_000 * dataset["degrees_of_freedom"],
        bias_error=0.01 * dataset["bias_error"],
    )
    wrong = sure.assign(
        exponents=dataset["exact"] + 0.04,
        variance=1.06 * dataset["exact_variance"],
        own_variance=1.4 * dataset["exact_variance"],
        pair_mismatch=dataset["pair_mismatch"] + 1e-6,
        bias=dataset["bias_limit"] + 0.12,
    )
    assert {claim.verdict for claim in figure.claims(wrong)} == {"fails"}
    right = sure.assign(
        exponents=dataset["exact"] + 0.02,
        variance=1.04 * dataset["exact_variance"],
        own_variance=1.2 * dataset["exact_variance"],
        bias=dataset["bias_limit"] - 0.08,
    )
    found = figure.claims(right)
    assert len(found) == 8
    assert {claim.verdict for claim in found} == {"holds"}


def test_the_figure_shows_what_was_measured(dataset, tmp_path):
    assert "limit" in text_of(experiment, dataset)
    drawing = figure.draw(dataset)
    spectra, _, _, bias = drawing.axes
    drawn = np.asarray(spectra.containers[0].lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn, dataset["exponents"].sel(ensemble="real", width=3))
    drawn = np.asarray(bias.containers[2].lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn, dataset["bias"].sel(bias_index=3))
    check_drawing(drawing, tmp_path)

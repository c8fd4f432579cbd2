import dataclasses

import jax
import mpmath
import numpy as np
import pytest

from experiments.theory import product_overflow as experiment
from paper_figures.theory import product_overflow as figure
from tests.experiments.in_process import check_drawing, result_of, text_of

CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], sizes=(4, 8), num_chains=6, checked_sizes=(8,)
)


@pytest.fixture(scope="module")
def dataset():
    with jax.enable_x64(True):
        return result_of(experiment, CONFIG)


def test_the_expected_length_is_that_of_the_tables():
    for size, single, double in ((8, 91.0, 728), (64, 42.8, 343), (1024, 25.6, 205)):
        assert experiment.longest_expected(size, "float32") == pytest.approx(single, abs=0.06)
        assert experiment.longest_expected(size, "float64") == pytest.approx(double, abs=0.6)
    assert experiment.rate(2) == pytest.approx(float(mpmath.log(2) + mpmath.digamma(1)) / 2)


@pytest.mark.slow
def test_counts_are_those_of_numpy_multiplying_until_overflow(dataset):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(CONFIG.seed), 8), CONFIG.num_chains)
    for chain, key in enumerate(keys[:2]):
        factors = [
            np.asarray(experiment.factor_of(key, index, 8, "float64")) for index in range(900)
        ]
        for precision in experiment.PRECISIONS:
            product, count = np.eye(8, dtype=precision), 0
            with np.errstate(over="ignore", invalid="ignore"):
                while np.isfinite(product).all():
                    product = factors[count].astype(precision) @ product
                    count += 1
            longest = dataset["longest"].sel(size=8, precision=precision, chain=chain)
            # Summed in another order, a sum at the brink may overflow one factor later.
            assert abs(int(longest) - (count - 1)) <= 1
            assert abs(count / experiment.longest_expected(8, precision) - 1) < 0.2


def test_the_rescaled_product_has_the_norm_that_arbitrary_precision_finds():
    factors = np.random.default_rng(0).standard_normal((400, 3, 3)) * 1e3
    with mpmath.workdps(30):
        product = mpmath.eye(3)
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        largest = mpmath.log(max(mpmath.svd_r(product, compute_uv=False)))
    assert largest > 2000
    assert experiment.rescaled_log_norm(factors) == pytest.approx(float(largest), abs=1e-9)


@pytest.mark.slow
def test_the_library_goes_on_where_both_floats_overflow(dataset):
    checked = dataset.sel(size=8)
    assert checked["library_length"] > 1.5 * checked["longest"].max()
    assert checked["rescaled_log_norm"] > 1.5 * np.log(np.finfo(np.float64).max)
    np.testing.assert_allclose(
        checked["library_error"],
        abs(checked["library_log_norm"] - checked["rescaled_log_norm"]),
        atol=1e-12,
    )
    assert checked["library_error"].sel(precision="float64") < 1e-9
    assert checked["library_error"].sel(precision="float32") < 1e-2
    assert dataset["library_length"].sel(size=4).isnull()


def test_claims_fail_for_chains_that_are_too_short_and_for_a_lost_product(dataset):
    exact = dataset.assign(standard_error=0 * dataset["standard_error"])
    shorter = exact.assign(average=0.96 * dataset["expected"])
    assert [claim.verdict for claim in figure.claims(shorter)[:2]] == ["fails"] * 2
    good = exact.assign(average=0.98 * dataset["expected"])
    assert [claim.verdict for claim in figure.claims(good)] == ["holds"] * 4
    lost = dataset["library_error"].copy()
    lost.loc[{"size": 8, "precision": "float32"}] = np.nan
    verdicts = [claim.verdict for claim in figure.claims(dataset.assign(library_error=lost))]
    assert verdicts[2:] == ["not measured", "holds"]


def test_the_figure_shows_what_was_measured(dataset, tmp_path):
    assert "product_of over" in text_of(experiment, dataset)
    drawing = figure.draw(dataset)
    chains, ratios = drawing.axes
    single = dataset.sel(precision="float32")
    ratio = single["average"] / single["expected"]
    for axes, expected in ((chains, single["average"]), (ratios, ratio)):
        drawn = np.asarray(axes.containers[0].lines[0].get_ydata(), float)
        np.testing.assert_allclose(drawn, expected)
    check_drawing(drawing, tmp_path)


def test_only_what_is_measured_can_be_checked():
    with pytest.raises(ValueError, match=r"--checked-sizes: received \[32\]"):
        dataclasses.replace(CONFIG, checked_sizes=(8, 32))

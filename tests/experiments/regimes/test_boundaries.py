import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.regimes import _boundaries as boundaries


def made_up(num=400, constant=3.0, slopes=(0.5, -2.0)):
    """Draw rows that learn with known log odds."""
    generator = np.random.default_rng(0)
    features = generator.normal([-5.0, 1.0], [6.0, 1.0], (num, 2))
    odds = constant + features @ np.array(slopes)
    return features, generator.random(num) < 1 / (1 + np.exp(-odds))


def test_coefficients_are_those_of_another_implementation():
    features, learned = made_up()
    counts = boundaries.resamples(len(learned), 3)
    found = boundaries.coefficients(features, learned, counts)
    for one, count in zip(found, counts, strict=True):
        scale = features.std(axis=0)
        # The penalty is half of the sum of squares over C, on standardised slopes.
        other = LogisticRegression(C=1 / boundaries.PENALTY, tol=1e-10, max_iter=1000)
        other.fit((features - features.mean(axis=0)) / scale, learned, sample_weight=count)
        np.testing.assert_allclose(one[1:], other.coef_[0] / scale, rtol=1e-4)


def test_known_odds_are_found_within_their_interval():
    features, learned = made_up(2000)
    fits = boundaries.coefficients(features, learned, boundaries.resamples(2000, 100))
    for place, truth in enumerate((3.0, 0.5, -2.0)):
        low, high = boundaries.interval(fits[1:, place])
        assert low < truth < high
        assert high - low < 1


def test_data_that_a_cut_separates_have_a_finite_fit_with_the_boundary_in_the_gap():
    growth = np.concatenate([np.linspace(-30, -12, 20), np.linspace(-10, 0, 20)])
    fit = boundaries.coefficients(growth[:, None], growth > -11, np.ones((1, 40)))[0]
    assert np.isfinite(fit).all()
    assert -12 < -fit[0] / fit[1] < -10


def test_there_is_no_fit_where_all_learned_or_none_did():
    for learned in (np.ones(5, bool), np.zeros(5, bool)):
        fits = boundaries.coefficients(np.arange(5.0)[:, None], learned, np.ones((2, 5)))
        assert np.isnan(fits).all()


def test_an_interval_of_too_many_unknown_values_is_unknown():
    values = np.linspace(0, 1, 1001)
    assert boundaries.interval(values) == pytest.approx([0.025, 0.975])
    values[:40] = np.nan
    assert np.isnan(boundaries.interval(values)).all()

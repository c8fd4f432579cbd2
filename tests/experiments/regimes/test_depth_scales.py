import functools

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from experiments.regimes import _depth_scales as depth_scales

HORIZONS = np.array([5.0, 10.0, 20.0, 40.0, 80.0])
SCALE = np.array([1.0, 2.5, 6.0, 15.0, 40.0])


def drawn(multiple, slope, num_seeds, scale=SCALE):
    """Draw which networks learn: a logistic curve of log T."""
    logit = slope * np.log(multiple * scale[:, None] / HORIZONS)
    probability = 1 / (1 + np.exp(-logit))
    uniform = np.random.default_rng(1).uniform(size=(*probability.shape, num_seeds))
    return (uniform < probability[..., None]).astype(float)


def test_the_multiple_is_found_that_networks_were_drawn_with():
    for multiple in (1.5, 6.0):
        found = depth_scales.fitted_multiple(drawn(multiple, 3.0, 2000), SCALE, HORIZONS)
        np.testing.assert_allclose(found, multiple, rtol=0.05)


def test_a_sharp_edge_lies_between_what_is_learned_and_what_is_not():
    ratio = HORIZONS / SCALE[:, None]
    found = depth_scales.fitted_multiple((ratio < 6)[..., None] * 1.0, SCALE, HORIZONS)
    assert ratio[ratio < 6].max() < found < ratio[ratio > 6].min()


@pytest.mark.parametrize("learned", [0.0, 1.0])
def test_nothing_is_fitted_where_all_networks_learn_or_none(learned):
    every = np.full((5, 5, 2), learned)
    assert np.isnan(depth_scales.fitted_multiple(every, SCALE, HORIZONS))
    assert np.isnan(depth_scales.rank_correlation(every, SCALE, HORIZONS))


def test_nothing_is_said_of_a_scale_that_is_not_known():
    learned = drawn(2.0, 3.0, 2)
    assert np.isnan(depth_scales.rank_correlation(learned, np.full(5, np.nan), HORIZONS))
    assert np.isnan(depth_scales.fitted_multiple(learned, np.full(5, np.nan), HORIZONS))


def test_the_correlation_is_spearmans_over_the_points_of_a_map():
    learned = np.random.default_rng(0).uniform(size=(5, 5, 3)) < 0.5
    x = [SCALE[i] / HORIZONS[j] for i in range(5) for j in range(5)]
    y = [learned[i, j].sum() for i in range(5) for j in range(5)]
    found = depth_scales.rank_correlation(learned, SCALE, HORIZONS)
    np.testing.assert_allclose(found, spearmanr(x, y).statistic, rtol=1e-12)


def test_the_band_counts_octaves():
    learned = np.zeros((4, 5, 2))
    learned[:2, :3] = 1  # half of the columns learn three of the horizons, a factor two apart
    np.testing.assert_allclose(depth_scales.band(learned, HORIZONS), 1.5 * np.log(2))


@functools.cache
def constructed(wrong):
    """Build two cells that learn up to 1 and 4 times a scale: the kept one, or the fresh one."""
    exponent = np.broadcast_to(-1 / (2 * SCALE[:, None]), (5, 3))
    other = 1 / (2 * SCALE[::-1])
    told = (
        (other, exponent) if wrong == "fresh" else (exponent[:, 0], other[:, None] + 0 * exponent)
    )
    skill = [drawn(multiple, 3.0, 3) for multiple in (1.0, 4.0)]
    dataset = xr.Dataset(
        {
            "skill": (("cell", "column", "horizon", "seed"), skill),
            "exponent": (("cell", "column", "seed"), [told[1]] * 2),
            "fresh_rate": (("cell", "column"), [told[0]] * 2),
            "settled": (("cell", "column"), np.ones((2, 5), bool)),
            "time_constant": (("cell", "column"), [0 * SCALE * np.nan, 2 * SCALE]),
            "value": (("cell", "column"), [SCALE] * 2),
        },
        {"cell": ["first", "last"], "horizon": HORIZONS},
    )
    return depth_scales.compared(dataset, learned_above=0.5, num_resamples=40)


def test_the_scale_that_decides_is_told_from_the_one_that_does_not():
    for wrong, sign in (("fresh", 1), ("kept", -1)):
        dataset = constructed(wrong)
        right = {"fresh": "kept", "kept": "fresh"}[wrong]
        np.testing.assert_allclose(dataset["depth_scale"].sel(cell="first", scale=right), SCALE)
        assert (dataset["correlation"].sel(scale=right) > 0.6).all()  # as ties allow
        assert (dataset["beyond"].sel(scale=right) > 0).all()
        assert (dataset["beyond"].sel(scale=wrong) < 0).all()
        assert (sign * dataset["kept_lead"] > 0).all()
        assert (sign * dataset["kept_lead_interval"] > 0).all()
        multiple = dataset["multiple"].sel(scale=right)
        np.testing.assert_allclose(np.log(multiple), np.log([1, 4]), atol=0.5)
        low, high = dataset["multiple_interval"].sel(scale=right).transpose("end", ...).to_numpy()
        assert ((low <= multiple) & (multiple <= high)).all()


def test_a_gate_counts_where_there_is_one():
    dataset = constructed("fresh").sel(scale="gate")
    assert dataset["correlation"].isnull().to_numpy().tolist() == [True, False]
    kept = constructed("fresh").sel(scale="kept")
    np.testing.assert_allclose(dataset["multiple"][1], kept["multiple"][1] / 2, rtol=1e-3)
    text = "\n".join(depth_scales.lines(constructed("fresh")))
    assert "first, gate" not in text
    assert "last, gate" in text


def test_bands_are_those_of_the_networks_that_learned():
    dataset = constructed("fresh")
    by_hand = [(dataset["skill"][i] >= 0.5).mean(("column", "seed")).sum() for i in range(2)]
    np.testing.assert_allclose(dataset["band"], np.log(2) * np.array(by_hand))
    low, high = dataset["band_interval"].transpose("end", ...).to_numpy()
    assert ((low <= dataset["band"]) & (dataset["band"] <= high)).all()
    assert high[0] < low[1]
    text = "\n".join(depth_scales.lines(dataset))
    assert f"{float(dataset['band'][1]):.3g} [" in text

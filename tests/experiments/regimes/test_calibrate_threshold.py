import dataclasses

import numpy as np
import pytest
import xarray as xr

import jacobian_rnn as jrnn
from experiments.regimes import calibrate_threshold as experiment
from paper_figures.regimes import calibrate_threshold as figure


def made_up(low, high):
    """Lay out networks that learn between two log growths."""
    log_growth = np.linspace(-30, 20, 26)
    learned = (log_growth > low) & (log_growth < high)
    return xr.Dataset(
        {
            "log_growth": (("gain_index", "seed", "sequence"), log_growth[:, None, None]),
            "outcome": (("gain_index", "seed"), np.where(learned, 0, -1)[:, None]),
        }
    )


def test_thresholds_are_the_cuts_that_separate_best():
    best, interval = experiment.thresholds(made_up(-11, 7), 500)
    assert best == (-11.0, 7.0)
    assert interval[0, 0] <= -11.0 <= interval[0, 1]
    assert interval[1, 0] <= 7.0 <= interval[1, 1]


def test_there_are_no_thresholds_where_no_network_learned():
    best, interval = experiment.thresholds(made_up(50, 60), 500)
    assert np.isnan(best).all()
    assert np.isnan(interval).all()


def test_claims_compare_with_the_thresholds_of_the_library():
    bounds = list(jrnn.Thresholds._fields)
    for off, verdict in ((0.0, "holds"), (20.0, "fails")):
        found = np.array(jrnn.THRESHOLDS) + off
        dataset = xr.Dataset(
            {
                "threshold": ("bound", found),
                "threshold_interval": (("bound", "end"), np.stack([found - 2, found + 2], axis=1)),
            },
            {"bound": bounds},
        )
        assert [claim.verdict for claim in figure.claims(dataset)] == [verdict] * 2


def test_parts_are_dealt_all_gains_and_none_is_empty():
    quick = experiment.PRESETS["quick"]
    assert len(experiment.units(dataclasses.replace(quick, num_parts=3))) == 3
    with pytest.raises(ValueError, match="--num-parts: received 9"):
        dataclasses.replace(quick, num_parts=9)

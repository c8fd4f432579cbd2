import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments.training import gradient_penalties as experiment
from paper_figures.training import gradient_penalties as figure
from tests.experiments.in_process import check_drawing, result_of, text_of

QUICK = dataclasses.replace(
    experiment.PRESETS["quick"], num_updates=20, num_records=2, window=5, plateau=(5, 20)
)


@pytest.mark.slow
def test_terms_are_in_the_loss_of_their_arm_alone_and_the_figure_shows_both(tmp_path):
    config = dataclasses.replace(QUICK, dtype="float64", flossing_weight=5.0, norm_weight=2.0)
    dataset = result_of(experiment, config)
    plain = dataset.sel(arm=experiment.PLAIN)
    for arm, name in ((experiment.FLOSSED, "rms_exponent"), (experiment.KEPT, "deviation")):
        one = dataset.sel(arm=arm)
        # The same networks and data before training, other ones after it.
        np.testing.assert_allclose(one[name], plain[name], rtol=1e-9)
        np.testing.assert_allclose(one["loss"][..., 0], plain["loss"][..., 0], rtol=1e-9)
        assert (one["loss"][..., -1] != plain["loss"][..., -1]).all()
        assert (one[f"{name}_trained"] < plain[f"{name}_trained"]).all()
    assert dataset["rms_exponent"].dims == ("task", "arm", "seed")
    # An orthogonal kernel of gain 1/2 shrinks all directions by ln 2, and tanh by a little more.
    assert (dataset["rms_exponent"] > np.log(2)).all()
    assert dataset["baseline"].to_numpy().tolist() == [np.log(4), np.log(4)]
    text = text_of(experiment, dataset)
    assert "delayed recall" in text
    assert "temporal order" in text

    drawing = figure.draw(dataset)
    for row, task in enumerate(dataset["task"].to_numpy()):
        for column, name in ((1, "rms_exponent"), (2, "deviation")):
            ends = [line.get_ydata() for line in drawing.axes[3 * row + column].lines]
            one = dataset.sel(task=task)
            expected = [
                [float(one[key].sel(arm=arm, seed=seed)) for key in (name, f"{name}_trained")]
                for arm in figure.ARMS
                for seed in range(2)
            ]
            np.testing.assert_allclose(ends, expected)
    check_drawing(drawing, tmp_path)


def constructed(*, exponents, deviations, skills):
    """Make a dataset of one task from values after training: (plain, flossing, norm) each."""

    def of_arms(values):
        return ("task", "arm", "seed"), np.array([[[v, 1.2 * v] for v in values]])

    return xr.Dataset(
        {
            "rms_exponent_trained": of_arms(exponents),
            "deviation_trained": of_arms(deviations),
            "skill": (
                ("task", "arm", "seed", "record"),
                np.array([[[[0.0, s], [0.0, s + 0.02]] for s in skills]]),
            ),
        },
        coords={
            "task": [experiment.RECALL],
            "arm": [experiment.PLAIN, experiment.FLOSSED, experiment.KEPT],
        },
    )


def test_claims_hold_where_terms_act_and_help():
    claims = figure.claims(
        constructed(exponents=(1.0, 0.1, 0.9), deviations=(0.6, 0.5, 0.2), skills=(0.0, 0.9, 0.7))
    )
    assert [one.verdict for one in claims] == ["holds"] * 4
    np.testing.assert_allclose([one.measured for one in claims], [0.1, 0.9, 1 / 3, 0.7])
    assert [one.source[:6] for one in claims] == ["Engelk", "Engelk", "Pascan", "Pascan"]


def test_claims_fail_where_they_do_not():
    claims = figure.claims(
        constructed(exponents=(1.0, 0.9, 0.1), deviations=(0.6, 0.2, 0.5), skills=(0.5, 0.5, 0.1))
    )
    assert [one.verdict for one in claims] == ["fails"] * 4


@pytest.mark.parametrize("option", ["width", "num_steps"])
def test_sizes_that_do_not_fit_are_refused(option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}: received 1, expected at"):
        dataclasses.replace(QUICK, **{option: 1})

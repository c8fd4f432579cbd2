import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.dynamics import lorenz_reservoir as experiment
from paper_figures.dynamics import lorenz_reservoir as figure
from tests.experiments.in_process import check_drawing, described, result_of, text_of

CONFIG = dataclasses.replace(
    experiment.PRESETS["quick"], width=20, spectrum_time=10.0, settling_time=4.0
)


@pytest.fixture(scope="module")
def dataset():
    with jax.enable_x64(True):
        return result_of(experiment, CONFIG)


@pytest.fixture
def made_up():
    """Give a result in which the system and two reservoirs have the exponents of the literature."""
    generator = np.random.default_rng(0)
    exponents = np.tile(experiment.REFERENCE, (3, 1))
    return described(
        xr.Dataset(
            {
                "exponent": (("source", "place"), exponents),
                "standard_error": (("source", "place"), np.full((3, 3), 1e-6)),
                "fit_error": ("source", [1e-4, 1e-4, np.nan]),
                "angle": (("source", "step"), generator.uniform(0, 1.5, (3, 50))),
                "shown": (("source", "shown_step", "axis"), generator.normal(size=(3, 50, 3))),
            },
            coords={"source": ["reservoir 0", "reservoir 1", experiment.SYSTEM]},
        ),
        CONFIG,
    )


def test_one_step_of_the_system_is_that_of_a_fine_integration():
    start = np.array([1.0, 2.0, 20.0])
    coarse = experiment.lorenz(jnp.asarray(0.02), jnp.asarray(start), None)
    fine = jnp.asarray(start)
    for _ in range(50):
        fine = experiment.lorenz(jnp.asarray(0.02 / 50), fine, None)
    np.testing.assert_allclose(coarse, fine, rtol=1e-8)


@pytest.mark.slow
def test_exponents_of_the_system_sum_to_its_divergence(dataset):
    exponents = dataset["exponent"].sel(source=experiment.SYSTEM).to_numpy()[:3]
    np.testing.assert_allclose(exponents.sum(), -(10 + 1 + 8 / 3), rtol=1e-5)


@pytest.mark.slow
def test_reservoirs_fit_their_data_and_angles_are_between_zero_and_a_right_one(dataset):
    errors = dataset["fit_error"].where(dataset["source"] != experiment.SYSTEM, drop=True)
    assert float(errors.max()) < 0.02
    angles = dataset["angle"].to_numpy()
    assert np.all((angles > 0) & (angles <= np.pi / 2))


def test_claims_compare_with_the_literature(made_up):
    # Reservoirs that agree have no spread.
    assert [claim.verdict for claim in figure.claims(made_up)] == ["holds"] * 6
    off = made_up.assign(exponent=made_up["exponent"] + 1)
    assert [claim.verdict for claim in figure.claims(off)] == ["fails"] * 6


def test_the_figure_shows_exponents_of_all_sources(made_up, tmp_path):
    assert "literature" in text_of(experiment, made_up)
    drawing = figure.draw(made_up)
    assert len(drawing.axes[1].containers) == made_up.sizes["source"]
    check_drawing(drawing, tmp_path)

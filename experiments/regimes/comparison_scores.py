"""How well predicted regimes and forecasts tell which networks of the comparison learn."""

from typing import NamedTuple

import jax
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_table
from experiments.regimes._chosen_gains import GAIN

NETWORKS = ("setting", "cell", GAIN, "seed")
NUM_RESAMPLES = 1000  # of gains, for the intervals of forecasts


def known(dataset: xr.Dataset) -> xr.DataArray:
    """Say of which networks there is a prediction: not all digits of what decides are lost."""
    return dataset["deciding_growth"].notnull().any("sequence")


def disagrees(dataset: xr.Dataset) -> xr.DataArray:
    """Say of which networks there is a prediction, and training showed something else."""
    stable = dataset["regime"] == jrnn.Regime.STABLE
    learned = dataset["outcome"] == jrnn.Outcome.LEARNED
    return known(dataset) & (stable != learned)


def compare(dataset: xr.Dataset, settings: list[str]) -> jrnn.Agreement:
    """Compare prediction and outcome over the networks of all cells in the given settings.

    Networks without a prediction are left out.
    """
    names = ["regime", "outcome", "borderline", "spectral_radius", "kernel_norm", "exponent"]
    flat = _flat(dataset.sel(setting=settings), names)
    of = {name: values[flat["known"]] for name, values in flat.items()}
    return jrnn.score_regimes(
        of["regime"].astype(int),
        of["outcome"].astype(int),
        groups=of["group"],
        borderline=of["borderline"].astype(bool),
        rules={
            "spectral radius > 1": of["spectral_radius"] > 1,
            "norm of W > 1": of["kernel_norm"] > 1,
            "largest exponent > 0": of["exponent"] > 0,
        },
        key=jax.random.key(0),
    )


def _flat(chosen, names):
    """Lay out networks in a row: variables, group of each, and whether there is a prediction."""
    # One group for each cell, task and gain: its networks are not independent.
    shape = [chosen.sizes[dim] for dim in NETWORKS[:-1]]
    group = xr.DataArray(np.arange(np.prod(shape)).reshape(shape), dims=NETWORKS[:-1])
    every = chosen[names].assign(group=group, known=known(chosen))
    return {
        name: variable.transpose(*NETWORKS).to_numpy().ravel()
        for name, variable in every.broadcast_like(chosen["regime"]).items()
    }


class ForecastScores(NamedTuple):
    """How good the forecast probabilities of some settings are, and 95 % over gains of each score.

    Attributes:
        value: scores of all networks.
        low: lower ends of the intervals.
        high: upper ends.
        constant_brier: the Brier score of forecasting for all the share that learned.
        num_networks: that were scored, with or without a predicted regime.
    """

    value: forecasting.Scores
    low: forecasting.Scores
    high: forecasting.Scores
    constant_brier: float
    num_networks: int


def score_forecasts(dataset: xr.Dataset, settings: list[str]) -> ForecastScores:
    """Score the forecasts of all networks in the given settings.

    "Learns" is said of what is more probable than the share that learned of the ensemble that the
    model was fitted to.
    """
    flat = _flat(dataset.sel(setting=settings), ["probability", "outcome"])
    probability, learned = flat["probability"], flat["outcome"] == jrnn.Outcome.LEARNED
    table = learning_table.published_table()
    budgets = learning_table.budgets_of(table)
    share = forecasting.samples_of(table, budgets).learned.mean()

    def scores(rows):
        share_of_each = np.full(len(rows), share)
        return forecasting.score(probability[rows], learned[rows], share_of_each)

    draws = forecasting.resample_groups(flat["group"], NUM_RESAMPLES)
    drawn = np.array([scores(rows) for rows in draws])
    # Nothing is ranked where all learned, or none.
    ranked = np.where(np.isnan(drawn).all(axis=0), 0, drawn)
    low, high = np.nanquantile(ranked, (0.025, 0.975), axis=0)
    whole = scores(np.arange(len(learned)))
    return ForecastScores(
        whole,
        forecasting.Scores(*low.tolist()),
        forecasting.Scores(*high.tolist()),
        float(learned.mean() * (1 - learned.mean())),
        len(learned),
    )


def settings_of(dataset: xr.Dataset, optimizer: str) -> list[str]:
    """Return the settings trained with an optimiser."""
    return [s for s in dataset["setting"].to_numpy().tolist() if s.endswith(f", {optimizer}")]

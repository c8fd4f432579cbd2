"""Score the shipped forecast, and rules fitted to the shipped table, on networks new to both."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_table
from experiments.regimes._forecasting import FORECAST, MAJORITY, NUM_BINS, Samples
from jacobian_rnn.regimes import published_model
from jacobian_rnn.regimes.forecast import expit
from jacobian_rnn.regimes.thresholds import THRESHOLDS

REGIME = "predicted regime"
# Rules that need no recurrent matrix, which most cells of today do not have.
RULES = {
    "growth over the horizon": forecasting.quadratic("growth"),
    **{
        name: forecasting.RULES[name]
        for name in (
            "χ, growth of one step",
            "sign of the exponent",
            "hidden covariance",
            "input-Jacobian covariance",
            "number of parameters",
            "settings alone",
        )
    },
}
PREDICTORS = (FORECAST, MAJORITY, REGIME, *RULES)
ENDS = (0.025, 0.975)
KINDS = ("cell", "task")
SCORES = list(forecasting.Scores._fields)


def known_samples() -> Samples:
    """Return what the shipped model was fitted to."""
    table = learning_table.published_table()
    return forecasting.samples_of(table, learning_table.budgets_of(table))


def predict_unseen(unseen: Samples, known: Samples) -> dict[str, np.ndarray]:
    """Return what every predictor, fitted to known samples alone, says of unseen ones.

    The forecast is that of the shipped model. The regime is that of the shipped thresholds, and its
    probability is the share that learned of the known samples in it. The area under the curve of a
    predictor with two values is its balanced accuracy.
    """
    predicted = {
        FORECAST: expit(published_model().log_odds(unseen.terms)),
        MAJORITY: np.full(len(unseen.learned), known.learned.mean()),
    }
    stable, was_stable = _is_stable(unseen), _is_stable(known)
    shares = [known.learned[was_stable == one].mean() for one in (False, True)]
    predicted[REGIME] = np.where(stable, shares[1], shares[0])
    for name, terms in RULES.items():
        of_known = {key: np.nan_to_num(value) for key, value in terms(known.table).items()}
        rule = forecasting.fit(of_known, known.learned, {}, forecasting.PENALTY)
        # What lies beyond all that was fitted, infinity too, counts as the end of that.
        of_unseen = {
            key: np.clip(np.nan_to_num(value), of_known[key].min(), of_known[key].max())
            for key, value in terms(unseen.table).items()
        }
        predicted[name] = rule.probability(of_unseen)
    return predicted


def _is_stable(samples):
    growth, peak = (samples.table[name].to_numpy(float) for name in ("growth", "peak"))
    return (growth >= THRESHOLDS.vanishing) & (peak <= THRESHOLDS.exploding)


class _Scored(NamedTuple):
    """Scores `(..., scores)` and the ends of their intervals."""

    value: np.ndarray
    interval: np.ndarray
    resampled: np.ndarray


def score_unseen(unseen: Samples, known: Samples, num_resamples: int) -> xr.Dataset:
    """Score all predictors on all samples, and the forecast on those of each cell and each task.

    Intervals are 95 % over shapes drawn again with replacement. For one cell these are as few as
    there are tasks.
    """
    predicted = predict_unseen(unseen, known)
    share = known.learned.mean()
    every = np.arange(len(unseen.learned))
    pooled = _scored(unseen, predicted, PREDICTORS, share, every, num_resamples)
    lead = pooled.resampled[:, :1] - pooled.resampled
    variables = {
        "score_of": (("predictor", "score"), pooled.value),
        "interval": (("end", "predictor", "score"), pooled.interval),
        "lead": (("end", "predictor", "score"), _interval(lead)),
        "probability": ("sample", predicted[FORECAST]),
        "learned": ("sample", unseen.learned),
        "num_updates": ("sample", unseen.table["num_updates"].to_numpy()),
        **_reliability(unseen, predicted[FORECAST], num_resamples),
    }
    coords = {"predictor": list(PREDICTORS), "score": SCORES}
    for kind in KINDS:
        label = unseen.table[kind].to_numpy(str)
        coords[kind] = list(dict.fromkeys(label.tolist()))
        each = [
            _scored(unseen, predicted, (FORECAST,), share, np.flatnonzero(label == one),
                    num_resamples)
            for one in coords[kind]
        ]  # fmt: skip
        variables |= {
            f"sample_{kind}": ("sample", label),
            f"{kind}_score": ((kind, "score"), np.stack([one.value[0] for one in each])),
            f"{kind}_interval": (
                ("end", kind, "score"),
                np.stack([one.interval[:, 0] for one in each], axis=1),
            ),
            f"{kind}_share": (kind, [unseen.learned[label == one].mean() for one in coords[kind]]),
        }
    log_odds = published_model().log_odds(known.terms)
    for name, samples, probability in (
        ("task_excess", unseen, predicted[FORECAST]),
        ("known_task_excess", known, expit(log_odds)),
    ):
        each = [_excess(samples, probability, one, num_resamples) for one in coords["task"]]
        variables[name] = (("task", "statistic"), each)
    coords["statistic"] = ["value", "standard_error"]
    return xr.Dataset(variables, coords)


def _scored(samples, predicted, names, share, rows, num_resamples):
    """Score some samples, and those of shapes drawn again."""

    def scores(rows):
        return [
            forecasting.score(predicted[name][rows], samples.learned[rows], share) for name in names
        ]

    draws = forecasting.resample_groups(samples.group[rows], num_resamples)
    resampled = np.array([scores(rows[draw]) for draw in draws])
    return _Scored(np.array(scores(rows)), _interval(resampled), resampled)


def _excess(samples, probability, task, num_resamples):
    """Return by how much probabilities are too high on a task, with the error over shapes.

    It is NaN where the samples lack the task.
    """
    rows = np.flatnonzero(samples.table["task"].to_numpy(str) == task)
    if not rows.size:
        return [np.nan, np.nan]
    off = (probability - samples.learned)[rows]
    draws = forecasting.resample_groups(samples.group[rows], num_resamples)
    return [off.mean(), np.std([off[draw].mean() for draw in draws], ddof=1)]


def _interval(resampled):
    """Return the ends of the interval, NaN where no resample has a number."""
    interval = np.full((2, *resampled.shape[1:]), np.nan)
    there = np.isfinite(resampled).any(axis=0)
    interval[:, there] = np.nanquantile(resampled[:, there], ENDS, axis=0)
    return interval


def _reliability(samples, probability, num_resamples):
    """Return the mean forecast and the share that learned, with its interval, of ten bins."""
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)

    def shares(rows):
        counts = np.bincount(bins[rows], minlength=NUM_BINS)
        sums = [
            np.bincount(bins[rows], values[rows], minlength=NUM_BINS)
            for values in (probability, samples.learned)
        ]
        with np.errstate(invalid="ignore"):
            return counts, sums[0] / counts, sums[1] / counts

    counts, forecast, observed = shares(np.arange(len(bins)))
    draws = forecasting.resample_groups(samples.group, num_resamples)
    resampled = np.array([shares(rows)[2] for rows in draws])
    return {
        "bin_count": ("bin", counts),
        "bin_forecast": ("bin", forecast),
        "bin_share": ("bin", observed),
        "bin_interval": (("end", "bin"), _interval(resampled)),
    }

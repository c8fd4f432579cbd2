"""Fitting forecasts of learning to the ensemble, and scoring them on what they have not seen."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jacobian_rnn.regimes import LearningFeatures
from jacobian_rnn.regimes.forecast import TERMS, expit, terms_of

NUM_BINS = 10
PENALTY = 1.0  # of squared weights of terms of variance one, beside the sum of log losses


class Samples(NamedTuple):
    """Trainings of the ensemble, each on one budget: a row is a network and a budget.

    Attributes:
        table: what each network is, and what was measured of it, one row a sample.
        terms: what the forecast weighs, by name.
        learned: whether it learned.
        group: number of its shape. Networks of a shape are not independent of each other.
    """

    table: pd.DataFrame
    terms: dict[str, np.ndarray]
    learned: np.ndarray
    group: np.ndarray

    def take(self, rows: np.ndarray) -> "Samples":
        """Return some samples."""
        terms = {name: values[rows] for name, values in self.terms.items()}
        return Samples(self.table.iloc[rows], terms, self.learned[rows], self.group[rows])


def samples_of(table: pd.DataFrame, budgets: Sequence[int]) -> Samples:
    """Lay out networks, each trained once, on every budget."""
    once = table[table["data_seed"] == 0]
    every = [
        once.assign(num_updates=budget, learned=once[f"learned_{budget}"]) for budget in budgets
    ]
    rows = pd.concat(every, ignore_index=True)
    features = LearningFeatures(*(rows[name].to_numpy(float) for name in LearningFeatures._fields))
    terms = terms_of(
        features,
        horizon=rows["horizon"].to_numpy(),
        num_updates=rows["num_updates"].to_numpy(),
        batch_size=rows["batch_size"].to_numpy(),
    )
    shape = rows[["cell", "task", "horizon", "width", "optimizer", "kernel"]].astype(str)
    group = np.unique(shape.agg("-".join, axis=1), return_inverse=True)[1]
    return Samples(rows, terms, rows["learned"].to_numpy(bool), group)


class Fit(NamedTuple):
    """Weights in the units of the terms, and the intercept."""

    weights: dict[str, float]
    intercept: float

    def probability(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of learning."""
        weighted = (weight * terms[name] for name, weight in self.weights.items())
        return expit(sum(weighted, np.float64(self.intercept)))


def fit(
    terms: Mapping[str, np.ndarray], learned: np.ndarray, signs: Mapping[str, int], penalty: float
) -> Fit:
    """Fit a logistic regression whose weights have the signs that theory gives them.

    Terms are scaled to variance one for the penalty. A term whose weight comes out with the other
    sign is left out, the worst one first, until none does.

    Args:
        terms: values by name, `(samples,)` each.
        learned: what is to be forecast.
        signs: +1 or −1 by name; 0 or none where theory has no word.
        penalty: of the squared weights, beside the sum of log losses.
    """
    centre = {name: float(np.mean(values)) for name, values in terms.items()}
    scale = {name: float(np.std(values)) for name, values in terms.items()}
    # A term that does not vary, up to rounding, says nothing.
    kept = [name for name in terms if scale[name] > 1e-9 * (1 + abs(centre[name]))]
    weights: dict[str, float] = {}
    intercept = float(np.log(learned.mean() / (1 - learned.mean())))
    while kept:
        values = np.stack([(terms[name] - centre[name]) / scale[name] for name in kept], axis=1)
        model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(values, learned)
        weights = dict(zip(kept, (model.coef_[0] / [scale[n] for n in kept]).tolist(), strict=True))
        intercept = model.intercept_[0] - sum(w * centre[name] for name, w in weights.items())
        wrong = {n: -signs.get(n, 0) * scale[n] * weight for n, weight in weights.items()}
        worst = max(wrong, key=wrong.__getitem__)
        if wrong[worst] <= 0:
            break
        kept.remove(worst)
        weights = {}
    return Fit({name: weights.get(name, 0.0) for name in terms}, float(intercept))


def forecast_signs() -> dict[str, int]:
    """Return the signs of the forecast's terms."""
    return {name: term.sign for name, term in TERMS.items()}


def quadratic(
    name: str, change: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> Callable[[pd.DataFrame], dict[str, np.ndarray]]:
    """Return the terms of a rule that goes by one column, changed, and its square."""

    def terms(table):
        values = change(table[name].to_numpy(float))
        return {"value": values, "square": values**2}

    return terms


def _sign_of_exponent(table):
    return {"positive": (table["exponent"].to_numpy() > 0).astype(float)}


def _settings(table):
    return {
        "horizon": np.log(np.maximum(table["horizon"].to_numpy(float), 1)),
        "width": np.log(table["width"].to_numpy(float)),
        "updates": np.log(table["num_updates"].to_numpy(float)),
        "learning rate": np.log(table["learning_rate"].to_numpy(float)),
        "adam": (table["optimizer"] == "adam").to_numpy(float),
    }


# What each simple rule goes by. Each is fitted like the forecast, on the same networks.
RULES: dict[str, Callable[[pd.DataFrame], dict[str, np.ndarray]]] = {
    "spectral radius": quadratic("spectral_radius"),
    "norm of W": quadratic("kernel_norm"),
    "sign of the exponent": _sign_of_exponent,
    "χ, growth of one step": quadratic("first_growth"),
    "hidden covariance": quadratic("hidden_correlation"),
    "input-Jacobian covariance": quadratic("input_correlation"),
    "number of parameters": quadratic("num_parameters", np.log),
    "settings alone": _settings,
}
FORECAST, MAJORITY = "forecast", "majority"
PREDICTORS = (FORECAST, MAJORITY, *RULES)


def predict_left_out(
    samples: Samples, label: np.ndarray, penalty: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit to all labels but one, and predict that one, for every label.

    Returns:
        The probabilities of each predictor, and for each sample the share that learned among those
        that its predictors were fitted to.
    """
    predicted = {name: np.full(len(label), np.nan) for name in PREDICTORS}
    share = np.full(len(label), np.nan)
    for one in np.unique(label):
        out = np.flatnonzero(label == one)
        others = samples.take(np.flatnonzero(label != one))
        here = samples.take(out)
        share[out] = others.learned.mean()
        predicted[MAJORITY][out] = share[out]
        model = fit(others.terms, others.learned, forecast_signs(), penalty)
        predicted[FORECAST][out] = model.probability(here.terms)
        for name, terms in RULES.items():
            seen = {key: np.nan_to_num(value) for key, value in terms(others.table).items()}
            rule = fit(seen, others.learned, {}, penalty)
            unseen = {key: np.nan_to_num(value) for key, value in terms(here.table).items()}
            predicted[name][out] = rule.probability(unseen)
    return predicted, share


class Scores(NamedTuple):
    """How good probabilities are.

    Attributes:
        area: under the receiver operating characteristic, 0.5 by chance.
        balanced_accuracy: mean of the shares right among those that learned and those that did not,
            where "learns" is said of what is more probable than the share that learned among the
            networks that were fitted to.
        brier: mean square error of the probabilities.
        calibration_error: mean over samples of |frequency − probability| in ten bins.
    """

    area: float
    balanced_accuracy: float
    brier: float
    calibration_error: float


def score(probability: np.ndarray, learned: np.ndarray, share: np.ndarray | float) -> Scores:
    """Score probabilities by what happened. The first two are NaN where all or none learned."""
    brier = float(np.mean((probability - learned) ** 2))
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    off = np.bincount(bins, probability - learned, minlength=NUM_BINS)
    error = float(np.abs(off).sum() / len(learned))
    if learned.all() or not learned.any():
        return Scores(np.nan, np.nan, brier, error)
    says = probability > share
    right = (says[learned].mean() + (~says[~learned]).mean()) / 2
    return Scores(float(roc_auc_score(learned, probability)), float(right), brier, error)


def resample_groups(group: np.ndarray, num: int) -> list[np.ndarray]:
    """Draw groups with replacement, and return the samples of each draw."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(group == one) for one in np.unique(group)]
    draws = generator.integers(0, len(members), (num, len(members)))
    return [np.concatenate([members[one] for one in draw]) for draw in draws]


class RegimeThresholds(NamedTuple):
    """Growths between which networks learn, and how well they tell.

    Attributes:
        vanishing: lowest growth over the horizon, nats.
        exploding: highest peak on the way back, nats.
        balanced_accuracy: of saying that what lies between them learns.
    """

    vanishing: float
    exploding: float
    balanced_accuracy: float


def best_thresholds(
    growth: np.ndarray, peak: np.ndarray, learned: np.ndarray, num_cuts: int = 40
) -> RegimeThresholds:
    """Find the growth and the peak between which "learns" has the highest balanced accuracy.

    Cuts are quantiles of what was measured. Of equally good ones the middle is taken.
    """
    levels = np.linspace(0, 1, num_cuts)
    lows, highs = np.quantile(growth, levels), np.quantile(peak, levels)
    above, below = growth > lows[:, None], peak < highs[:, None]
    yes = above[:, learned].astype(float) @ below[:, learned].T.astype(float)
    no = above[:, ~learned].astype(float) @ below[:, ~learned].T.astype(float)
    right = (yes / learned.sum() + 1 - no / (~learned).sum()) / 2
    low, high = np.nonzero(right >= right.max() - 1e-12)
    middle = len(low) // 2
    return RegimeThresholds(
        float(lows[low[middle]]), float(highs[high[middle]]), float(right.max())
    )

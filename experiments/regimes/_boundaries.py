"""Where half of the networks learn: boundaries of logistic regressions, with resampled networks."""

import numpy as np
from scipy.special import expit

PENALTY = 1e-2  # on standardised slopes, so that data which a cut separates have a finite fit
LONGEST_STEP = 2.0
NUM_STEPS = 60  # at most; it takes about ten
SETTLED = 1e-9


def resamples(num_networks: int, num_resamples: int) -> np.ndarray:
    """Return how often each network counts: once in the first row, drawn again in the others.

    The same rows serve for every setting, so that differences between settings are paired.
    """
    generator = np.random.default_rng(0)
    shares = np.full(num_networks, 1 / num_networks)
    drawn = generator.multinomial(num_networks, shares, size=num_resamples)
    return np.concatenate([np.ones((1, num_networks), int), drawn])


def coefficients(features: np.ndarray, learned: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fit logistic regressions, one for each row of counts, by Newton's method.

    Args:
        features: `(rows, features)`.
        learned: `(rows,)`, bool.
        counts: `(fits, rows)`, how often each row counts.

    Returns:
        `(fits, 1 + features)`: the log odds of learning are the first plus the others times the
        features. They are NaN where all rows of a fit learned, or none did.
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x = np.column_stack([np.ones(len(features)), (features - centre) / scale])
    penalty = np.append(0.0, np.full(features.shape[1], PENALTY))
    some = counts @ learned
    known = (some > 0) & (some < counts.sum(axis=1))
    found = np.zeros((len(counts), x.shape[1]))
    if not known.any():
        return np.full_like(found, np.nan)
    counts = np.where(known[:, None], counts, 0)
    for _ in range(NUM_STEPS):
        chance = expit(found @ x.T)
        slope = (counts * (learned - chance)) @ x - penalty * found
        spread = counts * chance * (1 - chance)
        curvature = np.einsum("fr,ri,rj->fij", spread, x, x, optimize=True)
        curvature += np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        length = np.linalg.norm(step, axis=1, keepdims=True)
        found += step * np.minimum(1, LONGEST_STEP / np.maximum(length, LONGEST_STEP))
        if length.max() < SETTLED:
            break
    found[~known] = np.nan
    found[:, 1:] /= scale
    found[:, 0] -= found[:, 1:] @ centre
    return found


def interval(values: np.ndarray) -> np.ndarray:
    """Return the central 95 % of resampled values, NaN where more than 2.5 % of them are."""
    if np.isnan(values).mean() > 0.025:
        return np.full(2, np.nan)
    return np.nanquantile(values, [0.025, 0.975])

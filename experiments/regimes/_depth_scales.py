"""How success in training goes with depth scales: rank correlations, fitted multiples, widths.

A map has skill `(columns, horizons, seeds)`. A scale gives each column a number of steps. Intervals
of what is said of scales are over columns and seeds, both drawn again with replacement, because
networks of one column are no independent test of a scale; intervals of bands, which are means over
all columns of a map, are over seeds.
"""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import minimize
from scipy.stats import rankdata

LEVEL = 0.95
FRESH, KEPT, GATE = SCALES = ("fresh", "kept", "gate")
MEANINGS = {
    FRESH: "fresh: ξ in theory with fresh weights",
    KEPT: "kept: measured ξ = 1/(2|λ₁|)",
    GATE: "gate: time constant",
}
NAMES = {
    "skill": ("held-out skill after training", "1"),
    "exponent": ("measured λ₁ of untrained networks", "nats per step"),
    "fresh_rate": ("λ₁ in mean field theory with fresh weights", "nats per step"),
    "settled": ("whether that theory's population had settled", "1"),
    "time_constant": ("time constant of the gate that keeps the state", "steps"),
    "depth_scale": ("depth scale", "steps"),
    "correlation": ("Spearman correlation of the share that learned with scale/T", "1"),
    "beyond": ("that correlation minus the one with 1/T", "1"),
    "multiple": ("k: half of the networks learn at T = k times the scale", "1"),
    "kept_lead": ("correlation with the kept weights' ξ/T minus with the fresh ones'", "1"),
    "band": ("extent of log T that is learned, mean over columns", "nats"),
}


class Map(NamedTuple):
    """One cell.

    Attributes:
        skill: `(columns, horizons, seeds)`.
        exponent: λ₁ of the networks, `(columns, seeds)`.
        fresh: ξ in theory with fresh weights, `(columns,)`.
        gate: time constant, `(columns,)`; NaN where there is no gate.
        horizons: T, `(horizons,)`.
    """

    skill: np.ndarray
    exponent: np.ndarray
    fresh: np.ndarray
    gate: np.ndarray
    horizons: np.ndarray

    def drawn_again(self, generator: np.random.Generator, *, columns_too: bool) -> "Map":
        """Draw seeds with replacement, and columns if asked."""
        num_columns, _, num_seeds = self.skill.shape
        seeds = generator.integers(0, num_seeds, num_seeds)
        columns = np.arange(num_columns)
        if columns_too:
            columns = generator.integers(0, num_columns, num_columns)
        return self._replace(
            skill=self.skill[columns][:, :, seeds],
            exponent=self.exponent[columns][:, seeds],
            fresh=self.fresh[columns],
            gate=self.gate[columns],
        )

    def scales(self) -> np.ndarray:
        """Return all scales by column, in steps, `(scales, columns)`, with the mean exponent."""
        return np.stack([self.fresh, depth(self.exponent.mean(axis=1)), self.gate])


def depth(rate: Any) -> Any:
    """Return ξ = 1/(2|λ₁|), the steps in which a squared gradient changes by a factor e."""
    return 1 / (2 * np.abs(rate))


def rank_correlation(learned: np.ndarray, scale: np.ndarray, horizons: np.ndarray) -> float:
    """Return Spearman's correlation of the share that learned with scale/T over all points.

    Where all networks of many points learn, or none, there are ties, and the correlation stays
    below one however sharp the edge between them is. It is NaN if the scale is.

    Args:
        learned: which networks learned, `(columns, horizons, seeds)`.
        scale: of each column, in steps.
        horizons: T.
    """
    x = rankdata(scale[:, None] / horizons)
    y = rankdata(learned.mean(axis=2))
    told = np.isfinite(scale).all() and np.ptp(x) and np.ptp(y)
    return float(np.corrcoef(x, y)[0, 1]) if told else np.nan


def fitted_multiple(learned: np.ndarray, scale: np.ndarray, horizons: np.ndarray) -> float:
    """Fit k such that networks learn with probability ½ at T = k · scale.

    Args:
        learned: `(columns, horizons, seeds)`.
        scale: of each column, in steps.
        horizons: T.

    Returns:
        k of the logistic curve in log T of largest likelihood, whose slope is at most that of a
        change from 12 to 88 % within a factor 1.5; NaN where all networks learned, or none, or the
        scale is not known.
    """
    share = learned.mean(axis=2)
    if share.min() == 1 or share.max() == 0 or not np.isfinite(scale).all():
        return np.nan
    ratio = np.log(horizons) - np.log(scale)[:, None]

    def unlikely(parameters):
        log_multiple, log_slope = parameters
        logit = np.exp(log_slope) * (log_multiple - ratio)
        return np.mean(share * np.logaddexp(0, -logit) + (1 - share) * np.logaddexp(0, logit))

    bounds = [(ratio.min() - 3, ratio.max() + 3), (np.log(0.1), np.log(10))]
    start = [np.mean(ratio), 0.0]
    return float(np.exp(minimize(unlikely, start, bounds=bounds).x[0]))


def band(learned: np.ndarray, horizons: np.ndarray) -> float:
    """Return the extent of log T over which networks learn, nats, mean over columns.

    Each horizon stands for the logarithm of the factor between horizons; one alone has none, NaN.
    """
    if len(horizons) == 1:
        return np.nan
    spacing = np.log(horizons[-1] / horizons[0]) / (len(horizons) - 1)
    return float(learned.mean(axis=(0, 2)).sum() * spacing)


def compared(dataset: xr.Dataset, *, learned_above: float, num_resamples: int) -> xr.Dataset:
    """Add depth scales, and how success goes with them, with 95 % intervals.

    Args:
        dataset: skill, exponents, rates in theory and time constants.
        learned_above: skill from which a network counts as having learned.
        num_resamples: for the intervals.
    """
    maps = [
        Map(
            one["skill"].transpose("column", "horizon", "seed").to_numpy(),
            one["exponent"].transpose("column", "seed").to_numpy(),
            depth(one["fresh_rate"]).to_numpy(),
            one["time_constant"].to_numpy(),
            dataset["horizon"].to_numpy().astype(float),
        )
        for one in (dataset.sel(cell=cell) for cell in dataset["cell"])
    ]
    generator = np.random.default_rng(0)

    def of_scales(one):
        """Return correlation, what it is beyond that of the horizon, and multiple of each scale."""
        learned = one.skill >= learned_above
        alone = rank_correlation(learned, np.ones(len(learned)), one.horizons)
        by_scale = [
            (
                correlation := rank_correlation(learned, scale, one.horizons),
                correlation - alone,
                fitted_multiple(learned, scale, one.horizons),
            )
            for scale in one.scales()
        ]
        return np.transpose(by_scale)

    def band_of(one):
        return band(one.skill >= learned_above, one.horizons)

    def with_resamples(function, *, columns_too):
        """Return numbers by cell, and by resample and cell."""
        again = [
            [function(one.drawn_again(generator, columns_too=columns_too)) for one in maps]
            for _ in range(num_resamples)
        ]
        return np.array([function(one) for one in maps]), np.array(again)

    value, drawn = with_resamples(of_scales, columns_too=True)
    bands, drawn_bands = with_resamples(band_of, columns_too=False)
    fresh, kept = SCALES.index(FRESH), SCALES.index(KEPT)
    found: dict[str, tuple[tuple[str, ...], np.ndarray, np.ndarray]] = {
        "correlation": (("cell", "scale"), value[:, 0], drawn[:, :, 0]),
        "beyond": (("cell", "scale"), value[:, 1], drawn[:, :, 1]),
        "multiple": (("cell", "scale"), value[:, 2], drawn[:, :, 2]),
        "kept_lead": (
            ("cell",),
            value[:, 0, kept] - value[:, 0, fresh],
            drawn[:, :, 0, kept] - drawn[:, :, 0, fresh],
        ),
        "band": (("cell",), bands, drawn_bands),
    }
    variables: dict[str, Any] = {
        "depth_scale": (("cell", "scale", "column"), [one.scales() for one in maps])
    }
    for name, (dims, numbers, resamples) in found.items():
        variables[name] = (dims, numbers)
        variables[f"{name}_interval"] = ((*dims, "end"), _interval(resamples))
    dataset = dataset.assign(variables).assign_coords(scale=list(SCALES))
    for name, (meaning, unit) in NAMES.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def _interval(drawn):
    """Return central intervals `(..., 2)` of resampled numbers, NaN if most are not known."""
    known = np.isfinite(drawn)
    low, high = (
        np.nanquantile(np.where(known.any(axis=0), drawn, 0), q, axis=0)
        for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    )
    return np.where((known.mean(axis=0) > 0.5)[..., None], np.stack([low, high], axis=-1), np.nan)


def lines(dataset: xr.Dataset) -> list[str]:
    """Say for each cell and scale how success goes with it."""
    written = []
    for cell in dataset["cell"].to_numpy():
        of_cell = dataset.sel(cell=cell)
        for scale in of_cell["scale"].to_numpy()[of_cell["depth_scale"].notnull().any("column")]:
            one = of_cell.sel(scale=scale)
            written.append(
                f"{cell}, {MEANINGS[str(scale)]}: Spearman correlation of success with scale/T "
                f"{_said(one, 'correlation')}, minus that with 1/T {_said(one, 'beyond')}; half of "
                f"the networks learn at T = k scale, k = {_said(one, 'multiple')}"
            )
        written.append(
            f"{cell}: correlation with the kept weights' scale minus with the fresh ones' "
            f"{_said(of_cell, 'kept_lead')}; learned extent of log T {_said(of_cell, 'band')} nats"
        )
    return written


def _said(one, name):
    low, high = one[f"{name}_interval"].to_numpy()
    return f"{float(one[name]):.3g} [{low:.3g}, {high:.3g}]"

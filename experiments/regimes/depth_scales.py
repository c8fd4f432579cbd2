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
FRESH, KEPT, GATE = "fresh", "kept", "gate"
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
    "depth_scale": ("depth scale", "steps"),
    "correlation": ("Spearman correlation of mean skill with scale/T", "1"),
    "multiple": ("k: half of the networks learn at T = k times the scale", "1"),
    "band": ("extent of log T that is learned, mean over columns", "nats"),
}


class Map(NamedTuple):
    """One cell: skill `(columns, horizons, seeds)`, exponents `(columns, seeds)`, fixed scales."""

    skill: np.ndarray
    exponent: np.ndarray
    fixed: dict[str, np.ndarray]

    def drawn_again(self, generator: np.random.Generator, *, columns_too: bool) -> "Map":
        """Draw seeds with replacement, and columns if asked."""
        num_columns, _, num_seeds = self.skill.shape
        seeds = generator.integers(0, num_seeds, num_seeds)
        columns = np.arange(num_columns)
        if columns_too:
            columns = generator.integers(0, num_columns, num_columns)
        return Map(
            self.skill[columns][:, :, seeds],
            self.exponent[columns][:, seeds],
            {name: steps[columns] for name, steps in self.fixed.items()},
        )

    def scales(self) -> dict[str, np.ndarray]:
        """Return every scale by column, in steps; of the measured one with the mean exponent."""
        kept = depth(self.exponent.mean(axis=1))
        return {FRESH: self.fixed[FRESH], KEPT: kept} | self.fixed


def depth(rate: Any) -> Any:
    """Return ξ = 1/(2|λ₁|), the steps in which a squared gradient changes by a factor e."""
    return 1 / (2 * np.abs(rate))


def rank_correlation(skill: np.ndarray, scale: np.ndarray, horizons: np.ndarray) -> float:
    """Return Spearman's correlation of mean skill with scale/T over the points of a map.

    Where many points are learned perfectly, or not at all, their ranks say little, and the
    correlation stays below one however sharp the edge between them is.
    """
    x = rankdata(scale[:, None] / horizons)
    y = rankdata(skill.mean(axis=2))
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else np.nan


def fitted_multiple(learned: np.ndarray, scale: np.ndarray, horizons: np.ndarray) -> float:
    """Fit k such that networks learn with probability ½ at T = k · scale.

    Args:
        learned: `(columns, horizons, seeds)`.
        scale: of each column, in steps.
        horizons: T.

    Returns:
        k of the logistic curve in log T of largest likelihood, whose slope is at most that of a
        change from 12 to 88 % within a factor 1.5; NaN where all networks learned, or none.
    """
    share = learned.mean(axis=2)
    if share.min() == 1 or share.max() == 0:
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


def compared(dataset: xr.Dataset, config: Any) -> xr.Dataset:
    """Add depth scales, and how success goes with them, with 95 % intervals.

    There are also differences: of the correlations with both ξ, and of the last and first bands,
    NaN if there is one cell.
    """
    horizons = np.asarray(config.horizons, float)
    fixed = {FRESH: depth(dataset["fresh_rate"])}
    if "time_constant" in dataset:
        fixed[GATE] = dataset["time_constant"]
    maps = [
        Map(
            dataset["skill"].sel(cell=cell).to_numpy(),
            dataset["exponent"].sel(cell=cell).to_numpy(),
            {name: steps.sel(cell=cell).to_numpy() for name, steps in fixed.items()},
        )
        for cell in dataset["cell"].to_numpy()
    ]
    names = list(maps[0].scales())

    def statistics(maps):
        made = []
        for one in maps:
            learned = one.skill >= config.learned_above
            scales = one.scales().values()
            made.append(
                [
                    *(rank_correlation(one.skill, scale, horizons) for scale in scales),
                    *(fitted_multiple(learned, scale, horizons) for scale in scales),
                ]
            )
        return np.array(made)

    def bands(maps):
        return np.array([band(one.skill >= config.learned_above, horizons) for one in maps])

    generator = np.random.default_rng(0)

    def resampled(function, *, columns_too):
        drawn = [
            [one.drawn_again(generator, columns_too=columns_too) for one in maps]
            for _ in range(config.num_resamples)
        ]
        return function(maps), np.stack([function(each) for each in drawn])

    value, drawn = resampled(statistics, columns_too=True)
    width, drawn_width = resampled(bands, columns_too=False)
    wider = drawn_width[:, -1] - drawn_width[:, 0] if len(maps) > 1 else np.full(len(drawn), np.nan)
    number = len(names)
    by_scale = {"correlation": slice(number), "multiple": slice(number, 2 * number)}
    variables: dict[str, Any] = {
        "depth_scale": (("cell", "scale", "column"), [[*one.scales().values()] for one in maps]),
        "band": ("cell", width),
        "band_interval": (("cell", "end"), _interval(drawn_width)),
        # How much wider the band of the last cell is than that of the first.
        "band_difference": width[-1] - width[0] if len(maps) > 1 else np.nan,
        "band_difference_interval": ("end", _interval(wider)),
    }
    for name, where in by_scale.items():
        variables[name] = (("cell", "scale"), value[:, where])
        variables[f"{name}_interval"] = (("cell", "scale", "end"), _interval(drawn[:, :, where]))
    fresh, kept = names.index(FRESH), names.index(KEPT)
    variables["correlation_gain"] = ("cell", value[:, kept] - value[:, fresh])
    variables["correlation_gain_interval"] = (
        ("cell", "end"),
        _interval(drawn[:, :, kept] - drawn[:, :, fresh]),
    )
    dataset = dataset.assign(variables).assign_coords(scale=names)
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
        for scale in dataset["scale"].to_numpy():
            one = dataset.sel(cell=cell, scale=scale)
            written.append(
                f"{cell}, {MEANINGS[str(scale)]}: Spearman correlation of skill with scale/T "
                f"{_said(one['correlation'], one['correlation_interval'])}; half of the networks "
                f"learn at T = k scale, k = {_said(one['multiple'], one['multiple_interval'])}"
            )
        one = dataset.sel(cell=cell)
        written.append(
            f"{cell}: correlation with the kept weights' scale minus with the fresh ones' "
            f"{_said(one['correlation_gain'], one['correlation_gain_interval'])}; learned extent "
            f"of log T {_said(one['band'], one['band_interval'])} nats"
        )
    return written


def _said(value, interval):
    low, high = interval.to_numpy()
    return f"{float(value):.3g} [{low:.3g}, {high:.3g}]"

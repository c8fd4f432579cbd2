"""The thresholds of learning in each setting, and how far each thing that is varied moves them."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments.regimes import _boundaries as boundaries

GROWTH, UPDATES, BATCH, EPSILON = "growth", "updates", "batch size", "Adam's epsilon"
PRECISION, NOISE, SGD = "float64", "input noise", "SGD"
RATE, SGD_RATE, SGD_UPDATES = "learning rate", "SGD's learning rate", "SGD's updates"
LATE, SGD_LATE = "updates, last decade", "SGD's updates, last decade"
OTHER = "SGD in place of Adam"
SWITCHES = (PRECISION, OTHER)  # what is on or off; the effect of all else is one per decade
LAW = -0.5 * np.log(10)  # nats per decade of data
BOUNDS = ("lower", "upper")


class Setting(NamedTuple):
    """One way to train all networks: the thing that is not as usual, its value, and the rate."""

    factor: str
    value: float
    learning_rate: float


def thresholds(config: Any, dataset: xr.Dataset) -> xr.Dataset:
    """Add both thresholds of every setting on every budget that it was given."""
    counts = boundaries.resamples(config.num_networks, config.num_resamples)
    axes = ("setting", "budget", "bound")
    shape = tuple(dataset.sizes[axis] for axis in axes)
    value, ends = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    inside = np.zeros(shape, bool)
    for setting, budget, bound in np.ndindex(*shape):
        learned = dataset["outcome"].to_numpy()[setting, :, budget]
        if np.isnan(learned).all():
            continue
        growth = dataset["log_growth"].to_numpy()[setting]
        side = _side(growth, BOUNDS[bound])
        cuts = _cuts(growth[side], learned[side] == jrnn.Outcome.LEARNED, counts[:, side], bound)
        at = setting, budget, bound
        value[at], ends[at] = cuts[0], boundaries.interval(cuts[1:])
        inside[at] = growth[side].min() < cuts[0] < growth[side].max()
    return dataset.assign(
        threshold=(axes, value), threshold_interval=((*axes, "end"), ends), reached=(axes, inside)
    )


def _side(growth, bound):
    """Say which networks tell of a threshold."""
    return growth < 0 if bound == "lower" else growth > 0


def _cuts(growth, learned, counts, bound):
    """Return where half learn, for each row of counts, within the growths that were drawn.

    That is zero where none learned, and the far end where all did. Where learning does not go with
    growth as it should, it is the far end if most learned, and zero otherwise.
    """
    far = growth.min() if bound == 0 else growth.max()
    share = (counts @ learned) / counts.sum(axis=1)
    constant, slope = boundaries.coefficients(growth[:, None], learned, counts).T
    right = slope > 0 if bound == 0 else slope < 0
    cuts = np.where(right, -constant / np.where(right, slope, 1.0), np.where(share > 0.5, far, 0.0))
    cuts = np.where(share == 0, 0.0, np.where(share == 1, far, cuts))
    return np.clip(cuts, min(far, 0), max(far, 0))


class Effect(NamedTuple):
    """What may move a threshold, and with which learning rate it is looked at (NaN: several)."""

    factor: str
    learning_rate: float


def moved(config: Any, dataset: xr.Dataset) -> xr.Dataset:
    """Add how far each thing moves the thresholds: nats per decade of it, or for switching it.

    Settings and budgets count whose threshold lies among the growths that were drawn.
    """
    counts = boundaries.resamples(config.num_networks, config.num_resamples)
    levels = _levels(config, dataset)
    shape = (len(levels), len(BOUNDS))
    value, ends = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    used = np.zeros(shape, int)
    growth, outcome = dataset["log_growth"].to_numpy(), dataset["outcome"].to_numpy()
    reached = dataset["reached"].to_numpy()
    for row, places in enumerate(levels.values()):
        for bound, name in enumerate(BOUNDS):
            kept = [place for place in places if reached[place[0], place[1], bound]]
            used[row, bound] = len(kept)
            if len(kept) < 2:
                continue
            sides = [_side(growth[setting], name) for setting, _, _ in kept]
            pairs = list(zip(kept, sides, strict=True))
            features = np.concatenate(
                [
                    np.stack([growth[setting, side], np.full(side.sum(), level)], axis=1)
                    for (setting, _, level), side in pairs
                ]
            )
            learned = np.concatenate(
                [outcome[setting, side, budget] for (setting, budget, _), side in pairs]
            )
            rows = np.concatenate([counts[:, side] for side in sides], axis=1)
            fits = boundaries.coefficients(features, learned == jrnn.Outcome.LEARNED, rows)
            right = fits[:, 1] > 0 if bound == 0 else fits[:, 1] < 0
            shifts = np.where(right, -fits[:, 2] / np.where(right, fits[:, 1], 1), np.nan)
            value[row, bound] = shifts[0]
            # Where the same networks learn, a threshold may still move between two of them.
            apart = np.mean([np.ptp(growth[at[0], side]) / side.sum() for at, side in pairs])
            least = apart / np.ptp([level for *_, level in kept])
            low, high = boundaries.interval(shifts[1:])
            ends[row, bound] = min(low, shifts[0] - least), max(high, shifts[0] + least)
    axes = ("effect", "bound")
    return dataset.assign(
        moved=(axes, value), moved_interval=((*axes, "end"), ends), levels=(axes, used)
    ).assign_coords(
        effect_factor=("effect", [one.factor for one in levels]),
        effect_rate=("effect", [one.learning_rate for one in levels]),
    )


def _levels(config, dataset):
    """List for each effect the settings and budgets that it compares, and the level of each.

    A level is the logarithm to base 10 of what is varied, or 1 and 0 for what is on or off.
    """
    budgets = dataset["budget"].to_numpy().tolist()
    usual = budgets.index(config.usual_updates)
    every = list(map(Setting, *(dataset[name].to_numpy().tolist() for name in Setting._fields)))
    number = {one: index for index, one in enumerate(every)}
    usual_values = {
        BATCH: config.usual_batch, EPSILON: config.usual_epsilon, NOISE: config.usual_noise,
    }  # fmt: skip

    def of_budgets(one, least=0.0):
        found = enumerate(budgets)
        return [(number[one], i, np.log10(budget)) for i, budget in found if budget >= least]

    adam = [one for one in every if one.factor == UPDATES]
    sgd = [one for one in every if one.factor == SGD]
    levels = {}
    for base in adam:
        rate = base.learning_rate
        levels[Effect(UPDATES, rate)] = of_budgets(base)
        levels[Effect(LATE, rate)] = of_budgets(base, max(budgets) / 10)
        for factor in (BATCH, EPSILON, PRECISION, NOISE):
            others = [one for one in every if (one.factor, one.learning_rate) == (factor, rate)]
            switch = factor == PRECISION
            levels[Effect(factor, rate)] = [
                (number[base], usual, 0.0 if switch else np.log10(usual_values[factor])),
                *((number[o], usual, o.value if switch else np.log10(o.value)) for o in others),
            ]
    several = np.nan
    levels[Effect(RATE, several)] = [(number[o], usual, np.log10(o.learning_rate)) for o in adam]
    for one in sgd:
        levels[Effect(SGD_UPDATES, one.learning_rate)] = of_budgets(one)
        levels[Effect(SGD_LATE, one.learning_rate)] = of_budgets(one, max(budgets) / 10)
    levels[Effect(SGD_RATE, several)] = [(number[o], usual, np.log10(o.value)) for o in sgd]
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).sum("network").to_numpy()[:, usual]
    best = [max(kind, key=lambda one: learned[number[one]]) for kind in (adam, sgd)]
    levels[Effect(OTHER, several)] = [
        (number[one], usual, float(level)) for level, one in enumerate(best)
    ]
    return levels

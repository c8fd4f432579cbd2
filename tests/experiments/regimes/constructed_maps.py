"""Maps of trainability whose networks learn as long as a known multiple of a known scale."""

import dataclasses
import json

import numpy as np
import xarray as xr

from experiments.regimes import trainability_map as experiment
from experiments.regimes.trainability_map import RATES, TrainabilityMap, Unit


def constructed(config: TrainabilityMap, told: dict) -> xr.Dataset:
    """Build the dataset of the experiment.

    Args:
        config: of the experiment, whose cells are those that are told.
        told: by cell, functions of its columns: up to which horizon its networks learn, ξ of the
            kept weights, ξ of fresh ones.
    """
    parts = {}
    spread = np.linspace(0.9, 1.1, config.num_seeds)
    for cell, (reach, kept, fresh) in told.items():
        columns = config.columns(cell)
        for horizon in config.horizons:
            skill = 1 / (1 + (horizon / (spread * reach(columns)[:, None])) ** 4)
            parts[Unit(cell, str(horizon))] = xr.Dataset({"skill": (("column", "seed"), skill)})
        exponent = np.broadcast_to(-1 / (2 * kept(columns)[:, None]), (columns.size, spread.size))
        parts[Unit(cell, RATES)] = xr.Dataset(
            {
                "exponent": (("column", "seed"), exponent),
                "fresh_rate": ("column", -1 / (2 * fresh(columns))),
                "settled": ("column", np.ones(columns.size, bool)),
            }
        )
    dataset = experiment.combine(config, parts)
    return dataset.assign_attrs(configuration=json.dumps(dataclasses.asdict(config)))

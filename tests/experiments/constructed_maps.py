"""Maps of trainability whose networks learn as long as a known multiple of a known scale."""

import numpy as np
import xarray as xr

from experiments import depth_scales, results, trainability
from experiments.trainability import RATES, Unit


def constructed(config, cells, told, *, gated=False):
    """Build the dataset of an experiment.

    Args:
        config: of the experiment.
        cells: of the experiment, by name.
        told: by cell, functions of its columns: up to which horizon its networks learn, ξ of the
            kept weights, ξ of fresh ones.
        gated: whether columns are biases.
    """
    parts = {}
    spread = np.linspace(0.9, 1.1, config.num_seeds)
    for cell, (reach, kept, fresh) in told.items():
        columns = np.array(cells[cell].columns(config))
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
    dataset = trainability.joined(config, {cell: cells[cell] for cell in told}, parts, gated=gated)
    dataset = depth_scales.compared(dataset, config)
    return results.described(dataset, config, device="cpu", seconds=1.0)

"""A small experiment of units."""

import builtins
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.runner.experiment import Dtype


@dataclasses.dataclass(frozen=True)
class Toy:
    """What is computed.

    Attributes:
        log: file to which every unit that is computed adds its name.
        offset: added to all numbers.
        fail: unit that fails.
        error: how it fails.
        dtype: precision.
    """

    log: str = ""
    offset: float = 0.0
    fail: str = ""
    error: str = "RuntimeError"
    dtype: Dtype = "float64"


# Stands for what `chunks.origin` says.
MADE_WITH = {"device": "cpu"}
PRESETS = {"quick": Toy(), "default": Toy(offset=1.0), "full": Toy(offset=2.0)}


class Unit(NamedTuple):
    """A unit."""

    name: str


def units(config):
    """List the units."""
    del config
    return [Unit("a"), Unit("b")]


def work(config, unit, report):
    """Make three numbers."""
    report("working", 0.5)
    if unit.name == config.fail:
        msg = "no such luck"
        raise getattr(builtins, config.error)(msg)
    if config.log:
        with Path(config.log).open("a") as log:
            log.write(unit.name)
    return xr.Dataset({"value": ("x", np.arange(3) + config.offset)}).assign_coords(name=unit.name)


def combine(config, parts):
    """Join the units."""
    del config
    return xr.concat(list(parts.values()), "unit")


def show(dataset, console):
    """Print the sum."""
    console.print(f"sum {float(dataset['value'].sum())}")

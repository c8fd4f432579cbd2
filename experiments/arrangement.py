"""One dataset of those of all units, labelled, and with means over networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def arrange(
    parts: Mapping[Any, xr.Dataset], labels: Mapping[str, Callable[[str], Any]]
) -> xr.Dataset:
    """Join the datasets of units, with a dimension for each of the units' fields.

    Args:
        parts: by unit.
        labels: each field of the units, and what it is made into: `{"cell": str, "bias": float}`.

    Returns:
        One dataset. It is NaN where a unit has fewer values along a dimension than another.
    """
    dataset = xr.concat(list(parts.values()), "unit", data_vars="all", join="outer")
    coordinates = {
        name: ("unit", [kind(getattr(unit, name)) for unit in parts])
        for name, kind in labels.items()
    }
    dataset = dataset.assign_coords(coordinates).set_index(unit=list(labels)).unstack("unit")
    return dataset.transpose(*labels, ...)


def label(dataset: xr.Dataset, meanings: Mapping[str, tuple[str, str]]) -> None:
    """Say what every variable is, and its unit."""
    for name, (meaning, unit) in meanings.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}


def add_means(dataset: xr.Dataset, names: Sequence[str]) -> None:
    """Add the mean over networks of some variables, `NAME_mean`, and its error, `NAME_error`."""
    for name in names:
        values, (meaning, unit) = dataset[name], dataset[name].attrs.values()
        num_networks = values.notnull().sum("network")
        dataset[f"{name}_mean"] = values.mean("network")
        dataset[f"{name}_error"] = values.std("network", ddof=1) / np.sqrt(num_networks)
        label(
            dataset,
            {
                f"{name}_mean": (f"{meaning}: mean over networks", unit),
                f"{name}_error": (f"{meaning}: standard error of that mean", unit),
            },
        )

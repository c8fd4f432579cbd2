"""The datasets of all units, arranged by what tells the units apart."""

from collections.abc import Callable, Mapping
from typing import Any

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

"""Reference values with their provenance, for tests and figures alike."""

import functools
import json
from importlib import resources
from typing import NamedTuple

import numpy as np

from jacobian_rnn.checks import check_choice


class Reference(NamedTuple):
    """A table of values that the theory has to reproduce.

    Attributes:
        formula: what was evaluated or simulated.
        source: who published the formula or the data.
        checked: how the values were checked.
        columns: by name, arrays of one length.
    """

    formula: str
    source: str
    checked: str
    columns: dict[str, np.ndarray]


def reference_names() -> list[str]:
    """List the tables that `reference` knows."""
    return sorted(_tables())


def reference(name: str) -> Reference:
    """Return a table of reference values.

    Args:
        name: one of `reference_names()`.

    Returns:
        The table with its provenance. Rates in nats per step.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> table = reference("tanh_rate")
        >>> print(table.columns["gain"][5], table.columns["rate"][5])
        3.0 0.310249
    """
    tables = _tables()
    check_choice("name", name, sorted(tables))
    table = tables[name]
    columns = dict(zip(table["columns"], np.array(table["rows"], float).T, strict=True))
    return Reference(table["formula"], table["source"], table["checked"], columns)


@functools.cache
def _tables():
    return json.loads(
        resources.files("jacobian_rnn.mean_field").joinpath("reference_values.json").read_text()
    )

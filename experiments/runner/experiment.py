"""What the module of an experiment has, and the kinds of fields of its configuration.

An experiment is a module with

- a frozen dataclass, whose fields are options of the command line, and `PRESETS` of it by name:
  `quick` takes seconds and shows that all parts work, `default` takes minutes on two cores, `full`
  is the paper's size;
- `units(config)`, the parts of its work, and `work(config, unit, report)`, which does one of them.
  In place of `work`, an experiment with many networks of one shape has `networks(config, unit)`;
- `combine(config, parts)`, which makes one dataset of those of all units;
- `show(dataset, console)`, which prints what was found, the finding last.

It is registered by one line in `catalogue.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar, cast

import jax
import numpy as np
import xarray as xr
from annotated_types import Ge, Gt, MinLen
from pydantic import AfterValidator, FiniteFloat
from rich.console import Console

Report = Callable[[str, float], None]  # (what is being done, fraction of the unit done)
Rows = dict[str, np.ndarray]
T = TypeVar("T")


def _distinct(values):
    if len(set(values)) < len(values):
        msg = "expected each value once"
        raise ValueError(msg)
    return values


def _ascending(values):
    if list(values) != sorted(set(values)):
        msg = "expected ascending values"
        raise ValueError(msg)
    return values


Dtype = Literal["float32", "float64"]
Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
Positive = Annotated[FiniteFloat, Gt(0)]
# At least one value, each once.
Axis = Annotated[tuple[T, ...], MinLen(1), AfterValidator(_distinct)]
# A lowest and a highest value.
Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]


class Networks(NamedTuple):
    """Many networks of one shape, which one compiled program computes chunk by chunk.

    Attributes:
        rows: what tells the networks apart, each entry of shape `(networks,)`.
        program: from the entries of one row, as scalars, to a pytree of arrays; pure and traceable.
        record: on the host, from those arrays with a leading axis of networks to what is kept, a
            dataset whose variables begin with the dimension "network".
        pilot: a shorter program with about the same memory and relative speed, to choose the size
            of chunks by.
        cost: of one network, beside one of another unit.
    """

    rows: Rows
    program: Callable[[dict[str, jax.Array]], Any]
    record: Callable[[Any], xr.Dataset]
    pilot: Callable[[dict[str, jax.Array]], Any]
    cost: float = 1.0


class Experiment(Protocol):
    """What every module of an experiment has, beside its `work` or its `networks`."""

    __name__: str
    PRESETS: Mapping[str, Any]

    @staticmethod
    def units(config: Any) -> Sequence[Any]:
        """List the parts of the work as tuples of strings, those that take longest first."""
        ...

    @staticmethod
    def combine(config: Any, parts: Mapping[Any, xr.Dataset]) -> xr.Dataset:
        """Make one dataset of those of all units.

        An experiment that has `networks` has to do so with what is there, where chunks failed.
        """
        ...

    @staticmethod
    def show(dataset: xr.Dataset, console: Console) -> None:
        """Print what was found."""
        ...


def networks_of(experiment: Experiment, config: Any, unit: Any) -> Networks | None:
    """Return the networks of a unit, None where the experiment does its units by `work`."""
    make = getattr(experiment, "networks", None)
    return None if make is None else cast("Networks", make(config, unit))

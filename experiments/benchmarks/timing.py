"""Measuring: compile time apart from run time, and functions compared within the same round.

A machine that others use is now fast and now slow. Functions that are to be compared therefore run
in turn, round after round, and ratios are taken within a round, where they met the same machine.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

NAN = float("nan")


class Timing(NamedTuple):
    """How long one function takes.

    Attributes:
        compile_seconds: the first call less the median of the later ones: what only it paid for.
        seconds: median over the rounds.
        ratio: to the reference within each round, median; 1 for the reference itself.
        ratio_low: 25 % quantile of the ratios.
        ratio_high: 75 % quantile of the ratios.
    """

    compile_seconds: float
    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float


class Timings(NamedTuple):
    """What `compare` found.

    Attributes:
        of: a `Timing` for each function, by name.
        outputs: what each function returned, by name.
        num_rounds: rounds behind every median.
    """

    of: dict[str, Timing]
    outputs: dict[str, Any]
    num_rounds: int


class Row(NamedTuple):
    """One line of a benchmark table; what was not measured is NaN.

    Attributes:
        group: table that the row belongs to.
        case: the workload, where the sizes alone do not say it.
        name: what was timed.
        n: states.
        k: directions.
        num_steps: T.
        batch: sequences at once.
        compile_seconds: see `Timing`.
        seconds: see `Timing`.
        ratio: see `Timing`.
        ratio_low: see `Timing`.
        ratio_high: see `Timing`.
        error: largest absolute error, nats for singular values and nats per step for exponents.
        own_error: the error that the function itself estimates.
        log_range: nats between the largest and the smallest singular value of the product.
        megabytes: memory that the compiled program plans for, beside arguments and results.
        num_rounds: rounds behind the medians.
        note: why nothing was measured, or empty.
    """

    group: str
    case: str
    name: str
    n: int
    k: int
    num_steps: int
    batch: int = 1
    compile_seconds: float = NAN
    seconds: float = NAN
    ratio: float = NAN
    ratio_low: float = NAN
    ratio_high: float = NAN
    error: float = NAN
    own_error: float = NAN
    log_range: float = NAN
    megabytes: float = NAN
    num_rounds: int = 0
    note: str = ""


def compare(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    reference: str | None = None,
    max_seconds: float = float("inf"),
) -> Timings:
    """Time functions against each other, interleaved.

    Args:
        functions: each called without arguments; what they return is waited for.
        repeats: rounds, in each of which every function runs once.
        reference: name of the function that ratios are to; the first by default.
        max_seconds: no new round begins later than this, but there is at least one.

    Returns:
        The timings, and what the functions returned.

    Raises:
        ValueError: no functions, no rounds, or a reference that is none of them.
    """
    if reference is None:
        reference = next(iter(functions), "")
    if reference not in functions or repeats < 1:
        msg = f"compare: received {repeats} repeats of {list(functions)} against {reference!r}"
        raise ValueError(msg)
    timed = {name: _timed(function) for name, function in functions.items()}
    first = {name: seconds for name, (seconds, _) in timed.items()}
    outputs = {name: output for name, (_, output) in timed.items()}
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(rounds) < repeats:
        if rounds and time.perf_counter() - started > max_seconds:
            break
        rounds.append({name: _timed(function)[0] for name, function in functions.items()})
    of = {}
    for name in functions:
        median = float(np.median([one[name] for one in rounds]))
        quartiles = np.quantile([one[name] / one[reference] for one in rounds], [0.25, 0.5, 0.75])
        low, ratio, high = quartiles.tolist()
        of[name] = Timing(max(first[name] - median, 0.0), median, ratio, low, high)
    return Timings(of, outputs, len(rounds))


def timed_row(row: Row, timings: Timings, **values: float) -> Row:
    """Fill in what was measured of the function that the row names."""
    return row._replace(**timings.of[row.name]._asdict(), num_rounds=timings.num_rounds, **values)


def as_dataset(rows: Iterable[Row]) -> xr.Dataset:
    """Turn rows into a dataset with one variable per field."""
    rows = list(rows)
    columns = zip(*rows, strict=True)
    variables = {
        field: ("row", np.array(column, object if isinstance(column[0], str) else None))
        for field, column in zip(Row._fields, columns, strict=True)
    }
    return xr.Dataset(variables)


def _timed(function):
    started = time.perf_counter()
    output = jax.block_until_ready(function())
    return time.perf_counter() - started, output

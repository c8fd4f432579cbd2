"""A small experiment of networks in chunks, whose last bits depend on the order of every sum."""

import dataclasses
import os
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.runner.experiment import Dtype, Networks


@dataclasses.dataclass(frozen=True)
class Toy:
    """What is computed.

    Attributes:
        log: file to which every chunk that is computed adds a line; none if empty.
        pause: seconds that a chunk takes at least.
        broken: unit that cannot be computed.
        nums: networks of each unit.
        chunk_size: networks at a time.
        dtype: precision.
    """

    log: str = ""
    pause: float = 0.0
    broken: str = ""
    nums: tuple[int, ...] = (7, 5)
    chunk_size: int | None = 3
    dtype: Dtype = "float64"


PRESETS = {"quick": Toy(), "default": Toy(nums=(8, 8)), "full": Toy(nums=(9, 9))}


class Unit(NamedTuple):
    """Networks of one shape."""

    name: str


def units(config):
    """List the units."""
    return [Unit(f"g{index}") for index in range(len(config.nums))]


def networks(config, unit):
    """Return the networks of a unit."""
    index = int(unit.name[1:])
    num = config.nums[index]
    rows = {
        "gain": np.linspace(1.5, 3.0, num, dtype=np.float32),
        "seed": np.arange(num, dtype=np.int32) + 10 * index,
    }

    def record(numbers):
        time.sleep(config.pause)
        if config.log:
            with Path(config.log).open("a") as log:
                log.write(f"{numbers['seed'][0]} {os.getpid()}\n")
        return xr.Dataset(
            {
                "state": (("network", "unit"), numbers["state"]),
                "size": ("network", numbers["size"]),
                "seed": ("network", numbers["seed"]),
            }
        )

    if unit.name == config.broken:
        msg = "no such luck"
        raise_it = ArithmeticError(msg)

        def broken(_):
            raise raise_it

        return Networks(rows, broken, record, broken)
    return Networks(rows, program, record, program)


def program(row):
    """Iterate a small random network."""
    key = jax.random.fold_in(jax.random.key(0), row["seed"])
    weights = row["gain"] * jax.random.normal(key, (16, 16), row["gain"].dtype) / 4

    def step(state, _):
        state = jnp.tanh(weights @ state)
        return state, jnp.sum(state**2)

    state, sizes = jax.lax.scan(step, jnp.full(16, 0.1, weights.dtype), length=200)
    return {"state": state, "size": jnp.mean(sizes), "seed": row["seed"]}


def combine(config, parts):
    """Lay the units that are there one behind the other."""
    del config
    return xr.concat(list(parts.values()), "network")


def show(dataset, console):
    """Print how many networks there are."""
    console.print(f"{dataset.sizes['network']} networks")

"""Multiply Gaussian matrices until their plain product overflows, and go on with the library.

Chains of d × d matrices with independent N(0, 1) entries, multiplied as they are, in float32 and in
float64. Their norm grows by λ₁ = ½ (log 2 + ψ(d/2)) nats per factor (Newman 1986), so products
stay finite for about T* = log(largest float) / λ₁ factors. `product_of` keeps growth in logs; it is
checked at a length beyond both limits, against a plain product that is rescaled after each factor.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import label
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn.mean_field import newman_exponents

PRECISIONS = ("float32", "float64")


@dataclasses.dataclass(frozen=True)
class Overflow:
    """What is measured.

    Attributes:
        sizes: d, ascending.
        num_chains: chains of each size, the same in both precisions.
        checked_sizes: sizes at which the library's product is checked.
        beyond: length of the chain for that, in units of float64's T*.
        seed: of all draws.
        dtype: in which matrices are drawn. They are multiplied in float32 and in float64.
    """

    sizes: Axis[Count] = (8, 16, 32, 64, 128)
    num_chains: Count = 20
    checked_sizes: Axis[Count] = (8, 16, 32, 64, 128)
    beyond: Positive = 2.0
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Check that what is to be checked is measured."""
        if absent := set(self.checked_sizes) - set(self.sizes):
            msg = f"--checked-sizes: received {sorted(absent)}, expected some of {self.sizes}"
            raise ValueError(msg)


PRESETS = {
    "quick": Overflow(sizes=(8, 16), num_chains=5, checked_sizes=(16,)),
    "default": Overflow(),
    "full": Overflow(
        sizes=(8, 16, 32, 64, 128, 256, 512, 1024),
        num_chains=30,
        checked_sizes=(8, 16, 32, 64, 128, 256),
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: all chains of one size."""

    size: str


def units(config: Overflow) -> list[Unit]:
    """List the sizes, the largest first."""
    return [Unit(str(size)) for size in sorted(config.sizes, reverse=True)]


def work(config: Overflow, unit: Unit, report: Report) -> xr.Dataset:
    """Find the longest finite products of one size, and check the library beyond them."""
    size = int(unit.size)
    key = jax.random.fold_in(jax.random.key(config.seed), size)
    report("multiplying", 0.0)
    # In both precisions, whatever that of the draws is.
    with jax.enable_x64(True):
        part = chains(config, size, key)
        if size in config.checked_sizes:
            report("checking", 0.5)
            part = part.assign(library_check(config, size, key))
    return part


def combine(config: Overflow, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all sizes; NaN where the library is not checked."""
    by_size = [parts[Unit(str(size))] for size in config.sizes]
    return labelled(xr.concat(by_size, "size", data_vars="all"))


@cache
def rate(size: int) -> float:
    """Return λ₁ of products of size × size matrices with N(0, 1) entries, nats per factor."""
    with jax.enable_x64(True):
        return float(jax.jit(lambda: newman_exponents(size, size**0.5).exponents[0])())


def longest_expected(size: int, precision: str) -> float:
    """Return T*, the number of factors after which the typical norm is the largest float."""
    return float(np.log(np.finfo(precision).max)) / rate(size)


def factor_of(key: jax.Array, index, size: int, dtype) -> jax.Array:
    """Draw one matrix of a chain."""
    return jax.random.normal(jax.random.fold_in(key, index), (size, size), dtype)


@partial(jax.jit, static_argnames=("size", "dtype", "precision"))
def longest_chains(keys: jax.Array, size: int, dtype: str, precision: str) -> jax.Array:
    """Count the factors of each chain before an entry of the plain product overflows."""

    def finite(carried):
        return jnp.all(jnp.isfinite(carried[1]))

    def longer(carried):
        count, product, key = carried
        factor = factor_of(key, count, size, dtype).astype(precision)
        return count + 1, jnp.matmul(factor, product, precision=lax.Precision.HIGHEST), key

    def one(key):
        nothing = (jnp.int32(0), jnp.eye(size, dtype=precision), key)
        return lax.while_loop(finite, longer, nothing)[0] - 1

    return lax.map(one, keys)


def chains(config: Overflow, size: int, key: jax.Array) -> xr.Dataset:
    """Find the longest finite products of one size, the same chains in both precisions."""
    keys = jax.random.split(key, config.num_chains)
    longest = np.stack(
        [
            np.asarray(longest_chains(keys, size, config.dtype, precision))
            for precision in PRECISIONS
        ]
    )
    return xr.Dataset(
        {
            "longest": (("precision", "chain"), longest),
            "average": ("precision", longest.mean(axis=1)),
            "standard_error": (
                "precision",
                longest.std(axis=1, ddof=1) / np.sqrt(config.num_chains),
            ),
            "expected": (
                "precision",
                [longest_expected(size, precision) for precision in PRECISIONS],
            ),
            "rate": rate(size),
        },
        coords={
            "precision": list(PRECISIONS),
            "chain": np.arange(config.num_chains),
            "size": size,
        },
    )


def library_check(config: Overflow, size: int, key: jax.Array) -> dict:
    """Compare log σ₁ of one chain beyond both limits with a product rescaled at every step."""
    length = int(np.ceil(config.beyond * longest_expected(size, "float64")))
    # The first chain of those above, continued.
    chain_key = jax.random.split(key, config.num_chains)[0]
    draw = jax.vmap(partial(factor_of, size=size, dtype=config.dtype), in_axes=(None, 0))
    factors = jax.jit(draw)(chain_key, jnp.arange(length))
    log_norms = [
        float(jrnn.product_of(factors.astype(precision), estimate_error=False).log_norm())
        for precision in PRECISIONS
    ]
    reference = rescaled_log_norm(np.asarray(factors, np.float64))
    return {
        "library_length": ((), length),
        "library_log_norm": ("precision", log_norms),
        "rescaled_log_norm": ((), reference),
        "library_error": ("precision", np.abs(np.array(log_norms) - reference)),
    }


def rescaled_log_norm(factors: np.ndarray) -> float:
    """Return log σ₁ of a product, nats, whose largest entry is set to one after each factor."""
    product, log_scale = np.eye(factors.shape[1]), 0.0
    for factor in factors:
        product = factor @ product
        largest = np.abs(product).max()
        product /= largest
        log_scale += np.log(largest)
    return float(log_scale + np.log(np.linalg.norm(product, 2)))


def labelled(dataset: xr.Dataset) -> xr.Dataset:
    """Say what every variable is, and its unit."""
    label(
        dataset,
        {
            "longest": ("factors of the longest plain product that is finite", "1"),
            "average": ("its mean over chains", "1"),
            "standard_error": ("of that mean over chains", "1"),
            "expected": ("T* = log(largest float) / λ₁", "1"),
            "rate": ("λ₁, exact", "nats per factor"),
            "library_length": ("factors of the chain that the library multiplies", "1"),
            "library_log_norm": ("log σ₁ of it, by product_of", "nats"),
            "rescaled_log_norm": (
                "the same, by a plain product rescaled after each factor",
                "nats",
            ),
            "library_error": ("their difference", "nats"),
        },
    )
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the longest chains beside the formula, and the check of the library."""
    table = Table(
        pad_edge=False,
        title="longest finite plain product: mean ± standard error over chains",
    )
    for column in ("d", "precision", "measured", "T*", "ratio"):
        table.add_column(column, no_wrap=True)
    for size in dataset["size"].to_numpy():
        for precision in PRECISIONS:
            one = dataset.sel(size=size, precision=precision)
            average, expected = float(one["average"]), float(one["expected"])
            table.add_row(
                str(size),
                precision,
                f"{average:.1f} ± {float(one['standard_error']):.1f}",
                f"{expected:.1f}",
                f"{average / expected:.4f}",
            )
    console.print(table)
    for size in dataset["size"].where(dataset["library_length"].notnull(), drop=True).to_numpy():
        one = dataset.sel(size=size)
        errors = " and ".join(
            f"{float(one['library_error'].sel(precision=precision)):.0e} ({precision})"
            for precision in PRECISIONS
        )
        console.print(
            f"d = {size:.0f}, product_of over {int(one['library_length'])} factors: log σ₁ = "
            f"{float(one['rescaled_log_norm']):.1f} nats, off by {errors}",
            highlight=False,
            soft_wrap=True,
        )

"""Measure the Lyapunov spectra of products of Gaussian matrices, which are known exactly.

Real matrices (Newman 1986) and complex ones (Forrester 2013; Akemann, Burda and Kieburg 2014), held
as pairs of reals. QR gives exponents without bias at every length, with variances that are known
too. Log singular values of the product, divided by its length T, are biased by about c_i/T, with

    c_i = ½ [ψ((N − i + 1)/2) − ψ(i/2)]        (real matrices)

once T is so long that singular values are far apart: the i leading right singular vectors are then
uniformly distributed and independent of growth, and |det| of an i × i block of a uniform orthogonal
matrix is what the volume of the i first vectors of a frame loses.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from rich.console import Console
from rich.table import Table
from scipy.special import psi

import jacobian_rnn as jrnn
from experiments.arrangement import label
from experiments.runner.experiment import Axis, Count, Dtype, Report, Seed
from jacobian_rnn.mean_field import ginibre_exponents, newman_exponents

EXACT = {"real": newman_exponents, "complex": ginibre_exponents}
Ensemble = Literal["real", "complex"]


@dataclasses.dataclass(frozen=True)
class GaussianProducts:
    """What is measured.

    Attributes:
        ensembles: "real", "complex".
        widths: N, ascending; independent entries of variance 1/N.
        num_chains: products for each ensemble and width.
        num_factors: matrices in each; finite-time exponents are those of its blocks, which are
            `num_factors // 32` long, at most 128.
        bias_width: N of the real products whose singular values are taken.
        bias_lengths: their numbers of factors T, ascending.
        num_bias_chains: products of each length.
        seed: of all draws.
        dtype: precision.
    """

    ensembles: Axis[Ensemble] = ("real", "complex")
    widths: Axis[Count] = (4, 16, 64)
    num_chains: Count = 16
    num_factors: Count = 1024
    bias_width: Count = 4
    bias_lengths: Axis[Count] = (1, 2, 5, 10, 20, 50, 100)
    num_bias_chains: Count = 4000
    seed: Seed = 0
    dtype: Dtype = "float64"


PRESETS = {
    "quick": GaussianProducts(
        widths=(4,),
        num_chains=2,
        num_factors=512,
        bias_lengths=(1, 5, 20, 60),
        num_bias_chains=100,
    ),
    "default": GaussianProducts(),
    "full": GaussianProducts(
        widths=(4, 16, 64, 128),
        num_chains=64,
        bias_lengths=(1, 2, 5, 10, 20, 50, 100, 200),
        num_bias_chains=10_000,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: exponents of one ensemble and width, or singular values."""

    what: str
    width: str


SINGULAR_VALUES = "singular_values"


def units(config: GaussianProducts) -> list[Unit]:
    """List the parts of the work, those that take longest first."""
    pairs = [
        (ensemble, width) for width in reversed(config.widths) for ensemble in config.ensembles
    ]
    exponents = [Unit(ensemble, str(width)) for ensemble, width in pairs]
    return [*exponents, Unit(SINGULAR_VALUES, str(config.bias_width))]


def work(config: GaussianProducts, unit: Unit, report: Report) -> xr.Dataset:
    """Measure the exponents of one ensemble at one width, or the bias of singular values."""
    report("multiplying", 0.0)
    width = int(unit.width)
    key = jax.random.fold_in(jax.random.key(config.seed), width)
    if unit.what == SINGULAR_VALUES:
        return singular_value_bias(config, jax.random.fold_in(key, 2))
    number = int(unit.what == "complex")
    return spectra(config, unit.what, width, jax.random.fold_in(key, number))


def combine(config: GaussianProducts, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join exponents and singular values."""
    bias = parts[Unit(SINGULAR_VALUES, str(config.bias_width))]
    exponents = [part for unit, part in parts.items() if unit.what != SINGULAR_VALUES]
    return labelled(xr.merge([joined(exponents, config), bias]))


def factors_of(ensemble: str, num_factors: int, width: int, key: jax.Array, dtype):
    """Draw matrices `(T, n, n)`; a complex a + ib becomes the block [[a, −b], [b, a]]."""
    if ensemble == "real":
        return jax.random.normal(key, (num_factors, width, width), dtype) * width**-0.5
    shape = (2, num_factors, width, width)
    real, imaginary = jax.random.normal(key, shape, dtype) * (2 * width) ** -0.5
    blocks = jnp.stack([jnp.stack([real, -imaginary], -1), jnp.stack([imaginary, real], -1)], -2)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(num_factors, 2 * width, 2 * width)


@partial(jax.jit, static_argnames=("ensemble", "num_chains", "num_factors", "width", "dtype"))
def _growth(ensemble, num_chains, num_factors, width, key, dtype):
    """Return growth by chain, batch and direction, steps of batches, errors and residuals."""
    # In this frame each vector is followed by i times itself.
    frame = jnp.eye(width * (2 if ensemble == "complex" else 1), dtype=dtype)

    def one_chain(key):
        factors = factors_of(ensemble, num_factors, width, key, dtype)
        spectrum = jrnn.lyapunov_spectrum_of(factors, qr_every=1, frame=frame)
        # In the order of the frame: sorted by what was measured, exponents would be biased.
        batches = spectrum.run.batches
        return batches.sums, batches.steps, spectrum.standard_errors, spectrum.sum_rule_residual

    return lax.map(one_chain, jax.random.split(key, num_chains))


def spectra(config: GaussianProducts, ensemble: str, width: int, key: jax.Array) -> xr.Dataset:
    """Measure exponents and variances of one ensemble at one width, beside the exact ones."""
    sums, steps, errors, residuals = jax.device_get(
        _growth(
            ensemble, config.num_chains, config.num_factors, width, key, jnp.dtype(config.dtype)
        )
    )
    block = int(steps.max())
    growth = sums[steps == block] / block
    if not np.isfinite(growth).all():
        msg = f"{ensemble} products, N = {width}: growth that is not finite"
        raise ValueError(msg)
    num_exponents = growth.shape[1] // width  # for each exact one: two, if complex
    growth = growth.reshape(-1, width, num_exponents)
    mismatch = float(np.ptp(growth, axis=2).max())
    growth = growth.mean(axis=2)
    total = int(growth.shape[0] * block)
    exact = jax.device_get(jax.jit(EXACT[ensemble], static_argnums=0)(width))
    exact_error = np.sqrt(exact.variances / total)
    # Errors descend with exponents, whose order hardly matters to them.
    own = config.num_factors * np.mean(errors.reshape(-1, width, num_exponents) ** 2, axis=(0, 2))
    one = xr.Dataset(
        {
            "exponents": ("index", growth.mean(axis=0)),
            "exact": ("index", exact.exponents),
            "exact_error": ("index", exact_error),
            "score": ("index", (growth.mean(axis=0) - exact.exponents) / exact_error),
            "variance": ("index", block * growth.var(axis=0, ddof=1)),
            "exact_variance": ("index", exact.variances),
            "own_variance": ("index", own),
            "degrees_of_freedom": growth.shape[0] - 1,
            "num_factors": total,
            "block": block,
            "pair_mismatch": mismatch,
            "sum_rule_residual": float(residuals.max()),
        },
        coords={"index": np.arange(1, width + 1)},
    )
    return one.expand_dims(ensemble=[ensemble], width=[width])


def joined(parts: list[xr.Dataset], config: GaussianProducts) -> xr.Dataset:
    """Join all ensembles and widths; NaN where a width has fewer exponents than another."""
    index = np.arange(1, max(part.sizes["index"] for part in parts) + 1)
    parts = [part.reindex(index=index).stack(case=("ensemble", "width")) for part in parts]
    dataset = xr.concat(parts, "case", data_vars="all").unstack("case")
    return dataset.sel(ensemble=list(config.ensembles), width=list(config.widths))


def asymptotic_bias(width: int) -> np.ndarray:
    """Return c_i, the limit of E log σ_i(P_T) − T λ_i for long real products, nats, `(N,)`."""
    index = np.arange(1, width + 1)
    return (psi((width - index + 1) / 2) - psi(index / 2)) / 2


@partial(jax.jit, static_argnames=("num_factors", "width", "num_chains", "dtype"))
def _excess(lengths, num_factors, width, num_chains, key, dtype):
    """Return log σ_i(P_T) minus the growth that QR finds in the same factors, nats."""
    identity = jnp.eye(width, dtype=dtype)

    def one(length_and_key):
        length, key = length_and_key
        factors = factors_of("real", num_factors, width, key, dtype)
        # Identities behind the product: all lengths share one compiled program.
        within = (jnp.arange(num_factors) < length)[:, None, None]
        factors = jnp.where(within, factors, identity)
        product = jrnn.product_of(factors, estimate_error=False)
        spectrum = jrnn.lyapunov_spectrum_of(factors, qr_every=1)
        return product.log_singular_values() - jnp.sum(spectrum.run.batches.sums, axis=0)

    # Mapped: vmapped it would run both sides of every branch, and take twice as long to compile.
    keys = jax.random.split(key, lengths.size * num_chains)
    excess = lax.map(one, (jnp.repeat(lengths, num_chains), keys))
    return excess.reshape(lengths.size, num_chains, width)


def singular_value_bias(config: GaussianProducts, key: jax.Array) -> xr.Dataset:
    """Measure T times the bias of log σ_i(P_T)/T, with QR's estimates as control variates."""
    lengths = np.array(config.bias_lengths)
    excess = np.asarray(
        _excess(
            jnp.asarray(lengths),
            int(lengths.max()),
            config.bias_width,
            config.num_bias_chains,
            key,
            jnp.dtype(config.dtype),
        )
    )
    return xr.Dataset(
        {
            "bias": (("length", "bias_index"), excess.mean(axis=1)),
            "bias_error": (
                ("length", "bias_index"),
                excess.std(axis=1, ddof=1) / np.sqrt(excess.shape[1]),
            ),
            "bias_limit": ("bias_index", asymptotic_bias(config.bias_width)),
        },
        coords={"length": lengths, "bias_index": np.arange(1, config.bias_width + 1)},
    )


def labelled(dataset: xr.Dataset) -> xr.Dataset:
    """Say what every variable is, and its unit."""
    label(
        dataset,
        {
            "exponents": ("mean growth over all blocks of all chains, by QR", "nats per step"),
            "exact": ("exact Lyapunov exponents", "nats per step"),
            "exact_error": ("exact standard error of the measured exponents", "nats per step"),
            "score": ("measured minus exact exponent, in exact standard errors", "1"),
            "variance": (
                "T times the variance of finite-time exponents, over blocks",
                "nats² per step",
            ),
            "exact_variance": ("the same, exact", "nats² per step"),
            "own_variance": (
                "T times the squared standard error that the library reports, chain by chain",
                "nats² per step",
            ),
            "degrees_of_freedom": ("of the variance: blocks − 1", "1"),
            "num_factors": ("factors in all chains", "1"),
            "block": ("factors in a block", "1"),
            "pair_mismatch": (
                "largest difference of the two real exponents of a complex one",
                "nats per step",
            ),
            "sum_rule_residual": ("mean |growth of volume − log|det A||", "nats per step"),
            "bias": ("T times the bias of log σ_i(P_T)/T as an exponent, N = bias_width", "nats"),
            "bias_error": ("its standard error over products", "nats"),
            "bias_limit": ("its limit for long products, c_i", "nats"),
        },
    )
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print how far measurement lies from exact results, and the bias of singular values."""
    table = Table(
        pad_edge=False,
        title="Lyapunov exponents of Gaussian products, against exact results",
        caption="|z|: in exact standard errors; T Var: mean over the exponents of measured/exact",
    )
    for column in ("matrices", "N", "factors", "largest |z|", "T Var"):
        table.add_column(column, no_wrap=True)
    for ensemble in dataset["ensemble"].to_numpy():
        for width in dataset["width"].to_numpy():
            one = dataset.sel(ensemble=ensemble, width=width)
            ratio = one["variance"] / one["exact_variance"]
            error = np.sqrt(2 / float(one["degrees_of_freedom"]) / width)
            table.add_row(
                str(ensemble),
                str(width),
                f"{int(one['num_factors']):,}",
                f"{float(abs(one['score']).max()):.2f}",
                f"{float(ratio.mean()):.3f} ± {error:.3f}",
            )
    console.print(table)
    table = Table(
        pad_edge=False,
        title=f"T × bias of log σ_i(P_T)/T (nats), real, N = {dataset.sizes['bias_index']}",
    )
    for column in ("T", *(f"i = {index}" for index in dataset["bias_index"].to_numpy())):
        table.add_column(column, no_wrap=True)
    for length in dataset["length"].to_numpy():
        one = dataset.sel(length=length)
        pairs = zip(one["bias"].to_numpy(), one["bias_error"].to_numpy(), strict=True)
        table.add_row(str(length), *(f"{value:+.3f} ± {error:.3f}" for value, error in pairs))
    table.add_row("limit", *(f"{value:+.3f}" for value in dataset["bias_limit"].to_numpy()))
    console.print(table)

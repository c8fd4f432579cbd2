"""Lay random-matrix theory over the singular values of deep networks' input-output Jacobians.

P = D_L W_L ··· D_1 W_1 for L layers of weights of their own, Gaussian or orthogonal, linear or
tanh (J. Pennington, S. Schoenholz and S. Ganguli, "Resurrecting the sigmoid in deep learning
through dynamical isometry: theory and practice", NIPS 2017). Theory is that of infinite width; for
linear Gaussian layers the moments at the width itself are known too.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import add_means, label
from experiments.runner.experiment import Axis, Count, Dtype, Report, Seed
from jacobian_rnn.mean_field.exact_products import fuss_catalan_moment
from jacobian_rnn.mean_field.finite_depth import squared_singular_values
from jacobian_rnn.mean_field.vanilla import order_parameters

ORDERS = (1, 2, 3)
# Partitions (3), (2, 1), (1, 1, 1) and so on: coefficients of tr Aᵏ in zonal polynomials.
ZONAL = {
    1: {(1,): 1.0},
    2: {(2,): 1.0, (1, 1): -1 / 2},
    3: {(3,): 1.0, (2, 1): -1 / 4, (1, 1, 1): 1 / 4},
}


EnsembleName = Literal[
    "linear_gaussian",
    "linear_orthogonal",
    "tanh_gaussian",
    "tanh_orthogonal",
    "tanh_orthogonal_small",
]


class Ensemble(NamedTuple):
    """Networks of one kind.

    Attributes:
        activation: "linear" or "tanh".
        kernel: "gaussian", of entries of variance weight_std²/N, or "orthogonal" times weight_std.
        weight_std: σ_w.
        bias_variance: σ_b².
    """

    activation: str
    kernel: str
    weight_std: float
    bias_variance: float = 0.0


ENSEMBLES = {
    "linear_gaussian": Ensemble("linear", "gaussian", 1.0),
    "linear_orthogonal": Ensemble("linear", "orthogonal", 1.0),
    # On the critical line, where the mean squared singular value is one at every depth.
    "tanh_gaussian": Ensemble("tanh", "gaussian", 1.32701, 0.05),
    "tanh_orthogonal": Ensemble("tanh", "orthogonal", 1.32701, 0.05),
    # Near the end of that line, where the units are nearly linear.
    "tanh_orthogonal_small": Ensemble("tanh", "orthogonal", 1.05, 2e-5),
}


@dataclasses.dataclass(frozen=True)
class Depths:
    """What is measured.

    Attributes:
        ensembles: activation and kernel; the "small" one is nearly linear.
        width: N.
        num_networks: drawn afresh in each ensemble.
        depths: L, ascending; all of a network are the last L layers of its deepest chain.
        slope_depth: depths up to this one tell the growth of the variance per layer.
        moment_depth: depths up to this one are compared with the moments of theory.
        seed: of all draws.
        dtype: precision.
    """

    ensembles: Axis[EnsembleName] = (
        "linear_gaussian",
        "linear_orthogonal",
        "tanh_gaussian",
        "tanh_orthogonal",
        "tanh_orthogonal_small",
    )
    width: Count = 200
    num_networks: Annotated[int, Ge(2)] = 12
    depths: Axis[Count] = (1, 2, 3, 5, 10, 20, 50)
    slope_depth: Count = 5
    moment_depth: Count = 5
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Check that depths ascend."""
        if list(self.depths) != sorted(self.depths):
            msg = f"--depths: received {self.depths}, expected ascending ones"
            raise ValueError(msg)


PRESETS = {
    "quick": Depths(
        ensembles=("linear_gaussian", "tanh_orthogonal"),
        width=24,
        num_networks=3,
        depths=(1, 2, 5),
    ),
    "default": Depths(),
    "full": Depths(width=500, num_networks=24, slope_depth=10),
}


class Unit(NamedTuple):
    """What a worker does at a time: all networks of one ensemble."""

    ensemble: str


def units(config: Depths) -> list[Unit]:
    """List the ensembles, which take about the same time."""
    return [Unit(ensemble) for ensemble in config.ensembles]


def work(config: Depths, unit: Unit, report: Report) -> xr.Dataset:
    """Measure the singular values of all networks of one ensemble."""
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(unit.ensemble.encode()))
    values = []
    for network, network_key in enumerate(jax.random.split(key, config.num_networks)):
        report(f"network {network + 1}", network / config.num_networks)
        chain, carry, layers = draw(ENSEMBLES[unit.ensemble], config, network_key)
        spectra = jrnn.log_singular_values_by_lag(chain, carry, layers, lags=config.depths)
        values.append(np.asarray(spectra))
    values = np.stack(values)
    if np.isnan(values).any():
        msg = f"{unit.ensemble}: {np.isnan(values).sum()} singular values are not numbers"
        raise ValueError(msg)
    return xr.Dataset(
        {"log_singular_value": (("network", "depth", "index"), values)},
        coords={
            "network": np.arange(config.num_networks),
            "depth": list(config.depths),
            "index": np.arange(config.width),
        },
    )


def combine(config: Depths, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all ensembles, and lay theory beside them."""
    dataset = xr.concat([parts[unit] for unit in units(config)], "ensemble")
    dataset = dataset.assign_coords(ensemble=list(config.ensembles))
    # Roots of theory are found to float64's digits, whatever the networks have.
    with jax.enable_x64(True):
        return compared(dataset, config)


def draw(
    ensemble: Ensemble, config: Depths, key: jax.Array
) -> tuple[jrnn.Recurrence, jax.Array, dict[str, jax.Array]]:
    """Draw a chain, what enters it, and its layers.

    Pre-activations that enter have the variance that layers keep, so that all layers are alike.
    """
    dtype, depth = jnp.dtype(config.dtype), config.depths[-1]
    kernel_key, bias_key, state_key = jax.random.split(key, 3)
    if ensemble.kernel == "orthogonal":
        kernels = jax.random.orthogonal(kernel_key, config.width, (depth,), dtype)
    else:
        shape = (depth, config.width, config.width)
        kernels = jax.random.normal(kernel_key, shape, dtype) / np.sqrt(config.width)
    bias = jax.random.normal(bias_key, (depth, config.width), dtype)
    layers = {
        "kernel": jnp.asarray(ensemble.weight_std * kernels, dtype),
        "bias": jnp.asarray(ensemble.bias_variance**0.5 * bias, dtype),
    }
    entering = jax.random.normal(state_key, (config.width,), dtype)
    if ensemble.activation == "linear":
        return jrnn.dense_chain(jax.nn.identity), entering, layers
    kept = order_parameters(ensemble.weight_std, bias_std=ensemble.bias_variance**0.5).variance
    entering = jnp.tanh(jnp.sqrt(kept).astype(dtype) * entering)
    return jrnn.dense_chain(jnp.tanh), entering, layers


def compared(dataset: xr.Dataset, config: Depths) -> xr.Dataset:
    """Add moments of squared singular values, their means over networks, and theory."""
    squares = xr.apply_ufunc(np.exp, 2 * dataset["log_singular_value"])
    moment = xr.concat([(squares**order).mean("index") for order in ORDERS], "order")
    moment = moment.assign_coords(order=list(ORDERS))
    variance = moment.sel(order=2, drop=True) / moment.sel(order=1, drop=True) ** 2 - 1
    depths = dataset["depth"]
    shallow = depths <= config.slope_depth
    # Through the origin: no layers have no variance.
    slope = (variance * depths).where(shallow).sum("depth") / (depths**2).where(shallow).sum()
    theory = np.array(
        [
            [theory_of(ENSEMBLES[name], depth) for depth in config.depths]
            for name in config.ensembles
        ]
    )
    dataset = dataset.assign(
        moment=moment,
        variance=variance,
        slope=slope,
        mean_theory=(("ensemble", "depth"), theory[..., 0]),
        variance_theory=(("ensemble", "depth"), theory[..., 1]),
        slope_theory=("ensemble", theory[:, 0, 1] / config.depths[0]),
        fuss_catalan=(
            ("order", "depth"),
            [[fuss_catalan_moment(depth, order) for depth in config.depths] for order in ORDERS],
        ),
        gaussian_moment=(
            ("order", "depth"),
            [
                [gaussian_moment(config.width, depth, order) for depth in config.depths]
                for order in ORDERS
            ],
        ),
    )
    label(
        dataset,
        {
            "log_singular_value": ("log singular values of the last L layers, descending", "nats"),
            "moment": ("mean power of squared singular values, per network", "1"),
            "variance": ("variance over squared mean of squared singular values", "1"),
            "slope": ("normalised variance per layer, at small depths", "1 per layer"),
            "mean_theory": ("mean squared singular value at infinite width", "1"),
            "variance_theory": ("normalised variance at infinite width", "1"),
            "slope_theory": ("normalised variance per layer at infinite width", "1 per layer"),
            "fuss_catalan": ("moment of linear Gaussian layers at infinite width", "1"),
            "gaussian_moment": ("moment of linear Gaussian layers at this width", "1"),
        },
    )
    add_means(dataset, ["moment", "variance", "slope"])
    return dataset


def theory_of(ensemble: Ensemble, depth: int) -> tuple[float, float]:
    """Compute mean and normalised variance of squared singular values at infinite width."""
    moments = squared_singular_values(
        ensemble.weight_std,
        num_steps=depth,
        bias_std=ensemble.bias_variance**0.5,
        activation="linear" if ensemble.activation == "linear" else "tanh",
        orthogonal=ensemble.kernel == "orthogonal",
    )
    return float(moments.mean), float(moments.normalized_variance)


def gaussian_moment(width: int, depth: int, order: int) -> float:
    """Compute E tr (P Pᵀ)^k / N for a product of real Gaussian matrices, exactly at width N.

    Zonal polynomials of W A Wᵀ average to a factor times those of A; tr Aᵏ is a combination of them
    (A. T. James, "Distributions of matrix variates and latent roots derived from normal samples",
    Ann. Math. Statist. 35, 1964).
    """
    total = 0.0
    for partition, coefficient in ZONAL[order].items():
        factor = np.prod(
            [
                1 + (2 * column - row) / width
                for row, length in enumerate(partition)
                for column in range(length)
            ]
        )
        total += coefficient * _zonal_of_identity(partition, width) * factor**depth
    return float(total / width)


def _zonal_of_identity(partition, width):
    """Evaluate the zonal polynomials of order up to 3 at the identity of size `width`."""
    n = float(width)
    return {
        (1,): n,
        (2,): (n**2 + 2 * n) / 3,
        (1, 1): 2 * (n**2 - n) / 3,
        (3,): (n**3 + 6 * n**2 + 8 * n) / 15,
        (2, 1): 3 * (n**3 + n**2 - 2 * n) / 5,
        (1, 1, 1): (n**3 - 3 * n**2 + 2 * n) / 3,
    }[partition]


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the variance per layer, and the moments of linear Gaussian layers."""
    table = Table(
        pad_edge=False,
        title="variance over squared mean of σ², per layer",
        caption=f"mean ± standard error over {dataset.sizes['network']} networks",
    )
    for column in ("ensemble", "measured", "theory"):
        table.add_column(column, no_wrap=True)
    for name in dataset["ensemble"].to_numpy():
        one = dataset.sel(ensemble=name)
        table.add_row(
            str(name),
            f"{float(one['slope_mean']):.4f} ± {float(one['slope_error']):.4f}",
            f"{float(one['slope_theory']):.4f}",
        )
    console.print(table)
    if "linear_gaussian" not in dataset["ensemble"]:
        return
    moments = Table(
        pad_edge=False,
        title="mean of σ^2k, linear Gaussian layers",
        caption="theory at infinite width (Fuss-Catalan numbers), and exactly at this width",
    )
    for column in ("depth", "k", "measured", "infinite width", "this width"):
        moments.add_column(column, no_wrap=True)
    one = dataset.sel(ensemble="linear_gaussian")
    for depth in dataset["depth"].to_numpy():
        for order in ORDERS:
            at = one.sel(depth=depth, order=order)
            moments.add_row(
                str(depth) if order == 1 else "",
                str(order),
                f"{float(at['moment_mean']):.4g} ± {float(at['moment_error']):.2g}",
                f"{float(at['fuss_catalan']):.4g}",
                f"{float(at['gaussian_moment']):.4g}",
            )
    console.print(moments)

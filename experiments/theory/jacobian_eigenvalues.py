"""Lay random-matrix theory over the eigenvalues of one step's Jacobian in random GRUs and LSTMs.

Given its gates, J is a diagonal D per unit plus kernels whose rows are scaled by slopes a_k. Its
eigenvalues end where Σ_k σ_k² ⟨|[(z − D)⁻¹ a_k]_h|²⟩ = 1, for a GRU ⟨v / |z − d₀|²⟩ = 1 (T. Can,
K. Krishnamurthy and D. Schwab, "Gating creates slow modes and controls phase-space complexity in
GRUs and LSTMs", 2020). Slopes are those of a network that runs; mean-field theory knows the
populations from which they come, and predicts the real end of the spectrum without any network.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from pydantic import FiniteFloat
from rich.console import Console
from rich.table import Table
from scipy.optimize import root_scalar

import jacobian_rnn as jrnn
from experiments import drawing, gaussian_cells
from experiments.arrangement import add_means, arrange, label
from experiments.gaussian_cells import Cell
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed
from jacobian_rnn.mean_field.kept_weights import frozen_growth


@dataclasses.dataclass(frozen=True)
class Clouds:
    """What is measured.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        biases: of the gate that keeps the state (LSTM: forget, GRU: update), ascending; all other
            biases are zero.
        gain: recurrent entries of each gate have standard deviation gain/√N.
        input_std: standard deviation of what white input adds to each gate's pre-activations.
        width: N, hidden units; an LSTM has 2N states.
        num_networks: drawn afresh at each point.
        num_warmup: steps before the one whose Jacobian is taken.
        radius: eigenvalues at most so far from one count as slow modes.
        num_angles: points of the edge in the upper half plane.
        theory_steps: steps after which mean-field populations are taken.
        theory_populations: their number, each of N units.
        seed: of all draws.
        dtype: precision.
    """

    cells: Axis[Cell] = ("GRUCell", "LSTMCell")
    biases: Axis[FiniteFloat] = (0.0, 1.0, 2.0, 4.0)
    gain: Positive = 3.0
    input_std: Positive = 0.3**0.5
    width: Count = 800
    num_networks: Annotated[int, Ge(2)] = 12
    num_warmup: Count = 500
    radius: Positive = 0.1
    num_angles: Count = 60
    theory_steps: Annotated[int, Ge(8)] = 120
    theory_populations: Annotated[int, Ge(2)] = 4
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Check that biases ascend."""
        if list(self.biases) != sorted(self.biases):
            msg = f"--biases: received {self.biases}, expected ascending ones"
            raise ValueError(msg)


PRESETS = {
    "quick": Clouds(
        cells=("GRUCell",),
        biases=(0.0, 3.0),
        width=48,
        num_networks=2,
        num_warmup=50,
        num_angles=16,
        theory_steps=12,
        theory_populations=2,
    ),
    "default": Clouds(),
    "full": Clouds(
        biases=(0.0, 1.0, 2.0, 3.0, 4.0),
        width=1500,
        num_networks=24,
        num_warmup=1000,
        theory_steps=400,
        theory_populations=16,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: all networks of one cell and bias."""

    cell: str
    bias: str


class Slopes(NamedTuple):
    """What the theory needs to know of a Jacobian: the units, without the kernels.

    Attributes:
        blocks: D of each unit, `(units, states, states)`.
        slopes: a_k of each unit, `(units, states, gates)`.
    """

    blocks: np.ndarray
    slopes: np.ndarray


def units(config: Clouds) -> list[Unit]:
    """List cells and biases; LSTMs have more states, and come first."""
    cells = sorted(config.cells, reverse=True)
    return [Unit(cell, f"{bias:g}") for cell in cells for bias in config.biases]


def work(config: Clouds, unit: Unit, report: Report) -> xr.Dataset:
    """Compute eigenvalues and edges of all networks of one cell and bias."""
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32("-".join(unit).encode()))
    spectra, edges, rightmost, outside, carriers = [], [], [], [], []
    angles = np.linspace(0, np.pi, config.num_angles)
    for network, network_key in enumerate(jax.random.split(key, config.num_networks)):
        report(f"network {network + 1}", network / (config.num_networks + 1))
        jacobian, slopes = snapshot(config, unit, network_key)
        eigenvalues = np.linalg.eigvals(jacobian)
        spectra.append(eigenvalues)
        outside.append(np.mean([gain_at(slopes, config.gain, z) < 1 for z in eigenvalues]))
        centre = float(np.mean(np.diagonal(slopes.blocks, axis1=1, axis2=2)[:, 0]))
        edges.append([edge(slopes, config.gain, centre, angle) for angle in angles])
        rightmost.append(real_edge(slopes, config.gain))
        carriers.append(participation(slopes, rightmost[-1]))
    report("mean field", config.num_networks / (config.num_networks + 1))
    theory = frozen_growth(
        gaussian_cells.units_of(unit.cell, config.gain, float(unit.bias), config.input_std),
        key=key,
        num_units=config.width,
        num_steps=config.theory_steps,
        num_populations=config.theory_populations,
    )
    spectra, edges = np.stack(spectra), np.array(edges)
    return xr.Dataset(
        {
            "eigenvalue": (
                ("network", "part", "index"),
                np.stack([np.real(spectra), np.imag(spectra)], axis=1),
            ),
            "edge": (
                ("network", "part", "angle"),
                np.stack([np.real(edges), np.imag(edges)], axis=1),
            ),
            "real_edge": ("network", rightmost),
            "outside": ("network", outside),
            "participation": ("network", carriers),
            "mean_field_edge": np.exp(float(theory.rate)),
            "mean_field_error": np.exp(float(theory.rate)) * float(theory.standard_error),
        },
        coords={
            "network": np.arange(config.num_networks),
            "part": ["real", "imaginary"],
            "index": np.arange(spectra.shape[1]),
            "angle": angles,
        },
    )


def combine(config: Clouds, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all cells and biases; NaN where a cell has fewer eigenvalues than another."""
    dataset = arrange(parts, {"cell": str, "bias": float})
    return compared(dataset.sel(cell=list(config.cells)), config)


def snapshot(config: Clouds, unit: Unit, key: jax.Array) -> tuple[np.ndarray, Slopes]:
    """Run a network under white input; return the next step's Jacobian and what units do in it."""
    draw_key, input_key = jax.random.split(key)
    dtype, width = jnp.dtype(config.dtype), config.width
    bias = float(unit.bias)
    network = gaussian_cells.draw(
        unit.cell, width, config.gain, bias, config.input_std, dtype=dtype, key=draw_key
    )
    xs = jax.random.normal(input_key, (config.num_warmup + 1, width), dtype)
    carry = drawing.zero_carry(unit.cell, width, dtype)
    state = jrnn.trajectory(network, carry, xs[:-1])[-1]
    if unit.cell == "LSTMCell":
        state = (state[:width], state[width:])
    jacobian = jrnn.step_jacobians(network, state, xs[-1:])[0]
    closed_form: Any = network.jacobian
    parts = closed_form.parts(network.params, state, xs[-1])
    return np.asarray(jacobian), unit_slopes(parts)


def unit_slopes(parts) -> Slopes:
    """Take apart what a `GatedJacobian` knows of each unit: D and a_k of J, its mixing included."""
    blocks = np.moveaxis(np.asarray(parts.diagonals), -1, 0)
    slopes = np.moveaxis(np.asarray(parts.slopes), -1, 0)
    if parts.mixing is not None:
        mixing = np.tile(np.eye(blocks.shape[1]), (len(blocks), 1, 1))
        mixing[:, -1, 0] = np.asarray(parts.mixing)
        blocks, slopes = mixing @ blocks, mixing @ slopes
    return Slopes(blocks, slopes)


def gain_at(slopes: Slopes, gain: float, z: complex) -> float:
    """Compute Σ_k σ_k² ⟨|[(z − D)⁻¹ a_k]_h|²⟩, which is one at the edge and less beyond.

    It is infinite at eigenvalues of D. A saturated unit of an LSTM gives J one of these, exactly.
    """
    try:
        return float(gain**2 * np.mean(response(slopes, z)))
    except np.linalg.LinAlgError:
        return np.inf


def response(slopes: Slopes, z: complex) -> np.ndarray:
    """Compute Σ_k |[(z − D)⁻¹ a_k]_h|² of each unit."""
    one = np.eye(slopes.blocks.shape[1])
    resolved = np.linalg.solve(z * one - slopes.blocks, slopes.slopes.astype(complex))
    return np.sum(np.abs(resolved[:, -1]) ** 2, axis=1)


def participation(slopes: Slopes, z: complex) -> float:
    """Count the units that carry the edge at z: (Σ r)²/Σ r², r the response of each.

    One where z is a unit's own eigenvalue. The theory averages over units; where few carry the edge
    the average is theirs alone, and a spectrum may end short of it.
    """
    try:
        shares = response(slopes, z)
    except np.linalg.LinAlgError:
        return 1.0
    return float(np.sum(shares) ** 2 / np.sum(shares**2))


def edge(slopes: Slopes, gain: float, centre: float, angle: float) -> complex:
    """Find the farthest point of the edge from a centre in one direction; the centre if none."""
    ray = np.exp(1j * angle)

    def excess(distance):
        return np.log(gain_at(slopes, gain, centre + distance * ray))

    # Not from zero, where equal units have their pole.
    doublings = np.concatenate([[1e-9], 0.1 * 2.0 ** np.arange(10)])
    last = max((k for k, d in enumerate(doublings) if excess(d) >= 0), default=0)
    outside, *distances = np.linspace(doublings[last + 1], doublings[last], 40)
    for inside in distances:
        if excess(inside) >= 0:
            return centre + ray * root_scalar(excess, bracket=(inside, outside), xtol=1e-9).root
        outside = inside
    return complex(centre)


def real_edge(slopes: Slopes, gain: float) -> float:
    """Find the largest real z on the edge beyond all units' own eigenvalues, else their largest."""
    slowest = float(np.max(np.diagonal(slopes.blocks, axis1=1, axis2=2)))
    reach = 1.0
    while gain_at(slopes, gain, slowest + reach) >= 1:
        reach *= 2

    def excess(log_distance):
        return np.log(gain_at(slopes, gain, slowest + np.exp(log_distance)))

    lowest = np.log(1e-12)
    if excess(lowest) < 0:  # the slowest unit is saturated, on its own
        return slowest
    return slowest + np.exp(root_scalar(excess, bracket=(lowest, np.log(reach))).root)


def compared(dataset: xr.Dataset, config: Clouds) -> xr.Dataset:
    """Add the measured edge, slow modes, and their means over networks."""
    real = dataset["eigenvalue"].sel(part="real", drop=True)
    imaginary = dataset["eigenvalue"].sel(part="imaginary", drop=True)
    modulus = (real**2 + imaginary**2) ** 0.5
    radius = modulus.max("index")
    near = (((real - 1) ** 2 + imaginary**2) ** 0.5 <= config.radius).sum("index") / config.width
    # The edge's farthest point from zero; by symmetry of the upper half plane only.
    on_edge = (dataset["edge"] ** 2).sum("part").max("angle") ** 0.5
    predicted = on_edge.where(on_edge > dataset["real_edge"], dataset["real_edge"])
    error = radius.std("network", ddof=1) / np.sqrt(config.num_networks)
    dataset = dataset.assign(
        radius=radius,
        predicted_radius=predicted,
        ratio=radius / predicted,
        near_one=near,
        mean_field_ratio=radius.mean("network") / dataset["mean_field_edge"],
        mean_field_ratio_error=np.hypot(
            error / radius.mean("network"),
            dataset["mean_field_error"] / dataset["mean_field_edge"],
        ),
    )
    label(
        dataset,
        {
            "eigenvalue": ("eigenvalues of one step's Jacobian", "1"),
            "edge": ("edge of the spectrum given the network's gates, upper half plane", "1"),
            "real_edge": ("its largest real point", "1"),
            "mean_field_edge": ("largest real point of the edge in mean-field theory", "1"),
            "mean_field_error": ("its standard error over populations", "1"),
            "radius": ("spectral radius", "1"),
            "predicted_radius": ("largest modulus on the edge", "1"),
            "ratio": ("spectral radius over that of the edge", "1"),
            "outside": ("fraction of eigenvalues outside the edge", "1"),
            "participation": ("units that carry the edge at its largest real point", "units"),
            "near_one": ("eigenvalues near one, per unit", "1"),
            "mean_field_ratio": ("mean spectral radius over the edge of mean-field theory", "1"),
            "mean_field_ratio_error": ("its standard error over networks and populations", "1"),
        },
    )
    add_means(dataset, ["ratio", "outside", "participation", "near_one"])
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print edges and slow modes."""
    table = Table(
        pad_edge=False,
        title="spectral radius of one step's Jacobian, and eigenvalues near one",
        caption=(
            f"mean ± standard error over {dataset.sizes['network']} networks; edge: given the "
            "network's gates; mean field: given only the statistics of its weights; units: "
            "those that carry the edge; near one: per unit"
        ),
    )
    for column in (
        "cell",
        "bias",
        "radius/edge",
        "radius/mean field",
        "units",
        "near one",
    ):
        table.add_column(column, no_wrap=True)
    for cell in dataset["cell"].to_numpy():
        for bias in dataset["bias"].to_numpy():
            one = dataset.sel(cell=cell, bias=bias)
            table.add_row(
                *(str(cell).removesuffix("Cell"), f"{bias:g}"),
                f"{float(one['ratio_mean']):.4f} ± {float(one['ratio_error']):.4f}",
                f"{float(one['mean_field_ratio']):.4f} ± "
                f"{float(one['mean_field_ratio_error']):.4f}",
                f"{float(one['participation_mean']):.0f}",
                f"{float(one['near_one_mean']):.4f} ± {float(one['near_one_error']):.4f}",
            )
    console.print(table)

"""Train networks over their initialisation and the horizon, and lay depth scales over that.

One parameter of a cell's initialisation, the column, against the horizon T of delayed recall: name
the first symbol after T steps of noise. After

- M. Chen, J. Pennington and S. Schoenholz, "Dynamical isometry and a mean field theory of RNNs:
  gating enables signal propagation in recurrent neural networks", ICML 2018: a tanh network over
  the standard deviation of its recurrent weights, and a minimalRNN over the bias of its gate;
- D. Gilboa et al., "Dynamical isometry and a mean field theory of LSTMs and GRUs", 2019: GRUs and
  LSTMs over the bias of the gate that keeps the state, which R. Jozefowicz, W. Zaremba and I.
  Sutskever, "An empirical exploration of recurrent network architectures", ICML 2015, start at 1,
  and whose time constant has to reach the horizon for C. Tallec and Y. Ollivier, "Can recurrent
  neural networks warp time?", ICLR 2018.

Depth scales are steps: ξ = 1/(2|λ₁|), in which a squared gradient changes by a factor e, from mean
field theory with fresh weights at every step and from the measured λ₁ of the untrained networks,
which keep their weights; and, of gates, their time constant. Recurrent kernels are Gaussian. What
theory needs of them, and of what the inputs add, is measured from the networks drawn.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen as nn
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.protocol import NOISE_STD
from experiments.regimes import _depth_scales as depth_scales
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report
from jacobian_rnn import mean_field, training
from jacobian_rnn.initialization.initializers import gaussian

RATES = "rates"  # the part of a cell that is not trained
PLAIN, MINIMAL, GRU, LSTM = "SimpleCell", "minimalRNN", "GRUCell", "LSTMCell"
SETTLING, TRAINING, NOISE = 400, 1, 3  # steps of a population in theory; purposes of keys
Cell = Literal["SimpleCell", "minimalRNN", "GRUCell", "LSTMCell"]


@dataclasses.dataclass(frozen=True)
class TrainabilityMap:
    """Which networks are drawn, and how they are trained and measured.

    Attributes:
        cells: "SimpleCell" over the size of its recurrent weights, the others over the bias of the
            gate that keeps the state.
        weight_stds: lowest and highest σ_w of the SimpleCell; recurrent entries are N(0, σ_w²/N).
        minimal_biases: lowest and highest bias of the minimalRNN's gate.
        gate_biases: lowest and highest bias of the GRU's update and the LSTM's forget gate.
        num_columns: values of these, evenly spaced.
        gated_weight_std: σ_w of the recurrent kernels of all cells with gates.
        horizons: of the task, in steps, each longer than the one before by the same factor.
        width: hidden units.
        num_seeds: networks at each point; a seed has the same kernels and data in every column.
        num_updates: updates of each network.
        batch_size: sequences per update.
        learning_rate: of Adam.
        clip_norm: global gradient norm to which gradients are clipped before Adam sees them.
        held_out_size: test sequences.
        learned_above: skill above which a network counts as having learned.
        rate_steps: steps over which λ₁ is measured under the noise of the task.
        rate_warmup: steps before them.
        num_resamples: of columns and seeds, for the intervals.
        dtype: precision; theory is always computed in float64.
    """

    cells: Axis[Cell] = (PLAIN, MINIMAL, GRU, LSTM)
    weight_stds: Range = (0.5, 2.5)
    minimal_biases: Range = (-4.0, 8.0)
    gate_biases: Range = (0.0, 6.0)
    num_columns: Count = 7
    gated_weight_std: Positive = 1.0
    horizons: Axis[Count] = (5, 10, 20, 40, 80, 160)
    width: Count = 24
    num_seeds: Count = 4
    num_updates: Count = 400
    batch_size: Count = 16
    learning_rate: Positive = 0.01
    clip_norm: Positive = 1.0
    held_out_size: Count = 512
    learned_above: Positive = 0.5
    rate_steps: Count = 6000
    rate_warmup: Count = 2000
    num_resamples: Count = 500
    dtype: Dtype = "float32"

    @property
    def seeds(self) -> np.ndarray:
        """Return the seeds of the networks."""
        return np.arange(self.num_seeds)

    def columns(self, cell: str) -> np.ndarray:
        """Return the values of the parameter of a cell's initialisation, ascending."""
        ends = {PLAIN: self.weight_stds, MINIMAL: self.minimal_biases}.get(cell, self.gate_biases)
        return np.linspace(*ends, self.num_columns)


PRESETS = {
    "quick": TrainabilityMap(
        cells=(MINIMAL,),
        minimal_biases=(-4.0, 2.0),
        num_columns=2,
        horizons=(4,),
        width=8,
        num_seeds=2,
        num_updates=60,
        batch_size=8,
        held_out_size=64,
        rate_steps=100,
        rate_warmup=50,
        num_resamples=20,
    ),
    "default": TrainabilityMap(),
    "full": TrainabilityMap(
        gate_biases=(0.0, 7.0),
        num_columns=15,
        horizons=(5, 10, 20, 40, 80, 160, 320, 640),
        width=128,
        num_seeds=8,
        num_updates=2000,
        batch_size=32,
        rate_steps=20_000,
        rate_warmup=10_000,
        num_resamples=2000,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: one horizon of one cell, or its rates."""

    cell: str
    part: str


def units(config: TrainabilityMap) -> list[Unit]:
    """List horizons and rates of the cells, those that take longest first."""
    parts = [*(str(horizon) for horizon in sorted(config.horizons, reverse=True)), RATES]
    return [Unit(cell, part) for part in parts for cell in reversed(config.cells)]


def work(config: TrainabilityMap, unit: Unit, report: Report) -> xr.Dataset:
    """Draw the networks of a cell; train them over one horizon, or measure their rates."""
    report("drawing", 0.0)
    columns = config.columns(unit.cell)
    networks = draw_networks(config, unit.cell, columns)
    if unit.part == RATES:
        return rates(config, networks, unit.cell, columns, report)
    skill = trained(config, networks, int(unit.part), report)
    return xr.Dataset({"skill": (("column", "seed"), skill)})


def draw_networks(config: TrainabilityMap, cell: str, columns: np.ndarray) -> jrnn.Recurrence:
    """Draw a network for each column and seed, stacked along the first two axes."""
    draw = partial(DRAW[cell], config)
    return protocol.draw_all(draw, columns.astype(config.dtype), config.seeds)


def draw_plain(config: TrainabilityMap, std: Array, key: Array) -> jrnn.Recurrence:
    """Draw a tanh network with recurrent entries N(0, σ_w²/N); the rest is Flax's default."""
    return _draw_flax(config, PLAIN, key, weight_std=1.0, gain=std)


def draw_gated(cell: str, config: TrainabilityMap, bias: Array, key: Array) -> jrnn.Recurrence:
    """Draw a GRU or an LSTM with Gaussian recurrent kernels; the rest is Flax's default."""
    return _draw_flax(config, cell, key, weight_std=config.gated_weight_std, forget_bias=bias)


def _draw_flax(config, cell, key, *, weight_std, **options):
    kind: Callable[..., nn.Module] = drawing.CELLS[cell]
    made = kind(
        config.width,
        recurrent_kernel_init=gaussian(weight_std),
        param_dtype=jnp.dtype(config.dtype),
    )
    return jrnn.draw(made, key=key, num_inputs=_num_inputs(config), **options)


def draw_minimal(config: TrainabilityMap, bias: Array, key: Array) -> jrnn.Recurrence:
    """Draw a minimalRNN with recurrent entries N(0, σ_w²/N) and one bias for all its gates."""
    dtype = jnp.dtype(config.dtype)
    network_key, kernel_key = jax.random.split(key)
    network = jrnn.minimal_rnn(_num_inputs(config), config.width, key=network_key, dtype=dtype)
    kernel = gaussian(config.gated_weight_std)(kernel_key, (config.width, config.width), dtype)
    recurrent = network.params["recurrent"] | {"kernel": kernel}
    network = dataclasses.replace(network, params=network.params | {"recurrent": recurrent})
    return jrnn.with_gate_bias(network, "forget", bias)


DRAW: dict[str, Callable[[TrainabilityMap, Any, Array], jrnn.Recurrence]] = {
    PLAIN: draw_plain,
    MINIMAL: draw_minimal,
    GRU: partial(draw_gated, GRU),
    LSTM: partial(draw_gated, LSTM),
}


def _num_inputs(config):
    return protocol.recall(1, config.dtype).input_size


def trained(
    config: TrainabilityMap, networks: jrnn.Recurrence, horizon: int, report: Report
) -> np.ndarray:
    """Train every network on delayed recall, and return its held-out skill `(columns, seeds)`."""
    report("training", 0.1)
    one = jax.tree.map(lambda leaf: leaf[0, 0], networks)
    num_columns = len(jax.tree.leaves(networks)[0])
    keys = jax.vmap(partial(protocol.key_of, TRAINING))(jnp.asarray(config.seeds))
    _, history = training.train(
        protocol.recall(horizon, config.dtype),
        networks,
        jrnn.zero_carry(one),
        optimizer=protocol.optimizer_of("adam", config.clip_norm)(config.learning_rate),
        key=jnp.broadcast_to(keys, (num_columns, config.num_seeds)),
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        records=1,
        held_out_size=config.held_out_size,
    )
    return np.asarray(history.test_skill)


def rates(
    config: TrainabilityMap,
    networks: jrnn.Recurrence,
    cell: str,
    columns: np.ndarray,
    report: Report,
) -> xr.Dataset:
    """Measure λ₁ of every untrained network, and compute it with fresh weights at every step."""
    report("measuring", 0.1)
    exponent = np.asarray(measured_rates(networks, config))
    fresh = []
    for index, column in enumerate(columns):
        report("theory", 0.5 + 0.5 * index / len(columns))
        of_column = jax.tree.map(lambda leaf, index=index: leaf[index], networks)
        fresh.append(fresh_rate(cell, of_column, float(column)))
    rate, settled = (np.asarray(numbers) for numbers in zip(*fresh, strict=True))
    return xr.Dataset(
        {
            "exponent": (("column", "seed"), exponent),
            "fresh_rate": ("column", rate),
            "settled": ("column", settled),
        }
    )


@partial(jax.jit, static_argnames="config")
def measured_rates(networks: jrnn.Recurrence, config: TrainabilityMap) -> Array:
    """Measure λ₁ of networks `(columns, seeds)` under the noise of the task, nats per step."""
    shape = (config.rate_warmup + config.rate_steps, _num_inputs(config))

    def one(network, seed):
        xs = NOISE_STD * jax.random.normal(protocol.key_of(NOISE, seed), shape, config.dtype)
        carry = jrnn.zero_carry(network)
        return jrnn.largest_exponent(network, carry, xs, num_warmup=config.rate_warmup)

    seeds = jnp.asarray(config.seeds)
    return jax.vmap(jax.vmap(one), in_axes=(0, None))(networks, seeds)


def fresh_rate(cell: str, networks: jrnn.Recurrence, column: float) -> tuple[float, bool]:
    """Return λ₁ in mean field theory with fresh weights, and whether its population had settled.

    It is the theory of the variances that the networks of a column have. Fresh and kept weights are
    the same to the plain network. A population settles in a few times e^bias steps.
    """
    with jax.enable_x64(True):
        units: Any = mean_field.units_of(networks, input_std=NOISE_STD)
        if cell == PLAIN:
            unit = units.unit
            plain = mean_field.order_parameters(unit.weight_std, input_std=unit.input_std)
            return float(plain.rate), True
        # Powers of four, because every number of steps is compiled anew.
        times = max(0, math.ceil(math.log(3 * math.exp(column) / SETTLING, 4)))
        theory = mean_field.fresh_growth(units, num_steps=SETTLING * 4**times)
        return float(theory.rate), bool(theory.settled)


def combine(config: TrainabilityMap, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Arrange the parts by cell, column, horizon and seed, and compare with the depth scales."""
    of_cells = []
    for cell in config.cells:
        skills = [parts[Unit(cell, str(horizon))] for horizon in config.horizons]
        one = xr.concat(skills, "horizon").merge(parts[Unit(cell, RATES)])
        columns = config.columns(cell)
        # A gate that is open by f keeps f of its state in a step; the plain cell has none.
        time_constant = np.full(columns.shape, np.nan)
        if cell != PLAIN:
            time_constant = 1 / np.log1p(np.exp(-columns))
        of_cells.append(
            one.assign(value=("column", columns), time_constant=("column", time_constant))
        )
    dataset = xr.concat(of_cells, "cell").transpose("cell", "column", "horizon", "seed")
    dataset = dataset.assign_coords(
        cell=list(config.cells), horizon=list(config.horizons), seed=config.seeds
    )
    return depth_scales.compared(
        dataset, learned_above=config.learned_above, num_resamples=config.num_resamples
    )


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print every map, and how skill goes with the depth scales."""
    for cell in dataset["cell"].to_numpy():
        one = dataset.sel(cell=cell)
        one = one.sel(scale=one["depth_scale"].notnull().any("column"))
        scales = one["scale"].to_numpy().tolist()
        table = Table(
            pad_edge=False,
            title=f"{cell}: mean held-out skill of {one.sizes['seed']} networks, by horizon T",
            caption="Scales: in steps, " + ", ".join(depth_scales.MEANINGS[s] for s in scales),
        )
        horizons = one["horizon"].to_numpy()
        for column in ("value", *scales, *map(str, horizons)):
            table.add_column(column, justify="right", no_wrap=True)
        for index in range(one.sizes["column"]):
            at = one.isel(column=index)
            table.add_row(
                f"{float(at['value']):.3g}",
                *(f"{float(steps):.{2 if steps < 10 else 0}f}" for steps in at["depth_scale"]),
                *(f"{float(skill):.2f}" for skill in at["skill"].mean("seed")),
            )
        console.print(table)
    for line in depth_scales.lines(dataset):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

"""Choose recurrent gains from predictions alone, so that both sides of "stable" are covered."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.protocol import Protocol
from experiments.runner.experiment import Count, Range
from jacobian_rnn import tasks

GAIN = "gain_index"  # the dimension of chosen gains


@dataclasses.dataclass(frozen=True)
class ChosenGains(Protocol):
    """How networks are predicted and trained, and from which gains a few are chosen.

    Attributes:
        recall_delay: steps between what delayed recall shows and the answer.
        num_gains: recurrent gains of each cell and task, chosen from predictions so that the
            growths that decide spread evenly over the part of `log_growth_range` that the cell
            reaches.
        candidate_gains: lowest and highest recurrent gain that may be chosen.
        log_growth_range: lowest and highest of them, nats.
        num_records: how many times held-out skill is recorded.
    """

    recall_delay: Count = 40
    num_gains: Count = 12
    candidate_gains: Range = (0.3, 20.0)
    log_growth_range: Range = (-40.0, 30.0)
    num_records: Count = 5


class Choice(NamedTuple):
    """Gains that were chosen, and what they were chosen from.

    Attributes:
        gains: `(num_gains,)`, ascending.
        candidates: `(candidates,)`, gains, ascending.
        log_growths: `(candidates,)`, the growth that decides, nats: the peak where gradients
            explode, else the growth over the horizon. Median over sequences of one network each.
    """

    gains: np.ndarray
    candidates: np.ndarray
    log_growths: np.ndarray


def draw(
    config: ChosenGains, cell: str, task: tasks.Task, gains: np.ndarray, seeds: np.ndarray
) -> jrnn.Recurrence:
    """Draw the networks of a cell, stacked along gains and seeds."""
    dtype = jnp.dtype(config.dtype)

    def one(gain, key):
        return drawing.draw(cell, config.width, gain, task.input_size, dtype=dtype, key=key)

    return protocol.draw_all(one, gains.astype(dtype), seeds)


def choose_gains(config: ChosenGains, cell: str, task: tasks.Task) -> Choice:
    """Choose gains whose predicted log growths spread evenly; nothing is trained."""
    candidates = np.geomspace(*config.candidate_gains, 3 * config.num_gains)
    seed = config.seeds[:1]
    networks = draw(config, cell, task, candidates, seed)
    predicted = protocol.predict_all(config, task, networks, seed, method="probes")
    growths = xr.DataArray(predicted.deciding_growth, dims=("gain", "seed", "sequence"))
    log_growths = growths.median(("seed", "sequence")).to_numpy()
    low, high = config.log_growth_range
    targets = np.linspace(
        max(low, np.nanmin(log_growths)), min(high, np.nanmax(log_growths)), config.num_gains
    )
    chosen: list[int] = []
    for target in targets:
        distance = np.nan_to_num(np.abs(log_growths - target), nan=np.inf)
        distance[chosen] = np.inf
        chosen.append(int(np.argmin(distance)))
    return Choice(np.sort(candidates[chosen]), candidates, log_growths)

"""Draw, predict and train an ensemble of networks of one cell on one task.

The calibration of the thresholds and the comparison that uses them follow the same protocol.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jacobian_rnn as jrnn
from experiments import networks
from jacobian_rnn import tasks, training

Report = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How networks are drawn, predicted and trained.

    Attributes:
        width: hidden units.
        recall_delay, digits_delay: steps between what is shown and the answer.
        num_gains: gains per cell and task, chosen from predictions so that the log growths
            spread evenly over the part of `log_growth_range` that the cell reaches.
        candidate_gains: lowest and highest recurrent gain considered.
        log_growth_range: nats.
        num_seeds: networks drawn per gain.
        first_seed: seeds count from here; calibration and comparison use different ones.
        num_sequences: sequences per prediction.
        adam_rates, sgd_rates: learning rates; each network is trained with each, and the one with
            the best validation skill counts.
        clip_norm: global gradient norm to which the gradients that Adam sees are clipped.
        num_updates: updates of each training.
        batch_size: sequences per update.
        num_records: how many times lag norms and validation skill are recorded.
        held_out_size: sequences in validation and in test data.
        dtype: "float32" or "float64".
    """

    width: int = 32
    recall_delay: int = 40
    digits_delay: int = 30
    num_gains: int = 7
    candidate_gains: tuple[float, float] = (0.3, 20.0)
    log_growth_range: tuple[float, float] = (-40.0, 30.0)
    num_seeds: int = 2
    first_seed: int = 0
    num_sequences: int = 8
    adam_rates: tuple[float, ...] = (0.003, 0.01)
    sgd_rates: tuple[float, ...] = (0.1, 0.3)
    clip_norm: float = 1.0
    num_updates: int = 500
    batch_size: int = 32
    num_records: int = 5
    held_out_size: int = 256
    dtype: str = "float32"


class Member(NamedTuple):
    """Networks of an ensemble: one gain and one seed for each."""

    gain: jax.Array
    seed: jax.Array


class Ensemble:
    """All networks of one cell on one task, as compiled programs.

    Args:
        protocol: how to draw, predict and train.
        cell_name: a key of `networks.CELLS`.
        task_name: "delayed_recall" or "sequential_digits".
    """

    def __init__(self, protocol: Protocol, cell_name: str, task_name: str):
        """Make the task, and the functions that `jax.jit` compiles at their first call."""
        self.protocol, self.cell_name = protocol, cell_name
        self.dtype = jnp.dtype(protocol.dtype)
        make, delay = {
            "delayed_recall": (tasks.delayed_recall, protocol.recall_delay),
            "sequential_digits": (tasks.sequential_digits, protocol.digits_delay),
        }[task_name]
        self.task = make(delay, dtype=self.dtype)
        self.carry = networks.zero_carry(cell_name, protocol.width, self.dtype)
        # Drawing is a program of its own, because compiling the initialisers takes long.
        self._draw_all = jax.jit(jax.vmap(self._draw))
        self._estimate_all = jax.jit(jax.vmap(partial(self._predict, method="probes")))
        self._predict_all = jax.jit(jax.vmap(partial(self._predict, method="exact")))
        self._look_all = jax.jit(jax.vmap(self._look, in_axes=(0, None, None)))

    def choose_gains(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose gains whose predicted log growths spread evenly; nothing is trained.

        Returns:
            `(chosen, candidates, log_growths)`: chosen gains, and the median log growth of
            every candidate.
        """
        protocol = self.protocol
        per_call = protocol.num_gains * protocol.num_seeds
        candidates = np.geomspace(*protocol.candidate_gains, 2 * per_call)
        seeds = np.full(per_call, protocol.first_seed)
        halves = []
        for half in np.split(candidates, 2):
            member = self._member(half, seeds)
            halves.append(jax.device_get(self._estimate_all(self._draw_all(member), member)))
        log_growths = np.concatenate(
            [np.nanmedian(half.log_growth_of_output, axis=1) for half in halves]
        )
        low, high = protocol.log_growth_range
        targets = np.linspace(
            max(low, np.nanmin(log_growths)), min(high, np.nanmax(log_growths)), protocol.num_gains
        )
        chosen: list[int] = []
        for target in targets:
            distance = np.nan_to_num(np.abs(log_growths - target), nan=np.inf)
            distance[chosen] = np.inf
            chosen.append(int(np.argmin(distance)))
        return np.sort(candidates[chosen]), candidates, log_growths

    def predict(self, gains: np.ndarray) -> xr.Dataset:
        """Predict the regime of every network, gains times seeds."""
        shape = (gains.size, self.protocol.num_seeds)
        gain, seed = np.meshgrid(gains, self._seeds(), indexing="ij")
        prediction, kernels = self._predictions(gain.ravel(), seed.ravel())
        per_network = {
            "regime": prediction.regime,
            "borderline": prediction.borderline,
            "exponent": prediction.exponent,
            "exponent_standard_error": prediction.standard_error,
            "spectral_radius": np.abs(np.linalg.eigvals(kernels)).max(axis=1),
            "kernel_norm": np.linalg.norm(kernels, 2, axis=(1, 2)),
        }
        per_sequence = {
            "log_growth": prediction.log_growth_of_output,
            "log_growth_error": prediction.log_growth_error,
            "carry_log_growth": prediction.log_growth,
            "profile_at_horizon": prediction.profile[..., self.task.horizon - 1],
            "profile_error": prediction.sampling_error,
            "profile_peak": prediction.peak,
            "profile_peak_lag": prediction.peak_lag,
        }
        # The largest, the middle and the smallest one: their number depends on the cell.
        spectrum = prediction.log_singular_values
        middle = spectrum.shape[-1] // 2
        for name, index in {"largest": 0, "middle": middle, "smallest": -1}.items():
            per_sequence[f"{name}_log_singular_value"] = spectrum[..., index]
        dims = ("gain_index", "seed")
        return xr.Dataset(
            {name: (dims, np.reshape(values, shape)) for name, values in per_network.items()}
            | {
                name: ((*dims, "sequence"), np.reshape(values, (*shape, -1)))
                for name, values in per_sequence.items()
            }
            | {"interval": ((*dims, "end"), np.reshape(prediction.interval, (*shape, 2)))},
            coords={"gain": ("gain_index", gains), "seed": self._seeds()},
        )

    def train(self, gains: np.ndarray, optimizer_name: str, report: Report) -> xr.Dataset:
        """Train every network with every learning rate, and record it."""
        protocol, task = self.protocol, self.task
        rates = protocol.sgd_rates if optimizer_name == "sgd" else protocol.adam_rates
        shape = (gains.size, protocol.num_seeds, len(rates))
        gain, seed, rate = (
            a.ravel() for a in np.meshgrid(gains, self._seeds(), rates, indexing="ij")
        )
        rate = jnp.asarray(rate, self.dtype)
        held_out = {
            split: task.sample_held_out(jax.random.key(2), protocol.held_out_size, split)
            for split in ("validation", "test")
        }
        lag_batch = task.sample(jax.random.key(3), protocol.batch_size)
        bounds = np.linspace(0, protocol.num_updates, protocol.num_records + 1).astype(int)

        def start(recurrence, member, rate):
            key = jax.random.fold_in(jax.random.key(4), member.seed)
            chosen = self._optimizer(optimizer_name, rate)
            return training.start(task, recurrence, self.carry, chosen, key=key)

        def advance(state, rate, num_updates):
            return training.advance(
                state,
                self.carry,
                task,
                self._optimizer(optimizer_name, rate),
                num_updates=num_updates,
                batch_size=protocol.batch_size,
            )

        advance_all = jax.jit(
            jax.vmap(advance, in_axes=(0, 0, None)), static_argnums=2, donate_argnums=0
        )
        member = self._member(gain, seed)
        state = jax.jit(jax.vmap(start))(self._draw_all(member), member, rate)
        looks, updates = [], []
        for done, until in itertools.pairwise(bounds):
            looks.append(self._look_all(state.network, lag_batch, held_out))
            state, recorded = advance_all(state, rate, int(until - done))
            updates.append(jax.tree.map(np.asarray, recorded))
            report(f"training with {optimizer_name}", until / protocol.num_updates)
        looks.append(self._look_all(state.network, lag_batch, held_out))
        return self._recorded(looks, updates, bounds, shape, np.array(rates))

    def _recorded(self, looks, updates, bounds, shape, rates):
        dims = ("gain_index", "seed", "rate_index")
        by_lag, validation, test = (list(part) for part in zip(*looks, strict=True))
        loss, gradient_norm, update_norm = (
            np.concatenate(part, axis=1).reshape(*shape, -1) for part in zip(*updates, strict=True)
        )
        test_skill, test_loss = (np.reshape(part, shape) for part in test[-1])
        validation_skill = np.stack([np.reshape(skill, shape) for skill, _ in validation], axis=-1)
        outcome = np.empty(shape, int)
        for index in np.ndindex(shape):
            observed = jrnn.observe_regime(
                Record(
                    loss[index],
                    update_norm[index],
                    float(test_skill[index]),
                    self.task.baseline_loss,
                )
            )
            outcome[index] = observed.outcome
        best = np.argmax(np.nan_to_num(validation_skill[..., -1], nan=-np.inf), axis=-1)
        return xr.Dataset(
            {
                "loss": ((*dims, "update"), loss),
                "gradient_norm": ((*dims, "update"), gradient_norm),
                "update_norm": ((*dims, "update"), update_norm),
                "gradient_norm_by_lag": (
                    (*dims, "record", "lag"),
                    np.stack([np.reshape(part, (*shape, -1)) for part in by_lag], axis=-2),
                ),
                "validation_skill": ((*dims, "record"), validation_skill),
                "test_skill_by_rate": (dims, test_skill),
                "test_loss_by_rate": (dims, test_loss),
                "outcome_by_rate": (dims, outcome),
                "best_rate": (dims[:2], best),
                "test_skill": (
                    dims[:2],
                    np.take_along_axis(test_skill, best[..., None], -1)[..., 0],
                ),
                "outcome": (dims[:2], np.take_along_axis(outcome, best[..., None], -1)[..., 0]),
                "learning_rate": ("rate_index", rates),
            },
            coords={"record": bounds, "lag": np.arange(by_lag[0].shape[-1])},
        )

    def _draw(self, member):
        return networks.draw(
            self.cell_name,
            self.protocol.width,
            member.gain,
            self.task.input_size,
            dtype=self.dtype,
            key=jax.random.fold_in(jax.random.key(0), member.seed),
        )

    def _predict(self, recurrence, member, *, method):
        key = jax.random.fold_in(jax.random.key(1), member.seed)
        xs = self.task.sample(key, self.protocol.num_sequences).xs
        return jrnn.predict_regime(
            recurrence, self.carry, xs, horizon=self.task.horizon, method=method
        )

    def _predictions(self, gain, seed):
        member = self._member(gain, seed)
        recurrences = self._draw_all(member)
        kernels = jax.vmap(networks.candidate_matrix)(recurrences)
        prediction = jax.tree.map(np.asarray, self._predict_all(recurrences, member))
        return prediction, np.asarray(kernels, float)

    def _look(self, network, lag_batch, held_out):
        by_lag = training.lag_norms(network, self.carry, self.task, lag_batch)
        return by_lag, *(
            training.evaluate(network, self.carry, self.task, held_out[split])
            for split in ("validation", "test")
        )

    def _member(self, gain, seed):
        return Member(jnp.asarray(gain, self.dtype), jnp.asarray(seed, jnp.int32))

    def _optimizer(self, name, rate):
        if name == "sgd":
            return optax.sgd(rate)
        return optax.chain(optax.clip_by_global_norm(self.protocol.clip_norm), optax.adam(rate))

    def _seeds(self):
        return self.protocol.first_seed + np.arange(self.protocol.num_seeds)


class Record(NamedTuple):
    """What an observation reads of one training."""

    loss: np.ndarray
    update_norm: np.ndarray
    test_skill: float
    baseline_loss: float

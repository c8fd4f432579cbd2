"""A recorded layer as what the library measures: a recurrence, one carry, inputs and lengths.

Sequences may begin with carries of their own, as those of a decoder do. Then a first step loads
them. It comes before all others, so no product of the layer's own steps holds it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.regimes.prediction import RegimePrediction, predict_regime


class LayerSystem(NamedTuple):
    """What `predict_regime` and its like take.

    Attributes:
        recurrence: the layer; with a step that loads, where carries differ.
        carry: one carry, without batch axis.
        xs: inputs, `(B, T, ...)`, with one step more where carries are loaded.
        seq_lengths: `(B,)`, that step counted; None if all are whole.
        loads: number of steps that load: 1 or 0.
    """

    recurrence: Recurrence
    carry: PyTree
    xs: PyTree
    seq_lengths: np.ndarray | None
    loads: int


@dataclasses.dataclass(frozen=True)
class LoadingStep:
    """A step whose inputs are `(x, start, loads)`: where it loads, the new carry is `start`."""

    step: Callable

    def __call__(self, params: Any, carry: Any, inputs: Any) -> Any:
        """Return the new carry."""
        x, start, loads = inputs
        new = self.step(params, carry, x)
        return jax.tree.map(lambda now, first: jnp.where(loads, first, now), new, start)


def system_of(layer: RecordedLayer) -> LayerSystem:
    """Prepare a layer for measurement."""
    num_steps = jax.tree.leaves(layer.xs)[0].shape[1]
    lengths, carries = layer.seq_lengths, jax.tree.map(np.asarray, layer.carry)
    first = jax.tree.map(lambda leaf: leaf[0], carries)
    shared = all(bool((leaf == leaf[:1]).all()) for leaf in jax.tree.leaves(carries))
    padded = bool((lengths < num_steps).any())
    if shared:
        return LayerSystem(layer.recurrence, first, layer.xs, lengths if padded else None, 0)
    old = layer.recurrence
    recurrence = Recurrence(LoadingStep(old.step), old.params, None, old.output)
    xs = jax.tree.map(lambda leaf: np.concatenate([leaf[:, :1], leaf], axis=1), layer.xs)
    starts = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf[:, None], (len(leaf), num_steps + 1, *leaf.shape[1:])),
        carries,
    )
    loads = np.broadcast_to(np.arange(num_steps + 1) == 0, (len(lengths), num_steps + 1))
    return LayerSystem(recurrence, first, (xs, starts, loads), lengths + 1 if padded else None, 1)


def first_sequences(system: LayerSystem, num: int) -> LayerSystem:
    """Return the same system with the first few sequences alone."""
    lengths = system.seq_lengths
    xs = jax.tree.map(lambda leaf: leaf[:num], system.xs)
    return system._replace(xs=xs, seq_lengths=None if lengths is None else lengths[:num])


def predict(system: LayerSystem, horizon: int, **options: Any) -> RegimePrediction:
    """Predict the regime of a layer. The profile holds the layer's own steps alone."""
    prediction = predict_regime(
        system.recurrence,
        system.carry,
        jax.tree.map(jnp.asarray, system.xs),
        horizon=horizon,
        # The step that loads is no step of the layer, and does not count.
        num_warmup=int(num_steps_of(system).min()) // 4 + system.loads,
        seq_lengths=None if system.seq_lengths is None else system.seq_lengths.tolist(),
        **options,
    )
    if not system.loads:
        return prediction
    broken = prediction.first_nonfinite_step
    lags = jnp.arange(1, prediction.profile.shape[1], dtype=jnp.int32)
    own = lags[None] <= jnp.asarray(num_steps_of(system), jnp.int32)[:, None]
    return prediction._replace(
        profile=jnp.where(own, prediction.profile[:, :-1], jnp.nan),
        first_nonfinite_step=jnp.where(broken >= 0, broken - system.loads, -1),
    )


def num_steps_of(system: LayerSystem) -> np.ndarray:
    """Return the number of steps of each sequence, `(B,)`."""
    num_sequences, num_steps = jax.tree.leaves(system.xs)[0].shape[:2]
    whole = np.full(num_sequences, num_steps)
    return (whole if system.seq_lengths is None else system.seq_lengths) - system.loads

"""A recorded layer, measured."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jacobian_rnn.checks import check_count
from jacobian_rnn.diagnosis.advice import advise, changes_of
from jacobian_rnn.diagnosis.credit_by_lag import credit_of
from jacobian_rnn.diagnosis.finding import record_layers
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.diagnosis.result import Diagnosis, LayerDiagnosis
from jacobian_rnn.diagnosis.saturation import saturation_of
from jacobian_rnn.diagnosis.systems import predict, system_of
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Thresholds

OTHER_OUTPUT = (
    "The share of every lag is not known: the layer returns something else than its carry shows."
)
NO_LAYER = (
    "The share of every lag is not known: the model calls this cell in a loop of its own, or in a "
    "part that it traces. It is known for nn.RNN and nnx.RNN layers."
)


def diagnose(
    model: Any,
    batch: Any,
    *,
    horizon: int | None = None,
    loss: Callable[[Any], Any] | None = None,
    variables: PyTree = None,
    call: Callable[[Any, Any], Any] | None = None,
    rngs: Any = None,
    carry: PyTree = None,
    seq_lengths: Sequence[int] | np.ndarray | None = None,
    thresholds: Thresholds = THRESHOLDS,
    num_probes: int = 8,
) -> Diagnosis:
    """Say of each recurrent layer of a model whether gradients survive the trip back through it.

    The model runs once on the batch, and what each recurrent layer receives is recorded. Each
    layer, and each direction of a bidirectional one, is then a system of its own under its recorded
    inputs. It is measured by `predict_regime`. A layer that is not stable gets advice. Each change
    is applied to the layer and measured again on the same inputs before it is told.

    Args:
        model: a linen module, an nnx module, an Equinox module, a `Recurrence` or a
            `training.Network`. A stack is looked at layer by layer.
        batch: what the model is called with, at least two sequences; for a `Recurrence` sequences
            `(B, T, ...)`.
        horizon: steps that a gradient has to survive; by default the shortest sequence of each
            layer, whole.
        loss: `loss(model(batch))`, a scalar. With it each layer has the share of every lag in
            ∂loss/∂θ. For a `Recurrence` it is a function of the outputs `(B, T, ...)`.
        variables: those of a linen module that is not bound, `{"params": ...}`.
        call: `call(model, batch)`, where the model is not called as `model(batch)`.
        rngs: of a linen model that draws random numbers, as `apply` takes them.
        carry: initial carry of a `Recurrence` that does not start from zeros.
        seq_lengths: B lengths of padded sequences of a `Recurrence`. A model passes its own to its
            layers.
        thresholds: log growths, nats, between which networks learn, see `predict_regime`.
        num_probes: number of random gradients for each sequence.

    Returns:
        The diagnosis; `print` it for a page.

    Raises:
        TypeError: no model, or an argument that this kind of model does not take.
        ValueError: a model without recurrent layers, one that fails on the batch, fewer than two
            sequences, a horizon longer than the shortest of them, or numbers that are not finite.

    Cost: one run of the model, and for each layer a few backpropagations through it. A layer that
    is not stable takes some thirty more of four of its sequences, in search of advice. The shares
    of lags take memory for the parameters of a layer once per sequence.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> model = nnx.Sequential(
        ...     nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0))), nnx.Linear(8, 2, rngs=nnx.Rngs(1))
        ... )
        >>> batch = jax.random.normal(jax.random.key(0), (4, 60, 3))
        >>> diagnosis = diagnose(model, batch, horizon=50)
        >>> diagnosis.verdict, diagnosis.layers[0].name, diagnosis.layers[0].kind
        ('vanishing', 'layers/0', 'GRUCell of 8 units')
    """
    if horizon is not None:
        check_count("horizon", horizon, least=1)
    layers = record_layers(
        model,
        batch,
        variables=variables,
        call=call,
        rngs=rngs,
        carry=carry,
        seq_lengths=seq_lengths,
        loss=loss,
    )
    return diagnose_layers(
        layers,
        horizon=horizon,
        has_loss=loss is not None,
        thresholds=thresholds,
        num_probes=num_probes,
    )


def diagnose_layers(
    layers: Sequence[RecordedLayer],
    *,
    horizon: int | None = None,
    has_loss: bool = False,
    thresholds: Thresholds = THRESHOLDS,
    num_probes: int = 8,
    on_layer: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Measure recorded layers.

    Args:
        layers: what `record_layers` returned.
        horizon: as of `diagnose`.
        has_loss: whether the layers were recorded with a loss.
        thresholds: as of `diagnose`.
        num_probes: as of `diagnose`.
        on_layer: is called with the name of each layer before it is measured.
    """
    options = {"thresholds": thresholds, "num_probes": num_probes}
    if horizon is None:
        _warn_of_time_first(layers)
    found = []
    for layer in layers:
        if on_layer is not None:
            on_layer(layer.name)
        found.append(_measure(layer, horizon, has_loss, options))
    return Diagnosis(tuple(found))


def _measure(
    layer: RecordedLayer, horizon: int | None, has_loss: bool, options: dict[str, Any]
) -> LayerDiagnosis:
    shortest = int(layer.seq_lengths.min())
    steps = shortest if horizon is None else horizon
    num_sequences = len(layer.seq_lengths)
    advice = (
        f"the layer receives {num_sequences} sequences, the shortest of {shortest} steps, and the "
        "horizon is at most that. Is time the first axis of the batch? Give (batch, time, ...)"
    )
    check_count(f"horizon of layer {layer.name!r}", steps, least=1, most=shortest, advice=advice)
    try:
        prediction = predict(system_of(layer), steps, **options)
    except (ValueError, TypeError) as error:
        msg = f"layer {layer.name!r}: {error}"
        raise type(error)(msg) from error
    growth = _medians(np.asarray(prediction.profile, float)[:, :shortest])
    memory, memory_ends = _memory(growth, options["thresholds"][0])
    dtype = jax.tree.leaves(layer.carry)[0].dtype
    eps = float(jnp.finfo(dtype).eps)
    errors = np.asarray(prediction.log_growth_error, float)
    error = float(np.median(errors[~np.isnan(errors)])) if (~np.isnan(errors)).any() else 1.0
    credit, notes = None, layer.notes
    if has_loss:
        credit = None if layer.gradients is None else credit_of(layer)
        if credit is None:
            notes += (NO_LAYER if layer.gradients is None else OTHER_OUTPUT,)
    changes = changes_of(layer, prediction)
    return LayerDiagnosis(
        name=layer.name,
        kind=layer.kind,
        dtype=str(dtype),
        num_sequences=num_sequences,
        num_steps=(shortest, int(layer.seq_lengths.max())),
        prediction=prediction,
        growth=growth,
        memory=memory,
        memory_ends=memory_ends,
        saturation=saturation_of(layer),
        digits=-math.log10(eps),
        digits_lost=min(max(math.log10(max(error, eps) / eps), 0.0), -math.log10(eps)),
        credit=credit,
        advice=advise(layer, prediction, changes, **options),
        searched=changes,
        notes=notes,
        network=layer.network,
    )


def _warn_of_time_first(layers: Sequence[RecordedLayer]) -> None:
    for layer in layers:
        num_sequences, longest = len(layer.seq_lengths), int(layer.seq_lengths.max())
        if num_sequences > longest:
            said = (
                f"batch: layer {layer.name!r} receives {num_sequences} sequences of {longest} "
                "steps. Is time the first axis? Give (batch, time, ...); where it is no mistake, "
                "pass horizon="
            )
            warnings.warn(said, stacklevel=4)
            return


def _medians(profiles: np.ndarray) -> np.ndarray:
    """Return the median over sequences at every lag, of those that are known."""
    known = ~np.isnan(profiles)
    return np.array(
        [
            np.median(column[these]) if these.any() else math.nan
            for column, these in zip(profiles.T, known.T, strict=True)
        ]
    )


def _memory(growth: np.ndarray, lower: float) -> tuple[int, bool]:
    """Return the longest lag up to which the growth is above, and whether it then falls below."""
    stays = growth >= lower
    if stays.all():
        return len(growth), False
    memory = int(np.argmin(stays))
    return memory, not math.isnan(growth[memory])

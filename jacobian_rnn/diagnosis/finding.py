"""The recurrent layers of a model of any framework."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax import nnx
from jaxtyping import PyTree

from jacobian_rnn.cells.flax_layers import check_has_params
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_type, refuse
from jacobian_rnn.diagnosis.finding_equinox import is_equinox, record_equinox
from jacobian_rnn.diagnosis.finding_linen import record_linen
from jacobian_rnn.diagnosis.finding_nnx import record_nnx
from jacobian_rnn.diagnosis.finding_recurrences import record_recurrence
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer, blame_batch
from jacobian_rnn.training.network import Network


def record_layers(
    model: Any,
    batch: Any,
    *,
    variables: PyTree = None,
    call: Callable[[Any, Any], Any] | None = None,
    rngs: Any = None,
    carry: PyTree = None,
    seq_lengths: Sequence[int] | np.ndarray | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> tuple[RecordedLayer, ...]:
    """Run a model on a batch once, and record what each recurrent layer in it really receives.

    Layers are found where they are called: `nn.RNN` and `nnx.RNN` with their time axis, padding,
    direction and initial carry, and cells that the model calls in a loop of its own. Both
    directions of a bidirectional layer are layers. The model itself stays as it is. It runs without
    compilation, but its RNN layers are compiled.

    Args:
        model: a linen module, an nnx module, an Equinox module, a `Recurrence` (also a stack, whose
            layers are looked at one by one) or a `training.Network`.
        batch: what the model is called with; for a `Recurrence` sequences `(B, T, ...)`.
        variables: those of a linen module that is not bound, `{"params": ...}`.
        call: `call(model, batch)`, where the model is not called as `model(batch)`. An Equinox
            model is called with one sequence of the batch after another.
        rngs: of a linen model that draws random numbers, as `apply` takes them.
        carry: initial carry of a `Recurrence` that does not start from zeros.
        seq_lengths: B lengths of padded sequences of a `Recurrence`. A model passes its own to its
            layers.
        loss: of what the model returns, a scalar. Layers then have the gradients of it.

    Returns:
        The layers in the order in which they were first called.

    Raises:
        TypeError: no model, or an argument that this kind of model does not take.
        ValueError: a model without recurrent layers, one that fails on the batch, fewer than two
            sequences, numbers that are not finite, or layers whose values cannot be seen.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = nnx.Sequential(
        ...     nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0))), nnx.Linear(8, 2, rngs=nnx.Rngs(1))
        ... )
        >>> (layer,) = record_layers(model, jnp.ones((4, 20, 3)))
        >>> layer.name, layer.kind, layer.xs.shape
        ('layers/0', 'GRUCell of 8 units', (4, 20, 3))
    """
    given = {
        "variables": variables,
        "call": call,
        "rngs": rngs,
        "carry": carry,
        "seq_lengths": seq_lengths,
    }
    with blame_batch("batch", batch):
        return _record(model, batch, given, loss)


def _record(
    model: Any, batch: Any, given: dict[str, Any], loss: Callable[[Any], Any] | None
) -> tuple[RecordedLayer, ...]:
    variables, call, rngs, carry, seq_lengths = given.values()
    if isinstance(model, nn.Module):
        _refuse_others(model, given, {"variables", "call", "rngs"})
        if model.scope is not None and variables is None:
            model, variables = model.unbind()
        if variables is None:
            advice = "pass variables=model.init(...), or model.bind(variables)"
            refuse("variables", "None", "those of the linen module", advice, error=TypeError)
        check_has_params(variables, "model")
        return record_linen(model, variables, batch, call=call, loss=loss, rngs=rngs)
    if isinstance(model, nnx.Module):
        _refuse_others(model, given, {"call"})
        return record_nnx(model, batch, call=call, loss=loss)
    if is_equinox(model):
        _refuse_others(model, given, {"call"})
        return record_equinox(model, batch, call=call)
    expected = "a flax.linen, flax.nnx or Equinox module, a Recurrence or a training.Network"
    advice = "weights in a file become a Recurrence by from_torch, from_keras or from_orbax"
    check_type("model", model, (Recurrence, Network), expected, advice)
    _refuse_others(model, given, {"carry", "seq_lengths"})
    return record_recurrence(model, batch, carry=carry, seq_lengths=seq_lengths, loss=loss)


def _refuse_others(model: Any, given: dict[str, Any], known: set[str]) -> None:
    """Raise a TypeError for an argument that a model of this kind does not take."""
    for name, value in given.items():
        if value is not None and name not in known:
            advice = "a model passes lengths and carries to its layers itself"
            received = f"one for a {type(model).__name__}"
            refuse(name, received, "none", advice, error=TypeError)

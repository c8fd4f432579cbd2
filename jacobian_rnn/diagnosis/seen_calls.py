"""Calls of layers and cells that are seen while a model runs, made into recorded layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jacobian_rnn.cells.flax_layers import check_same_at_every_step
from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.chains import Step, chains_of, together
from jacobian_rnn.diagnosis.recorded_layers import (
    Call,
    RecordedLayer,
    Sequences,
    check_loss_of,
    gradients_of,
    hand_out,
    is_traced,
    number_calls,
    run_model,
    sequences_of,
)


class Seen(NamedTuple):
    """A call that was seen.

    Attributes:
        name: path of the module in the model.
        cell: the cell, without weights where the framework keeps them apart.
        variables: those of the cell; None where it holds them itself.
        call: what a layer received, or None for a cell that was called by itself.
        step: what a cell received and returned, or None for a layer.
        number: of the call among those of layers; −1 for a cell.
    """

    name: str
    cell: Any
    variables: PyTree
    call: Call | None
    step: Step | None
    number: int

    @property
    def full_name(self) -> str:
        """The name, which says so where the layer runs backwards."""
        backwards = self.call is not None and self.call.reverse
        return f"{self.name}, backwards" if backwards else self.name


class CallLog:
    """Keeps the calls of one run of a model, and can add to what its layers return.

    Args:
        added: by number of the call, what is added to the result of a layer. Nothing is kept then.
    """

    def __init__(self, added: Mapping[int, PyTree] | None = None):
        """Begin with nothing seen."""
        self.added = added or {}
        self.seen: list[Seen] = []
        self.returned: dict[int, PyTree] = {}
        self.called: set[str] = set()
        self.layers: list[Any] = []
        self.num_layers = 0

    def see_layer(
        self, layer: Any, name: str, variables: PyTree, call: Callable[[], Call], result: PyTree
    ) -> PyTree:
        """Keep a call of a layer, and return its result with what is added to it.

        Args:
            layer: which was called.
            name: of the layer in the model.
            variables: of its cell.
            call: makes what it received.
            result: what it returned.
        """
        number = self.num_layers
        self.num_layers += 1
        if self.added:
            zeros = self.added.get(number)
            return result if zeros is None else jax.tree.map(jnp.add, result, zeros)
        if not is_traced(result):
            self.returned[number] = result
        self.layers.append(layer)
        self.called.add(name)
        received, cell = call(), layer.cell

        def keep(arrays):
            variables, inputs, carry, lengths = arrays
            known = received._replace(inputs=inputs, carry=carry, seq_lengths=lengths)
            self.seen.append(Seen(name, cell, variables, known, None, number))

        hand_out(keep, (variables, received.inputs, received.carry, received.seq_lengths))
        return result

    def see_cell(
        self, cell: Any, name: str, variables: PyTree, args: tuple, kwargs: dict, result: PyTree
    ) -> PyTree:
        """Keep a call of a cell, as one step, and return its result."""
        received = dict(zip(("carry", "x"), args, strict=False)) | kwargs
        carry, x, *_ = received.values()
        self.called.add(name)

        def keep(arrays):
            variables, step = arrays
            self.seen.append(Seen(name, cell, variables, None, Step(*step), -1))

        hand_out(keep, (variables, (carry, x, result[0])))
        return result


def setting_of(layer: Any, given: Mapping[str, Any], name: str) -> Any:
    """Return an option of a layer's call: as it was given, or else as the layer was made."""
    value = given.get(name)
    return getattr(layer, name) if value is None else value


def record_run(
    run: Callable[[CallLog], Any],
    make: Callable[[Seen, Sequences], RecordedLayer],
    loss: Callable[[Any], Any] | None,
    refuse_none: Callable[[], None],
) -> tuple[RecordedLayer, ...]:
    """Run a model, and make recorded layers of the calls that its log then holds.

    Args:
        run: runs the model with a log, and returns what the model returns.
        make: the recorded layer of a call and its sequences.
        loss: of what the model returns, or None. With it the model runs once more, for gradients.
        refuse_none: raises where no layer was called.
    """
    log = CallLog()
    output = run_model(lambda: run(log))
    for layer in log.layers:
        check_same_at_every_step(layer)
    unseen = log.called - {one.name for one in log.seen}
    if unseen:
        received = f"the layer {min(unseen)!r} in a part that is traced and does not run"
        advice = "call the model without it, on a whole batch"
        refuse("model", received, "one whose values can be seen", advice)
    if not log.seen:
        refuse_none()
    gradients: Mapping[int, Any] = {}
    if loss is not None:
        check_loss_of(loss, output)
    if loss is not None and log.returned:
        # Zeros are added to what each layer returns, and the loss differentiated for them.
        zeros = jax.tree.map(jnp.zeros_like, log.returned)
        gradients = run_model(lambda: jax.grad(lambda added: loss(run(CallLog(added))))(zeros))
    return _layers_of(log.seen, make, log.returned, gradients)


def _layers_of(
    seen: Sequence[Seen],
    make: Callable[[Seen, Sequences], RecordedLayer],
    results: Mapping[int, Any],
    gradients: Mapping[int, Any],
) -> tuple[RecordedLayer, ...]:
    """Return the layers in the order in which they were first called.

    Args:
        seen: all calls.
        make: the recorded layer of a call and its sequences.
        results: what layers returned, by number of the call.
        gradients: ∂loss/∂results, by number of the call, as far as they are known.
    """
    found: list[tuple[int, RecordedLayer]] = []
    of_layers: dict[str, list[tuple[int, Seen]]] = {}
    of_cells: dict[str, list[tuple[int, Seen]]] = {}
    for position, one in enumerate(seen):
        kind = of_cells if one.call is None else of_layers
        kind.setdefault(one.full_name, []).append((position, one))
    for calls in of_layers.values():
        received = [sequences_of(one.call) for _, one in calls if one.call is not None]
        batches = together(received)
        for (position, one), sequences in zip(calls, batches, strict=False):
            layer = make(one, sequences)
            # What a loss says of sequences that came one at a time is left out.
            if one.number in gradients and one.call is not None and len(batches) == len(received):
                known = gradients_of(one.call, results[one.number], gradients[one.number])
                layer = layer._replace(gradients=known)
            found.append((position, layer))
    for name, calls in of_cells.items():
        position, first = calls[0]
        rank = getattr(first.cell, "num_feature_axes", None)
        chains = chains_of(name, [one.step for _, one in calls if one.step is not None], rank)
        found += [(position, make(first, sequences)) for sequences in together(chains)]
    found.sort(key=lambda pair: pair[0])
    return number_calls([layer for _, layer in found])

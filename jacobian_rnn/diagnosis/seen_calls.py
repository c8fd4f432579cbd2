"""Calls of layers and cells that were seen while a model ran, made into recorded layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.chains import Step, chains_of
from jacobian_rnn.diagnosis.recorded_layers import (
    Call,
    RecordedLayer,
    Sequences,
    gradients_of,
    number_calls,
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


def check_all_seen(called: set[str], seen: Sequence[Seen]) -> None:
    """Raise for a layer that was called, but of which no values could be seen."""
    unseen = called - {one.name for one in seen}
    if unseen:
        received = f"the layer {min(unseen)!r} in a part that is traced and does not run"
        advice = "call the model without it, on a whole batch"
        refuse("model", received, "one whose values can be seen", advice)


def layers_seen(
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
    steps: dict[str, list[tuple[int, Seen]]] = {}
    for position, one in enumerate(seen):
        if one.call is None:
            steps.setdefault(one.name, []).append((position, one))
            continue
        layer = make(one, sequences_of(one.call))
        if one.number in gradients:
            known = gradients_of(one.call, results[one.number], gradients[one.number])
            layer = layer._replace(gradients=known)
        found.append((position, layer))
    for name, calls in steps.items():
        position, first = calls[0]
        rank = getattr(first.cell, "num_feature_axes", None)
        chains = chains_of(name, [one.step for _, one in calls if one.step is not None], rank)
        found += [(position, make(first, sequences)) for sequences in chains]
    found.sort(key=lambda pair: pair[0])
    return number_calls([layer for _, layer in found])

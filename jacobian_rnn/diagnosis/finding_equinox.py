"""The recurrent cells of an Equinox model, found in its tree and watched while it runs.

A copy of the model runs, in which each cell is of a class that keeps what it is called with. An
Equinox model takes one sequence, so it is called with one sequence of the batch after another.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from jacobian_rnn.cells.known_cells import layouts
from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.chains import Step, chains_of, together
from jacobian_rnn.diagnosis.precision import in_full_precision
from jacobian_rnn.diagnosis.recorded_layers import (
    RecordedLayer,
    check_sequences,
    describe_kind,
    number_calls,
    run_model,
)
from jacobian_rnn.weights import from_equinox

SEEN: list[tuple[str, Step]] = []  # the calls of one run


def is_equinox(model: Any) -> bool:
    """Say whether a model is a module of Equinox, without importing it."""
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(model, equinox.Module)


def record_equinox(
    model: Any, batch: Any, *, call: Callable[[Any, Any], Any] | None = None
) -> tuple[RecordedLayer, ...]:
    """Run an Equinox model on each sequence of a batch, and record what its cells receive."""
    call = call or (lambda model, x: model(x))
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_cell)
    cells = {jax.tree_util.keystr(path): leaf for path, leaf in leaves if _is_cell(leaf)}
    paths = iter(cells)
    copy = jax.tree.map(
        lambda leaf: _watched(leaf, next(paths)) if _is_cell(leaf) else leaf,
        model,
        is_leaf=_is_cell,
    )
    runs: list[list[tuple[str, Step]]] = []
    for position in range(len(jax.tree.leaves(batch)[0])):
        x = jax.tree.map(lambda leaf, i=position: leaf[i], batch)
        SEEN.clear()
        run_model(lambda x=x: call(copy, x))
        runs.append(list(SEEN))
    SEEN.clear()
    if not any(runs):
        received = f"a {type(model).__name__} in which no recurrent cell was called"
        expected = "one with an equinox.nn.GRUCell or LSTMCell"
        advice = (
            "make a Recurrence of a cell of your own by from_equinox, and diagnose that with carry="
        )
        refuse("model", received, expected, advice)
    layers = []
    for path, cell in cells.items():
        steps = [[step for where, step in run if where == path] for run in runs]
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(steps)):
            received = f"the cell {path!r} inside jax.vmap or jax.grad"
            advice = "give call= a function of the model and one sequence"
            refuse("model", received, "one whose values can be seen", advice)
        chains = [chains_of(path, of_run, 1) for of_run in steps]
        if len({len(of_run) for of_run in chains}) == 1:
            # A cell that a model uses twice has two layers, as in a forward and a backward pass.
            batches = [one for uses in zip(*chains, strict=True) for one in together(uses)]
        else:
            batches = together([one for of_run in chains for one in of_run])
        for sequences in batches:
            name = path.lstrip(".") or type(cell).__name__
            sequences, notes = check_sequences(name, sequences)
            kind = describe_kind(type(cell), sequences.carry)
            xs, carry, lengths, _ = sequences
            layer = RecordedLayer(name, kind, from_equinox(cell), carry, xs, lengths, None, notes)
            layers.append(in_full_precision(layer))
    return number_calls(layers)


def _is_cell(leaf: Any) -> bool:
    own = sys.modules["equinox"].nn
    names = (layout.equinox.name for layout in layouts() if layout.equinox is not None)
    return isinstance(leaf, tuple(getattr(own, name) for name in names))


def _watched(cell: Any, path: str) -> Any:
    """Copy a cell with another class, which keeps what it is called with."""
    copy = jax.tree.map(lambda leaf: leaf, cell)
    object.__setattr__(copy, "__class__", _watched_class(type(cell), path))
    return copy


@functools.cache
def _watched_class(kind: type, path: str) -> type:
    def call(self, x, state, **kwargs):
        new = kind.__call__(self, x, state, **kwargs)
        # `from_equinox` has c before h.
        before, after = (one[::-1] if isinstance(one, tuple) else one for one in (state, new))
        SEEN.append((path, Step(before, x, after)))
        return new

    return type(kind.__name__, (kind,), {"__call__": call})

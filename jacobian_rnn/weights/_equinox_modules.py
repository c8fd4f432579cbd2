"""The recurrent cells in a module of Equinox."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jacobian_rnn.weights._gated_layers import foreign_layouts
from jacobian_rnn.weights._recurrent_layer import RecurrentLayer

MAX_DEPTH = 16


def import_equinox() -> Any:
    """Import Equinox, whose name is also that of a module of this package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("equinox")
    except ImportError as error:
        msg = "cell: to load a module of Equinox, pip install 'jacobian_rnn[equinox]'"
        raise ImportError(msg) from error


def is_equinox(module: Any) -> bool:
    """Say whether an object is a module of Equinox, without importing it."""
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(module, equinox.Module)


def cell_name(module: Any) -> str | None:
    """Return the name of a cell that is Equinox's own, such as "GRUCell", else None."""
    own = sys.modules["equinox"].nn
    return next(
        (name for name in foreign_layouts("equinox") if type(module) is getattr(own, name)), None
    )


def find_equinox_cells(module: Any) -> dict[str, RecurrentLayer]:
    """Find the cells of Equinox in a module, by the path of attributes that leads to them."""
    return {path: _describe(path, cell) for path, cell in _walk(module, "")}


def _describe(path: str, cell: Any) -> RecurrentLayer:
    return RecurrentLayer(
        framework="equinox",
        prefix=path,
        kind=str(cell_name(cell)),
        num_inputs=cell.input_size,
        num_units=cell.hidden_size,
        num_layers=1,
        num_directions=1,
        num_projected=0,
        dtype=str(cell.weight_hh.dtype),
        untold=(),
    )


def _walk(node: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if is_equinox(node):
        if cell_name(node) is not None:
            yield path, node
            return
        names = [field.name for field in dataclasses.fields(node)]
        inner = {f".{name}": getattr(node, name, None) for name in names}
    elif isinstance(node, list | tuple):
        inner = {f"[{position}]": value for position, value in enumerate(node)}
    elif isinstance(node, Mapping):
        inner = {f"[{key!r}]": value for key, value in node.items()}
    else:
        return
    if depth < MAX_DEPTH:
        for step, value in inner.items():
            yield from _walk(value, path + step, depth + 1)

"""Files of Keras: `.keras`, `.weights.h5` and `.h5`, read with h5py and as JSON."""

import contextlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jacobian_rnn.checks import refuse
from jacobian_rnn.weights._files import LARGE, RATIO, WHOLE, StoredArray, format_of, zip_members
from jacobian_rnn.weights._gated_layers import foreign_layouts
from jacobian_rnn.weights._keras_activations import foreign_class
from jacobian_rnn.weights._keras_layers import (
    MAX_DEPTH,
    KerasCell,
    KerasLayer,
    config_of,
    to_snake_case,
)

# The place of each array in a cell: its name in files of Keras 2, its number in those of Keras 3.
POSITIONS = {"kernel": 0, "recurrent_kernel": 1, "bias": 2, "0": 0, "1": 1, "2": 2}
# Layers of Keras that have others within. What is no cell either is a class that is not known.
CONTAINERS = {
    *("RNN", "StackedRNNCells", "Bidirectional", "TimeDistributed"),
    *("Sequential", "Functional", "Model"),
}
OF_KERAS_3 = re.compile(
    r"(?P<layer>.*?)(/(?P<direction>forward|backward)_layer)?(/cell(/cells/[^/]+)?)?/vars"
)
OF_KERAS_2 = re.compile(
    r"(model_weights/)?(?P<layer>.*?)(/(?P<direction>forward|backward)_[^/]+)?"
    r"(/stacked_rnn_cells[^/]*)?(/(?P<cell>[^/]*cell[^/]*))?"
)
NUMBERED = re.compile(r"(?P<name>.*?)(_(?P<number>\d{1,9}))?")


@contextlib.contextmanager
def open_keras_file(path: Path) -> Iterator[list[KerasLayer]]:
    """Find the recurrent layers of a file that Keras wrote.

    Raises:
        ValueError: a file that is damaged or of another kind.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        msg = f"weights: to read {path}, pip install 'jacobian_rnn[keras]' (h5py)"
        raise ImportError(msg) from error
    kind = format_of(path)
    if kind not in ("keras", "hdf5"):
        advice = "read weights of PyTorch with from_torch"
        refuse("weights", repr(str(path)), "a .keras, .weights.h5 or .h5 file of Keras", advice)
    try:
        config, content, version = {}, path, ""
        if kind == "keras":
            zip_members(path)
            with zipfile.ZipFile(path) as archive:
                config = _json(archive.read("config.json"))
                version = str(_json(archive.read("metadata.json")).get("keras_version", ""))
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            if "model_config" in file.attrs:
                config = _json(file.attrs["model_config"])
            version = _text(file.attrs.get("keras_version", version))
            layers = _layers(_find_cells(file), config, version)
            yield [layer._replace(name=_name_of(file, layer.prefix)) for layer in layers]
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        msg = f"weights: received {str(path)!r}, expected {WHOLE} ({error})"
        raise ValueError(msg) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _name_of(file: Any, prefix: str) -> str:
    """Return the name of a layer, which Keras 3 notes and which ends the paths of Keras 2."""
    import h5py

    path = f"{prefix}/vars"
    is_here = isinstance(file.get(path, getlink=True), h5py.HardLink)
    noted = file[path].attrs.get("name") if is_here else None
    return prefix.rpartition("/")[2] if noted is None else _text(noted)


def _json(text: Any) -> dict[str, Any]:
    """Read a configuration, which is data and is never run."""
    try:
        config = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        refuse("weights", f"a configuration that is no JSON ({error})", WHOLE)
    return config if isinstance(config, dict) else {}


def _find_cells(file: Any) -> dict[str, KerasCell]:
    """Find what holds the arrays of a cell, by its path. Nothing outside the file is followed."""
    import h5py

    groups: dict[str, dict[str, str]] = {}

    def visit(path, entry):
        if isinstance(entry, h5py.Dataset):
            group, _, name = path.rpartition("/")
            groups.setdefault(group, {})[name.partition(":")[0]] = path

    file.visititems(visit)
    cells = {path: names for path, names in groups.items() if _is_cell(path, set(names))}
    owners = {path.removesuffix("/vars"): path for path in cells}
    unread: dict[str, list[str]] = {path: [] for path in cells}
    for group, names in groups.items():
        if group in cells:
            continue
        parts = group.split("/")
        for depth in range(len(parts)):
            owner = "/".join(parts[: depth + 1])
            if owner in owners:
                floats = [path for path in names.values() if file[path].dtype.kind == "f"]
                unread[owners[owner]] += [path.removeprefix(f"{owner}/") for path in floats]
    return {
        path: KerasCell(
            path,
            [
                _look(names[one], file[names[one]])
                for one in sorted(names, key=POSITIONS.__getitem__)
            ],
            {},
            tuple(unread[path]),
        )
        for path, names in cells.items()
    }


def _is_cell(path: str, names: set[str]) -> bool:
    """Say whether arrays with these names are those of a cell. Keras 3 writes numbers for names."""
    if {"kernel", "recurrent_kernel"} <= names <= {"kernel", "recurrent_kernel", "bias"}:
        return True
    *_, above, owner, last = ("", "", *path.split("/"))
    of_cell = "cell" in owner or above == "cells"
    return last == "vars" and of_cell and {"0", "1"} <= names <= {"0", "1", "2"}


def _look(name: str, dataset: Any) -> StoredArray:
    """Look at an array, and refuse one that is not stored here or is far larger than what is."""
    if dataset.shape is None:
        refuse(name, "an array without a shape", "numbers")
    size, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual:
        refuse(name, "an array that lies in another file", "one that lies in this file")

    def read():
        if size > LARGE and size > RATIO * stored:
            refuse(name, f"{size} bytes in {stored}", "weights")
        return dataset[()]

    return StoredArray(tuple(dataset.shape), str(dataset.dtype), read)


def _layers(cells: Mapping[str, KerasCell], config: Mapping, version: str) -> list[KerasLayer]:
    """Sort cells into layers: both directions of one, and those that stand on top of each other."""
    configs = dict(_configs(config, "", ""))
    order = {key: position for position, key in enumerate(configs)}
    layers: dict[str, dict[str, dict[str, KerasCell]]] = {}
    positions: dict[str, int] = {}
    for path, cell in cells.items():
        match: Any = (OF_KERAS_3 if path.endswith("/vars") else OF_KERAS_2).fullmatch(path)
        prefix, direction = match["layer"], match["direction"] or "forward"
        if path.endswith("/vars"):
            keys = [path.removesuffix("/vars"), re.sub("(/cell)?/vars$", "", path)]
        else:
            name = prefix.rpartition("/")[2]
            keys = [f"{name}/{match['cell']}", f"{name}/{direction}", name]
        key = next((key for key in keys if key in configs), None)
        known = dict(configs[key]) if key is not None else {}
        for name in ("activation", "recurrent_activation"):
            if version[:2] in ("1.", "2.") and known.get(name) == "hard_sigmoid":
                known[name] = "keras_2_hard_sigmoid"
        group = layers.setdefault(prefix, {"forward": {}, "backward": {}})
        name = known.pop("class", None)
        unread = cell.unread if name is None else (f"class {name}", *cell.unread)
        group[direction][path] = cell._replace(config=known, unread=unread)
        positions[prefix] = min(positions.get(prefix, len(order)), order.get(key or "", len(order)))

    def sort(group):
        return tuple(group[path] for path in sorted(group, key=_in_order))

    found = []
    for prefix in sorted(layers, key=lambda prefix: (positions[prefix], _in_order(prefix))):
        forward, backward = map(sort, layers[prefix].values())
        found.append(KerasLayer(prefix, prefix, forward or backward, backward if forward else ()))
    return found


def _in_order(path: str) -> list[tuple[str, int]]:
    """Sort lstm, lstm_1, lstm_2, ..., lstm_10."""
    parts = [NUMBERED.fullmatch(part) for part in path.split("/")]
    return [(part["name"], int(part["number"] or 0)) for part in parts if part is not None]


def _configs(
    entry: Any, path: str, owner: str, more: Mapping | None = None, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk through a configuration, and give that of each cell by its path and by its name.

    Args:
        entry: the configuration of a layer or a model, with the name of its class.
        path: where Keras 3 stores its weights.
        owner: what its weights are called in files of Keras 2, or empty for its own name.
        more: what an outer layer says of it.
        depth: how many layers are around it.
    """
    kind, config = _class_and_config(entry)
    if depth > MAX_DEPTH or not config:
        return
    name = str(config.get("name"))
    kinds = foreign_layouts("keras")
    if kind not in CONTAINERS and kind.removesuffix("Cell") not in kinds:
        known = {**(more or {}), **config_of(config), "class": kind}
        yield path, known
        yield owner or name, known
    if kind in kinds or kind.removesuffix("Cell") in kinds:
        known = {**(more or {}), **config_of(config)}
        yield path, known
        yield owner or name, known
    elif kind == "Bidirectional":
        for direction in ("forward", "backward"):
            inner = config.get("backward_layer") if direction == "backward" else None
            below = f"{path}/{direction}_layer"
            inner = inner or config.get("layer")
            # Each level is walked twice, so none but an RNN, stacked cells and a cell may follow.
            deeper = max(depth + 1, MAX_DEPTH - 2)
            yield from _configs(inner, below, f"{name}/{direction}", more, deeper)
    else:
        more = config_of(config) if kind == "RNN" else more
        owner = name if kind == "RNN" else owner
        for attribute in ("layer", "cell"):
            below = f"{path}/{attribute}"
            yield from _configs(config.get(attribute), below, owner, more, depth + 1)
        for attribute in ("layers", "cells"):
            counts: dict[str, int] = {}
            inner = config.get(attribute)
            for one in inner if isinstance(inner, list) else ():
                _, own_config = _class_and_config(one)
                own = to_snake_case(str(one.get("class_name"))) if isinstance(one, dict) else ""
                number = counts[own] = counts.get(own, -1) + 1
                below = f"{path}/{attribute}/{own}{f'_{number}' if number else ''}"
                called = f"{owner}/{own_config.get('name')}" if attribute == "cells" else ""
                yield from _configs(one, below.removeprefix("/"), called, more, depth + 1)


def _class_and_config(entry: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a class and its configuration, both empty where there is none."""
    if not isinstance(entry, dict):
        return "", {}
    config = entry.get("config")
    if isinstance(config, list):  # of a model of Keras 1
        config = {"layers": config}
    name = foreign_class(entry) or str(entry.get("class_name"))
    return name, config if isinstance(config, dict) else {}

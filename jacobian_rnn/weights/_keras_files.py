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
from jacobian_rnn.weights._keras_layers import (
    MAX_DEPTH,
    KerasCell,
    KerasLayer,
    config_of,
    to_snake_case,
)

NUMBERED = re.compile(r"[0-9]+")
NAMED = {"kernel": 0, "recurrent_kernel": 1, "bias": 2}
CELLS = {"SimpleRNNCell", "LSTMCell", "GRUCell"}
LAYERS = {"SimpleRNN", "LSTM", "GRU"}


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
            yield _layers(_find_cells(file, h5py), config, version)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        msg = f"weights: received {str(path)!r}, expected {WHOLE} ({error})"
        raise ValueError(msg) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _json(text: Any) -> dict[str, Any]:
    """Read a configuration, which is data and is never run."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse("weights", f"a configuration that is no JSON ({error})", WHOLE)
    return config if isinstance(config, dict) else {}


def _find_cells(file: Any, h5py: Any) -> dict[str, list[StoredArray]]:
    """Find what holds the arrays of a cell, by its path. Only hard links are followed."""
    cells: dict[str, list[StoredArray]] = {}
    seen, waiting = set(), [("", file)]
    while waiting:
        path, group = waiting.pop()
        datasets = {}
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            inner = group[name]
            address = h5py.h5o.get_info(inner.id).addr
            if isinstance(inner, h5py.Group) and address not in seen:
                seen.add(address)
                waiting.append((f"{path}/{name}".removeprefix("/"), inner))
            elif isinstance(inner, h5py.Dataset):
                datasets[name.partition(":")[0]] = inner
        place = _place_of(path, set(datasets))
        if place is not None:
            order = sorted(
                datasets, key=lambda name: NAMED.get(name, 0) if name in NAMED else int(name)
            )
            cells[place] = [_look(f"{path}/{name}", datasets[name]) for name in order]
    return dict(sorted(cells.items(), key=lambda item: _in_order(item[0])))


def _place_of(path: str, names: set[str]) -> str | None:
    """Return the path of the cell whose arrays have these names, or None if no cell has."""
    if {"kernel", "recurrent_kernel"} <= names <= set(NAMED):  # Keras 2
        return path
    parent, _, last = path.rpartition("/")
    of_cell = "cell" in parent.rpartition("/")[2] or "/cells/" in parent
    if last == "vars" and of_cell and names in ({"0", "1"}, {"0", "1", "2"}):
        return parent
    return None


def _in_order(path: str) -> list:
    """Sort lstm, lstm_1, lstm_2, ..., lstm_10."""
    return [
        (re.sub(r"_\d+$", "", part), int((re.search(r"_(\d+)$", part) or [0, 0])[1]))
        for part in path.split("/")
    ]


def _look(name: str, dataset: Any) -> StoredArray:
    """Look at an array, and refuse one that is not stored here or is far larger than what is."""
    size, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual:
        refuse(name, "an array that lies in another file", "one that lies in this file")

    def read():
        if size > LARGE and size > RATIO * stored:
            refuse(name, f"{size} bytes in {stored}", "weights")
        return dataset[()]

    return StoredArray(tuple(dataset.shape), str(dataset.dtype), read)


def _layers(
    cells: Mapping[str, list[StoredArray]], config: Mapping, version: str
) -> list[KerasLayer]:
    """Sort cells into layers: both directions of one, and those that stand on top of each other."""
    configs = dict(_configs(config, ""))
    layers: dict[str, dict[str, list[KerasCell]]] = {}
    for place, arrays in cells.items():
        layer = re.sub(r"/cell(/cells/[^/]+)?$", "", place)
        known = configs.get(place, configs.get(layer, {}))
        if not known:
            parts = place.split("/")
            known = next((configs[p] for p in reversed(parts) if p in configs), {})
        known = dict(known)
        old = version[:2] in ("1.", "2.")
        for name in ("activation", "recurrent_activation"):
            if old and known.get(name) == "hard_sigmoid":
                known[name] = "keras_2_hard_sigmoid"
        direction = "backward" if re.search(r"(^|/)backward_[^/]+", layer) else "forward"
        prefix = re.sub(r"/(forward|backward)_[^/]+(/[^/]*cell[^/]*)?$", "", layer)
        group = layers.setdefault(prefix, {"forward": [], "backward": []})
        group[direction].append(KerasCell(place, arrays, known))
    return [
        KerasLayer(prefix, tuple(group["forward"]), tuple(group["backward"]))
        if group["forward"]
        else KerasLayer(prefix, tuple(group["backward"]))
        for prefix, group in layers.items()
    ]


def _configs(entry: Any, path: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk through a configuration, and give that of each recurrent layer by path and by name."""
    if not isinstance(entry, Mapping) or depth > MAX_DEPTH:
        return
    kind, config = entry.get("class_name"), entry.get("config")
    if not isinstance(config, Mapping):
        return
    if kind in CELLS | LAYERS:
        yield path, config_of(config)
        yield str(config.get("name")), config_of(config)
        return
    for attribute in ("layers", "cells"):
        counts: dict[str, int] = {}
        for inner in config.get(attribute, ()) if isinstance(config.get(attribute), list) else ():
            name = to_snake_case(str(inner.get("class_name"))) if isinstance(inner, Mapping) else ""
            number = counts[name] = counts.get(name, -1) + 1
            numbered = f"{name}_{number}" if number else name
            yield from _configs(
                inner, f"{path}/{attribute}/{numbered}".removeprefix("/"), depth + 1
            )
    if kind == "Bidirectional":
        forward = config.get("layer")
        yield from _configs(forward, f"{path}/forward_layer", depth + 1)
        yield from _configs(
            config.get("backward_layer", forward), f"{path}/backward_layer", depth + 1
        )
        return
    for attribute in ("layer", "cell"):
        yield from _configs(config.get(attribute), f"{path}/{attribute}", depth + 1)

"""The recurrent layers in a state dict of PyTorch, however it is nested and parametrised.

A weight may be stored as itself, or as what it is made of: weight norm, spectral norm, pruning, and
the original beside a copy with dropout. Names tell which.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jacobian_rnn.checks import check_shape, list_names, refuse
from jacobian_rnn.weights._gated_layers import foreign_layouts
from jacobian_rnn.weights._numbers import dtype_of, shape_of, to_numpy, widen
from jacobian_rnn.weights._recurrent_layer import RecurrentLayer, choose

NAME = re.compile(
    r"(?P<place>(?:.*\.)?)(?P<weight>(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l\d{1,4})?(?:_reverse)?)(?P<role>_raw|_g|_v|_u|_orig|_mask|\.original[01]?|\.\d+\..+)?"
)
PARTS = re.compile(r"(?P<base>[a-z]+_[a-z]+)(?:_l(?P<number>\d+))?(?P<back>_reverse)?")
MAX_DEPTH = 8  # of dicts in dicts
MAX_REPEATED = 10**5  # entries that several dicts share. Checkpoints have far fewer.
PARTIAL = "torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"


class StoredWeight(NamedTuple):
    """A weight and what is stored of it.

    Attributes:
        name: its name in a layer, such as "weight_hh_l0".
        roles: what is stored, as `(key, array)`, by the end of its key: "" for the weight itself.
    """

    name: str
    roles: dict[str, tuple[str, Any]]

    @property
    def like(self) -> tuple[str, Any]:
        """Return the stored array that has the shape of the weight."""
        for role in ("_raw", "_v", "_orig", ".original1", ".original", ""):
            if role in self.roles and (role != "_v" or "_g" in self.roles):
                return self.roles[role]
        key = next(iter(self.roles.values()))[0]
        return refuse(key, "this part of a weight alone", f"all that {self.name} is made of")


class TorchLayer(NamedTuple):
    """A recurrent layer of PyTorch, which may have several layers on top of each other.

    Attributes:
        prefix: the keys down to it, joined by dots.
        place: those of them that are within its own state dict.
        weights: its weights by name.
        unread: the names of other arrays below its place, such as those of a layer norm.
    """

    prefix: str
    place: str
    weights: dict[str, StoredWeight]
    unread: tuple[str, ...] = ()

    @property
    def numbered(self) -> bool:
        """Whether names have the number of a layer, as those of a cell have not."""
        return any(_parts(name)[1] is not None for name in self.weights)

    def key(self, base: str, number: int, back: str = "") -> str:
        """Return the name of a weight of a layer."""
        return base + (f"_l{number}" if self.numbered else "") + back


def find_torch_layers(source: Mapping) -> dict[str, TorchLayer]:
    """Find all recurrent layers of a state dict, or of dicts that hold some, by their prefix."""
    layers: dict[str, TorchLayer] = {}
    for outer, state in _walk(source):
        places = _places(state)
        unread = _unread(state, places)
        for place, weights in places.items():
            prefix = ".".join(filter(None, (*outer, place)))
            layers[prefix] = TorchLayer(prefix, place, weights, tuple(unread[place]))
    return layers


def choose_torch_layer(layers: dict[str, TorchLayer], prefix: str | None) -> TorchLayer:
    """Return the layer at a prefix. None stands for the only one.

    The keys down to a state dict, and what `torch.compile` and `DataParallel` put in front of
    names, may be left out.
    """
    wanted = None if prefix is None else prefix.removesuffix(".")
    tests = [
        lambda layer: wanted is None or layer.prefix == wanted,
        lambda layer: layer.place == wanted,
        lambda layer: (
            wanted is not None and _bare(wanted) in (_bare(layer.prefix), _bare(layer.place))
        ),
    ]
    matching: list[str] = []
    for test in tests:
        matching = matching or [one.prefix for one in layers.values() if test(one)]
    return layers[choose("prefix", prefix, layers, matching)]


def describe_torch(layer: TorchLayer, nonlinearity: str | None = None) -> RecurrentLayer:
    """Describe a layer by names and shapes alone.

    Raises:
        ValueError: a weight is missing, or has a shape that does not fit.
    """
    parts = [_parts(name) for name in layer.weights]
    if len({number is None for _, number, _ in parts}) > 1:
        expected = "either every key to number its layer or none"
        refuse("weights", list_names(layer.weights), expected)
    numbers = sorted({number or 0 for _, number, _ in parts})
    backs = sorted({back for *_, back in parts})
    bases = {base for base, *_ in parts}
    bases |= {"weight_ih", "weight_hh"}
    bases |= {"bias_ih", "bias_hh"} if bases & {"bias_ih", "bias_hh"} else set()
    for number, back, base in itertools.product(
        range(numbers[-1] + 1), ["", *backs], sorted(bases)
    ):
        if (name := layer.key(base, number, back)) not in layer.weights:
            expected = f"{', '.join(sorted(bases))} of every layer from 0 to {numbers[-1]}"
            key = f"{layer.prefix}.{name}".removeprefix(".")
            refuse(key, f"only {list_names(layer.weights)}", expected)
    key, like = layer.weights[layer.key("weight_hh", 0)].like
    shape, projected = shape_of(like), 0
    num_units = shape[1] if len(shape) == 2 else 0
    if "weight_hr" in bases:
        hr_key, hr = layer.weights[layer.key("weight_hr", 0)].like
        check_shape(hr_key, shape_of(hr), ("P", "N"))
        projected, num_units = shape_of(hr)
    kinds = {len(one.gates): name for name, one in foreign_layouts("pytorch").items()}
    kind = kinds.get(shape[0] // num_units if num_units and shape[0] % num_units == 0 else 0)
    if kind is None or (projected and kind not in foreign_layouts("pytorch", "projections")):
        sizes = {n: f"{n if n > 1 else ''}N" for n in sorted(kinds)}
        refuse(
            key, f"shape {shape}", ", ".join(f"({m}, N) of {kinds[n]}" for n, m in sizes.items())
        )
    read = projected or num_units
    num_inputs: Any = "inputs"
    directions = len({"", *backs})
    for number, back in itertools.product(numbers, ["", *backs]):
        expected = {
            "weight_ih": (shape[0], directions * read if number else num_inputs),
            "weight_hh": (shape[0], read),
            "weight_hr": (projected, num_units),
        }
        for base in bases:
            key, like = layer.weights[layer.key(base, number, back)].like
            check_shape(key, shape_of(like), expected.get(base, (shape[0],)))
            if (number, base) == (0, "weight_ih"):
                num_inputs = shape_of(like)[1]
                expected["weight_ih"] = (shape[0], num_inputs)
    untold = ("nonlinearity",) if kind == "RNN" and nonlinearity is None else ()
    return RecurrentLayer(
        framework="pytorch",
        prefix=layer.prefix,
        kind=kind,
        num_inputs=num_inputs,
        num_units=num_units,
        num_layers=numbers[-1] + 1,
        num_directions=directions,
        num_projected=projected,
        dtype=dtype_of(layer.weights[layer.key("weight_hh", 0)].like[1]),
        untold=untold,
        unread=layer.unread,
    )


def read_weight(weight: StoredWeight, module: Any = None) -> tuple[str, np.ndarray]:
    """Return a weight and the key that errors name, computed from what is stored of it.

    Args:
        weight: the weight.
        module: the module of PyTorch that has it, if there is one. It tells what no key tells.
    """
    roles = {role: entry for role, entry in weight.roles.items() if role != ".0.base"}
    key, like = weight.like
    # Beside an original, the weight itself is what the last forward pass happened to use.
    if "_raw" in roles or set(roles) == {""}:
        return key, to_numpy(key, like)
    arrays = {role: to_numpy(*entry) for role, entry in roles.items() if role != ""}
    dtype = widen(arrays[_role_of(weight, key)]).dtype
    wide = {role: np.asarray(widen(array), np.float64) for role, array in arrays.items()}
    names = set(arrays)
    if names in ({"_g", "_v"}, {".original0", ".original1"}):
        size, direction = (wide[role] for role in sorted(names))
        check_shape(key, size.shape, _norm_shape(size, direction))
        axes = tuple(a for a in range(direction.ndim) if size.ndim == 0 or size.shape[a] == 1)
        norm = np.sqrt(np.sum(direction**2, axis=axes, keepdims=size.ndim > 0))
        value = size * (direction / norm)
    elif names == {"_orig", "_mask"}:
        value = wide["_orig"] * wide["_mask"]
    elif names in ({"_orig", "_u", "_v"}, {".original", ".0._u", ".0._v"}):
        original, left, right = (wide[role] for role in sorted(names, key=_spectral_order))
        check_shape(key, (*left.shape, *right.shape), original.shape)
        value = original / (left @ original @ right)
    elif module is not None:
        value = to_numpy(key, getattr(module, weight.name))
    else:
        received = f"a parametrisation ({', '.join(sorted(roles))}) whose function is not stored"
        advice = (
            "pass the module itself, or save its state dict after "
            f"{PARTIAL.format(name=weight.name)}"
        )
        refuse(key, received, "a weight, weight norm, spectral norm or pruning", advice)
    return key, np.asarray(value, dtype)


def _norm_shape(size: np.ndarray, direction: np.ndarray) -> tuple[int, ...]:
    """Return the shape that norms of a weight have, given their own: 1 along what is summed."""
    if size.ndim == 0:
        return ()
    if size.ndim != direction.ndim:
        return (len(direction), *(1 for _ in direction.shape[1:]))
    return tuple(1 if own == 1 else n for own, n in zip(size.shape, direction.shape, strict=True))


def _spectral_order(role: str) -> int:
    return [".original", "_orig", ".0._u", "_u", ".0._v", "_v"].index(role)


def _role_of(weight: StoredWeight, key: str) -> str:
    return next(role for role, (own, _) in weight.roles.items() if own == key)


def _parts(name: str) -> tuple[str, int | None, str]:
    match: Any = PARTS.fullmatch(name)
    number = match["number"]
    return match["base"], None if number is None else int(number), match["back"] or ""


def _bare(prefix: str) -> str:
    """Leave out what wrappers of PyTorch put in front of names."""
    return ".".join(part for part in prefix.split(".") if part not in ("module", "_orig_mod"))


def _walk(source: Mapping) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Walk through dicts in dicts, each with the keys down to it.

    Dicts may hold each other, in circles or not, so that few of them have more paths than anyone
    can walk. A dict is not followed into itself, and what is met again is counted.

    Raises:
        ValueError: more than `MAX_REPEATED` entries were met before.
    """
    num_repeated, seen = 0, set()
    waiting: list[tuple[tuple[str, ...], Mapping, tuple[int, ...]]] = [((), source, ())]
    while waiting:
        outer, state, around = waiting.pop()
        num_repeated += len(state) if id(state) in seen else 0
        seen.add(id(state))
        if num_repeated > MAX_REPEATED:
            received = f"dicts that hold each other, with {MAX_REPEATED} entries met again"
            advice = "pass the state dict alone, or save it alone"
            refuse("weights", received, "a state dict, or a dict that holds a few", advice)
        yield outer, state
        if isinstance(state, dict) and len(outer) < MAX_DEPTH:
            around = (*around, id(state))
            inner = [
                ((*outer, key), value, around)
                for key, value in state.items()
                if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in around
            ]
            waiting += reversed(inner)


def _places(state: Mapping) -> dict[str, dict[str, StoredWeight]]:
    """Sort the keys of a state dict by the layer and the weight that they belong to."""
    places: dict[str, dict[str, StoredWeight]] = {}
    for key in state:
        match = NAME.fullmatch(key) if isinstance(key, str) and "_" in key else None
        if match is None:
            continue
        place, name, role = match["place"], match["weight"], match["role"] or ""
        if place.endswith("parametrizations."):
            place = place.removesuffix("parametrizations.")
        elif "." in role:
            continue
        weights = places.setdefault(place.removesuffix("."), {})
        weight = weights.setdefault(name, StoredWeight(name, {}))
        array = state[key]
        weight.roles[role] = key, array if hasattr(array, "shape") else to_numpy(key, array)
    # A module that drops weights out holds the originals, and the layer within has the rest.
    for place, weights in list(places.items()):
        inner = places.get(f"{place}.module".removeprefix("."))
        if inner is not None and all(set(weight.roles) == {"_raw"} for weight in weights.values()):
            for name, weight in weights.items():
                inner.setdefault(name, StoredWeight(name, {})).roles.update(weight.roles)
            del places[place]
    return places


def _unread(state: Mapping, places: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """List the floats below each place of a layer that are no part of its weights, by name."""
    keys = {
        place: {key for weight in weights.values() for key, _ in weight.roles.values()}
        for place, weights in places.items()
    }
    unread: dict[str, list[str]] = {place: [] for place in places}
    for key in state if places else ():
        above = key.split(".")[:-1] if isinstance(key, str) else None
        if above is None:
            continue
        around = [".".join(above[:depth]) for depth in range(len(above) + 1)]
        holding = [place for place in around if place in places and key not in keys[place]]
        if holding and _is_float(state[key]):
            for place in holding:
                unread[place].append(key.removeprefix(f"{place}."))
    return unread


def _is_float(value: Any) -> bool:
    """Say whether a value is an array of floats, as counters and masks are not."""
    name = dtype_of(value) if hasattr(value, "shape") and hasattr(value, "dtype") else ""
    return "float" in name or "complex" in name

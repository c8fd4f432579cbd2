"""The recurrent layers of an nnx model, found in its graph and watched while it runs once.

A copy of the model runs. In the copy each layer is of a class that keeps what it is called with,
so the model itself stays as it is, its random state and statistics included.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from jacobian_rnn.cells.flax import from_nnx
from jacobian_rnn.cells.flax_layers import check_same_at_every_step
from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.chains import Step
from jacobian_rnn.diagnosis.precision import in_full_precision, is_coarse
from jacobian_rnn.diagnosis.recorded_layers import (
    Call,
    RecordedLayer,
    Sequences,
    check_sequences,
    describe_kind,
    hand_out,
    is_traced,
    run_model,
)
from jacobian_rnn.diagnosis.seen_calls import Seen, check_all_seen, layers_seen

NAME = "_name_in_model"  # attribute of a watched module that holds its path


class Watch:
    """Keeps each outermost call of a watched module, and can add to what it returns.

    Args:
        added: by number of the call, what is added to the result.
    """

    def __init__(self, added: Mapping[int, PyTree] | None = None):
        """Begin with nothing seen."""
        self.added = added or {}
        self.seen: list[Seen] = []
        self.returned: dict[int, PyTree] = {}
        self.called: set[str] = set()
        self.layers: list[Any] = []
        self.depth = self.num_layers = 0
        self.first_carry: PyTree = None

    def see(self, module: Any, method: Callable, args: tuple, kwargs: dict) -> Any:
        """Call a module, and keep what it received."""
        if self.depth:
            return method(module, *args, **kwargs)
        is_layer = isinstance(module, nnx.RNN)
        self.depth, self.first_carry = 1, None
        try:
            with jax.disable_jit(not is_layer):
                result = method(module, *args, **kwargs)
        finally:
            self.depth = 0
        name = getattr(module, NAME)
        self.called.add(name)
        if not is_layer:
            received = dict(zip(("carry", "x"), args, strict=False)) | kwargs
            carry, x, *_ = received.values()
            hand_out(
                lambda step: self.seen.append(Seen(name, module, None, None, Step(*step), -1)),
                (carry, x, result[0]),
            )
            return result
        self.layers.append(module)
        number = self.num_layers
        self.num_layers += 1
        if self.added:
            zeros = self.added.get(number)
            return result if zeros is None else jax.tree.map(jnp.add, result, zeros)
        if not is_traced(result):
            self.returned[number] = result
        call = self._call_of(module, *args, **kwargs)

        def keep(arrays):
            inputs, carry, lengths = arrays
            known = call._replace(inputs=inputs, carry=carry, seq_lengths=lengths)
            self.seen.append(Seen(name, module.cell, None, known, None, number))

        hand_out(keep, (call.inputs, call.carry, call.seq_lengths))
        return result

    def _call_of(self, layer, inputs, **given) -> Call:
        def setting(name):
            value = given.get(name)
            return getattr(layer, name) if value is None else value

        carry = given.get("initial_carry")
        return Call(
            inputs,
            self.first_carry if carry is None else carry,
            given.get("seq_lengths"),
            layer.cell.num_feature_axes,
            setting("time_major"),
            setting("reverse"),
            setting("keep_order"),
        )


WATCHES: list[Watch] = []


def record_nnx(
    model: nnx.Module,
    batch: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> tuple[RecordedLayer, ...]:
    """Run a copy of an nnx model on a batch, and record what each recurrent layer received."""
    call = call or (lambda model, batch: model(batch))
    modules: dict[str, Any] = {
        _name(path, module): module for path, module in nnx.iter_modules(model)
    }

    def run(watch):
        copy = _watched_copy(model)
        WATCHES.append(watch)
        try:
            return call(copy, batch)
        finally:
            WATCHES.remove(watch)

    watch = Watch()
    run_model(lambda: run(watch))
    seen, results, gradients = watch.seen, watch.returned, {}
    for layer in watch.layers:
        check_same_at_every_step(layer)
    check_all_seen(watch.called, seen)
    if not seen:
        kinds = sorted({type(module).__name__ for module in modules.values()})
        received = f"one of {', '.join(kinds)}, of which no recurrent layer was called"
        expected = "one with an nnx.RNN layer, or a cell called as cell(carry, x)"
        advice = "a cell of your own is found where it derives from nnx.RNNCellBase"
        refuse("model", received, expected, advice)
    if loss is not None and results:
        # Zeros are added to what each layer returns, and the loss differentiated for them.
        zeros = jax.tree.map(jnp.zeros_like, results)
        gradients = run_model(lambda: jax.grad(lambda added: loss(run(Watch(added))))(zeros))

    def make(seen, sequences):
        # The copy that ran has classes that watch.
        module = modules[seen.name]
        return _layer(seen, module.cell if seen.call is not None else module, sequences)

    return layers_seen(seen, make, results, gradients)


def _layer(seen: Seen, cell: Any, sequences: Sequences) -> RecordedLayer:
    sequences, notes = check_sequences(seen.full_name, sequences)
    xs, carry, lengths = sequences
    kind, recurrence = describe_kind(type(cell), carry), from_nnx(_without_coarse_dtype(cell))
    layer = RecordedLayer(seen.full_name, kind, recurrence, carry, xs, lengths, None, notes)
    return in_full_precision(layer, getattr(cell, "dtype", None))


def _without_coarse_dtype(cell: Any) -> Any:
    """Return a cell that computes in the dtype of its parameters, where it would in fewer bits."""
    modules = [module for _, module in nnx.iter_modules(cell)]
    if not any(is_coarse(getattr(module, "dtype", None)) for module in modules):
        return cell
    cell = nnx.clone(cell)
    for _, module in nnx.iter_modules(cell):
        for name in ("dtype", "param_dtype"):
            if is_coarse(getattr(module, name, None)):
                setattr(module, name, jnp.float32)
    return cell


def _watched_copy(model: Any) -> Any:
    copy = nnx.clone(model)
    modules = list(nnx.iter_modules(copy))
    # A layer takes any module as its cell.
    cells = [module.cell for _, module in modules if isinstance(module, nnx.RNN)]
    for path, module in modules:
        is_cell = isinstance(module, nnx.RNNCellBase) or any(module is cell for cell in cells)
        if isinstance(module, nnx.RNN) or is_cell:
            setattr(module, NAME, _name(path, module))
            object.__setattr__(module, "__class__", _watched_class(type(module)))
    return copy


@functools.cache
def _watched_class(kind: type) -> type:
    """Make a class that tells the innermost watch of each call, and is the given one otherwise."""

    def call(self, *args, **kwargs):
        return WATCHES[-1].see(self, kind.__call__, args, kwargs)

    members = {"__call__": call}
    if hasattr(kind, "initialize_carry"):

        def initialize_carry(self, *args, **kwargs):
            carry = kind.initialize_carry(self, *args, **kwargs)
            WATCHES[-1].first_carry = carry
            return carry

        members["initialize_carry"] = initialize_carry
    return type(kind.__name__, (kind,), members)


def _name(path: tuple, module: Any) -> str:
    return "/".join(map(str, path)) or type(module).__name__

"""The recurrent layers of an nnx model, found in its graph and watched while it runs once.

A copy of the model runs. In the copy each layer is of a class that keeps what it is called with,
so the model itself stays as it is, its random state and statistics included.
"""

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from jacobian_rnn.cells.flax import from_nnx
from jacobian_rnn.checks import refuse
from jacobian_rnn.diagnosis.precision import in_full_precision, is_coarse
from jacobian_rnn.diagnosis.recorded_layers import (
    Call,
    RecordedLayer,
    Sequences,
    check_sequences,
    check_width,
    describe_kind,
)
from jacobian_rnn.diagnosis.seen_calls import CallLog, Seen, record_run, setting_of
from jacobian_rnn.diagnosis.shown_output import with_shown_output

NAME = "_name_in_model"  # attribute of a watched module that holds its path


class Watch:
    """Sees each outermost call of a watched module.

    Args:
        log: of the run.
        modules: those of the model itself, by their names.
    """

    def __init__(self, log: CallLog, modules: Mapping[str, Any]):
        """Begin outside all modules."""
        self.log = log
        self.modules = modules
        self.is_inside = False
        self.first_carry: PyTree = None

    def see(self, module: Any, method: Callable, args: tuple, kwargs: dict) -> Any:
        """Call a module, and keep what it received."""
        if self.is_inside:
            return method(module, *args, **kwargs)
        is_layer, name = isinstance(module, nnx.RNN), getattr(module, NAME)
        self.is_inside, self.first_carry = True, None
        try:
            with jax.disable_jit(not is_layer):
                result = method(module, *args, **kwargs)
        except Exception:
            inputs = [*args, *kwargs.values()][0 if is_layer else 1]
            # The copy that runs has classes that watch.
            own = self.modules[name]
            check_width(name, inputs, lambda: from_nnx(own.cell if is_layer else own))
            raise
        finally:
            self.is_inside = False
        if is_layer:
            received = partial(self._call_of, module, *args, **kwargs)
            return self.log.see_layer(module, name, None, received, result)
        return self.log.see_cell(module, name, None, args, kwargs, result)

    def _call_of(self, layer, inputs, **given) -> Call:
        setting = partial(setting_of, layer, given)
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

    def run(log):
        copy, watch = _watched_copy(model), Watch(log, modules)
        WATCHES.append(watch)
        try:
            return call(copy, batch)
        finally:
            WATCHES.remove(watch)

    def make(seen, sequences):
        # The copy that ran has classes that watch.
        module = modules[seen.name]
        return _layer(seen, module.cell if seen.call is not None else module, sequences)

    def refuse_none():
        kinds = sorted({type(module).__name__ for module in modules.values()})
        received = f"one of {', '.join(kinds)}, of which no recurrent layer was called"
        expected = "one with an nnx.RNN layer, or a cell called as cell(carry, x)"
        advice = "a cell of your own is found where it derives from nnx.RNNCellBase"
        refuse("model", received, expected, advice)

    return record_run(run, make, loss, refuse_none)


def _layer(seen: Seen, cell: Any, sequences: Sequences) -> RecordedLayer:
    sequences, notes = check_sequences(seen.full_name, sequences)
    xs, carry, lengths, _ = sequences
    kind, fine = describe_kind(type(cell), carry), _without_coarse_dtype(cell)
    recurrence, more = with_shown_output(from_nnx(fine), fine, sequences)
    layer = RecordedLayer(seen.full_name, kind, recurrence, carry, xs, lengths, None, notes + more)
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

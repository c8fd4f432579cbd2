"""The recurrent layers of a linen model, found by intercepting calls while it runs once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import PyTree

from jacobian_rnn.cells.flax import from_linen
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

LIFTED = "flax.linen.transforms"  # the module of classes that `nn.scan` and its like make


class Interceptor:
    """Sees each outermost call of a recurrent layer or cell of a model that runs.

    Args:
        log: of the run.
    """

    def __init__(self, log: CallLog):
        """Begin outside all layers."""
        self.log = log
        self.modules: set[str] = set()
        self.depth = 0

    def __call__(self, next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """Call the next function, and keep what it received."""
        module = context.module
        self.modules.add(type(module).__name__)
        is_layer = isinstance(module, nn.RNN)
        inside = self.depth or context.method_name != "__call__"
        if inside or not (is_layer or _is_cell(module)) or _is_scan(type(module)):
            return next_fun(*args, **kwargs)
        self.depth += 1
        try:
            # What is inside a layer is known, and may be compiled.
            with jax.disable_jit(not is_layer):
                result = next_fun(*args, **kwargs)
        except Exception:
            cell = module.cell if is_layer else module
            inputs = [*args, *kwargs.values()][0 if is_layer else 1]
            plain = _plain(cell.clone(parent=None))
            check_width(_path(module), inputs, lambda: from_linen(plain, cell.variables))
            raise
        finally:
            self.depth -= 1
        name = _path(module)
        if is_layer:
            received = partial(_call_of_layer, module, *args, **kwargs)
            return self.log.see_layer(module, name, module.cell.variables, received, result)
        return self.log.see_cell(module, name, module.variables, args, kwargs, result)


def record_linen(
    model: nn.Module,
    variables: PyTree,
    batch: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
    rngs: Any = None,
) -> tuple[RecordedLayer, ...]:
    """Run a linen model on a batch, and record what each recurrent layer in it received."""
    call = call or (lambda module, batch: module(batch))
    modules: set[str] = set()

    def run(log):
        # A model in training mode may change its statistics; what it makes of them is dropped.
        apply = nn.apply(call, model, mutable=nn.DenyList(("params",)))
        interceptor = Interceptor(log)
        with nn.intercept_methods(interceptor):
            output = apply(variables, batch, rngs=rngs)[0]
        modules.update(interceptor.modules)
        return output

    def refuse_none():
        received = f"one that called {', '.join(sorted(modules))}"
        expected = "one with an nn.RNN layer, or a cell called as cell(carry, x)"
        advice = "a cell of your own is found where it derives from nn.RNNCellBase"
        refuse("model", received, expected, advice)

    return record_run(run, _layer, loss, refuse_none)


def _layer(seen: Seen, sequences: Sequences) -> RecordedLayer:
    sequences, notes = check_sequences(seen.full_name, sequences)
    computed_in, cell = getattr(seen.cell, "dtype", None), _plain(seen.cell.clone(parent=None))
    if is_coarse(computed_in):
        cell = cell.clone(dtype=None)
    kind = describe_kind(type(cell), sequences.carry)
    xs, carry, lengths, _ = sequences
    apply = partial(cell.apply, seen.variables)
    recurrence, more = with_shown_output(from_linen(cell, seen.variables), apply, sequences)
    layer = RecordedLayer(seen.full_name, kind, recurrence, carry, xs, lengths, None, notes + more)
    return in_full_precision(layer, computed_in)


def _call_of_layer(layer, inputs, **given) -> Call:
    """Say what a call of an `nn.RNN` works with, as the layer itself finds it out."""
    setting = partial(setting_of, layer, given)
    time_major, rank = setting("time_major"), layer.cell.num_feature_axes
    carry = given.get("initial_carry")
    if carry is None:
        key = given.get("init_key")
        key = jax.random.key(0) if key is None else key
        time_axis = 0 if time_major else inputs.ndim - rank - 1
        shape = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]
        carry = layer.cell.initialize_carry(key, shape)
    return Call(
        inputs,
        carry,
        given.get("seq_lengths"),
        rank,
        time_major,
        setting("reverse"),
        setting("keep_order"),
    )


def _plain(cell: nn.Module) -> nn.Module:
    """Return the cell itself out of what `nn.remat` or `nn.jit` made of it."""
    plain: Any = next(one for one in type(cell).__mro__ if one.__module__ != LIFTED)
    if plain is type(cell):
        return cell
    fields = {
        name: getattr(cell, name)
        for name, field in cell.__dataclass_fields__.items()
        if field.init and name not in ("parent", "name")
    }
    return plain(**fields)


def _is_cell(module: Any) -> bool:
    return isinstance(module, nn.RNNCellBase)


def _is_scan(kind: type) -> bool:
    """Say whether a class is what `nn.scan` made of a cell: it is called with a whole sequence."""
    lifted = [one.__name__ for one in kind.__mro__ if one.__module__ == LIFTED]
    return any(name.startswith("Scan") for name in lifted)


def _path(module: Any) -> str:
    return "/".join(module.path) or type(module).__name__

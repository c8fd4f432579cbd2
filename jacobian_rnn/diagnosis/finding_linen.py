"""The recurrent layers of a linen model, found by intercepting calls while it runs once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from jacobian_rnn.cells.flax import from_linen
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

LIFTED = "flax.linen.transforms"  # the module of classes that `nn.scan` and its like make


class Interceptor:
    """Sees each outermost call of a recurrent layer or cell, and can add to what it returns.

    Args:
        added: by number of the call, what is added to `(outputs, last carry)`.
    """

    def __init__(self, added: Mapping[int, PyTree] | None = None):
        """Begin with nothing seen."""
        self.added = added or {}
        self.seen: list[Seen] = []
        self.returned: dict[int, PyTree] = {}
        self.called: set[str] = set()
        self.layers: list[Any] = []
        self.modules: set[str] = set()
        self.depth = self.num_layers = 0

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
        finally:
            self.depth -= 1
        return (self._see_layer if is_layer else self._see_cell)(module, args, kwargs, result)

    def _see_layer(self, layer, args, kwargs, result):
        cell = layer.cell
        name, variables = _path(layer), cell.variables
        number = self.num_layers
        self.num_layers += 1
        if self.added:
            zeros = self.added.get(number)
            return result if zeros is None else jax.tree.map(jnp.add, result, zeros)
        if not is_traced(result):
            self.returned[number] = result
        self.layers.append(layer)
        call, cell = _call_of_layer(layer, *args, **kwargs), cell.clone(parent=None)

        def keep(arrays):
            variables, inputs, carry, lengths = arrays
            known = call._replace(inputs=inputs, carry=carry, seq_lengths=lengths)
            self.seen.append(Seen(name, cell, variables, known, None, number))

        self.called.add(name)
        hand_out(keep, (variables, call.inputs, call.carry, call.seq_lengths))
        return result

    def _see_cell(self, cell, args, kwargs, result):
        received = dict(zip(("carry", "x"), args, strict=False)) | kwargs
        carry, x, *_ = received.values()
        name, plain = _path(cell), cell.clone(parent=None)

        def keep(arrays):
            self.seen.append(Seen(name, plain, arrays[0], None, Step(*arrays[1]), -1))

        self.called.add(name)
        hand_out(keep, (cell.variables, (carry, x, result[0])))
        return result


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

    def run(interceptor):
        # A model in training mode may change its statistics; what it makes of them is dropped.
        apply = nn.apply(call, model, mutable=nn.DenyList(("params",)))
        with nn.intercept_methods(interceptor):
            return apply(variables, batch, rngs=rngs)[0]

    interceptor = Interceptor()
    run_model(lambda: run(interceptor))
    seen, results, gradients = interceptor.seen, interceptor.returned, {}
    for layer in interceptor.layers:
        check_same_at_every_step(layer)
    check_all_seen(interceptor.called, seen)
    if not seen:
        received = f"one that called {', '.join(sorted(interceptor.modules))}"
        expected = "one with an nn.RNN layer, or a cell called as cell(carry, x)"
        advice = "a cell of your own is found where it derives from nn.RNNCellBase"
        refuse("model", received, expected, advice)
    if loss is not None and results:
        # Zeros are added to what each layer returns, and the loss differentiated for them.
        zeros = jax.tree.map(jnp.zeros_like, results)
        gradients = run_model(lambda: jax.grad(lambda added: loss(run(Interceptor(added))))(zeros))
    return layers_seen(seen, _layer, results, gradients)


def _layer(seen: Seen, sequences: Sequences) -> RecordedLayer:
    sequences, notes = check_sequences(seen.full_name, sequences)
    computed_in, cell = getattr(seen.cell, "dtype", None), _plain(seen.cell)
    if is_coarse(computed_in):
        cell = cell.clone(dtype=None)
    kind = describe_kind(type(cell), sequences.carry)
    xs, carry, lengths = sequences
    recurrence = from_linen(cell, seen.variables)
    layer = RecordedLayer(seen.full_name, kind, recurrence, carry, xs, lengths, None, notes)
    return in_full_precision(layer, computed_in)


def _call_of_layer(layer, inputs, **given) -> Call:
    """Say what a call of an `nn.RNN` works with, as the layer itself finds it out."""

    def setting(name):
        value = given.get(name)
        return getattr(layer, name) if value is None else value

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

"""Recurrences from cells and layers of Flax, linen and nnx."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import errors, nnx
from flax import linen as nn
from jaxtyping import PyTree

from jacobian_rnn.cells.closed_form import ELEMENTWISE, ClosedForm
from jacobian_rnn.cells.flax_layers import (
    check_has_params,
    check_is_cell,
    check_runs_forward,
    check_same_at_every_step,
    check_variables,
    refuse_parameters,
)
from jacobian_rnn.cells.known_cells import layout_of
from jacobian_rnn.cells.layout import Layers
from jacobian_rnn.cells.recurrence import ImpureStepError, Recurrence
from jacobian_rnn.checks import check_type, list_names, refuse

ADVICE = "linen cells go through from_linen, nnx cells through from_nnx, functions are a Recurrence"
# nnx casts with this function unless it is told otherwise.
PROMOTE_DTYPE = inspect.signature(nnx.Linear.__init__).parameters["promote_dtype"].default


def from_linen(
    cell: nn.Module,
    variables: PyTree,
    *,
    call: Callable[[Any, Any, Any], Any] | None = None,
) -> Recurrence:
    """Turn a linen cell and its variables into a `Recurrence`.

    A step does not use initialisers, so cells that differ only in them share one compiled program.

    Args:
        cell: SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell, ConvLSTMCell, or any
            module called as `cell(carry, x) -> (carry, y)`. An `nn.RNN` layer of one works too, if
            it runs forward over (batch, time, inputs).
        variables: the result of `cell.init`, `{"params": ...}`.
        call: `call(module, carry, x) -> carry`, for a module that is called in another way, such as
            a layer over whole sequences that takes its state from a cache. The module is bound to
            its variables. It should be a named function, because equal functions share one compiled
            program. Static.

    Returns:
        The recurrence, with a closed-form Jacobian where one is known. With `call` its `output` is
        the last array of the carry.

    Raises:
        TypeError: `cell` is not a linen module, one of its attributes cannot be hashed, or `call`
            is no function.
        ValueError: `variables` lacks "params" (or "cell" for a layer), or the parameters of the
            cell are at another place in them; a module that is no cell, a bidirectional layer, or
            a layer that runs in reverse, takes time first or has other weights at every step. A
            step that draws random numbers or changes its variables is refused when it is called.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> cell = nn.GRUCell(4)
        >>> carry, x = jnp.zeros(4), jnp.ones(3)
        >>> recurrence = from_linen(cell, cell.init(jax.random.key(0), carry, x))
        >>> recurrence.step(recurrence.params, carry, x).shape
        (4,)
    """
    check_type("cell", cell, nn.Module, "a flax.linen module such as nn.LSTMCell(64)", ADVICE)
    check_has_params(variables, "cell")
    if call is not None:
        if not callable(call):
            expected = "a function (module, carry, x) -> carry"
            refuse("call", repr(call), expected, error=TypeError)
        bare = _without_initializers(cell)
        return Recurrence(_hashable(LinenStep(bare, None, call)), nn.unbox(variables))
    if isinstance(cell, nn.RNN):
        check_runs_forward(cell)
        check_same_at_every_step(cell)
        inner = {name: tree["cell"] for name, tree in variables.items() if "cell" in tree}
        if "params" not in inner:
            refuse_parameters(cell.cell, variables["params"], "'cell'", "`layer.init(...)`")
        variables = inner
        cell = cell.cell
    check_is_cell(cell, variables)
    check_variables(cell, variables["params"])
    variables = nn.unbox(variables)  # `nn.with_partitioning` puts arrays in boxes
    step = _hashable(LinenStep(_without_initializers(cell), _num_feature_axes(cell)))
    # A cell may compute in a dtype that its variables do not have, whatever its `param_dtype` is.
    dtype = getattr(cell, "dtype", None)
    kept = all(dtype in (None, getattr(leaf, "dtype", None)) for leaf in jax.tree.leaves(variables))
    jacobian = closed_form_of(cell) if kept else None
    return Recurrence(step, variables, jacobian)


def from_nnx(cell: nnx.Module) -> Recurrence:
    """Turn an nnx cell into a `Recurrence`.

    Args:
        cell: nnx.SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, or any module called as
            `cell(carry, x) -> (carry, y)`. An `nnx.RNN` layer of one works too. For float64,
            `nnx.SimpleCell` needs both `dtype` and `param_dtype`.

    Returns:
        The recurrence, with a closed-form Jacobian where one is known.

    Raises:
        TypeError: `cell` is not an nnx module, or one of its attributes cannot be hashed.
        ValueError: a module that is no cell, a bidirectional layer, or a layer that runs in
            reverse, takes time first or has other weights at every step. A step that changes its
            own state, as dropout does outside of `cell.eval()`, is refused when it is called.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> recurrence = from_nnx(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> recurrence.step(recurrence.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    if isinstance(cell, nnx.RNN):
        check_runs_forward(cell)
        check_same_at_every_step(cell)
        cell = cell.cell
    expected = "a flax.nnx module such as nnx.LSTMCell(8, 64, rngs=nnx.Rngs(0))"
    check_type("cell", cell, nnx.Module, expected, ADVICE)
    check_is_cell(cell)
    bare = nnx.clone(cell)
    for _, module in nnx.iter_modules(bare):
        for name, value in list(vars(module).items()):
            if name.endswith("_init") and callable(value) and not isinstance(value, nnx.Variable):
                setattr(module, name, None)
    graphdef, state = nnx.split(bare)
    step = _hashable(NNXStep(graphdef, _num_feature_axes(cell)))
    return Recurrence(step, nnx.as_pure(state), closed_form_of(cell))


@dataclasses.dataclass(frozen=True)
class LinenStep:
    """The step of a linen cell. Equal cells have equal steps.

    Attributes:
        cell: the cell.
        num_feature_axes: how many axes a carry has without batch, or None if unknown.
        call: `call(module, carry, x) -> carry`, or None for `module(carry, x) -> (carry, y)`.
    """

    cell: nn.Module
    num_feature_axes: int | None
    call: Callable[[Any, Any, Any], Any] | None = None

    @property
    def shows_last_array(self) -> bool:
        """Whether the last array of a carry is known to be its output, as in all cells of Flax."""
        return type(self.cell).__module__.startswith("flax.")

    def __call__(self, variables, carry, x):
        """Return the new carry."""
        try:
            if self.call is not None:
                return self.cell.apply(variables, carry, x, method=self.call)
            return self.cell.apply(variables, carry, x)[0]
        except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
            name = type(self.cell).__name__
            msg = (
                f"cell: received a {name} whose call draws random numbers or changes its variables "
                f"({error}), expected a step that is the same at every call: switch that off, as "
                "with Dropout(deterministic=True) or BatchNorm(use_running_average=True), or hold "
                "what changes in the carry"
            )
            raise ImpureStepError(msg) from error

    def cell_of(self, variables):
        """Return the cell."""
        del variables
        return self.cell

    def carry_like(self, variables):
        """Return a carry of the right shape."""
        del variables
        cell: Any = self.cell
        return cell.initialize_carry(jax.random.key(0), (1,))


@dataclasses.dataclass(frozen=True)
class NNXStep:
    """The step of an nnx cell. Equal graph definitions have equal steps."""

    graphdef: nnx.GraphDef
    num_feature_axes: int | None

    @property
    def shows_last_array(self) -> bool:
        """Whether the last array of a carry is known to be its output, as in all cells of Flax."""
        root: Any = self.graphdef.nodes[0]
        return root.type.__module__.startswith("flax.")

    def __call__(self, params, carry, x):
        """Return the new carry."""
        cell = self.cell_of(params)
        before = _variables(cell)
        new = cell(carry, x)[0]
        after = _variables(cell)
        changed = [path for path, value in before.items() if after.get(path) is not value]
        if changed:
            received = f"a {type(cell).__name__} whose call changes {list_names(changed)}"
            advice = "call cell.eval() first, or hold what changes in the carry"
            expected = "a step that is the same at every call"
            refuse("cell", received, expected, advice, error=ImpureStepError)
        return new

    def cell_of(self, params):
        """Return the cell with its parameters."""
        return nnx.merge(self.graphdef, params)

    def carry_like(self, params):
        """Return a carry of the right shape."""
        zeros = nnx.initializers.zeros_init()
        return self.cell_of(params).initialize_carry((1,), nnx.Rngs(0), carry_init=zeros)


def _variables(cell: Any) -> dict[str, Any]:
    """Return the values of all variables of an nnx cell, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.as_pure(nnx.state(cell)))
    return {jax.tree_util.keystr(path, simple=True, separator="."): value for path, value in leaves}


def closed_form_of(cell: Any) -> ClosedForm | None:
    """Return the closed-form Jacobian of a Flax cell, or None where there is none.

    It depends on the class, the functions and the dtype of the cell, and in nnx on its layers. A
    function that is not known to act on each unit alone has none. Then JAX differentiates instead.
    """
    layout = layout_of(type(cell))
    if layout is None or layout.jacobian is None or cell.dtype not in (None, cell.param_dtype):
        return None
    gate_fn, activation_fn = getattr(cell, "gate_fn", jax.nn.sigmoid), cell.activation_fn
    layers = layout.layers[type(cell)]
    if not {gate_fn, activation_fn} <= ELEMENTWISE:
        return None
    if isinstance(cell, nnx.Module) and not _has_plain_layers(cell, layers):
        return None
    formula = layout.jacobian
    for (name, value), variant in layout.variants.items():
        if bool(getattr(cell, name, not value)) == value:
            formula = variant
    return ClosedForm(formula, layers, len(layout.gates), gate_fn, activation_fn)


def _has_plain_layers(cell: Any, layers: Layers) -> bool:
    """Say whether an nnx cell computes with the layers that its class makes, and no others."""
    own = {name: getattr(cell, name) for name in layers.inputs + layers.recurrent}
    # Some layers have a bias, others have none, and `read_bias` may have one.
    known = dict.fromkeys(layers.biases, (True,)) | {layers.read_bias: (True, False)}
    return cell.promote_dtype is PROMOTE_DTYPE and all(
        type(layer) is nnx.Linear
        and layer.promote_dtype is PROMOTE_DTYPE
        and layer.dot_general is jax.lax.dot_general
        and layer.param_dtype == cell.param_dtype
        and layer.dtype in (None, cell.param_dtype)
        and (layer.bias is not None) in known.get(name, (False,))
        for name, layer in own.items()
    )


def _hashable(step: Any) -> Any:
    """Return a step that JAX can hash to find its compiled program, or raise a TypeError."""
    try:
        hash(step)
    except TypeError as error:
        msg = (
            f"cell: received an attribute of {error.__cause__ or error}, expected attributes that "
            "compare by value: give a named function or a frozen dataclass as activation_fn or "
            "gate_fn"
        )
        raise TypeError(msg) from error
    return step


def _num_feature_axes(cell: Any) -> int | None:
    """Return how many axes of a carry are features, or None where a cell does not say.

    A cell that does not say still runs, but its carry is not checked for a batch axis.
    """
    try:
        return getattr(cell, "num_feature_axes", None)
    except NotImplementedError:
        # Flax's base class of cells raises it in this property. A user's own cell need not define
        # the property, and it has to work all the same.
        return None


def _without_initializers(cell: nn.Module) -> nn.Module:
    """Copy a linen cell with default initialisers, and with tuples for lists, so that it hashes."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(cell):  # pyright: ignore[reportArgumentType]
        value, default = getattr(cell, field.name), field.default
        if field.name.endswith("_init") and callable(value) and callable(default):
            changes[field.name] = default
        elif isinstance(value, list):
            changes[field.name] = tuple(value)
    return cell.clone(**changes)

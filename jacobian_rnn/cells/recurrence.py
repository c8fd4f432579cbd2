"""Recurrences: a Flax cell, or any function, as `step(params, carry, x) -> carry`.

Everything else in the package works on a `Recurrence` and on its state: the whole carry, ravelled
into one vector (an LSTM of width N has 2N states, `c` then `h`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, PyTree

from jacobian_rnn.cells import closed_form
from jacobian_rnn.cells.closed_form import StackClosedForm


def last_array(carry: PyTree) -> Array:
    """Return the last array of a carry: h of a plain cell, and of an LSTM's (c, h)."""
    return jax.tree.leaves(carry)[-1]


def whole_carry(carry: PyTree) -> Array:
    """Return all arrays of a carry, one after the other."""
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrent system x ↦ step(params, carry, x), with parameters as its only leaves.

    A pytree: it passes through `jit`, `vmap` and `grad`, which act on `params`. The functions are
    static and should compare by value (module-level functions, or frozen dataclasses that can be
    called): two systems whose functions are equal share one compiled program.

    Attributes:
        step: `step(params, carry, x) -> carry`, pure; the carry keeps its structure, shapes and
            dtype.
        params: any pytree of arrays.
        jacobian: `jacobian(params, carry, x) -> (n, n)`, ∂state'/∂state with rows as outputs, in
            the order of the ravelled carry; None where only automatic differentiation serves.
        output: `output(carry) -> array`, what the next layer or the readout sees; by default the
            last array of the carry (h of an LSTM's (c, h)).

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> recurrence = Recurrence(decay, jnp.array(0.5))
        >>> print(recurrence.step(recurrence.params, jnp.ones(2), jnp.zeros(2)))
        [0.5 0.5]
    """

    step: Callable[[Any, Any, Any], Any] = dataclasses.field(metadata={"static": True})
    params: PyTree
    jacobian: Callable[[Any, Any, Any], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    output: Callable[[Any], Array] = dataclasses.field(
        default=last_array, metadata={"static": True}
    )


def from_linen(cell: nn.Module, variables: PyTree) -> Recurrence:
    """Turn a linen cell and its variables into a `Recurrence`.

    Initialisers play no part in a step, so cells that differ only in them compile once.

    Args:
        cell: SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell, ConvLSTMCell, or any
            module called as `cell(carry, x) -> (carry, y)`; or an `nn.RNN` layer of one.
        variables: what `cell.init` returned, `{"params": ...}`.

    Returns:
        The recurrence, with a closed-form Jacobian where `closed_form` has one.

    Raises:
        TypeError: `cell` is not a linen module, or one of its attributes cannot be hashed.
        ValueError: `variables` has no collection "params", or a layer runs in reverse.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> cell = nn.GRUCell(4)
        >>> carry, x = jnp.zeros(4), jnp.ones(3)
        >>> recurrence = from_linen(cell, cell.init(jax.random.key(0), carry, x))
        >>> recurrence.step(recurrence.params, carry, x).shape
        (4,)
    """
    if not isinstance(cell, nn.Module):
        msg = (
            f"cell: received {type(cell).__name__}, expected a flax.linen module such as "
            "nn.GRUCell(64); an nnx cell goes through from_nnx, a function through Recurrence"
        )
        raise TypeError(msg)
    if not isinstance(variables, Mapping) or "params" not in variables:
        received = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        msg = (
            f"variables: received {received}, expected 'params' among "
            "them: pass what `cell.init(...)` returned, or {'params': params}"
        )
        raise ValueError(msg)
    if isinstance(cell, nn.RNN):
        _check_forward(cell)
        if "cell" not in variables["params"]:
            msg = (
                f"variables: received parameters {sorted(variables['params'])}, expected 'cell': "
                "pass what `layer.init(...)` returned"
            )
            raise ValueError(msg)
        cell, variables = cell.cell, {"params": variables["params"]["cell"]}
    variables = nn.unbox(variables)  # from the boxes of `nn.with_partitioning`
    step = _hashable(LinenStep(_without_initializers(cell), _num_feature_axes(cell)))
    # A cell may compute in another dtype than its variables have, whatever it declares.
    dtype = getattr(cell, "dtype", None)
    kept = all(dtype in (None, getattr(leaf, "dtype", None)) for leaf in jax.tree.leaves(variables))
    jacobian = closed_form.of_linen(cell) if kept else None
    return Recurrence(step, variables, jacobian)


def from_nnx(cell: nnx.Module) -> Recurrence:
    """Turn an nnx cell into a `Recurrence`.

    Args:
        cell: nnx.SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, or any module called as
            `cell(carry, x) -> (carry, y)`; or an `nnx.RNN` layer of one. For float64,
            `nnx.SimpleCell` needs both `dtype` and `param_dtype`.

    Returns:
        The recurrence, with a closed-form Jacobian where `closed_form` has one.

    Raises:
        TypeError: `cell` is not an nnx module, or one of its attributes cannot be hashed.
        ValueError: a layer that runs in reverse.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> recurrence = from_nnx(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> recurrence.step(recurrence.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    if isinstance(cell, nnx.RNN):
        _check_forward(cell)
        cell = cell.cell
    if not isinstance(cell, nnx.Module):
        msg = (
            f"cell: received {type(cell).__name__}, expected a flax.nnx module such as "
            "nnx.GRUCell(8, 64, rngs=nnx.Rngs(0)); a linen cell goes through from_linen, a "
            "function through Recurrence"
        )
        raise TypeError(msg)
    bare = nnx.clone(cell)
    for _, module in nnx.iter_modules(bare):
        for name, value in list(vars(module).items()):
            if name.endswith("_init") and callable(value) and not isinstance(value, nnx.Variable):
                setattr(module, name, None)
    graphdef, state = nnx.split(bare)
    step = _hashable(NNXStep(graphdef, _num_feature_axes(cell)))
    return Recurrence(step, nnx.as_pure(state), closed_form.of_nnx(cell))


def stack(*recurrences: Recurrence) -> Recurrence:
    """Put layers on top of each other: the output of each is the input of the next.

    Args:
        *recurrences: lowest layer first, at least one.

    Returns:
        One recurrence. Its carry is the tuple of the layers' carries, its state all their states
        (lowest layer first), its output that of the highest layer.

    Raises:
        ValueError: no layer was given.
        TypeError: something that is no `Recurrence` was given.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> two = stack(Recurrence(decay, jnp.array(0.5)), Recurrence(decay, jnp.array(2.0)))
        >>> print(two.step(two.params, (jnp.ones(1), jnp.ones(1)), jnp.zeros(1)))
        (Array([0.5], dtype=float32), Array([2.5], dtype=float32))
    """
    if not recurrences:
        msg = "recurrences: received none, expected at least one layer"
        raise ValueError(msg)
    for position, recurrence in enumerate(recurrences):
        if not isinstance(recurrence, Recurrence):
            msg = (
                f"recurrences[{position}]: received {type(recurrence).__name__}, expected a "
                "Recurrence: convert cells with from_linen or from_nnx first"
            )
            raise TypeError(msg)
    steps = tuple(recurrence.step for recurrence in recurrences)
    outputs = tuple(recurrence.output for recurrence in recurrences)
    params = tuple(recurrence.params for recurrence in recurrences)
    forms = tuple(recurrence.jacobian for recurrence in recurrences)
    closed = all(map(_shows_the_end, outputs)) and all(hasattr(form, "parts") for form in forms)
    jacobian = StackClosedForm(forms, steps, outputs) if closed else None
    return Recurrence(StackStep(steps, outputs), params, jacobian, StackOutput(outputs[-1]))


def zero_carry(recurrence: Recurrence) -> PyTree:
    """Return the carry of zeros, from which networks usually start, in the parameters' dtype.

    Args:
        recurrence: made by `from_linen`, `from_nnx`, `stack`, or a cell of this package.

    Raises:
        ValueError: a step that does not say what its carry looks like, such as a plain function
            or a ConvLSTMCell, whose carry depends on the image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> cell = nn.LSTMCell(2)
        >>> variables = cell.init(jax.random.key(0), (jnp.zeros(2), jnp.zeros(2)), jnp.ones(3))
        >>> print(zero_carry(from_linen(cell, variables)))
        (Array([0., 0.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    step = getattr(recurrence, "step", recurrence)
    if isinstance(step, StackStep):
        layers = zip(step.steps, recurrence.params, strict=True)
        return tuple(zero_carry(Recurrence(one, params)) for one, params in layers)
    carry_like = getattr(step, "carry_like", None)
    if carry_like is None or getattr(step, "num_feature_axes", 1) != 1:
        name = getattr(step, "__name__", type(step).__name__)
        msg = (
            f"recurrence: received step {name}, whose carry is not known from its parameters, "
            "expected a cell of vectors or a stack of them: make the carry by hand"
        )
        raise ValueError(msg)
    dtype = jax.tree.leaves(recurrence.params)[0].dtype
    like = jax.eval_shape(carry_like, recurrence.params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), like)


def has_batch_axis(step: Callable, carry: PyTree) -> bool:
    """Say whether a carry has more axes than its Flax cell has feature axes; False if unknown."""
    if isinstance(step, StackStep):
        return any(map(has_batch_axis, step.steps, carry))
    rank = getattr(step, "num_feature_axes", None)
    return rank is not None and any(leaf.ndim > rank for leaf in jax.tree.leaves(carry))


@dataclasses.dataclass(frozen=True)
class LinenStep:
    """The step of a linen cell; equal for equal cells."""

    cell: nn.Module
    num_feature_axes: int | None

    def __call__(self, variables, carry, x):
        """Return the new carry."""
        return self.cell.apply(variables, carry, x)[0]

    def carry_like(self, variables):
        """Return a carry of the right shape."""
        del variables
        cell: Any = self.cell
        return cell.initialize_carry(jax.random.key(0), (1,))


@dataclasses.dataclass(frozen=True)
class NNXStep:
    """The step of an nnx cell; equal for equal graph definitions."""

    graphdef: nnx.GraphDef
    num_feature_axes: int | None

    def __call__(self, params, carry, x):
        """Return the new carry."""
        return nnx.merge(self.graphdef, params)(carry, x)[0]

    def carry_like(self, params):
        """Return a carry of the right shape."""
        zeros = nnx.initializers.zeros_init()
        cell = nnx.merge(self.graphdef, params)
        return cell.initialize_carry((1,), nnx.Rngs(0), carry_init=zeros)


@dataclasses.dataclass(frozen=True)
class StackStep:
    """The step of layers on top of each other; equal for equal layers."""

    steps: tuple[Callable, ...]
    outputs: tuple[Callable, ...]

    def __call__(self, params, carry, x):
        """Return the tuple of the layers' new carries."""
        new = []
        for step, output, p, c in zip(self.steps, self.outputs, params, carry, strict=True):
            new.append(step(p, c, x))
            x = output(new[-1])
        return tuple(new)


@dataclasses.dataclass(frozen=True)
class StackOutput:
    """The output of the highest layer."""

    output: Callable

    def __call__(self, carry):
        """Return what the highest layer shows of its carry."""
        return self.output(carry[-1])


def _check_forward(layer: Any) -> None:
    if layer.reverse:
        msg = (
            "cell: received a layer with reverse=True, expected one that runs forward: pass "
            "`layer.cell`, and the inputs in the order in which it meets them"
        )
        raise ValueError(msg)


def _hashable(step: Any) -> Any:
    """Return a step, unless JAX could not find what it compiled for it."""
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


def _shows_the_end(output: Callable) -> bool:
    """Say whether an output is the end of the ravelled carry."""
    while isinstance(output, StackOutput):
        output = output.output
    return output in (last_array, whole_carry)


def _num_feature_axes(cell: Any) -> int | None:
    """Return how many axes of a carry are features; None where a cell does not say.

    Such a cell runs all the same; it is only not checked for a batch axis.
    """
    try:
        return getattr(cell, "num_feature_axes", None)
    except NotImplementedError:  # by Flax's base class, for cells that do not define the property
        return None


def _without_initializers(cell: nn.Module) -> nn.Module:
    """Copy a linen cell with default initialisers, and tuples for lists, so that it hashes."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(cell):  # pyright: ignore[reportArgumentType]
        value, default = getattr(cell, field.name), field.default
        if field.name.endswith("_init") and callable(value) and callable(default):
            changes[field.name] = default
        elif isinstance(value, list):
            changes[field.name] = tuple(value)
    return cell.clone(**changes)

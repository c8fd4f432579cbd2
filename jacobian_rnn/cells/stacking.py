"""Layers on top of each other as one recurrence."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from jacobian_rnn.cells.gated_jacobian import StackJacobian
from jacobian_rnn.cells.recurrence import (
    ENDS,
    Recurrence,
    check_output,
    check_recurrence,
)
from jacobian_rnn.checks import check_type, refuse


def stack(*recurrences: Recurrence) -> Recurrence:
    """Put layers on top of each other: the output of each is the input of the next.

    Args:
        *recurrences: at least one layer, lowest first.

    Returns:
        One recurrence. Its carry is the tuple of the layers' carries. Its state joins all their
        states, lowest layer first. Its output is that of the highest layer. It declares
        `unit_jacobians` if all layers do.

    Raises:
        ValueError: no layer was given.
        TypeError: a layer is not a `Recurrence`.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> two = stack(Recurrence(decay, jnp.array(0.5)), Recurrence(decay, jnp.array(2.0)))
        >>> print(two.step(two.params, (jnp.ones(1), jnp.ones(1)), jnp.zeros(1)))
        (Array([0.5], dtype=float32), Array([2.5], dtype=float32))
    """
    if not recurrences:
        refuse("recurrences", "none", "at least one layer")
    for position, recurrence in enumerate(recurrences):
        name, advice = f"recurrences[{position}]", "convert cells with from_linen or from_nnx first"
        check_type(name, recurrence, Recurrence, "a Recurrence", advice)
    steps = tuple(recurrence.step for recurrence in recurrences)
    outputs = tuple(recurrence.output for recurrence in recurrences)
    params = tuple(recurrence.params for recurrence in recurrences)
    forms = tuple(recurrence.jacobian for recurrence in recurrences)
    closed = all(map(_shows_the_end, outputs)) and all(hasattr(form, "parts") for form in forms)
    jacobian = StackClosedForm(forms, steps, outputs) if closed else None
    of_units: Any = tuple(recurrence.unit_jacobians for recurrence in recurrences)
    blocks = StackUnitJacobians(of_units, steps, outputs) if all(of_units) else None
    return Recurrence(StackStep(steps, outputs), params, jacobian, StackOutput(outputs[-1]), blocks)


def is_stack(recurrence: object) -> bool:
    """Say whether a recurrence is a stack of layers."""
    return isinstance(recurrence, Recurrence) and isinstance(recurrence.step, StackStep)


def unstack(recurrence: Recurrence) -> tuple[Recurrence, ...]:
    """Take a stack apart: the layers of `stack`, lowest first, as recurrences of their own.

    Args:
        recurrence: a result of `stack`, or of a loader that found several layers.

    Returns:
        The layers. `stack(*unstack(recurrence))` is the same system. A layer has its closed form
        where all layers had one, and else none.

    Raises:
        TypeError: a recurrence that is no stack.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> two = stack(Recurrence(decay, jnp.array(0.5)), Recurrence(decay, jnp.array(2.0)))
        >>> print([float(layer.params) for layer in unstack(two)])
        [0.5, 2.0]
    """
    check_recurrence(recurrence)
    step: Any = recurrence.step
    if not is_stack(recurrence):
        received = f"a {getattr(step, '__name__', type(step).__name__)}"
        refuse("recurrence", received, "a stack of layers", "it is one already", error=TypeError)
    num_layers = len(step.steps)
    forms, blocks = (
        getattr(form, "layers", (None,) * num_layers)
        for form in (recurrence.jacobian, recurrence.unit_jacobians)
    )
    layers = zip(step.steps, recurrence.params, forms, step.outputs, blocks, strict=True)
    return tuple(Recurrence(*layer) for layer in layers)


@dataclasses.dataclass(frozen=True)
class StackStep:
    """The step of layers on top of each other. Equal layers have equal steps."""

    steps: tuple[Callable, ...]
    outputs: tuple[Callable, ...]

    def check_outputs(self, carry):
        """Raise a ValueError where a layer would see a guess of what the one below shows."""
        for layer in zip(self.steps, self.outputs, carry, strict=True):
            check_output(*layer)

    def __call__(self, params, carry, x):
        """Return the tuple of the layers' new carries."""
        new = []
        self.check_outputs(carry)
        for step, output, p, c in zip(self.steps, self.outputs, params, carry, strict=True):
            new.append(step(p, c, x))
            x = output(new[-1])
        return tuple(new)


@dataclasses.dataclass(frozen=True)
class StackOutput:
    """The output of the highest layer."""

    output: Callable

    def __call__(self, carry):
        """Return the output of the highest layer."""
        return self.output(carry[-1])


@dataclasses.dataclass(frozen=True)
class StackClosedForm:
    """The closed-form Jacobian of layers on top of each other. Equal layers have equal ones.

    Attributes:
        layers: the closed form of each layer, lowest first.
        steps: `step(params, carry, x) -> carry` of each layer.
        outputs: `output(carry)` of each layer, which is the end of its state.
    """

    layers: tuple[Any, ...]
    steps: tuple[Callable, ...]
    outputs: tuple[Callable, ...]

    def parts(self, params: Any, carry: Any, x: Any) -> StackJacobian:
        """Return the Jacobians of all layers at one step."""
        parts = []
        for layer, step, output, p, c in zip(
            self.layers, self.steps, self.outputs, params, carry, strict=True
        ):
            own = layer.parts(p, c, x)
            parts += own.layers if isinstance(own, StackJacobian) else [own]
            x = output(step(p, c, x))
        return StackJacobian(tuple(parts))

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


@dataclasses.dataclass(frozen=True)
class StackUnitJacobians:
    """The blocks on the diagonal of the Jacobian of layers of units. Equal layers have equal ones.

    Attributes:
        layers: `unit_jacobians` of each layer, lowest first.
        steps: `step(params, carry, x) -> carry` of each layer.
        outputs: `output(carry)` of each layer.
    """

    layers: tuple[Callable, ...]
    steps: tuple[Callable, ...]
    outputs: tuple[Callable, ...]

    def __call__(self, params: Any, carry: Any, x: Any) -> Any:
        """Return the Jacobians of every unit for itself, layer by layer, or those of one layer."""
        blocks = []
        for layer, step, output, p, c in zip(
            self.layers, self.steps, self.outputs, params, carry, strict=True
        ):
            own = layer(p, c, x)
            blocks += own if isinstance(own, tuple) else [own]
            x = output(step(p, c, x))
        return tuple(blocks) if len(blocks) > 1 else blocks[0]


def _shows_the_end(output: Callable) -> bool:
    """Say whether an output is the end of the ravelled carry."""
    while isinstance(output, StackOutput):
        output = output.output
    return output in ENDS

"""Whether what a recurrence declares of its Jacobian is the derivative of its step.

A random vector goes through both at the first steps, which costs no more than those steps.
"""

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.row_blocks import RowBlocks
from jacobian_rnn.checks import refuse
from jacobian_rnn.jacobians.traced_steps import (
    has_forward_mode,
    has_reverse_mode,
    rounding_of_step,
)
from jacobian_rnn.jacobians.unit_places import places_of, pull, push
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.linalg.rounding import rounding_noise

if TYPE_CHECKING:
    from jacobian_rnn.jacobians.system import System

# The first state is often zero, where many wrong Jacobians are right.
NUM_CHECKED_STEPS = 2
# Larger matrices are not formed for a check alone.
LARGEST_MATRIX = 1024


def check_declarations(system: "System") -> None:
    """Compare a declared `jacobian` and declared `unit_jacobians` with the derivative of the step.

    Closed forms of this package are left out. Where values are traced, or the step has no
    derivative of its own, only shapes and dtypes are checked.

    Raises:
        ValueError: shapes that do not fit, or another Jacobian than that of the step.
        TypeError: another dtype than that of the state.
    """
    names = []
    if system.has_unit_layers:
        _check_blocks(system)
        names.append("unit_jacobians")
    if system.recurrence.jacobian is not None and not _is_own(system.recurrence.jacobian):
        _check_matrix(system)
        if system.num_states <= LARGEST_MATRIX:
            names.append("jacobian")
    values = jax.tree.leaves((system.recurrence.params, system.state, system.xs))
    if system.num_steps == 0 or any(isinstance(value, Tracer) for value in values):
        return
    num_steps = min(NUM_CHECKED_STEPS, system.num_steps)
    xs = jax.tree.map(lambda x: x[:num_steps], system.xs)
    first_steps = dataclasses.replace(system, xs=xs, num_steps=num_steps)
    for name in names:
        _check_values(first_steps, name)


def _is_own(jacobian):
    """Say whether a closed form is one of this package, or waits around one."""
    return hasattr(getattr(jacobian, "jacobian", jacobian), "parts")


def _check_blocks(system):
    n, dtype = system.num_states, system.state.dtype
    layers = system.shapes_of_units()
    found: list[tuple[int, ...]] = [shape for one in layers for shape in _shapes(one)]
    fit = all(len(shape) == 3 and shape[0] == shape[1] for shape in found)
    if not (found and fit and sum(shape[1] * shape[2] for shape in found) == n):
        received = f"shape {found[0]}" if len(found) == 1 else f"shapes {found}"
        expected = f"(c, c, N) with c · N = {n}, the size of the state"
        refuse("unit_jacobians", received, expected, "or a tuple of these, one for each layer")
    for blocks in jax.tree.leaves(layers):
        if blocks.dtype != dtype:
            refuse("unit_jacobians", blocks.dtype, str(dtype), "that of the state", error=TypeError)


def _shapes(declared):
    """Return the shapes of the blocks with the number of units, whatever they should be."""
    if isinstance(declared, BorderedIdentity):
        one, own = (1, 1, *declared.kept.shape), (1, 1, *declared.own.shape)
        return (*one, *declared.column.shape), (*own, 1)
    if isinstance(declared, RowBlocks):
        return ((*declared.block.shape, declared.num_rows),)
    return (getattr(declared, "shape", ()),)


def _check_matrix(system):
    n, dtype = system.num_states, system.state.dtype
    matrix = jax.eval_shape(system.jacobian, system.state, system.one_input)
    shape = getattr(matrix, "shape", ())
    if shape != (n, n):
        refuse("jacobian", f"shape {shape}", f"({n}, {n})", "new state by state, as it is ravelled")
    if matrix.dtype != dtype:
        refuse("jacobian", matrix.dtype, str(dtype), "that of the state", error=TypeError)


def _check_values(system, name):
    compared = _compare(system, name)
    # In somebody's jit even what is concrete is computed later.
    if compared is None or isinstance(compared[0], Tracer):
        return
    excess, declared, derived, place = jax.device_get(compared)
    if excess <= 1:
        return
    step, _, entry = (int(i) for i in place)
    received = (
        f"another Jacobian than the step has: a random vector through it is {declared:.6g} at "
        f"entry {entry} of the state at step {step}, and through the derivative of the step "
        f"{derived:.6g}"
    )
    expected = "∂state'/∂state"
    if name == "unit_jacobians":
        expected += " of units that see themselves alone, or layers below"
    advice = "leave it out, and JAX differentiates the step; step_jacobians shows what it finds"
    refuse(name, received, expected, advice)


@partial(jax.jit, static_argnames="name")
def _compare(system, name):
    """Return the largest difference over what is allowed, both values there, and the place.

    It is that of the first step at which more is found than allowed.

    It is None where the step cannot be differentiated.
    """
    n, dtype = system.num_states, system.state.dtype
    arguments = system.step, system.state, system.one_input
    forward = has_forward_mode(*arguments)
    if not (forward or has_reverse_mode(*arguments)):
        return None
    noise = rounding_noise(jnp.int32(0), (n,), dtype)
    vector = jnp.where(noise < 0, -1, 1) * (1 + jnp.abs(noise)) / 2
    # Closed forms of saturated units are differences, which lose digits.
    tolerance = math.sqrt(rounding_of_step(*arguments))
    of_name = _through_units if name == "unit_jacobians" else _through_matrix

    def of_step(state, x):
        rows, declared, sizes, known = of_name(system, state, x, vector, forward)
        moved = system.push(state, rows, x)[1] if forward else system.pull(state, rows, x)
        difference = jnp.abs(moved - declared) / (tolerance * (1 + sizes))
        # What is not finite is reported where it is used.
        return jnp.where(known & jnp.isfinite(difference), difference, 0), declared, moved

    states = [system.state]
    for number in range(1, system.num_steps):
        x = jax.tree.map(lambda x, before=number - 1: x[before], system.xs)
        states.append(system.step(states[-1], x))
    states = jnp.stack(states)
    excess, declared, moved = jax.vmap(of_step, axis_size=len(states))(states, system.xs)
    first = jnp.argmax(jnp.max(excess, axis=(1, 2)) > 1)
    place = first, *jnp.unravel_index(jnp.argmax(excess[first]), excess.shape[1:])
    return excess[place], declared[place], moved[place], place


def _through_matrix(system, state, x, vector, forward):
    """Return a row, what the matrix makes of it, the sizes of the terms, and what is known."""
    matrix = system.jacobian(state, x)
    matrix = matrix.T if forward else matrix
    rows = vector[None]
    return rows, matmul(rows, matrix), matmul(jnp.abs(rows), jnp.abs(matrix)), jnp.ones((), bool)


def _through_units(system, state, x, vector, forward):
    """Return the same for a row for each layer, which no layer below it sees.

    What the layers above see of it is not declared. For a cotangent they change places.
    """
    index, first = jnp.arange(len(vector)), 0
    multiply = push if forward else pull
    rows, declared, sizes, known = [], [], [], []
    for layer in system.declared_units(state, x):
        last = first + sum(places.num_states for places in places_of(layer))
        own, around = vector[first:last], ((first, len(vector) - last),)
        rows.append(jnp.pad(own, around))
        declared.append(jnp.pad(multiply(layer, own), around))
        sizes.append(jnp.pad(multiply(jax.tree.map(jnp.abs, layer), jnp.abs(own)), around))
        known.append(index < last if forward else index >= first)
        first = last
    return tuple(map(jnp.stack, (rows, declared, sizes, known)))

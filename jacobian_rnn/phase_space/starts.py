"""States to start a search from, and how states and a constant input are bound to a system."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence, check_recurrence
from jacobian_rnn.checks import (
    check_arrays,
    check_count,
    check_finite,
    check_key,
    check_number,
    list_shapes,
    read_array,
    refuse,
)
from jacobian_rnn.jacobians.step_arguments import carry_like, input_width, takes
from jacobian_rnn.jacobians.system import System, bind


def draw_states(
    states: Float[Array, "*trajectories n"],
    num_states: int,
    *,
    key: Array,
    noise_std: Float[Array, ""] | float = 0.0,
) -> Float[Array, "num n"]:
    """Draw states along trajectories, from which `fixed_points` can start.

    Args:
        states: as `trajectory` returns them, `(T + 1, n)`, or those of several sequences,
            `(sequences, T + 1, n)`.
        num_states: how many to draw, with replacement. Static.
        key: a `jax.random.key`.
        noise_std: standard deviation of the Gaussian noise that is added, zero or above. Noise
            finds points that lie between the states that the network visits, such as saddles.

    Returns:
        States of shape `(num_states, n)`.

    Raises:
        ValueError: states without two axes, without values or with values that are not finite, a
            count below one, negative noise, or several keys.
        TypeError: no key, states that are no floating-point numbers, or a count that is not an
            integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> visited = jnp.arange(6.0).reshape(3, 2)
        >>> print(draw_states(visited, 4, key=jax.random.key(0)).shape)
        (4, 2)
    """
    states = read_array("states", states, "(..., n): states of one or more trajectories")
    _check_floating(states)
    check_finite("states", states)
    if states.ndim < 2 or states.size == 0:
        refuse("states", f"shape {states.shape}", "(..., n): states of one or more trajectories")
    check_count("num_states", num_states, least=1)
    check_key("key", key)
    if key.ndim != (key.dtype == jnp.uint32):  # a key of the old kind is an array itself
        refuse("key", f"keys of shape {key.shape}", "one key", "take one of them, or use jax.vmap")
    check_number("noise_std", noise_std, least=0)
    visited = states.reshape(-1, states.shape[-1])
    which_key, noise_key = jax.random.split(key)
    which = jax.random.randint(which_key, (num_states,), 0, len(visited))
    noise = jax.random.normal(noise_key, (num_states, visited.shape[1]), states.dtype)
    return visited[which] + jnp.asarray(noise_std, states.dtype) * noise


def bind_states(
    recurrence: Recurrence, states: PyTree, x: PyTree
) -> tuple[System, Float[Array, "states n"]]:
    """Check a recurrence, several states and one input, and return a system and the states as rows.

    The states are rows, as `trajectory` returns them, or carries with a first axis of states.

    Raises:
        ValueError: no states, shapes that do not fit, or concrete values that are not finite.
        TypeError: not a `Recurrence`, values that are no arrays, states that are no floating-point
            numbers, or float dtypes that differ.
    """
    check_recurrence(recurrence)
    check_arrays("states", states)
    check_arrays("x", x)
    carries = _carries_of(recurrence, jax.tree.map(jnp.asarray, states))
    leaves = jax.tree.leaves(carries)
    if not leaves or any(leaf.ndim == 0 for leaf in leaves):
        advice = "rows as `trajectory` returns them, or carries with a first axis of states"
        refuse("states", "no axis of states", "(states, n)", advice)
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) > 1 or 0 in counts:
        refuse("states", f"{sorted(counts)} of them", "the same number in all arrays, at least one")
    x = jax.tree.map(jnp.asarray, x)
    for leaf in leaves:
        _check_floating(leaf)
    check_finite("states", carries)
    check_finite("x", x)
    _check_shapes(recurrence, states, carries, x)
    xs = jax.tree.map(lambda leaf: leaf[None], x)
    num_steps = None if jax.tree.leaves(xs) else 1
    system = bind(recurrence, _first(carries), xs, num_steps)
    return system, jax.vmap(lambda carry: ravel_pytree(carry)[0])(carries)


def _carries_of(recurrence, states):
    """Turn rows into carries where the step says how a carry looks."""
    leaves = jax.tree.leaves(states)
    if len(leaves) != 1 or leaves[0].ndim != 2:
        return states
    # A plain function does not say, and its rows are its carries.
    like = carry_like(recurrence)
    if like is None or sum(leaf.size for leaf in jax.tree.leaves(like)) != leaves[0].shape[1]:
        return states
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaves[0].dtype), like)
    return jax.vmap(ravel_pytree(zeros)[1])(leaves[0])


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _check_floating(states):
    if not jnp.issubdtype(states.dtype, jnp.floating):
        refuse("states", states.dtype, "real floating-point numbers", error=TypeError)


def _check_shapes(recurrence, states, carries, x):
    """Say what is wrong with states or with x where a step does not take them.

    What a step does take is found by trying. Where that tells nothing, the system's own check will
    show what the step said.
    """
    if takes(recurrence, _first(carries), x):
        return
    given, like = jnp.shape(states) if hasattr(states, "shape") else (), carry_like(recurrence)
    n = None if like is None else sum(leaf.size for leaf in jax.tree.leaves(like))
    alone = jax.tree.map(lambda leaf: leaf[None], states)
    if len(given) == 1 and takes(recurrence, _first(_carries_of(recurrence, alone)), x):
        refuse("states", f"one of shape {given}", "several, (states, n)", "give states[None]")
    if len(given) == 2 and n is not None and given[1] != n:
        refuse("states", f"shape {given}", f"(states, {n})", "rows as `trajectory` returns them")
    if jax.tree.leaves(x) and all(leaf.ndim > 1 and len(leaf) for leaf in jax.tree.leaves(x)):
        one = _first(x)
        if takes(recurrence, _first(carries), one):
            received = f"{list_shapes(x)}, with an axis more than a step takes"
            advice = "give one of them, such as x[0], or use jax.vmap over them"
            refuse("x", received, f"one constant input, {list_shapes(one)}", advice)
    if len(given) == 2 and n is not None:
        received = "None" if x is None else list_shapes(x)
        width = input_width(recurrence)
        size = "" if width is None else f", {width}"
        expected = f"one constant input of the size that the recurrence was built for{size}"
        refuse("x", received, expected)

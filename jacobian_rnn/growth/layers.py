"""What backpropagation meets on the grid of depth and time."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.stacking import is_stack
from jacobian_rnn.checks import check_at_least, check_count, check_key, check_precision
from jacobian_rnn.growth.probes import orthonormal_rows
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import back_along, run
from jacobian_rnn.jacobians.traced_steps import pull_back, refuse_coarse_step


class LayerProfile(NamedTuple):
    """Growth of a random gradient from the last output to every layer at every step before it.

    The entry of a lag is at `[:, lag − 1]`: lag 1 is the state before the last step.

    Attributes:
        log_growth: nats, `(layers, T)`, lowest layer first: log root-mean-square size of what
            arrives at the state of a layer, −inf where nothing does, NaN where a state of the
            sequence is not finite.
        sampling_error: nats, `(layers, T)`: standard error of `log_growth` over cotangents. NaN for
            one cotangent.
    """

    log_growth: Float[Array, "layers steps"]
    sampling_error: Float[Array, "layers steps"]


def layer_profile(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    key: Key[Array, ""],
    num_probes: int = 8,
    num_steps: int | None = None,
) -> LayerProfile:
    """Measure what arrives of a gradient at the last output, layer by layer and lag by lag.

    Random cotangents of norm one at the output of the highest layer are pulled back through all
    steps. At every step the share of each layer's state is measured. A state feeds the next step of
    its own layer and, within a step, the layers above. So what arrives is a sum over all paths on
    the grid of depth and time, which `log_num_paths` counts.

    Args:
        recurrence: a stack of layers. Anything else counts as one layer.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        key: for the directions of the cotangents.
        num_probes: number of cotangents. At most as many as there are outputs are drawn. Static.
        num_steps: number of steps T where `xs` is None.

    Returns:
        Growth and its sampling error for every layer and lag.

    Raises:
        ValueError: no probes, shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a number of probes that is no integer.

    Cost: one forward and one backward pass with all cotangents. Memory T n for the states, and 2√T
    n beyond 4096 steps.

    References:
        L. Herranz-Celotti and J. Rouat, "Stabilizing RNN gradients through pre-training", 2024.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacobian_rnn import stack
        >>> add = Recurrence(lambda params, carry, x: params * (carry + x), jnp.ones(()))
        >>> three = stack(add, add, add)
        >>> carry = (jnp.zeros(2),) * 3
        >>> profile = layer_profile(three, carry, jnp.ones((4, 2)), key=jax.random.key(0))
        >>> print(jnp.exp(profile.log_growth).round().astype(int))
        [[ 1  3  6 10]
         [ 1  2  3  4]
         [ 1  1  1  1]]
    """
    system = bind(recurrence, carry, xs, num_steps)
    check_precision(system.state.dtype)
    check_key("key", key)
    check_count("num_probes", num_probes, least=1)
    return _layer_profile(system, key, min(int(num_probes), system.num_outputs))


def log_num_paths(num_layers: int, num_steps: int) -> Float[Array, "layers steps"]:
    """Count the paths of a gradient on the grid of depth and time: log (d + t choose t), nats.

    From the highest of L layers a gradient comes to layer l at a lag by one step in time, and by
    t = lag − 1 more steps in time and d = L − 1 − l in depth, in any order. Where every step passes
    a gradient on unchanged, as additions do, what arrives is the number of paths. Where steps turn
    it at random and keep its size, what arrives along different paths adds up like noise, and it is
    the square root of the number. With a weight of one half for each direction it stays below one.

    Args:
        num_layers: number of layers L.
        num_steps: number of lags T.

    Returns:
        The log number of paths, nats, `(L, T)`, in the order of `layer_profile`.

    Raises:
        ValueError: no layers or steps.
        TypeError: numbers that are no integers.

    References:
        L. Herranz-Celotti and J. Rouat, "Stabilizing RNN gradients through pre-training", 2024.

    Example:
        >>> print(jnp.exp(log_num_paths(2, 3)).round().astype(int))
        [[1 2 3]
         [1 1 1]]
    """
    check_at_least(1, num_layers=num_layers, num_steps=num_steps)
    layers, lags = range(num_layers - 1, -1, -1), range(num_steps)
    return jnp.array([[math.log(math.comb(down + back, down)) for back in lags] for down in layers])


@partial(jax.jit, static_argnames="num_probes")
def _layer_profile(system, key, num_probes):
    refuse_coarse_step(system)
    dtype, num_outputs = system.state.dtype, system.num_outputs
    carry = system.unravel(system.state)
    layers = carry if is_stack(system.recurrence) else (carry,)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(layer)) for layer in layers]
    ends = np.cumsum(sizes)[:-1].tolist()
    forward = run(system)
    columns = jax.random.normal(key, (num_outputs, num_probes), dtype)
    seen = jax.vmap(lambda row: pull_back(system.output, forward.last, row))
    probes = seen(orthonormal_rows(columns))

    def visit(carried, now):
        rows, log_scale = carried
        rows = system.pull(now.state, rows, now.x)
        scale = jax.lax.stop_gradient(jnp.max(jnp.abs(rows)))
        scale = jnp.where(scale > 0, scale, 1)
        rows, log_scale = rows / scale, log_scale + jnp.log(scale)
        squares = jnp.stack([jnp.sum(part**2, axis=1) for part in jnp.split(rows, ends, axis=1)])
        mean = jnp.mean(squares, axis=1)
        some = jnp.where(mean > 0, mean, 1)
        growth = jnp.where(mean > 0, jnp.log(some) / 2 + log_scale, -jnp.inf)
        if num_probes == 1:
            return (rows, log_scale), (growth, jnp.full_like(mean, jnp.nan))
        spread = jnp.std(jax.lax.stop_gradient(squares), axis=1, ddof=1)
        error = spread / (2 * jax.lax.stop_gradient(some) * np.sqrt(num_probes).astype(dtype))
        return (rows, log_scale), (growth, error)

    start = probes, jnp.zeros((), dtype)
    _, profile = back_along(system, visit, start, states=forward.states)
    finite = forward.num_finite == system.num_steps
    growth, error = (jnp.where(finite, one, jnp.nan)[::-1].T for one in profile)
    return LayerProfile(growth, error)

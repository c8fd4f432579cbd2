"""Put a cell at criticality, or at any other growth rate, on purpose."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jacobian_rnn.cells.changes import with_gain, with_gate_bias
from jacobian_rnn.cells.flax import from_linen, from_nnx
from jacobian_rnn.cells.recurrence import Recurrence, zero_carry
from jacobian_rnn.checks import check_at_least, check_count, check_number, refuse
from jacobian_rnn.growth.largest import largest_exponent
from jacobian_rnn.initialization._rate_curve import RateCurve
from jacobian_rnn.linalg.batch_means import Estimate, student_quantile

# Student's quantile, as an expansion, is good from here on.
FEWEST_NETWORKS = 4
GRID_SIZE = 17
BOUNDS: dict[Any, tuple[float, float]] = {"gain": (0.1, 20.0), "forget_bias": (-4.0, 8.0)}


class RateSearch(NamedTuple):
    """The value of a parameter at which networks grow at a rate, as `at_rate` found it.

    Attributes:
        found: whether the mean λ₁ reaches the rate within the bounds.
        value: at which it does, a scalar, NaN if not found.
        interval: 95 %, over the networks and inputs that the key draws, `(2,)`: the values around
            it at which a t-test over the searched networks does not reject that mean λ₁ is the
            rate, up to the tolerance of the search. An end is infinite where the bounds hold none
            that it rejects.
        rate: mean λ₁ of the searched networks at the value, nats per step, its error over networks,
            NaN if not found.
        fresh_rate: the same of as many other networks with other inputs.
        searched: all values tried, ascending, `(values,)`.
        rates: mean λ₁ there, nats per step, `(values,)`.
        standard_errors: of these means over networks, `(values,)`. The networks and inputs are the
            same at all values, so the errors are common to them.
        num_crossings: how often the mean λ₁ crosses the rate on the grid that the search begins
            with. The value belongs to the lowest crossing.
        target: the rate asked for, nats per step.
        num_networks: number of networks searched.
        parameter: the name of what was varied.
    """

    found: bool
    value: Float[Array, ""]
    interval: Float[Array, "2"]
    rate: Estimate
    fresh_rate: Estimate
    searched: Float[Array, " values"]
    rates: Float[Array, " values"]
    standard_errors: Float[Array, " values"]
    num_crossings: int
    target: float
    num_networks: int
    parameter: str

    @property
    def confirmed(self) -> bool:
        """Whether a t-test at 1 in 1000 finds no difference of fresh networks from the target."""
        error = jnp.hypot(self.rate.standard_error, self.fresh_rate.standard_error)
        # Two samples of equal size; what the search leaves is below its tolerance, but not zero.
        most = student_quantile(0.999, jnp.asarray(2.0 * self.num_networks - 2)) * error
        left = jnp.abs(self.rate.value - self.target)
        return bool(jnp.abs(self.fresh_rate.value - self.target) <= most + left)

    def __str__(self) -> str:
        """Say what was found, over what its errors are, and what was searched."""
        return "\n".join(_report(self))


def draw(
    cell: nn.Module | Callable[[Array], Any],
    *,
    key: Key[Array, ""],
    num_inputs: int,
    gain: float | Array = 1.0,
    forget_bias: float | Array | None = None,
) -> Recurrence:
    """Draw a network of a kind, its recurrent kernels scaled and its forget gate biased.

    Args:
        cell: a linen cell, or a function of a key that makes an nnx cell or a `Recurrence`, as
            `lambda key: nnx.GRUCell(3, 64, rngs=nnx.Rngs(key))`. It decides the dtype.
        key: a `jax.random.key`.
        num_inputs: size of x, for a linen cell. A function knows its own.
        gain: multiplies the recurrent kernels, see `with_gain`. It may be traced.
        forget_bias: of the gate that keeps the state, see `with_gate_bias`. It may be traced. None
            leaves it as the cell's own initialiser makes it.

    Returns:
        The recurrence.

    Raises:
        TypeError: not a linen cell or a function that makes a network.
        ValueError: `num_inputs` below one, or a gain or bias that is not finite or does not fit.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> network = draw(nn.GRUCell(4), key=jax.random.key(0), num_inputs=3, forget_bias=2.0)
        >>> print(network.params["params"]["iz"]["bias"])
        [2. 2. 2. 2.]
    """
    check_at_least(1, num_inputs=num_inputs)
    recurrence = _draw_plain(cell, key, num_inputs)
    if not (isinstance(gain, int | float) and gain == 1):
        recurrence = with_gain(recurrence, gain)
    if forget_bias is not None:
        recurrence = with_gate_bias(recurrence, "forget", forget_bias)
    return recurrence


def at_rate(
    cell: nn.Module | Callable[[Array], Any],
    rate: float,
    *,
    num_inputs: int,
    key: Key[Array, ""],
    vary: Literal["gain", "forget_bias"] | Callable[[Recurrence, Array], Recurrence] = "gain",
    bounds: tuple[float, float] | None = None,
    num_networks: int = 8,
    num_steps: int = 1000,
    num_warmup: int = 200,
    input_std: float = 1.0,
    carry: PyTree = None,
    tolerance: float = 1e-3,
) -> RateSearch:
    """Find the gain, or forget-gate bias, at which random networks grow at a given rate.

    λ₁ is measured, under white Gaussian input, for the same networks and inputs at each value, so
    that it changes smoothly with the value as long as the networks are not chaotic. A grid brackets
    the lowest crossing of the mean, regula falsi closes in on it, and other networks with other
    inputs test the result.

    Args:
        cell: a linen cell, or a function of a key that makes an nnx cell or a `Recurrence`, see
            `draw`.
        rate: wanted mean λ₁, nats per step. 0 is criticality.
        num_inputs: size of x.
        key: a `jax.random.key` for networks and inputs.
        vary: "gain", which multiplies all recurrent kernels, or "forget_bias", of the gate that
            keeps the state, or a static function `(recurrence, value) -> recurrence`. With a large
            forget bias the state needs 1 + e^bias steps to settle: give `num_warmup` many more.
        bounds: lowest and highest value, by default 0.1 to 20 for a gain and −4 to 8 for a bias.
        num_networks: number of networks that are searched, and of those that test, at least 4.
        num_steps: length of each sequence, warm-up included. Static.
        num_warmup: number of first steps that are not counted. Static.
        input_std: standard deviation of each input, 0 for a system at rest.
        carry: initial carry of all networks, by default zeros.
        tolerance: the search ends where the mean is this near to the rate, nats per step.

    Returns:
        What was found, which `print` shows. `draw(cell, key=..., num_inputs=...,
        gain=result.value)` draws such networks. If no value in the bounds reaches the rate, or λ₁
        jumps across it, `found` is False and the value NaN.

    Raises:
        TypeError: counts that are not integers, no cell, or a cell whose parameters are not known.
        ValueError: a rate, tolerance, bounds, counts or input_std out of range, or a forget bias of
            a cell without gates.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> cell = nn.SimpleCell(8, activation_fn=jax.nn.identity)  # orthogonal: λ₁ = log gain
        >>> result = at_rate(
        ...     cell, -0.5, num_inputs=2, key=jax.random.key(0), num_steps=60, num_warmup=20
        ... )
        >>> print(result.value.round(2), result.found)
        0.61 True
    """
    check_number("rate", rate, advice="nats per step, of which 0 is criticality")
    check_number("input_std", input_std, least=0)
    check_number("tolerance", tolerance, above=0, advice="nats per step")
    advice = "the interval is over networks"
    check_count("num_networks", num_networks, FEWEST_NETWORKS, advice=advice)
    check_at_least(1, num_steps=num_steps, num_inputs=num_inputs)
    advice = "num_steps includes the warm-up"
    check_count("num_warmup", num_warmup, 0, num_steps - 1, advice)
    grid = _grid(vary, bounds)
    change = CHANGES[vary] if isinstance(vary, str) else vary

    def curve(key):
        draw_key, input_key = jax.random.split(key)
        keys = jax.random.split(draw_key, num_networks)
        networks = jax.vmap(lambda one: draw(cell, key=one, num_inputs=num_inputs))(keys)
        first = jax.tree.map(lambda leaf: leaf[0], networks)
        start = zero_carry(first) if carry is None else carry
        keys = jax.random.split(input_key, num_networks)
        options = {"num_inputs": num_inputs, "num_steps": num_steps, "num_warmup": num_warmup}
        measure = partial(_rates, networks, start, keys, input_std, change=change, **options)
        return RateCurve(measure, float(rate), float(tolerance))

    search_key, fresh_key = jax.random.split(key)
    searched = curve(search_key)
    excess = [searched.excess(value) for value in grid]
    brackets = [
        pair
        for pair, (low, high) in zip(pairwise(grid), pairwise(excess), strict=True)
        if low < 0 <= high or high < 0 <= low
    ]
    value = searched.root(*brackets[0]) if brackets else math.nan
    found = bool(brackets) and searched.crosses_at(value)
    value = value if found else math.nan
    rising = found and searched.excess(brackets[0][0]) < 0
    values = sorted(searched.known)
    means, errors = np.array([searched.known[one] for one in values]).T
    unknown = (math.nan, math.nan)
    return RateSearch(
        found=found,
        value=jnp.asarray(value),
        interval=jnp.asarray(searched.interval(value, grid, rising=rising) if found else unknown),
        rate=Estimate(*map(jnp.asarray, searched.known.get(value, unknown))),
        fresh_rate=Estimate(*map(jnp.asarray, curve(fresh_key).at(value) if found else unknown)),
        searched=jnp.asarray(values),
        rates=jnp.asarray(means),
        standard_errors=jnp.asarray(errors),
        num_crossings=len(brackets),
        target=float(rate),
        num_networks=num_networks,
        parameter=vary.replace("_", " ") if isinstance(vary, str) else "value",
    )


def _with_forget_bias(recurrence, bias):
    return with_gate_bias(recurrence, "forget", bias)


CHANGES = {"gain": with_gain, "forget_bias": _with_forget_bias}


@partial(jax.jit, static_argnames=("change", "num_inputs", "num_steps", "num_warmup"))
def _rates(networks, carry, keys, std, value, *, change, num_inputs, num_steps, num_warmup):
    """Measure λ₁ of each network, changed by the value, under inputs of its own."""
    dtype = jax.tree.leaves(carry)[0].dtype
    std, value = (jnp.asarray(number, dtype) for number in (std, value))

    def one(network, key):
        xs = std * jax.random.normal(key, (num_steps, num_inputs), dtype)
        return largest_exponent(change(network, value), carry, xs, num_warmup=num_warmup)

    return jax.vmap(one)(networks, keys)


def _draw_plain(cell, key, num_inputs):
    if isinstance(cell, nn.Module) and hasattr(cell, "initialize_carry"):
        start: Any = cell
        carry_key, init_key = jax.random.split(key)
        x = jnp.zeros(num_inputs, getattr(cell, "param_dtype", float))
        carry = start.initialize_carry(carry_key, (num_inputs,))
        return from_linen(cell, cell.init(init_key, carry, x))
    received = f"a {type(cell).__name__}"
    if callable(cell) and not isinstance(cell, nn.Module | nnx.Module):
        made = cell(key)
        if isinstance(made, Recurrence):
            return made
        if isinstance(made, nnx.Module):
            return from_nnx(made)
        received = f"a function that makes a {type(made).__name__}"
    advice = "lambda key: nnx.GRUCell(3, 64, rngs=nnx.Rngs(key)); of a layer pass its cell"
    makes = "a linen cell, or a function of a key that makes an nnx cell or a Recurrence"
    return refuse("cell", received, makes, advice, error=TypeError)


def _grid(vary, bounds):
    if not (callable(vary) or vary in CHANGES):
        known = ", ".join(map(repr, CHANGES))
        refuse("vary", repr(vary), f"{known}, or a function (recurrence, value) -> recurrence")
    bounds = BOUNDS.get(vary) if bounds is None else bounds
    lowest = 0.0 if vary == "gain" else -math.inf
    if bounds is None or len(bounds) != 2 or not lowest < bounds[0] < bounds[1] < math.inf:
        positive = ", above zero" if vary == "gain" else ""
        refuse("bounds", bounds, f"(lowest, highest), finite{positive}")
    space = np.geomspace if vary == "gain" else np.linspace
    return space(float(bounds[0]), float(bounds[1]), GRID_SIZE)


def _report(result):
    rates, searched = np.asarray(result.rates), np.asarray(result.searched)
    errors, name = np.asarray(result.standard_errors), result.parameter
    num = result.num_networks
    if result.found:
        low, high = (float(end) for end in result.interval)
        yield (
            f"{name} {float(result.value):.6g}, 95 % [{low:.6g}, {high:.6g}] over networks drawn "
            f"afresh, for λ₁ = {result.target:+.6g} nats per step"
        )
        for what, (mean, error) in (("searched", result.rate), ("fresh", result.fresh_rate)):
            yield f"  {num} {what} networks: λ₁ = {float(mean):+.6f} ± {float(error):.6f}"
        if not result.confirmed:
            yield "  WARNING: the fresh networks disagree, by a t-test at 1 in 1000"
    else:
        why = "λ₁ jumps across it" if result.num_crossings else "none does within the bounds"
        yield f"NOT FOUND: a {name} for λ₁ = {result.target:+.6g} nats per step; {why}"
    for i, end in ((0, "lowest"), (-1, "highest")):
        yield f"  {end} {name} {searched[i]:.6g}: λ₁ = {rates[i]:+.6f} ± {errors[i]:.6f}"
    known = rates[~np.isnan(rates)]
    if known.size:
        yield f"  {len(searched)} searched, λ₁ from {known.min():+.6f} to {known.max():+.6f}"
    if known.size < rates.size:
        yield f"  WARNING: at {rates.size - known.size} of them λ₁ is NaN: the states overflow"
    if np.isneginf(rates).any():
        yield (
            f"  WARNING: at {np.isneginf(rates).sum()} of them λ₁ is −inf: the slopes of a network "
            "round to zero; float64 reaches further"
        )
    if result.found and result.num_crossings > 1:
        yield f"  λ₁ crosses this rate {result.num_crossings} times: this is the lowest crossing"
    yield f"  ± are standard errors over {num} networks, each with an input sequence of its own"

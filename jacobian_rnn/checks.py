"""Checks of arguments. Each error says what was received, what was expected and what to do.

Each check looks at one argument before anything is computed with it. No check can see values that
JAX traces. They pass, and the results say where they went wrong.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

Bound = int | float | None

OVERFLOW_ADVICE = "a diverged training run, or overflow when it was made?"


def refuse(
    name: str, received: Any, expected: str, advice: str = "", *, error: type = ValueError
) -> NoReturn:
    """Raise an error that says what was received, what was expected and what to do."""
    msg = f"{name}: received {received}, expected {expected}{': ' if advice else ''}{advice}"
    raise error(msg)


def check_type(name: str, value: object, kinds: Any, expected: str, advice: str = "") -> None:
    """Raise a TypeError for a value that is of none of the kinds."""
    if not isinstance(value, kinds):
        refuse(name, f"a {type(value).__name__}", expected, advice, error=TypeError)


def check_choice(name: str, value: object, choices: Iterable[object], advice: str = "") -> None:
    """Raise a ValueError for a value that is not one of the choices."""
    choices = list(choices)
    if not any(value is choice or value == choice for choice in choices):
        refuse(name, repr(value), f"one of {', '.join(map(repr, choices))}", advice)


def check_count(
    name: str, count: object, least: int | None = None, most: int | None = None, advice: str = ""
) -> None:
    """Raise for a count that is not an integer (TypeError) or out of range (ValueError)."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        refuse(name, repr(count), "a Python int", advice, error=TypeError)
    if (least is not None and count < least) or (most is not None and count > most):
        refuse(name, count, _bounds({"at least": least, "at most": most}), advice)


def check_at_least(least: int, **counts: object) -> None:
    """Raise for named counts that are not integers (TypeError) or below a bound (ValueError)."""
    for name, count in counts.items():
        check_count(name, count, least)


def check_warmup(num_warmup: object, num_steps: int) -> None:
    """Raise unless a warm-up leaves steps to count."""
    check_count("num_warmup", num_warmup)
    if not 0 <= num_warmup < num_steps:  # pyright: ignore[reportOperatorIssue]
        received = f"{num_warmup} for a sequence of {num_steps} steps"
        advice = "a rate needs steps to count; give longer xs"
        refuse("num_warmup", received, "at least 0 and fewer than the steps", advice)


def check_number(
    name: str,
    value: Any,
    *,
    above: Bound = None,
    least: Bound = None,
    below: Bound = None,
    most: Bound = None,
    advice: str = "",
) -> None:
    """Raise unless a value is a real number (TypeError), finite and in range (ValueError)."""
    check_scalar(name, value)
    if isinstance(value, Tracer):
        return
    number = float(value)  # JAX does not trace this where a caller's jit closes over the value
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (least is None or number >= least)
        and (below is None or number < below)
        and (most is None or number <= most)
    )
    if not fits:
        bounds = {"above": above, "at least": least, "below": below, "at most": most}
        refuse(name, value, ", ".join(filter(None, ("a finite number", _bounds(bounds)))), advice)


def check_bounds(name: str, bounds: Any, below: float = math.inf) -> tuple[float, float]:
    """Return two numbers as floats, or raise a ValueError unless 0 < lower < upper < `below`."""
    expected = "(lower, upper) with 0 < lower < upper"
    if below < math.inf:
        expected += f" < {below:g}"
    try:
        lower, upper = map(float, bounds)
    except (TypeError, ValueError):
        refuse(name, bounds, expected)
    if not 0 < lower < upper < below:
        refuse(name, bounds, expected)
    return lower, upper


def check_scalar(name: str, number: Any) -> None:
    """Raise unless a value is a real number (TypeError) and has no axes (ValueError)."""
    if not isinstance(number, Tracer) and np.asarray(number).dtype.kind not in "fiuV":
        refuse(name, repr(number), "a number", error=TypeError)
    if jnp.ndim(number) != 0:
        refuse(name, f"shape {jnp.shape(number)}", "a scalar", "use jax.vmap")


def check_scales(**scales: Float[Array, ""] | float) -> list[Float[Array, ""]]:
    """Return numbers of zero or above in one float dtype. Other traced numbers become NaN.

    Raises:
        TypeError: a value that is no number.
        ValueError: an array, or a number that is negative or not finite.
    """
    for name, scale in scales.items():
        check_number(name, scale, least=0)
    dtype = jnp.result_type(float, *scales.values())
    arrays = [jnp.asarray(scale, dtype) for scale in scales.values()]
    return [
        jnp.where(jnp.isfinite(scale) & (scale >= 0), scale, jnp.nan)
        if isinstance(scale, Tracer)
        else scale
        for scale in arrays
    ]


def check_shape(name: str, shape: tuple | None, expected: tuple, advice: str = "") -> None:
    """Raise a ValueError for another shape. A word in `expected` stands for any size."""
    same_rank = shape is not None and len(shape) == len(expected)
    if not same_rank or any(
        size != wanted
        for size, wanted in zip(shape or (), expected, strict=True)
        if not isinstance(wanted, str)
    ):
        written = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
        refuse(name, f"shape {shape}", written, advice)


def check_dtype(name: str, dtype: Any) -> None:
    """Raise a TypeError for any dtype but float32 and float64, and for float64 without x64."""
    wanted = repr(dtype)
    if dtype is not None:  # numpy takes None for float64
        with contextlib.suppress(TypeError, ValueError):
            wanted = np.dtype(dtype)
    if wanted not in (np.float32, np.float64):
        advice = "pass dtype=jnp.float32 or jnp.float64"
        refuse(name, f"dtype {wanted}", "float32 or float64", advice, error=TypeError)
    check_x64(name, wanted)


def check_x64(name: str, dtype: Any) -> None:
    """Raise a TypeError for float64 without x64, which JAX would silently turn into float32."""
    if dtype == np.float64 and jnp.result_type(float) != np.float64:
        advice = 'set jax.config.update("jax_enable_x64", True), or use float32'
        refuse(name, "dtype float64 while JAX's x64 is off", "float32", advice, error=TypeError)


def check_precision(dtype: Any) -> None:
    """Raise a TypeError for a dtype that has too few digits for growth over many steps."""
    if dtype not in (jnp.float32, jnp.float64):
        refuse("dtype", dtype, "float32 or float64", "growth needs their digits", error=TypeError)


def check_key(name: str, key: Any, advice: str = "") -> None:
    """Raise a TypeError for what is no key of `jax.random`."""
    dtype = getattr(key, "dtype", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (is_typed or dtype == jnp.uint32):
        received = "None" if key is None else f"a {type(key).__name__}"
        refuse(name, received, "a jax.random.key", advice, error=TypeError)


def check_finite(name: str, tree: PyTree, advice: str = OVERFLOW_ADVICE) -> None:
    """Raise a ValueError for NaN or inf in a concrete float array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        # numpy does not trace a constant that a caller's jit closes over, as jax.numpy would. A
        # finite sum shows in one pass that all values are finite, and its overflow does not warn.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.sum(np.asarray(leaf))):
                continue
        finite = np.isfinite(np.asarray(leaf))
        if not finite.all():
            received = f"{np.sum(~finite)} of {leaf.size} values that are NaN or infinite"
            refuse(name + jax.tree_util.keystr(path), received, "finite numbers", advice)


def read_array(name: str, value: Any, expected: str) -> Array:
    """Return a value as an array of numbers, or raise a TypeError."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        msg = f"{name}: received a {type(value).__name__} that is no array, expected {expected}"
        raise TypeError(msg) from error


def check_arrays(name: str, tree: PyTree) -> None:
    """Raise a TypeError for leaves that are no arrays of numbers. One number alone is one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        is_number = isinstance(leaf, int | float | complex) and not path
        if not is_number and (dtype is None or np.dtype(dtype).kind in "OSUmM"):
            received = f"a {type(tree).__name__} with a {type(leaf).__name__} in it"
            received = received if path else f"a {type(leaf).__name__}"
            advice = "wrap numbers in jnp.asarray"
            refuse(name, received, "arrays of numbers", advice, error=TypeError)


def check_matrices(name: str, matrices: Any) -> Float[Array, "steps n n"]:
    """Return given matrices, one for each step, as an array.

    Raises:
        ValueError: a shape that is not `(T, n, n)`, or concrete values that are not finite.
        TypeError: values that are not real floating-point numbers.
    """
    matrices = read_array(name, matrices, "(time, n, n)")
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or matrices.shape[1] == 0:
        refuse(
            name,
            f"shape {matrices.shape}",
            "(time, n, n)",
            "one square matrix per step, earliest first, no batch axis (use jax.vmap)",
        )
    if not jnp.issubdtype(matrices.dtype, jnp.floating):
        refuse(name, matrices.dtype, "real floating-point numbers", error=TypeError)
    check_finite(name, matrices)
    return matrices


def check_lags(lags: Sequence[int] | np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Return numbers of steps as an array.

    Raises:
        ValueError: a number out of range.
        TypeError: anything but a sequence of at least one integer.
    """
    array = np.asarray(lags)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        refuse("lags", repr(lags), "a sequence of Python ints, at least one", error=TypeError)
    if highest < lowest:
        refuse("lags", repr(lags), "a sequence long enough for any", "give longer xs")
    if array.min() < lowest or array.max() > highest:
        refuse("lags", repr(lags), f"numbers of steps from {lowest} to {highest}")
    return array.astype(np.int32)


def list_names(names: Iterable[str]) -> str:
    """Write the first eight names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def list_shapes(tree: PyTree) -> str:
    """Write the dtype and the shape of every array of a tree."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree))


def _bounds(bounds: Mapping[str, Bound]) -> str:
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    if list(given) == ["at least", "at most"]:
        return "{} to {}".format(*given.values())
    return " and ".join(f"{word} {bound}" for word, bound in given.items())

"""Gradient norms before clipping, and how often clipping engages, in the state of an optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.checks import check_number, refuse
from jacobian_rnn.linalg.graded_svd import scaled_norm


class GradientRecord(NamedTuple):
    """The state of `record_gradients`: what it saw so far.

    Attributes:
        norm: of the last gradient, before clipping, a scalar in the dtype of the parameters, or
            float32 where they have fewer bits. It is inf or NaN where the gradient is, or where
            the norm itself exceeds what the dtype can hold.
        num_updates: number of gradients seen, int32 scalar.
        num_clipped: number of those that were finite and clipped, int32 scalar; None where no
            gradient is clipped.
        num_nonfinite: number of those whose norm was not finite, int32 scalar.
    """

    norm: Float[Array, ""]
    num_updates: Int[Array, ""]
    num_clipped: Int[Array, ""] | None
    num_nonfinite: Int[Array, ""]


def record_gradients(max_norm: float | Array | None = None) -> optax.GradientTransformation:
    """Record norms of gradients in the state of an optimiser, and clip them if asked to.

    It stands where `optax.clip_by_global_norm(max_norm)` would, first in an `optax.chain`, and
    clips in the same way: a gradient of norm `max_norm` or more is scaled to that norm. Its norm is
    taken of scaled entries, so that it is right where the squares of entries over- or underflow,
    from 1.8e19 and below 1e-19 in float32. There `optax.clip_by_global_norm` makes zeros of the
    gradient, and this does not.

    Args:
        max_norm: the norm above which gradients are clipped; None clips none.

    Returns:
        A transformation, to be chained before the others. `gradient_metrics` reads its state.

    Raises:
        ValueError: a norm that is not above zero or not finite.
        TypeError: a norm that is no number.

    A gradient that is not finite is counted and passed on as `optax.clip_by_global_norm` would. To
    skip such updates, chain it before `optax.apply_if_finite(...)`, not within, which would take
    its count back. Within `optax.MultiSteps` it sees the mean of the accumulated gradients, in
    front of it there is no place. `optax.monitor` of optax 0.2.7 records likewise, but its state
    has another structure after the first update, which `lax.scan` refuses.

    References:
        R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
        networks", ICML 2013, algorithm 1.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.chain(record_gradients(max_norm=1.0), optax.sgd(0.1))
        >>> state = optimizer.init(jnp.zeros(2))
        >>> for gradient in (jnp.array([3e30, 4e30]), jnp.array([0.3, 0.4])):
        ...     change, state = optimizer.update(gradient, state)
        ...     norm = gradient_metrics(state)["gradients/norm_before_clipping"]
        ...     print(change.round(2), f"{norm:.2g}")
        [-0.06 -0.08] 5e+30
        [-0.03 -0.04] 0.5
        >>> print(gradient_metrics(state)["gradients/clipped_share"])
        0.5
    """
    if max_norm is not None:
        check_number("max_norm", max_norm, above=0)

    def init(params) -> Any:
        nothing = jnp.zeros((), jnp.int32)
        clipped = None if max_norm is None else nothing
        return GradientRecord(jnp.zeros((), _dtype_of(params)), nothing, clipped, nothing)

    def update(updates, state: Any, params=None) -> Any:
        del params
        norm = _norm(updates)
        is_finite = jnp.isfinite(norm)
        num_clipped = state.num_clipped
        if max_norm is not None:
            exceeds = ~(norm < max_norm)  # as optax says it, which NaN does too
            num_clipped = num_clipped + (exceeds & is_finite).astype(jnp.int32)
            updates = jax.tree.map(lambda leaf: _clip(leaf, norm, max_norm, exceeds), updates)
        return updates, GradientRecord(
            norm.astype(state.norm.dtype),
            state.num_updates + 1,
            num_clipped,
            state.num_nonfinite + (~is_finite).astype(jnp.int32),
        )

    return optax.GradientTransformation(init, update)


def gradient_metrics(
    optimizer_state: PyTree, *, since: PyTree | None = None, prefix: str = "gradients"
) -> dict[str, float]:
    """Read what `record_gradients` recorded out of the state of any optimiser.

    Args:
        optimizer_state: of a chain, a partition, `optax.MultiSteps`, `optax.apply_if_finite`,
            `optax.inject_hyperparams` or what else holds it, however deep.
        since: an earlier state of the same optimiser. Shares and counts are then those of the
            updates after it. By default they are those of all updates.
        prefix: of all names.

    Returns:
        A flat dict of floats: `norm_before_clipping` of the last gradient; `clipped_share`, from 0
        to 1, if gradients are clipped, NaN before the first update; `num_nonfinite`, the number of
        updates whose gradient was not finite; and `num_updates`, the number of updates. Each name
        stands behind `prefix/`. Of several records in one state, as of parts of the parameters,
        each has a number, `prefix_0/`, `prefix_1/` and so on, in the order of the state.

    Raises:
        ValueError: a state without `record_gradients`, or that of several networks, or an earlier
            state of another optimiser.
        TypeError: a traced state.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.chain(record_gradients(), optax.adam(0.1))
        >>> print(gradient_metrics(optimizer.init(jnp.zeros(2))))
        {'gradients/norm_before_clipping': 0.0, 'gradients/num_nonfinite': 0.0, 'gradients/num_updates': 0.0}
    """  # noqa: E501
    records = _records_in("optimizer_state", optimizer_state)
    before: list[GradientRecord | None] = [None] * len(records)
    if since is not None:
        before = [*_records_in("since", since)]
        if len(before) != len(records):
            expected = f"{len(records)}, as the later state holds"
            refuse("since", f"a state with {len(before)} records", expected)
    metrics = {}
    for number, (record, earlier) in enumerate(zip(records, before, strict=True)):
        name = prefix if len(records) == 1 else f"{prefix}_{number}"
        metrics |= {f"{name}/{key}": value for key, value in _describe(record, earlier).items()}
    return metrics


def _describe(record, earlier):
    def count(field):
        return float(getattr(record, field)) - (float(getattr(earlier, field)) if earlier else 0.0)

    num_updates = count("num_updates")
    said = {"norm_before_clipping": float(record.norm)}
    if record.num_clipped is not None:
        said["clipped_share"] = count("num_clipped") / num_updates if num_updates else float("nan")
    return said | {"num_nonfinite": count("num_nonfinite"), "num_updates": num_updates}


def _records_in(name: str, state: PyTree) -> list[GradientRecord]:
    def is_record(part: Any) -> bool:
        return isinstance(part, GradientRecord)

    found = [part for part in jax.tree.leaves(state, is_leaf=is_record) if is_record(part)]
    if not found:
        advice = "chain record_gradients(max_norm) before the optimiser, and pass its new state"
        refuse(name, "an optimiser's state without a GradientRecord", "one with it", advice)
    for record in found:
        if any(isinstance(leaf, Tracer) for leaf in record):
            advice = "read it where the updated state comes back from jit"
            refuse(name, "a traced state", "numbers", advice, error=TypeError)
        if np.ndim(record.num_updates):
            received = f"a state of {np.shape(record.num_updates)} networks"
            advice = "take one with jax.tree.map(lambda leaf: leaf[i], state)"
            refuse(name, received, "that of one", advice)
    return jax.device_get(found)


def _dtype_of(tree: PyTree) -> Any:
    """Return float64 if an array of the tree has its digits, and float32 if not."""
    wide = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in _inexact(tree))
    return jnp.float64 if wide else jnp.float32


def _inexact(tree):
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _norm(gradient: PyTree) -> Float[Array, ""]:
    dtype = _dtype_of(gradient)
    norms = [scaled_norm(jnp.abs(leaf).astype(dtype)) for leaf in _inexact(gradient)]
    return scaled_norm(jnp.stack(norms)) if norms else jnp.zeros((), dtype)


def _clip(leaf, norm, max_norm, exceeds):
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    # With the digits of the norm, which 16 bits do not have.
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    wide = (1j * norm).dtype if is_complex else norm.dtype
    scaled = leaf.astype(wide) / norm.astype(wide) * jnp.asarray(max_norm).astype(wide)
    return jnp.where(exceeds, scaled.astype(leaf.dtype), leaf)

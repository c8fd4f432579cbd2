"""Cotangents pulled back through all steps, and what their lengths say about the product.

A cotangent v of the last state arrives before the last `lag` steps as v P, where P is the product
of their Jacobians. The mean of ‖v P‖² over all directions of v is ‖P‖²_F / n. A few directions
estimate it, at every lag in one pass.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jacobian_rnn.growth.largest import log_norms
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import back_along
from jacobian_rnn.linalg.frames import positive_qr
from jacobian_rnn.linalg.graded_svd import matmul, scaled_norm
from jacobian_rnn.linalg.rounding import CAUTION, compensated_sum


class Group(NamedTuple):
    """Some of the probes, whose root mean square is measured.

    Attributes:
        part: which of the rows.
        num_directions: size of the space from which they were drawn; None if they were given.
        num_repeated: how many of them, the first ones, are pulled back twice.
    """

    part: slice
    num_directions: int | None
    num_repeated: int = 1


class Growth(NamedTuple):
    """Growth of a gradient over one lag, or over every lag with the entry of a lag at `[lag − 1]`.

    Attributes:
        log_growth: nats: of the root mean square.
        sampling_error: nats: of `log_growth`, because only some directions were drawn.
        rounding_error: nats: estimated numerical error of `log_growth`.
    """

    log_growth: Float[Array, "*steps"]
    sampling_error: Float[Array, "*steps"]
    rounding_error: Float[Array, "*steps"]


def orthonormal_rows(columns: Float[Array, "directions k"]) -> Float[Array, "rows directions"]:
    """Make orthonormal rows of uniform direction out of standard normal columns.

    There are as many as columns, but no more than directions.
    """
    return positive_qr(columns[:, : len(columns)])[0].T


def pull_probes(
    system: System,
    probes: Float[Array, "k n"],
    groups: Sequence[Group],
    *,
    states: Float[Array, "steps n"] | None = None,
    end: Int[Array, ""] | None = None,
) -> tuple[list[Growth], Int[Array, ""]]:
    """Pull probes back through all steps, and measure groups of them at every lag.

    Some are pulled back twice. The second time last digits are changed at every step, as
    `System.pull_roughly` does. What the two disagree about is what the steps make of uncertain last
    digits.

    Args:
        system: at its first state.
        probes: cotangents of the last state, `(k, n)`.
        groups: parts of them, one behind the other.
        states: before every step, where they are known and in memory already.
        end: number of steps before the state at which the probes start, T by default. Lags beyond
            the first step are NaN.

    Returns:
        What each group says. Then the step at which a cotangent was no longer finite, −1 if none.
    """
    num_steps = system.num_steps
    stop = jnp.full((), num_steps, jnp.int32) if end is None else end
    num_repeated = sum(group.num_repeated for group in groups)

    def measure(rows, logs, rounding):
        logs, numbers, place = logs + rounding, [], len(probes)
        for group in groups:
            own = rows[group.part], logs[group.part]
            again = slice(place, place + group.num_repeated)
            place += group.num_repeated
            numbers += [*_mean_square(*own), _disagreement(*own, rows[again], logs[again])]
        return jnp.stack(numbers)

    def visit(carried, now):
        rows, logs, rounding = carried
        pulled = system.pull(now.state, rows[:-num_repeated], now.x)
        again = system.pull_roughly(now.state, rows[-num_repeated:], now.x, now.number)
        pulled, growth = _normalize_rows(jnp.concatenate([pulled, again]))
        is_before = now.number < stop
        rows = jnp.where(is_before, pulled, rows)
        logs, rounding = compensated_sum(logs, rounding, jnp.where(is_before, growth, 0))
        return (rows, logs, rounding), measure(rows, logs, rounding)

    again = [probes[group.part][: group.num_repeated] for group in groups]
    rows, logs = _normalize_rows(jnp.concatenate([probes, *again]))
    start = rows, logs, jnp.zeros_like(logs)
    _, by_step = back_along(system, visit, start, states=states)
    numbers = jnp.arange(num_steps, dtype=jnp.int32)
    steps = stop - 1 - numbers
    by_lag = jnp.where(steps[:, None] >= 0, by_step[jnp.maximum(steps, 0)], jnp.nan)
    growths = []
    for i, group in enumerate(groups):
        log_mean, concentration, disagreement = by_lag[:, 3 * i : 3 * i + 3].T
        log_start, concentration_of_start, _ = measure(*start)[3 * i : 3 * i + 3]
        # Where nothing is shown of the state, nothing arrives.
        log_growth = jnp.where(jnp.isneginf(log_start), log_start, log_mean - log_start)
        error = partial(
            _sampling_error,
            num_probes=len(probes[group.part]),
            num_directions=group.num_directions,
        )
        sampling_error = jnp.hypot(error(concentration), error(concentration_of_start))
        growths.append(Growth(log_growth, sampling_error, CAUTION * disagreement))
    broken = jnp.max(jnp.where(jnp.isnan(by_step[:, 0]), numbers, -1), initial=-1)
    return growths, broken


def _normalize_rows(rows):
    """Return rows of norm one, and the logs of their norms. A row of zeros stays what it is."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1))
    scaled = rows / jnp.where(largest > 0, largest, 1)[:, None]
    norms = jax.vmap(scaled_norm)(scaled)
    logs = log_norms(norms) + jnp.where(largest > 0, log_norms(largest), 0)
    return scaled / jnp.where(norms > 0, norms, 1)[:, None], logs


def _mean_square(rows, logs):
    """Return ½ log of the mean square of rows exp(logs), and how far they point the same way.

    The latter is Σ (vᵢ·vⱼ)² / (Σ vᵢ·vᵢ)²: 1 where all are parallel, and 1 / k where they are
    orthogonal and of one length.
    """
    highest = jnp.max(logs)
    shift = jnp.where(jnp.isneginf(highest), 0, highest)
    sizes = jnp.exp(logs - shift)
    total = jnp.sum(sizes**2)
    gram = matmul(rows, rows.T) * sizes[:, None] * sizes[None]
    concentration = jnp.sum(gram**2) / jnp.where(total > 0, total, 1) ** 2
    # Where all are zero, log has no derivative to give.
    half_log = jnp.log(jnp.where(total > 0, total, 1) / len(rows)) / 2
    return jnp.where(total > 0, shift + half_log, highest), concentration


def _disagreement(rows, logs, again, again_logs):
    """Return the root mean square difference of the first rows and their repetitions.

    It is relative to the rows, and infinite where a row is zero and its repetition is not.
    """
    rows, logs = rows[: len(again)], logs[: len(again)]
    highest = jnp.max(logs)
    shift = jnp.where(jnp.isneginf(highest), 0, highest)
    # Beyond e, they have nothing in common, and larger ratios would only overflow.
    sizes, again_sizes = (jnp.exp(jnp.minimum(one - shift, 1)) for one in (logs, again_logs))
    difference = scaled_norm(rows * sizes[:, None] - again * again_sizes[:, None])
    relative = difference / jnp.maximum(scaled_norm(sizes), jnp.finfo(rows.dtype).tiny)
    appears = jnp.isneginf(highest) & jnp.any(again_logs > -jnp.inf)
    return jnp.where(appears, jnp.inf, relative)


def _sampling_error(concentration, num_probes, num_directions):
    """Return the standard error of ½ log of a mean square, nats.

    With A = P Pᵀ, k orthonormal probes V out of d directions have E (tr V A Vᵀ)² = x (tr A)² +
    2 y tr A² and E ‖V A Vᵀ‖² = y (tr A)² + (x + y) tr A², x and y the moments of a random
    projection. The two tell how much one direction carries: `share` is 0 where all carry as much,
    and 1 where one carries all. The mean square is taken for a beta variable of the same mean and
    variance, which it is where one direction carries all.
    """
    k, d = num_probes, num_directions
    if d is None or k == d:
        return jnp.where(jnp.isnan(concentration), jnp.nan, jnp.zeros_like(concentration))
    y = k * (d - k) / (d * (d + 2) * (d - 1))
    x = (k - y * d * (d + 1)) / d
    share = jnp.ones_like(concentration)  # which one probe cannot know
    if k > 1:
        ratio = (x * concentration - y) / (x + y - 2 * y * concentration)
        share = jnp.clip((d * ratio - 1) / (d - 1), jnp.finfo(concentration.dtype).eps, 1)
    # Probes that miss a direction do not see its share. What is typical of such misses is added.
    # With 8 probes, three errors then hold 97 to 100 of 100 estimates, for all spectra tried.
    share = jnp.minimum(share + 2 / k * jnp.sqrt(share), 1)
    total = (d / 2 + 1) / share - 1
    own = k / d * total
    variance = _trigamma(own) - _trigamma(total)
    bias = 1 / (2 * own) + 1 / (12 * own**2) - 1 / (2 * total) - 1 / (12 * total**2)
    return jnp.sqrt(variance + bias**2) / 2


def _trigamma(z):
    """Return the variance of the log of a Γ(z) variable, good to 0.01 from z = 1 on."""
    return 1 / z + 1 / (2 * z**2) + 1 / (6 * z**3)

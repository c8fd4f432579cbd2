"""Standard errors of time averages, from the means of batches of consecutive steps.

The number of batches is bounded for any length of the run. When all batches are full, neighbours
are merged, and batches are twice as long from then on. So memory is constant, a run can go on, and
batches become longer than the correlation time if the run does.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int

CAPACITY = 128
FEWEST_BATCHES = 16


class Estimate(NamedTuple):
    """A number and its standard error. The function that returns it says what the error is over."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


class BatchMeans(NamedTuple):
    """Sums over batches of consecutive steps.

    Attributes:
        sums: sum of the quantity over each batch, `(CAPACITY, k)`.
        steps: number of steps in each batch, int32 `(CAPACITY,)`.
        length: number of steps that make a full batch, int32 scalar.
    """

    sums: Float[Array, "batches k"]
    steps: Int[Array, " batches"]
    length: Int[Array, ""]


class TimeAverage(NamedTuple):
    """A time average and its uncertainty over time.

    Attributes:
        mean: per step, `(k,)`.
        standard_error: of the mean, `(k,)`, autocorrelation accounted for. It is NaN from fewer
            than two batches.
        deviations: of the batches, `(CAPACITY, k)`, scaled so that their products summed over
            batches are the covariance of the mean.
        drift: mean of the later half minus mean of the earlier, in standard errors of that
            difference, `(k,)`.
        num_batches: number of batches behind the error, int32 `(k,)`.
        long_enough: whether there are at least `FEWEST_BATCHES` batches, and neighbours are
            correlated by less than 0.4, `(k,)`.
    """

    mean: Float[Array, " k"]
    standard_error: Float[Array, " k"]
    deviations: Float[Array, "batches k"]
    drift: Float[Array, " k"]
    num_batches: Int[Array, " k"]
    long_enough: Bool[Array, " k"]


def no_batches(k: int, length: int, dtype: jnp.dtype) -> BatchMeans:
    """Return empty batches of `length` steps each."""
    return BatchMeans(
        jnp.zeros((CAPACITY, k), dtype), jnp.zeros(CAPACITY, jnp.int32), jnp.int32(length)
    )


def add_block(batches: BatchMeans, total: Float[Array, " k"], num_steps: int) -> BatchMeans:
    """Add a block of steps, whose sum is `total`, behind the earlier ones.

    A block is never cut, and it belongs to the batch in which it begins.
    """
    position = jnp.sum(batches.steps, dtype=jnp.int32)
    full = position >= CAPACITY * batches.length
    batches = lax.cond(full, _merge_pairs, lambda batches: batches, batches)
    index = position // batches.length
    return batches._replace(
        sums=batches.sums.at[index].add(total), steps=batches.steps.at[index].add(num_steps)
    )


def widen(batches: BatchMeans, length: int) -> BatchMeans:
    """Merge batches until each holds at least `length` steps."""

    def merge(_, batches):
        return lax.cond(batches.length < length, _merge_pairs, lambda batches: batches, batches)

    return lax.fori_loop(0, (length - 1).bit_length(), merge, batches)


def _merge_pairs(batches):
    def pairs(array):
        joined = array[0::2] + array[1::2]
        return jnp.concatenate([joined, jnp.zeros_like(joined)])

    return BatchMeans(pairs(batches.sums), pairs(batches.steps), 2 * batches.length)


def running_means(batches: BatchMeans) -> tuple[Float[Array, "batches k"], Int[Array, " batches"]]:
    """Return the mean from the start to the end of each batch, NaN where there is none yet.

    The second result is the number of steps up to that end.
    """
    steps = jnp.cumsum(batches.steps, dtype=jnp.int32)
    counted = jnp.maximum(steps, 1).astype(batches.sums.dtype)
    means = jnp.cumsum(batches.sums, axis=0) / counted[:, None]
    there = (batches.steps > 0)[:, None]
    return jnp.where(there, means, jnp.nan), steps


def time_average(batches: BatchMeans) -> TimeAverage:
    """Estimate a time average and its uncertainty by batch means.

    Neighbouring batches are joined as long as their means are correlated by more than 0.2 and at
    least `FEWEST_BATCHES` remain. Each component chooses for itself. Then

        Var(mean) = Var(batch means) / B · max(1, 1 + 2ρ),

    where ρ is the correlation of neighbours that is left, corrected for bias.

    References:
        B. Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research
        30 (1982).
        H. Flyvbjerg and H. G. Petersen, "Error estimates on averages of correlated data", J. Chem.
        Phys. 91 (1989).
    """
    num_steps = jnp.maximum(jnp.sum(batches.steps), 1).astype(batches.sums.dtype)
    mean = jnp.sum(batches.sums, axis=0) / num_steps
    finest = _level(lax.stop_gradient(batches))

    def join(_, so_far):
        batches, level = so_far
        batches = _merge_pairs(batches)
        coarser = _level(lax.stop_gradient(batches))
        wanted = (level.correlation > 0.2) & (coarser.num_batches >= FEWEST_BATCHES)
        level = level._replace(
            variance=jnp.where(wanted, coarser.variance, level.variance),
            correlation=jnp.where(wanted, coarser.correlation, level.correlation),
            num_batches=jnp.where(wanted, coarser.num_batches, level.num_batches),
        )
        return batches, level

    most_joins = (CAPACITY // FEWEST_BATCHES).bit_length() - 1
    _, level = lax.fori_loop(0, most_joins, join, (batches, finest))
    errors = jnp.sqrt(level.variance)
    scales = jnp.sqrt(jnp.sum(finest.deviations**2, axis=0))
    rescaled = errors / jnp.where(scales > 0, scales, 1)
    known = level.num_batches >= 2
    enough = level.num_batches >= FEWEST_BATCHES
    return TimeAverage(
        mean,
        jnp.where(known, errors, jnp.nan),
        jnp.where(known[None], finest.deviations * rescaled[None], jnp.nan),
        finest.drift,
        level.num_batches,
        enough & (level.correlation < 0.4),
    )


class _Level(NamedTuple):
    variance: Array
    correlation: Array
    num_batches: Array
    deviations: Array
    drift: Array


def _level(batches):
    """Summarise batches that are at least half full: variance of the mean, correlation, drift."""
    # The last batch, and those at which a run was resumed, may hold fewer steps than the others.
    counts = (2 * batches.steps >= batches.length) & (batches.steps > 0)
    dtype = batches.sums.dtype
    num = jnp.sum(counts, dtype=jnp.int32)
    weights = counts[:, None].astype(dtype)
    steps = jnp.maximum(batches.steps, 1).astype(dtype)
    means = jnp.where(weights > 0, batches.sums / steps[:, None], 0)
    num_counted = jnp.maximum(num, 1).astype(dtype)
    mean = jnp.sum(means, axis=0) / num_counted
    deviations = (means - mean[None]) * weights
    # A log growth of a is known to eps · (1 + |a|), and sums of m of them, made in blocks, lose at
    # most 4 √m times that up to m = 10⁶. Batches that differ by no more are equal.
    rounding = 4 * jnp.finfo(dtype).eps * jnp.sqrt(jnp.max(steps)) * (1 + jnp.abs(mean))
    differ = jnp.any(jnp.abs(deviations) > rounding[None], axis=0)
    deviations = jnp.where(differ | jnp.isnan(mean), deviations, 0)
    divisor = jnp.maximum(num * (num - 1), 1).astype(dtype)
    variance = jnp.sum(deviations**2, axis=0) / divisor
    neighbours = jnp.sum(deviations[1:] * deviations[:-1], axis=0) / divisor
    # The sample mean makes deviations of independent batches anticorrelated by 1/B.
    correlation = neighbours / jnp.where(variance > 0, variance, 1) + 1 / num_counted

    half, index = num // 2, jnp.arange(CAPACITY, dtype=jnp.int32)[:, None]
    early = jnp.sum(jnp.where(index < half, deviations, 0), axis=0)
    late = jnp.sum(jnp.where((index >= num - half) & (index < num), deviations, 0), axis=0)
    # The variance comes from neighbours, because a drift hardly changes it. The difference of
    # halves has four times the variance of the mean.
    pairs = weights[1:] * weights[:-1]
    jumps = jnp.sum(pairs * (deviations[1:] - deviations[:-1]) ** 2, axis=0) / 2
    error = 2 * jnp.sqrt(jumps / divisor) * jnp.maximum(half, 1).astype(dtype)
    return _Level(
        variance * jnp.maximum(1, 1 + 2 * correlation),
        correlation,
        jnp.full(variance.shape, num, jnp.int32),
        deviations / jnp.sqrt(divisor),
        jnp.where(error > 0, (late - early) / jnp.where(error > 0, error, 1), 0),
    )


def student_quantile(level: float, degrees_of_freedom: Array) -> Float[Array, "..."]:
    """Return t with P(|Student's t| < t) = `level`, by Cornish and Fisher's expansion in 1/ν.

    At 95 % it is good to 1 % from ν = 4 on, and to 0.1 % from ν = 10 on.

    References:
        M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    z = ndtri(jnp.asarray((1 + level) / 2, jnp.result_type(float)))
    nu = degrees_of_freedom.astype(z.dtype)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / nu + second / nu**2 + third / nu**3

"""Pictures of Lyapunov exponents, and of growth over finite times."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float, Int

from jacobian_rnn.checks import check_at_least, check_shape, refuse
from jacobian_rnn.growth.finite_times import FiniteTimeGrowth
from jacobian_rnn.lyapunov import EnsembleSpectrum, LyapunovSpectrum
from jacobian_rnn.plotting.marks import (
    BLUE,
    VERMILION,
    check_axes,
    check_logs,
    check_result,
    choose,
    draw_points,
    line,
    mark_edge,
    ordinal,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyArray = Array | np.ndarray


def lyapunov_exponents(
    axes: "Axes",
    spectrum: LyapunovSpectrum | EnsembleSpectrum,
    *,
    theory: tuple[Float[AnyArray, " points"], Float[AnyArray, " points"]] | None = None,
    num_states: int | None = None,
    shown: Sequence[int] | Int[np.ndarray, " shown"] | None = None,
    colour: str = BLUE,
    marker: str = "o",
    label: str | None = None,
) -> "Axes":
    """Plot Lyapunov exponents, in nats per step, with error bars against (i − ½)/n.

    Bars of a `LyapunovSpectrum` are 95 % intervals over time, and points are open where the run was
    too short to trust them. Bars of an `EnsembleSpectrum` are standard errors over
    its members. Triangles on the lower edge are exponents of −inf.

    Args:
        axes: where to draw.
        spectrum: of one trajectory, or of an ensemble.
        theory: a curve, `(fractions, exponents)`, fractions of the spectrum from 0 to 1 and nats
            per step, such as `fractions` and `mean_field.full_spectrum(weight_std, fractions)`.
        num_states: n, which a `LyapunovSpectrum` knows. For an `EnsembleSpectrum` k by default.
        shown: which exponents are drawn, from 0 on, by default all.
        colour: of points and curve.
        marker: of the points.
        label: of the points. By default it says what the bars are.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no spectrum.
        ValueError: a batch of spectra, exponents that are not numbers, `num_states` below k,
            `shown` no integers or out of range, a curve of two lengths.

    Example:
        >>> import jax, matplotlib.pyplot as plt
        >>> from jacobian_rnn import lyapunov_spectrum_of
        >>> jacobians = jax.random.normal(jax.random.key(0), (500, 4, 4))
        >>> _, axes = plt.subplots()
        >>> lyapunov_exponents(axes, lyapunov_spectrum_of(jacobians)).get_ylabel()
        'exponent λᵢ (nats per step)'
        >>> axes.get_legend_handles_labels()[1]
        ['4 exponents, 95 % over time']
        >>> plt.close()
    """
    check_axes(axes)
    single = isinstance(spectrum, LyapunovSpectrum)
    check_result(
        "spectrum", spectrum, LyapunovSpectrum if single else EnsembleSpectrum, "exponents", 1
    )
    values = np.asarray(spectrum.exponents, float)
    check_logs("spectrum", values, "see whether the Jacobians are finite")
    k = values.size
    if single:
        known = spectrum.run.frame.shape[-2]
        low, high = (np.asarray(end, float) for end in spectrum.interval())
        with np.errstate(invalid="ignore"):
            errors = (high - low) / 2
        trusted, over = np.asarray(spectrum.long_enough), "95 % over time"
        distrusted = "too short a run to trust the error"
    else:
        known, errors = k, np.asarray(spectrum.standard_errors, float)
        trusted, over = np.isfinite(errors), "standard error over members"
        distrusted = "error unknown"
    n = known if num_states is None else num_states
    if n < k or (single and n != known):
        refuse("num_states", n, f"{'' if single else 'at least '}{known}")
    these = np.arange(k) if shown is None else np.asarray(shown)
    if (
        these.ndim != 1
        or not np.issubdtype(these.dtype, np.integer)
        or not these.size
        or these.min() < 0
        or these.max() >= k
    ):
        refuse("shown", these.tolist(), f"integers, some of 0 to {k - 1}")
    others = axes.has_data()
    places = (np.arange(k) + 0.5) / n
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    if theory is not None:
        fractions, curve = (np.asarray(part, float) for part in theory)
        check_shape("theory[0]", fractions.shape, ("points",))
        check_shape("theory[1]", curve.shape, fractions.shape, "an exponent for each fraction")
        curve = np.where(np.isfinite(curve), curve, np.nan)
        axes.plot(fractions, curve, color=colour, linewidth=1, label="theory", zorder=2)
    lost = these[np.isneginf(values[these])]
    mark_edge(axes, places[lost], f"lost (−∞): {lost.size} of {these.size}", colour=colour)
    draw_points(
        axes,
        places[these],
        values[these],
        errors[these],
        trusted[these],
        colour=colour,
        marker=marker,
        label=f"{these.size} exponents, {over}" if label is None else label,
        distrusted=distrusted,
    )
    right = k / n if theory is None else 1
    axes.set(
        xlabel="place in the spectrum, (i − ½)/n",
        ylabel="exponent λᵢ (nats per step)",
        xlim=(0, max(right, axes.get_xlim()[1]) if others else right),
    )
    return axes


def convergence(axes: "Axes", spectrum: LyapunovSpectrum, *, most: int = 5) -> "Axes":
    """Plot exponents from the start of the count up to each step, in nats per step.

    Bands are the 95 % intervals over time of the whole run, where there is one: a curve that is
    still on its way through its band has not settled.

    Args:
        axes: where to draw. The axis of steps becomes logarithmic.
        spectrum: of one trajectory, whose `history` is drawn.
        most: number of exponents drawn at most, evenly among them, the first and the last included.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no spectrum.
        ValueError: a batch of spectra, none to draw, or exponents that are not numbers.

    Example:
        >>> import jax, matplotlib.pyplot as plt
        >>> from jacobian_rnn import lyapunov_spectrum_of
        >>> jacobians = jax.random.normal(jax.random.key(0), (500, 4, 4))
        >>> _, axes = plt.subplots()
        >>> _ = convergence(axes, lyapunov_spectrum_of(jacobians), most=2)
        >>> axes.get_legend_handles_labels()[1]
        ['λ₁', 'λ₄']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("spectrum", spectrum, LyapunovSpectrum, "exponents", 1)
    check_logs("spectrum", np.asarray(spectrum.exponents), "see first_nonfinite_step")
    check_at_least(1, most=most)
    history, steps = np.asarray(spectrum.history, float), np.asarray(spectrum.history_steps)
    made = ~np.isnan(history).all(axis=1)
    history = np.where(np.isfinite(history), history, np.nan)
    low, high = (np.asarray(end, float) for end in spectrum.interval())
    for number, i in enumerate(choose(history.shape[1], most)):
        colour, _, style = line(number)
        if np.isfinite(low[i]) and np.isfinite(high[i]):
            axes.axhspan(
                float(low[i]), float(high[i]), color=colour, alpha=0.2, linewidth=0, zorder=0
            )
        axes.plot(
            steps[made],
            history[made, i],
            color=colour,
            linestyle=style,
            linewidth=1.2,
            label=ordinal("λ", i + 1),
            zorder=2,
        )
    axes.set(xscale="log", xlabel="steps counted", ylabel="exponent so far (nats per step)")
    return axes


def finite_time_rates(axes: "Axes", growth: FiniteTimeGrowth) -> "Axes":
    """Plot the typical and the mean-square rate of growth, in nats per step, against the lag.

    The typical rate is the mean log growth over lag. The mean-square rate is ½ log E‖Pv‖² / lag: it
    is that of the gradient in theories with averages, and rare windows carry it. Bars are standard
    errors over windows. Mean-square points are open where the bars exceed 0.1 / (2 lag), so that
    the mean is not to be trusted. Rates of −∞, and those without a number, are triangles on the
    lower edge, rates of +∞ on the upper.

    Args:
        axes: where to draw. The axis of lags becomes logarithmic.
        growth: of one sequence.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no growth.
        ValueError: a batch of growths.

    Example:
        >>> import jax, jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from jacobian_rnn import Recurrence, finite_time_growth
        >>> system = Recurrence(lambda params, carry, x: x * carry, ())
        >>> xs = jnp.exp(0.3 * jax.random.normal(jax.random.key(0), (400, 2)))
        >>> growth = finite_time_growth(
        ...     system, jnp.ones(2), xs, lags=[1, 4, 16], key=jax.random.key(1)
        ... )
        >>> _, axes = plt.subplots()
        >>> finite_time_rates(axes, growth).get_xlabel()
        'lag (steps)'
        >>> plt.close()
    """
    check_axes(axes)
    check_result("growth", growth, FiniteTimeGrowth, "lags", 1)
    lags = np.asarray(growth.lags)
    kinds = (
        (growth.finite_time_exponents(), "typical", np.inf, BLUE, "o"),
        (growth.generalized_exponents(2), "mean square", 0.1 / (2 * lags), VERMILION, "s"),
    )
    for estimate, name, bound, colour, marker in kinds:
        value, error = (np.asarray(part, float) for part in estimate)
        mark_edge(axes, lags[np.isneginf(value)], f"{name}: −∞", colour=colour)
        mark_edge(axes, lags[np.isposinf(value)], f"{name}: +∞", upper=True, colour=colour)
        mark_edge(axes, lags[np.isnan(value)], f"{name}: no number", colour=colour)
        draw_points(
            axes,
            lags,
            value,
            error,
            error <= bound,
            colour=colour,
            marker=marker,
            label=name,
            distrusted=f"{name}, not to be trusted",
        )
    axes.set(xscale="log", xlabel="lag (steps)", ylabel="rate of growth (nats per step)")
    return axes

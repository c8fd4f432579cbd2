"""Pictures of the singular values of products."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from jacobian_rnn.checks import check_choice, check_shape, refuse
from jacobian_rnn.plotting.marks import (
    BLUE,
    check_axes,
    check_logs,
    check_result,
    choose,
    draw_points,
    line,
    mark_edge,
    ordinal,
)
from jacobian_rnn.products.product import JacobianProduct
from jacobian_rnn.regimes.prediction import LOST_DIGITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyArray = Array | np.ndarray
FloatRange = Literal["float32", "float64"]


def product_singular_values(
    axes: "Axes",
    product: JacobianProduct,
    *,
    colour: str = BLUE,
    marker: str = "o",
    label: str | None = None,
) -> "Axes":
    """Plot the log singular values of a product, in nats, against (i − ½)/n, from the largest down.

    Bars are the product's own estimates of its numerical error: `log_growth_error` on σ₁ and
    `log_error`, which is that of the worst value, on the others. Where it exceeds 0.01 nats the
    digits are lost and the points are open. Triangles on the lower edge are lost directions, whose
    log is −inf.

    Args:
        axes: where to draw.
        product: one product.
        colour: of the points.
        marker: of the points.
        label: of the points, by default the number of steps.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes, or no product.
        ValueError: a batch of products, or one with a Jacobian that was not finite.

    Example:
        >>> import jax.numpy as jnp, matplotlib.pyplot as plt
        >>> from jacobian_rnn import product_of
        >>> product = product_of(jnp.tile(jnp.diag(jnp.array([1.1, 0.5, 0.0])), (100, 1, 1)))
        >>> _, axes = plt.subplots()
        >>> product_singular_values(axes, product).get_ylabel()
        'log σᵢ (nats)'
        >>> axes.get_legend_handles_labels()[1]
        ['lost (−∞): 1 of 3', '100 steps']
        >>> plt.close()
    """
    check_axes(axes)
    check_result("product", product, JacobianProduct, "log_scale", 2)
    values = np.asarray(product.log_singular_values(), float)
    check_logs("product", values, f"see first_nonfinite_step = {product.first_nonfinite_step}")
    n = values.size
    places = (np.arange(n) + 0.5) / n
    errors = np.full(n, float(product.log_error))
    errors[0] = float(product.log_growth_error)
    lost = np.isneginf(values)
    mark_edge(axes, places[lost], f"lost (−∞): {lost.sum()} of {n}", colour=colour)
    draw_points(
        axes,
        places,
        values,
        errors,
        ~(errors > LOST_DIGITS),  # without further passes there is no estimate, and no verdict
        colour=colour,
        marker=marker,
        label=f"{int(product.num_steps)} steps" if label is None else label,
        distrusted=f"digits lost: estimated error {errors[-1]:.2g} nats",
    )
    axes.set(xlabel="place in the spectrum, (i − ½)/n", ylabel="log σᵢ (nats)", xlim=(0, 1))
    return axes


def singular_values_by_lag(
    axes: "Axes",
    lags: Int[AnyArray, " lags"] | Sequence[int],
    log_singular_values: Float[AnyArray, "lags n"],
    *,
    float_ranges: Sequence[FloatRange] = (),
) -> "Axes":
    """Plot the log singular values that backpropagation meets, in nats, against the lag, in steps.

    The largest, the middle and the smallest are drawn thick, all others thin. A triangle on the
    lower edge marks a lag from which a direction is lost, its log being −inf.

    Args:
        axes: where to draw.
        lags: in steps, `(lags,)`, in any order.
        log_singular_values: nats, descending, `(lags, n)`, as `log_singular_values_by_lag` returns.
        float_ranges: types of floats whose largest and smallest number are drawn, as far as the
            singular values come near them. Beyond them a plain product overflows or underflows.

    Returns:
        The axes.

    Raises:
        TypeError: no Axes.
        ValueError: shapes that do not fit, lags that are no integers, repeat or are negative,
            NaN, values that ascend, an unknown type.

    Example:
        >>> import matplotlib.pyplot as plt, numpy as np
        >>> lags = [1, 10, 100]
        >>> spectra = np.array(lags)[:, None] * np.log([0.9, 0.7, 0.3])
        >>> _, axes = plt.subplots()
        >>> _ = singular_values_by_lag(axes, lags, spectra, float_ranges=["float32"])
        >>> axes.get_legend_handles_labels()[1]
        ['σ₁', 'σ₂', 'σ₃', 'ends of float32']
        >>> plt.close()
    """
    check_axes(axes)
    lags, values = np.asarray(lags), np.asarray(log_singular_values, float)
    check_shape("lags", lags.shape, ("lags",))
    check_shape("log_singular_values", values.shape, (lags.size, "n"), "a spectrum for each lag")
    whole = lags.size > 0 and np.issubdtype(lags.dtype, np.integer)
    if not whole or lags.min() < 0 or np.unique(lags).size < lags.size:
        refuse("lags", lags.tolist(), "integers, at least one, each once, from 0 on")
    for name in float_ranges:
        check_choice("float_ranges", name, get_args(FloatRange))
    check_logs("log_singular_values", values, "see whether the Jacobians are finite")
    if (values[:, 1:] > values[:, :-1]).any():
        advice = "as log_singular_values_by_lag returns them"
        refuse("log_singular_values", "rows that ascend", "rows that descend", advice)
    order = np.argsort(lags)
    lags, values = lags[order], values[order]
    shown = np.where(np.isfinite(values), values, np.nan)
    n = values.shape[1]
    highlighted = choose(n, 3)
    others = [i for i in range(n) if i not in highlighted]
    axes.plot(lags, shown[:, others], color="0.75", linewidth=0.6, zorder=1)
    for number, i in enumerate(highlighted):
        if np.isfinite(shown[:, i]).any():
            colour, _, style = line(number)
            name = ordinal("σ", int(i) + 1)
            axes.plot(lags, shown[:, i], color=colour, linestyle=style, label=name, zorder=2)
    lost = np.isneginf(values).sum(axis=1)
    first = lags[np.diff(lost, prepend=0) > 0]
    mark_edge(axes, first, f"lost (−∞): {lost.max()} of {n}")
    axes.autoscale_view()
    limits = axes.get_ylim()
    for number, name in enumerate(float_ranges):
        # Beyond the range that XLA and fast processors keep: they flush subnormal numbers.
        for k, end in enumerate((np.finfo(name).tiny, np.finfo(name).max)):
            axes.axhline(
                np.log(float(end)),
                color="0.4",
                linewidth=0.9,
                linestyle=line(number + 2).style,
                label=None if k else f"ends of {name}",
                zorder=0,
            )
    axes.set(xlabel="lag (steps)", ylabel="log σᵢ (nats)", ylim=limits)
    return axes

"""Pictures of results: each function takes a matplotlib Axes and results, and returns the Axes.

They draw and name their axes, with units. Legend and saving are yours. Each thing drawn has a
label, so that `axes.legend()` says what it is. What an axis cannot hold (a log of −inf, a gradient
that overflowed) is an open triangle on its edge, and points that lost their digits are open.
"""

from jacobian_rnn.plotting.exponents import convergence, finite_time_rates, lyapunov_exponents
from jacobian_rnn.plotting.layers import credit_by_lag, growth_by_lag
from jacobian_rnn.plotting.marks import COLOURS, LINES, MARKERS
from jacobian_rnn.plotting.phase_space import (
    eigenvalues_on_circle,
    points_in_plane,
    time_constants,
)
from jacobian_rnn.plotting.regimes import (
    OUTCOME_STYLE,
    confusion_matrix,
    label_regimes,
    predicted_regimes,
    regime_against_gain,
)
from jacobian_rnn.plotting.singular_values import product_singular_values, singular_values_by_lag
from jacobian_rnn.plotting.training import gradient_norms_by_lag, training_loss

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "OUTCOME_STYLE",
    "confusion_matrix",
    "convergence",
    "credit_by_lag",
    "eigenvalues_on_circle",
    "finite_time_rates",
    "gradient_norms_by_lag",
    "growth_by_lag",
    "label_regimes",
    "lyapunov_exponents",
    "points_in_plane",
    "predicted_regimes",
    "product_singular_values",
    "regime_against_gain",
    "singular_values_by_lag",
    "time_constants",
    "training_loss",
]

"""Infinite-width theory: what can be said of a recurrent network before one is drawn.

Each prediction says what it assumes. `order_parameters` and `full_spectrum` (vanilla cells) hold
for fresh and for kept weights alike. For gated cells `fresh_growth` assumes fresh weights at every
step, as the literature does. `kept_growth` assumes weights that stay the same, as they do in real
cells, and `frozen_growth` assumes gates that stand still as well.
"""

from jacobian_rnn.mean_field.cell_units import Gate, GRUUnits, LSTMUnits, MinimalUnits, SimpleUnits
from jacobian_rnn.mean_field.critical_lines import critical_weight_std
from jacobian_rnn.mean_field.exact_products import (
    ExactExponents,
    critical_weight_std_of_width,
    fuss_catalan_edge,
    fuss_catalan_moment,
    gaussian_generalized_exponent,
    ginibre_exponents,
    newman_exponents,
)
from jacobian_rnn.mean_field.finite_depth import SquaredSingularValues, squared_singular_values
from jacobian_rnn.mean_field.fresh_weights import FreshGrowth, fresh_growth
from jacobian_rnn.mean_field.from_networks import units_of
from jacobian_rnn.mean_field.kept_weights import (
    FrozenGrowth,
    KeptGrowth,
    frozen_growth,
    kept_growth,
)
from jacobian_rnn.mean_field.quadrature import gaussian_average
from jacobian_rnn.mean_field.reference_values import Reference, reference, reference_names
from jacobian_rnn.mean_field.singular_values import (
    SpectrumSummary,
    full_spectrum,
    spectrum_summary,
)
from jacobian_rnn.mean_field.vanilla import (
    CorrelationFixedPoint,
    OrderParameters,
    correlation_fixed_point,
    order_parameters,
)

__all__ = [
    "CorrelationFixedPoint",
    "ExactExponents",
    "FreshGrowth",
    "FrozenGrowth",
    "GRUUnits",
    "Gate",
    "KeptGrowth",
    "LSTMUnits",
    "MinimalUnits",
    "OrderParameters",
    "Reference",
    "SimpleUnits",
    "SpectrumSummary",
    "SquaredSingularValues",
    "correlation_fixed_point",
    "critical_weight_std",
    "critical_weight_std_of_width",
    "fresh_growth",
    "frozen_growth",
    "full_spectrum",
    "fuss_catalan_edge",
    "fuss_catalan_moment",
    "gaussian_average",
    "gaussian_generalized_exponent",
    "ginibre_exponents",
    "kept_growth",
    "newman_exponents",
    "order_parameters",
    "reference",
    "reference_names",
    "spectrum_summary",
    "squared_singular_values",
    "units_of",
]

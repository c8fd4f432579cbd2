"""Will gradients survive the trip back through a recurrent network?"""

from jacobian_rnn import initializers, mean_field
from jacobian_rnn.agreement import Agreement, Score, agreement
from jacobian_rnn.cells import Recurrence, from_linen, from_nnx, stack, zero_carry
from jacobian_rnn.credit_assignment import (
    InputJacobians,
    ParameterGradients,
    input_jacobians,
    parameter_gradients,
)
from jacobian_rnn.dense_chain import dense_chain
from jacobian_rnn.graded_svd import graded_singular_values
from jacobian_rnn.growth import FiniteTimeGrowth, finite_time_growth, largest_exponent
from jacobian_rnn.initialization import RateSearch, at_rate, drawn
from jacobian_rnn.jacobians import state_gradients, step_jacobians, trajectory
from jacobian_rnn.keras_weights import from_keras
from jacobian_rnn.linear_recurrent_unit import lru
from jacobian_rnn.literature_cells import (
    antisymmetric_rnn,
    irnn,
    leaky_rate_network,
    minimal_rnn,
)
from jacobian_rnn.lyapunov import lyapunov_spectrum, lyapunov_spectrum_of
from jacobian_rnn.observation import Observation, Outcome, observe_regime
from jacobian_rnn.orbax_weights import from_orbax
from jacobian_rnn.padded_sequences import ending_together, waiting
from jacobian_rnn.parameter_changes import with_chrono_biases, with_gain, with_gate_bias
from jacobian_rnn.products import (
    JacobianProduct,
    jacobian_product,
    product_of,
)
from jacobian_rnn.regimes import (
    THRESHOLDS,
    Regime,
    RegimePrediction,
    Thresholds,
    predict_regime,
)
from jacobian_rnn.spectra_by_lag import log_singular_values_by_lag
from jacobian_rnn.spectrum import (
    EnsembleSpectrum,
    Estimate,
    LyapunovSpectrum,
    ensemble_spectrum,
    entropy_rate,
    kaplan_yorke_dimension,
)
from jacobian_rnn.torch_weights import from_torch

__all__ = [
    "THRESHOLDS",
    "Agreement",
    "EnsembleSpectrum",
    "Estimate",
    "FiniteTimeGrowth",
    "InputJacobians",
    "JacobianProduct",
    "LyapunovSpectrum",
    "Observation",
    "Outcome",
    "ParameterGradients",
    "RateSearch",
    "Recurrence",
    "Regime",
    "RegimePrediction",
    "Score",
    "Thresholds",
    "agreement",
    "antisymmetric_rnn",
    "at_rate",
    "dense_chain",
    "drawn",
    "ending_together",
    "ensemble_spectrum",
    "entropy_rate",
    "finite_time_growth",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_orbax",
    "from_torch",
    "graded_singular_values",
    "initializers",
    "input_jacobians",
    "irnn",
    "jacobian_product",
    "kaplan_yorke_dimension",
    "largest_exponent",
    "leaky_rate_network",
    "log_singular_values_by_lag",
    "lru",
    "lyapunov_spectrum",
    "lyapunov_spectrum_of",
    "mean_field",
    "minimal_rnn",
    "observe_regime",
    "parameter_gradients",
    "predict_regime",
    "product_of",
    "stack",
    "state_gradients",
    "step_jacobians",
    "trajectory",
    "waiting",
    "with_chrono_biases",
    "with_gain",
    "with_gate_bias",
    "zero_carry",
]

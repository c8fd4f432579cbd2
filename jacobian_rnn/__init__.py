"""Will gradients survive the trip back through a recurrent network?"""

from jacobian_rnn.agreement import Agreement, Score, agreement
from jacobian_rnn.cells import Recurrence, from_linen, from_nnx, stack
from jacobian_rnn.graded_svd import graded_singular_values
from jacobian_rnn.growth import FiniteTimeGrowth, finite_time_growth, largest_exponent
from jacobian_rnn.jacobians import state_gradients, step_jacobians, trajectory
from jacobian_rnn.lyapunov import lyapunov_spectrum, lyapunov_spectrum_of
from jacobian_rnn.products import (
    JacobianProduct,
    jacobian_product,
    product_of,
)
from jacobian_rnn.regimes import (
    THRESHOLDS,
    Observation,
    Outcome,
    Regime,
    RegimePrediction,
    Thresholds,
    observe_regime,
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

__all__ = [
    "THRESHOLDS",
    "Agreement",
    "EnsembleSpectrum",
    "Estimate",
    "FiniteTimeGrowth",
    "JacobianProduct",
    "LyapunovSpectrum",
    "Observation",
    "Outcome",
    "Recurrence",
    "Regime",
    "RegimePrediction",
    "Score",
    "Thresholds",
    "agreement",
    "ensemble_spectrum",
    "entropy_rate",
    "finite_time_growth",
    "from_linen",
    "from_nnx",
    "graded_singular_values",
    "jacobian_product",
    "kaplan_yorke_dimension",
    "largest_exponent",
    "log_singular_values_by_lag",
    "lyapunov_spectrum",
    "lyapunov_spectrum_of",
    "observe_regime",
    "predict_regime",
    "product_of",
    "stack",
    "state_gradients",
    "step_jacobians",
    "trajectory",
]

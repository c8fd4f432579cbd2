"""Lyapunov spectra, with error bars and self-checks."""

from jacobian_rnn.lyapunov.exponents import lyapunov_spectrum, lyapunov_spectrum_of
from jacobian_rnn.lyapunov.result import (
    EnsembleSpectrum,
    LyapunovSpectrum,
    ensemble_spectrum,
    entropy_rate,
    kaplan_yorke_dimension,
)

__all__ = [
    "EnsembleSpectrum",
    "LyapunovSpectrum",
    "ensemble_spectrum",
    "entropy_rate",
    "kaplan_yorke_dimension",
    "lyapunov_spectrum",
    "lyapunov_spectrum_of",
]

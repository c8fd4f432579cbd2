"""Lyapunov spectra, with error bars and self-checks."""

from jacobian_rnn.lyapunov.covariant import (
    CovariantVectors,
    covariant_vectors,
    covariant_vectors_of,
)
from jacobian_rnn.lyapunov.ensemble import EnsembleSpectrum, ensemble_spectrum
from jacobian_rnn.lyapunov.exponents import lyapunov_spectrum, lyapunov_spectrum_of
from jacobian_rnn.lyapunov.invariants import entropy_rate, kaplan_yorke_dimension
from jacobian_rnn.lyapunov.result import LyapunovSpectrum

__all__ = [
    "CovariantVectors",
    "EnsembleSpectrum",
    "LyapunovSpectrum",
    "covariant_vectors",
    "covariant_vectors_of",
    "ensemble_spectrum",
    "entropy_rate",
    "kaplan_yorke_dimension",
    "lyapunov_spectrum",
    "lyapunov_spectrum_of",
]

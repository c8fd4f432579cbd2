"""Regimes: predicted from Jacobians, observed in training, and scored against each other."""

from jacobian_rnn.regimes.observation import Observation, Outcome, observe_regime
from jacobian_rnn.regimes.prediction import RegimePrediction, predict_regime
from jacobian_rnn.regimes.score import Agreement, Score, score_regimes
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Regime, Thresholds

__all__ = [
    "THRESHOLDS",
    "Agreement",
    "Observation",
    "Outcome",
    "Regime",
    "RegimePrediction",
    "Score",
    "Thresholds",
    "observe_regime",
    "predict_regime",
    "score_regimes",
]

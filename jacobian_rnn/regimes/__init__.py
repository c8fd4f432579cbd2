"""Regimes: predicted from Jacobians, observed in training, and scored against each other."""

from jacobian_rnn.regimes.features import LearningFeatures, learning_features
from jacobian_rnn.regimes.forecast import (
    ForecastModel,
    LearningForecast,
    predict_learning,
    published_model,
)
from jacobian_rnn.regimes.gradient_noise import GradientSignal, gradient_signal
from jacobian_rnn.regimes.memory import MemoryShares, memory_share
from jacobian_rnn.regimes.observation import Observation, Outcome, observe_regime
from jacobian_rnn.regimes.overshoot import FirstUpdate, first_update
from jacobian_rnn.regimes.prediction import RegimePrediction, predict_regime
from jacobian_rnn.regimes.score import Agreement, Score, score_regimes
from jacobian_rnn.regimes.separation import Separation, answer_separation
from jacobian_rnn.regimes.thresholds import THRESHOLDS, Regime, Thresholds

__all__ = [
    "THRESHOLDS",
    "Agreement",
    "FirstUpdate",
    "ForecastModel",
    "GradientSignal",
    "LearningFeatures",
    "LearningForecast",
    "MemoryShares",
    "Observation",
    "Outcome",
    "Regime",
    "RegimePrediction",
    "Score",
    "Separation",
    "Thresholds",
    "answer_separation",
    "first_update",
    "gradient_signal",
    "learning_features",
    "memory_share",
    "observe_regime",
    "predict_learning",
    "predict_regime",
    "published_model",
    "score_regimes",
]

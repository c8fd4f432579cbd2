"""Training with optax."""

from jacobian_rnn.training.ensemble import train
from jacobian_rnn.training.network import Network, apply, evaluate
from jacobian_rnn.training.records import (
    Records,
    TrainingHistory,
    best_index,
    lag_norms,
    take_along,
)
from jacobian_rnn.training.updates import TrainingState, Updates, advance, network_of, start

__all__ = [
    "Network",
    "Records",
    "TrainingHistory",
    "TrainingState",
    "Updates",
    "advance",
    "apply",
    "best_index",
    "evaluate",
    "lag_norms",
    "network_of",
    "start",
    "take_along",
    "train",
]

"""Recurrences from weights that other programs trained."""

from jacobian_rnn.weights.keras import from_keras
from jacobian_rnn.weights.orbax import from_orbax
from jacobian_rnn.weights.pytorch import from_torch

__all__ = ["from_keras", "from_orbax", "from_torch"]

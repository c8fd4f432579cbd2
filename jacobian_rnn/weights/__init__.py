"""Recurrences from weights that other programs trained."""

from jacobian_rnn.weights._recurrent_layer import RecurrentLayer
from jacobian_rnn.weights.equinox import from_equinox
from jacobian_rnn.weights.keras import from_keras
from jacobian_rnn.weights.layers import layers_in
from jacobian_rnn.weights.orbax import from_orbax
from jacobian_rnn.weights.pytorch import from_torch

__all__ = [
    "RecurrentLayer",
    "from_equinox",
    "from_keras",
    "from_orbax",
    "from_torch",
    "layers_in",
]

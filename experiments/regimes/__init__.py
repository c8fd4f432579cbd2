"""Predicted regimes against training, over gains, horizons and biases."""

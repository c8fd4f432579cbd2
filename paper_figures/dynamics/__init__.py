"""Figures of the experiments in `experiments/dynamics`."""

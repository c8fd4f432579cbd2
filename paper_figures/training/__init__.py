"""Figures of the experiments in `experiments/training`."""

"""Figures of the experiments in `experiments/initialization`."""

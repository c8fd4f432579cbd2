"""Figures of the experiments in `experiments/theory`."""

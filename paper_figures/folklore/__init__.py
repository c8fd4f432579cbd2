"""Figures of the experiments in `experiments/folklore`."""

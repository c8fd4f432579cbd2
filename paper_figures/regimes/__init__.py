"""Figures of the experiments in `experiments/regimes`."""

"""Figures of the experiments in `experiments/spectra`."""

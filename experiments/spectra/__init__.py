"""Lyapunov spectra, and what they say of a network."""

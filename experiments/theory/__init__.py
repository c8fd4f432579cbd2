"""Products of random matrices, and theories of their spectra."""

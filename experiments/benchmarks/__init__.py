"""Accuracy and speed of the package, beside plain JAX and the programs that do the same.

`python -m experiments.benchmarks` runs everything; each module says what it measures and why.
"""

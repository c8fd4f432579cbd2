"""Singular values, frames and products of graded matrices, and error bars of time averages."""

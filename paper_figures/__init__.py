"""Figures drawn from stored results: `python -m paper_figures [NAME ...]`; it never computes."""

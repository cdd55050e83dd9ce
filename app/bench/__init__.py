"""Benchmarks: each prints the figures that the documents claim."""

"""Benchmarks: each figure next to the limit of the machine it was measured on, from the same run."""

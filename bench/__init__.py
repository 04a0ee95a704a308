"""Benchmarks: each figure beside the limit of the machine it was measured on, from the same run."""

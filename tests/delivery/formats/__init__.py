"""Tests of the formats of delivered records."""

"""Tests of reading trails: verifying, querying, following."""

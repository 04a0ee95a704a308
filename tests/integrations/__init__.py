"""Tests against the real frameworks and libraries."""

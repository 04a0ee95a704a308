"""Tests of `_layout`: what a log directory looks like."""
